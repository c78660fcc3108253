#pragma once

#include <catch2/catch_test_macros.hpp>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "hosted_daemon.h"
#include "hosted_guest.h"
#include "numbered_frames.h"
#include "support/wait.h"
#include "wire_flood.h"

namespace zecorx::test {

inline constexpr std::uint32_t kWarmUp = 1200;  // more for each VM than the NIC has descriptors
inline constexpr std::uint32_t kFrames = 1200;
inline constexpr double kLeastZeroCopied = 0.95;

// How often what can be repeated is: EMULATED_HOST_ROUNDS, or once.
unsigned rounds();

// A host with a running daemon. Frames are numbered through, so that none passes for another.
//
// Thread rule: all methods on the test's main thread.
struct Bed {
    explicit Bed(unsigned vms, const HostOptions& host_options = {},
                 const DaemonOptions& daemon_options = {});

    // `count` frames to the VMs that have these addresses, which must come back as they were sent.
    void check_exchange(std::uint32_t count, std::span<const MacAddress> to);
    void check_exchange(std::uint32_t count) { check_exchange(count, macs); }
    // Frames of VLANs, to the first VM and to all. No VM may get them.
    void send_tagged();
    // A frame of so many bytes to the first VM.
    void send(std::size_t size);
    // Ends the daemon. The NIC must have had no fault until then.
    void check_end();

    // Runs `disturb` while frames flow. They may get lost, but not damaged.
    template <typename Disturbance>
    void under_flood(Disturbance disturb) {
        WireFlood flood(host.wire(), macs, next);
        CHECK(wait_until([&] { return flood.returned() > kWarmUp; }, HostedDaemon::kTimeout));
        disturb();
        const std::uint32_t before = flood.returned();
        CHECK(wait_until([&] { return flood.returned() > before; }, HostedDaemon::kTimeout));
        next = flood.stop();
        CHECK(flood.damaged() == 0);
    }

    EmulatedHost host;
    std::vector<MacAddress> macs;
    HostedDaemon daemon;
    std::uint32_t next = 0;
};

// How much of what VM `vm` got between two statistics it got without a copy.
double zero_copied_share(const nlohmann::json& before, const nlohmann::json& after, unsigned vm);
// That a guest got nothing but its frames, each once, and only where it may be written.
void check_untouched(HostedFrontend& guest);

}  // namespace zecorx::test
