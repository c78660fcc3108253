// A driver that rewrites everything it shares with the device while the NIC and the worker use it.
// It may break its own rings and lose its own frames; the memory beside its region and the frames
// of its neighbour stay as they are.

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <span>
#include <vector>

#include "guest/scribbler.h"
#include "hostile.h"

namespace zecorx::test {
namespace {

constexpr std::uint16_t kRing = 32;
constexpr std::size_t kRam = 4_MiB;
constexpr std::size_t kBeside = 2048;  // bytes of the same pages that are not in the region

// Shares all of its memory but for the first and the last bytes.
class RacingGuest {
  public:
    RacingGuest(TestHost& host, const Negotiation& wanted)
        : frontend_(Frontend::connect(host.socket(0))),
          features_(frontend_.negotiate(wanted)),
          driver_(memory_, {.features = features_, .rx_size = kRing, .tx_size = kRing}) {
        memory_.fill_canary({kDefaultRamBase, kBeside});
        memory_.fill_canary({kDefaultRamBase + kRam - kBeside, kBeside});
        const RxLayout indirect = RxLayout::linux_big();
        if ((features_ & kFeatureIndirectDesc) != 0) driver_.rx().set_layout(indirect);
        driver_.rx().disable_canaries();
        driver_.refill();
        for (std::uint32_t seq = 0; seq < kRing; ++seq) {
            driver_.tx().enqueue(make_frame({.src = host.mac(0), .seq = seq, .size = 600}));
        }
        driver_.tx().flush();
        start();
        REQUIRE(host.eventually([&] { return host.status(0).running; }));
    }

    Scribbler scribble(bool wild, std::uint64_t seed) {
        std::vector<Scribbler::Target> targets;
        append(targets, driver_.rx().queue(), kDescWrite);
        append(targets, driver_.tx().queue(), 0);
        return {std::move(targets), shared(), wild, seed};
    }
    // Makes chains available, whatever is in them.
    void make_available() {
        if (driver_.rx().queue().is_packed()) return;  // their flags say so
        for (SplitQueueDriver* queue : {&driver_.receiveq(), &driver_.transmitq()}) {
            queue->write_avail_idx(static_cast<std::uint16_t>(queue->used_idx() + kRing));
        }
    }
    bool beside_is_intact() const {
        return !memory_.find_damage({kDefaultRamBase, kBeside}) &&
               !memory_.find_damage({kDefaultRamBase + kRam - kBeside, kBeside});
    }
    void vanish() { frontend_.disconnect(); }

  private:
    static GuestRange shared() { return {kDefaultRamBase + kBeside, kRam - 2 * kBeside}; }

    void start() {
        MemoryRegion region = memory_.regions()[0];
        region.gpa += kBeside;
        region.user_addr += kBeside;
        region.mmap_offset += kBeside;
        region.size -= 2 * kBeside;
        REQUIRE(frontend_.set_mem_table(std::array{region}));
        for (const std::uint8_t ring : {0, 1}) {
            QueueDriver& queue = ring == 0 ? driver_.rx().queue() : driver_.tx().queue();
            REQUIRE(frontend_.set_vring_num(ring, queue.size()));
            REQUIRE(frontend_.set_vring_base(ring, queue.used_idx()));
            REQUIRE(frontend_.set_vring_addr(ring, memory_, queue));
            REQUIRE(frontend_.set_vring_kick(ring, queue.kick_fd()));
            REQUIRE(frontend_.set_vring_call(ring, queue.call_fd()));
            REQUIRE(frontend_.set_vring_enable(ring, true));
        }
        REQUIRE(frontend_.set_status(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk |
                                     kStatusDriverOk));
    }

    std::span<std::byte> bytes(Gpa gpa, std::size_t size) const {
        return {memory_.at(gpa, size), size};
    }
    void append(std::vector<Scribbler::Target>& targets, const QueueDriver& queue,
                std::uint16_t write_flag) const {
        const bool packed = queue.is_packed();
        const auto content =
            packed ? Scribbler::Content::kPackedDescriptors : Scribbler::Content::kDescriptors;
        targets.push_back(
            {bytes(queue.descriptor_area(), sizeof(Desc) * kRing), content, write_flag});
        if (!packed) {  // after flags and idx
            targets.push_back({bytes((queue.driver_area() + 15) & ~Gpa{15}, 2 * kRing - 16),
                               Scribbler::Content::kHeads, 0});
        }
        append_buffers(targets, queue, content, write_flag);
    }
    // What the first descriptors point at: headers and frames, or tables.
    void append_buffers(std::vector<Scribbler::Target>& targets, const QueueDriver& queue,
                        Scribbler::Content content, std::uint16_t write_flag) const {
        for (std::uint16_t i = 0; i < kRing; ++i) {
            const auto desc = *memory_.as<Desc>(queue.descriptor_area() + i * sizeof(Desc));
            const Gpa aligned = (desc.addr + 15) & ~Gpa{15};
            if (aligned < kDefaultRamBase || aligned + 64 > kDefaultRamBase + kRam) continue;
            const bool table = (queue.is_packed() ? desc.next : desc.flags) & kDescIndirect;
            targets.push_back(
                {bytes(aligned, 64), table ? content : Scribbler::Content::kAnything, write_flag});
        }
    }

    FakeMemory memory_{kRam};
    Frontend frontend_;
    std::uint64_t features_;
    NetDriver driver_;
};

// The frames to VM 1's own address, of which the next one is number `next`; returns how many. What
// the racing driver sends may be multicast, and so arrive as well.
std::uint32_t take_own(FakeGuest& guest, std::uint32_t next) {
    std::uint32_t count = 0;
    for (const auto& frame : guest.net.receive()) {
        if (frame.bytes.size() < 6 || MacAddress::from_wire(frame.bytes) != TestHost::mac(1)) {
            continue;
        }
        CHECK(check_frame(frame.bytes) == next + count++);
    }
    return count;
}

}  // namespace

TEST_CASE("a driver that rewrites rings, tables and headers under traffic harms only itself") {
    TestHost& host = TestHost::instance();
    FakeMemory neighbour_memory(8_MiB);
    FakeGuest neighbour = host.connect(1, neighbour_memory);
    neighbour.net.rx().tolerate_scratch(2048);
    neighbour.net.refill();
    Negotiation wanted;
    wanted.features |= kFeatureNetCsum | kFeatureNetHostTso4 | kFeatureNetHostTso6;
    wanted.features |= GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureRingPacked});
    wanted.features |= GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureIndirectDesc});
    const bool wild = GENERATE(false, true);
    const std::uint64_t before = host.status(0).counters->broken_rings.get();
    std::uint32_t sent = 0, received = 0;
    for (std::uint64_t round = 0; round < 12; ++round) {
        RacingGuest racing(host, wanted);
        {
            const Scribbler scribbler = racing.scribble(wild, round);
            for (int step = 0; step < 60; ++step) {
                racing.make_available();
                for (std::uint32_t i = 0; i < 4; ++i) {
                    host.arrive(make_frame({.dst = host.mac(0), .seq = i, .size = 60 + 350 * i}));
                }
                host.arrive(make_frame({.dst = host.mac(1), .seq = sent++, .size = 700}));
                host.pump();
                received += take_own(neighbour, received);
                host.nic().take_transmitted();
            }
        }
        racing.vanish();
        host.require_stopped(0);
        CHECK(racing.beside_is_intact());
    }
    host.eventually([&] {
        received += take_own(neighbour, received);
        return received == sent;
    });
    CHECK(received == sent);
    INFO(host.status(0).counters->broken_rings.get() - before << " rings were broken");
    CHECK(neighbour.net.violations() == std::vector<std::string>{});
    neighbour.stop_device();
    host.require_stopped(1);
    require_served(host);
}

}  // namespace zecorx::test
