// What was measured, as bench-report and the targets read it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cycles.h"
#include "guest.h"
#include "lockstep.h"
#include "rig.h"

namespace zecorx::bench {

// Who posts what, and how the NIC cuts frames for ours.
struct Setup {
    Driver guest = Driver::kFake;
    std::string buffers;
    std::uint16_t ring = 0;
    bool packed = false;
    bool mergeable = true;
    std::uint32_t nic_buffer = 0;  // bytes
    std::uint32_t mtu = 0;
};
std::string describe(const Setup& setup);

struct Ratio {
    Backend of;
    Backend to;
    std::string name() const;
    auto operator<=>(const Ratio&) const = default;
};
inline constexpr Ratio kToFloor{Backend::kZeroCopy, Backend::kFloor};
inline constexpr Ratio kGain{Backend::kRteVhost, Backend::kZeroCopy};
inline constexpr Ratio kCopies{Backend::kCopy, Backend::kRteVhost};

// All backends with the same frames, in turns.
struct Point {
    struct Figures {
        Summary cycles;  // a frame
        std::optional<double> zero_copied;
    };
    Setup setup{};
    Cache cache = Cache::kWarm;
    std::size_t size = 0;
    std::map<Backend, Figures> backends{};
    std::map<Ratio, Summary> ratios{};

    double ratio(const Ratio& which) const;  // median; NaN if not measured
};

struct VmsFigures {
    unsigned vms = 0;
    Cache cache = Cache::kWarm;
    std::size_t size = 0;
    Summary cycles;  // a frame
    Summary to_one;
    // As many queues without VMs, and what is received there freed.
    Summary floor;
    Summary floor_to_one;
};

struct IdleFigures {
    unsigned idle_vms = 0;
    Summary cycles;    // a poll, beside a busy VM
    Summary all_idle;  // a poll, while no VM has traffic
};

// A busy VM's frames, alone and beside a VM that posts no buffers while as many arrive for it.
struct StalledFigures {
    std::size_t size = 0;
    Summary alone;   // cycles a frame
    Summary beside;  // the same
    Summary to_alone;
    Summary stalled;  // cycles for each frame of the other, which is dropped
};

struct LatencyFigures {
    Backend backend = Backend::kZeroCopy;
    Cache cache = Cache::kWarm;
    std::size_t size = 0;
    std::string load;
    Summary p50, p99;  // ns
};

struct AttachFigures {
    Backend backend = Backend::kZeroCopy;
    unsigned memory = 0;  // MiB
    Summary attach;       // ms, from the first message to the first frame
    Summary first_frame;  // ms of it, from the last message on
    Summary detach;       // ms
};

struct MemoryFigures {
    double per_vm = 0;  // bytes
    std::vector<std::pair<std::string, double>> parts;
};

struct Target {
    enum class Bound { kAtMost, kAtLeast, kMoreThan };
    std::string name;
    Bound bound = Bound::kAtMost;
    double limit = 0;
    std::optional<double> measured{};  // the worst of all that it is about
    std::string where{};               // that

    std::string wanted() const;
    std::optional<bool> met() const;
};

struct Results {
    std::vector<Point> receive, segmented, jumbo;
    std::vector<VmsFigures> vms;
    std::vector<IdleFigures> idle;
    std::vector<StalledFigures> stalled;
    std::vector<LatencyFigures> latency;
    std::vector<AttachFigures> attach;
    std::optional<MemoryFigures> memory;
};

// The sections of the scenarios that ran.
void add_to(nlohmann::ordered_json& json, const Results& results);
void add_to(nlohmann::ordered_json& json, const std::vector<Target>& targets);

}  // namespace zecorx::bench
