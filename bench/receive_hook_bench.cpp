// What a receive hook costs: cycles a frame of the receive path, without a hook and with four.
//
// NIC, path and guest take turns on one core, and only the path's turn is timed: receive() and
// dequeue() for a burst. The variants take turns too, in many short rounds, and the
// median of a variant's rounds counts, so what else the machine does hits all of them or none.
#include <fmt/format.h>
#include <sched.h>
#include <x86intrin.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "cycles.h"
#include "zecorx/decapsulation.h"
#include "zecorx/receive_path.h"

namespace zecorx::bench {
namespace {

constexpr std::size_t kCacheLine = 64;  // bytes
constexpr std::uint32_t kBurst = 32;    // frames, as the daemon polls
constexpr std::uint32_t kRing = 256;    // guest's receiveq
constexpr std::uint32_t kPosted = 128;  // of the NIC's descriptors
constexpr std::size_t kStride = 1536;   // bytes of a guest buffer, as Linux posts them
constexpr std::uint64_t kFeatures = kFeatureVersion1 | kFeatureNetMrgRxbuf;
constexpr std::uint32_t kVni = 42;
constexpr std::uint16_t kVlan = 42;

using Frame = std::vector<std::byte>;

// --- Hooks ---

// What a switch does at least: looks at the headers.
struct ReadHeaders {
    Cut operator()(std::span<const FramePiece> frame) const noexcept {
        std::array<std::uint64_t, 8> headers{};
        std::memcpy(headers.data(), frame.front().data(),
                    std::min(sizeof headers, frame.front().size()));
        std::uint64_t mixed = 0;
        for (const std::uint64_t word : headers) mixed ^= word;
        return {.drop = mixed == 0x0123'4567'89AB'CDEF};  // no frame here
    }
};

// --- Frames ---

void put16(Frame& frame, std::size_t at, std::size_t value) {
    frame[at] = std::byte(value >> 8);
    frame[at + 1] = std::byte(value & 0xFF);
}

Frame untagged(std::size_t size) {
    Frame frame(size);
    for (std::size_t i = 0; i < size; ++i) frame[i] = std::byte(i * 7 + 1);
    put16(frame, 12, 0x88B5);  // IEEE 802 local experimental 1
    return frame;
}

Frame tagged(std::size_t size) {
    Frame frame = untagged(size);
    put16(frame, 12, kVlanEthertype);
    put16(frame, 14, kVlan);
    return frame;
}

Frame vxlan(std::size_t size) {
    constexpr std::size_t kIp = kEthernetHeader;
    constexpr std::size_t kUdp = kIp + sizeof(wire::Ipv4);
    constexpr std::size_t kVxlan = kUdp + sizeof(wire::Udp);
    Frame frame = untagged(size);
    put16(frame, kIp - 2, kIpv4Ethertype);
    put16(frame, kIp, 0x4500);
    put16(frame, kIp + 6, 0x4000);  // don't fragment
    frame[kIp + 9] = std::byte{kProtocolUdp};
    put16(frame, kUdp + 2, wire::kVxlanPort);
    put16(frame, kUdp + 4, size - kUdp);
    frame[kVxlan] = std::byte{wire::kVxlanVniValid};
    put16(frame, kVxlan + 4, 0);
    frame[kVxlan + 6] = std::byte{kVni};
    return frame;
}

// --- The three parties ---

struct Buffer {
    std::byte* data = nullptr;
    bool in_guest = false;
    std::uint32_t length = 0;  // bytes the NIC wrote
};

struct Buffers {
    static void aim_at_guest(void* buffer, std::byte* data, std::uint64_t) {
        *static_cast<Buffer*>(buffer) = {data, true, 0};
    }
    static void aim_at_host(void* buffer) { *static_cast<Buffer*>(buffer) = {}; }
    static std::byte* data(void* buffer) { return static_cast<Buffer*>(buffer)->data; }
    static bool whole(const void*) { return true; }
    static std::uint32_t length(const void* buffer) {
        return static_cast<const Buffer*>(buffer)->length;
    }
    static bool take_verdict(void*) { return false; }
};

// Guest memory: a split receiveq whose every descriptor is a buffer, and the buffers. Heads come
// back in order, so the avail ring never changes but for its index.
class Guest {
  public:
    Guest() {
        for (std::uint32_t i = 0; i < kRing; ++i) {
            const Desc desc{kBuffers + i * kStride, kStride, kDescWrite, 0};
            std::memcpy(at(kDesc + i * sizeof desc), &desc, sizeof desc);
            const auto head = static_cast<std::uint16_t>(i);
            std::memcpy(at(kAvail + kRingEntriesOffset + 2 * std::size_t{i}), &head, sizeof head);
        }
        memory_.add({0, kSize, memory_start(), nullptr, 0, {}});
        refill(kRing);
    }
    SplitRing ring() const { return SplitRing({at(kDesc), at(kAvail), at(kUsed), kRing}); }
    const GuestMemory& memory() const { return memory_; }

    void refill(std::uint32_t chains) {
        avail_ = static_cast<std::uint16_t>(avail_ + chains);
        std::memcpy(at(kAvail + kRingIdxOffset), &avail_, sizeof avail_);
    }
    std::uint16_t used() const {
        std::uint16_t index = 0;
        std::memcpy(&index, at(kUsed + kRingIdxOffset), sizeof index);
        return index;
    }
    // Whether the chain completed last holds this frame.
    bool received(const Frame& frame) const {
        const std::size_t slot = static_cast<std::uint16_t>(used() - 1) % kRing;
        UsedElem entry;
        std::memcpy(&entry, at(kUsed + kRingEntriesOffset + slot * sizeof entry), sizeof entry);
        return entry.len == kHeaderSize + frame.size() &&
               std::ranges::equal(
                   frame, std::span(at(kBuffers + entry.id * kStride + kHeaderSize), frame.size()));
    }

  private:
    static constexpr std::size_t kDesc = 0;
    static constexpr std::size_t kAvail = kDesc + desc_table_size(kRing);
    static constexpr std::size_t kUsed = kAvail + 1024;
    static constexpr std::size_t kBuffers = kUsed + 4096;
    static constexpr std::size_t kSize = kBuffers + kRing * kStride;
    static_assert(avail_ring_size(kRing) <= 1024 && used_ring_size(kRing) <= 4096);

    struct alignas(4096) Memory {
        std::array<std::byte, kSize> bytes{};
    };

    std::byte* memory_start() const { return bytes_->bytes.data(); }
    std::byte* at(std::size_t offset) const { return memory_start() + offset; }

    std::unique_ptr<Memory> bytes_ = std::make_unique<Memory>();
    GuestMemory memory_;
    std::uint16_t avail_ = 0;
};

enum class Cache { kWarm, kFlushed };

// One variant: a guest, a path and the NIC between them.
template <ReceiveHook Hook>
class Lane {
  public:
    explicit Lane(Hook hook = {})
        : buffers_(2 * std::size_t{kPosted} + kBurst),
          path_(static_cast<std::uint32_t>(buffers_.size()),
                {.geometry = QueueGeometry::whole(1518), .pending_cap = kPosted}, counters_,
                std::move(hook)) {
        for (Buffer& buffer : buffers_) path_.give_back(&buffer);
        path_.attach(guest_.ring(), guest_.memory(), kFeatures);
        for (std::uint32_t i = 0; i < kPosted; i += kBurst) {
            if (!path_.dequeue(next(i), Refill::kMustSupply))
                throw std::runtime_error("no buffers");
        }
    }

    // Receives a burst; returns the path's cycles.
    std::uint64_t burst(const Frame& frame, Cache cache) {
        const std::span<void*> due = next(at_);
        for (void* buffer : due) arrive(*static_cast<Buffer*>(buffer), frame, cache);
        const std::uint64_t start = now();
        const std::uint32_t completed = path_.receive(due, [&](void* buffer) {
            path_.returned(buffer, {.length = Buffers::length(buffer)});
        });
        const bool refilled = path_.dequeue(due, Refill::kMayRefuse);
        const std::uint64_t cycles = now() - start;
        at_ = (at_ + kBurst) % kPosted;
        frames_ += completed;
        guest_.refill(completed);
        if (completed != kBurst || !refilled) throw std::runtime_error("a burst was not completed");
        return cycles;
    }

    // Throws unless all frames came without a copy, and as `expected`.
    void check(const Frame& expected) const {
        if (counters_.zero_copied.get() != frames_ || path_.broken()) {
            throw std::runtime_error("frames were copied or lost");
        }
        if (!guest_.received(expected)) throw std::runtime_error("a frame has wrong bytes");
    }

  private:
    std::span<void*> next(std::uint32_t at) { return std::span(posted_).subspan(at, kBurst); }

    static void arrive(Buffer& buffer, const Frame& frame, Cache cache) {
        if (!buffer.in_guest) throw std::runtime_error("a buffer is not the guest's");
        std::memcpy(buffer.data, frame.data(), frame.size());
        buffer.length = static_cast<std::uint32_t>(frame.size());
        if (cache == Cache::kWarm) return;
        // From the header's line on, as DMA past the cache leaves them.
        for (std::byte* line = buffer.data - kHeaderSize; line < buffer.data + frame.size();
             line += kCacheLine) {
            _mm_clflush(line);
        }
        _mm_clflush(buffer.data + frame.size() - 1);
        _mm_mfence();
    }

    Guest guest_;
    VmCounters counters_;
    std::vector<Buffer> buffers_;
    ReceivePath<Buffers, Hook> path_;
    std::array<void*, kPosted> posted_{};  // the NIC's descriptor ring
    std::uint32_t at_ = 0;
    std::uint64_t frames_ = 0;
};

// --- Measuring ---

struct Plan {
    int rounds;
    int bursts;  // timed in each round
};

class Comparison {
  public:
    static constexpr std::array<const char*, 4> kNames{"no hook", "reads 64 bytes", "VLAN",
                                                       "VXLAN"};
    using Cycles = std::array<double, kNames.size()>;  // a frame, median

    explicit Comparison(const Plan& plan) : plan_(plan), clock_(clock_cost()) {}

    Cycles run(std::size_t size, Cache cache) {
        const Frame plain = untagged(size), vlan = tagged(size), tunnel = vxlan(size);
        std::array<std::vector<double>, kNames.size()> rounds;
        for (int i = 0; i < plan_.rounds; ++i) {
            rounds[0].push_back(round(none_, plain, cache));
            rounds[1].push_back(round(reads_, plain, cache));
            rounds[2].push_back(round(vlan_, vlan, cache));
            rounds[3].push_back(round(vxlan_, tunnel, cache));
        }
        check(plain, vlan, tunnel);
        Cycles medians{};
        std::ranges::transform(rounds, medians.begin(), median);
        return medians;
    }

  private:
    template <ReceiveHook Hook>
    double round(Lane<Hook>& lane, const Frame& frame, Cache cache) const {
        lane.burst(frame, cache);  // brings the variant's code and slots in
        std::uint64_t cycles = 0;
        for (int i = 0; i < plan_.bursts; ++i) cycles += lane.burst(frame, cache) - clock_;
        return static_cast<double>(cycles) / (plan_.bursts * kBurst);
    }

    void check(const Frame& plain, Frame vlan, const Frame& tunnel) const {
        none_.check(plain);
        reads_.check(plain);
        vlan.erase(vlan.begin() + 12, vlan.begin() + 16);
        vlan_.check(vlan);
        vxlan_.check({tunnel.begin() + 50, tunnel.end()});
    }

    const Plan plan_;
    const std::uint64_t clock_;
    Lane<NoHook> none_;
    Lane<ReadHeaders> reads_;
    Lane<Decapsulation> vlan_{Decapsulation(DecapsulationOptions{.vlans = {kVlan}})};
    Lane<Decapsulation> vxlan_{Decapsulation(DecapsulationOptions{.vnis = {kVni}})};
};

void print_row(std::size_t size, Cache cache, const Comparison::Cycles& cycles) {
    fmt::print("| {:4} B, {:7} |", size, cache == Cache::kWarm ? "warm" : "flushed");
    for (const double of : cycles) fmt::print(" {:6.1f} ({:5.2f}) |", of, of / cycles[0]);
    fmt::print("\n");
    std::fflush(stdout);
}

void run(const Plan& plan) {
    fmt::print(
        "Cycles a frame of the receive path, and their ratio to no hook\n\n| frame          |");
    for (const char* name : Comparison::kNames) fmt::print(" {:>14} |", name);
    fmt::print("\n|---|---|---|---|---|\n");
    Comparison comparison(plan);
    for (const Cache cache : {Cache::kWarm, Cache::kFlushed}) {
        for (const std::size_t size : {64, 512, 1514}) {
            print_row(size, cache, comparison.run(size, cache));
        }
    }
}

}  // namespace
}  // namespace zecorx::bench

int main(int argc, char** argv) {
    using zecorx::bench::Plan;
    const std::string_view option = argc > 1 ? argv[1] : "";
    if (argc > 2 || (!option.empty() && option != "--short")) {
        fmt::print(stderr, "Usage: {} [--short]\n  --short  few rounds: shows that it runs\n",
                   argv[0]);
        return 2;
    }
    try {
        zecorx::bench::stay_on(static_cast<unsigned>(::sched_getcpu()));
        zecorx::bench::run(option.empty() ? Plan{2000, 8} : Plan{3, 2});
    } catch (const std::exception& error) {
        fmt::print(stderr, "receive_hook_bench: {}\n", error.what());
        return 1;
    }
}
