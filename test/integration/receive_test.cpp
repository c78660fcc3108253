// Frames from the wire into guests, through the stock PMD and the daemon's real sockets.

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "test_host.h"

namespace zecorx::test {
namespace {

constexpr std::uint64_t kPackedMergeable =
    kFeatureVersion1 | kFeatureNetMrgRxbuf | kFeatureRingPacked;

Frame frame_to(const MacAddress& dst, std::uint32_t seq, std::size_t size = 60) {
    return make_frame({.dst = dst, .seq = seq, .size = size});
}

void require_clean(FakeGuest& guest) {
    CHECK(guest.net.violations() == std::vector<std::string>{});
    CHECK(guest.net.order_violations() == 0);
}

}  // namespace

TEST_CASE("frames land in guest memory by DMA, with any header and page size") {
    TestHost& host = TestHost::instance();
    const std::uint64_t features = GENERATE(std::uint64_t{kFeatureVersion1 | kFeatureNetMrgRxbuf},
                                            std::uint64_t{kFeatureVersion1}, std::uint64_t{0},
                                            std::uint64_t{kFeatureNetMrgRxbuf}, kPackedMergeable,
                                            kPackedMergeable | kFeatureInOrder);
    const PageSize page_size = GENERATE(PageSize::k2MiB, PageSize::k4KiB);
    CAPTURE(features, static_cast<std::size_t>(page_size));
    FakeMemory memory(16_MiB, page_size);
    const Vm::Status before = host.status(0);
    const std::uint64_t zero_copied = before.counters->zero_copied.get();
    const std::uint64_t crossing = copied(before, CopyReason::kCrossing);
    const std::uint64_t starved = copied(before, CopyReason::kStarved);
    const auto size = static_cast<std::uint16_t>(features & kFeatureRingPacked ? 200 : 256);
    FakeGuest guest = host.connect(0, memory, {.rx_size = size, .layout = RxLayout::dpdk()},
                                   {.features = features | kFeatureVhostUserProtocol});
    REQUIRE(guest.frontend.features() == (features | kFeatureVhostUserProtocol));
    guest.net.refill();

    std::vector<std::uint32_t> received;
    for (std::uint32_t seq = 0; seq < 600; ++seq) {
        REQUIRE(host.arrive(frame_to(host.mac(0), seq, 60 + seq * 2)) ==
                soft82599::RxResult::kDelivered);
        for (const ReceivedFrame& frame : host.receive(guest, 1)) {
            received.push_back(check_frame(frame.bytes).value_or(~0U));
        }
    }

    REQUIRE(received.size() == 600);
    for (std::uint32_t seq = 0; seq < 600; ++seq) CHECK(received[seq] == seq);
    // What was posted before the driver's first refill is copied; so is what crosses pages that
    // are not contiguous for the device.
    const Vm::Status after = host.status(0);
    const std::uint64_t by_dma = after.counters->zero_copied.get() - zero_copied;
    const std::uint64_t apart = copied(after, CopyReason::kCrossing) - crossing;
    CHECK(by_dma + apart + copied(after, CopyReason::kStarved) - starved == 600);
    CHECK(by_dma + apart > 0);
    if (page_size == PageSize::k2MiB) CHECK(apart == 0);
    require_clean(guest);
    guest.stop_device();
    host.require_stopped(0);
}

TEST_CASE("a guest that posted before it connected gets every frame without a copy") {
    TestHost& host = TestHost::instance();
    const std::uint64_t packed = GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureRingPacked});
    FakeMemory memory(16_MiB, PageSize::k2MiB);
    FakeGuest guest = host.connect(0, memory, {.rx_size = Port::kRxDescriptors},
                                   {.features = Negotiation{}.features | packed});
    // A second start finds the ring full, as after a driver's restart.
    guest.net.refill();
    const VringBases bases = guest.stop_device();
    guest.start_device(bases);
    REQUIRE(host.eventually([&] { return host.status(0).running; }));
    const std::uint64_t before = host.status(0).counters->zero_copied.get();

    std::size_t received = 0;
    for (std::uint32_t seq = 0; seq < 2000; ++seq) {
        host.arrive(frame_to(host.mac(0), seq, 1514));
        received += host.receive(guest, 1).size();
    }

    CHECK(received == 2000);
    CHECK(host.status(0).counters->zero_copied.get() - before == 2000);
    require_clean(guest);
    guest.stop_device();
    host.require_stopped(0);
}

TEST_CASE("each guest gets its own frames, broadcast and multicast once, and nothing else") {
    TestHost& host = TestHost::instance();
    FakeMemory memory0(16_MiB, PageSize::k2MiB), memory1(16_MiB);
    FakeGuest guest0 = host.connect(0, memory0);
    FakeGuest guest1 = host.connect(1, memory1);
    guest0.net.refill();
    guest1.net.refill();
    const MacAddress multicast{{0x01, 0x00, 0x5e, 0x00, 0x00, 0x01}};
    const MacAddress stranger{{0x52, 0x54, 0, 9, 9, 9}};

    for (std::uint32_t round = 0; round < 50; ++round) {
        host.arrive(frame_to(host.mac(0), 1));
        host.arrive(frame_to(host.mac(1), 2));
        host.arrive(frame_to(kBroadcast, 3));
        host.arrive(frame_to(multicast, 4));
        host.arrive(frame_to(stranger, 5));
    }

    const auto count = [](const std::vector<ReceivedFrame>& frames, std::uint32_t seq) {
        return std::ranges::count_if(
            frames, [seq](const ReceivedFrame& frame) { return check_frame(frame.bytes) == seq; });
    };
    const auto frames0 = host.receive(guest0, 150);
    const auto frames1 = host.receive(guest1, 150);
    CHECK(frames0.size() == 150);
    CHECK(frames1.size() == 150);
    CHECK(count(frames0, 1) == 50);
    CHECK(count(frames1, 2) == 50);
    for (const auto* frames : {&frames0, &frames1}) {
        CHECK(count(*frames, 3) == 50);
        CHECK(count(*frames, 4) == 50);
    }
    require_clean(guest0);
    require_clean(guest1);
    guest0.stop_device();
    guest1.stop_device();
    host.require_stopped(0);
    host.require_stopped(1);
}

TEST_CASE("a guest that stops refilling loses its own frames and none of its neighbour's") {
    TestHost& host = TestHost::instance();
    FakeMemory memory0(16_MiB, PageSize::k2MiB), memory1(16_MiB, PageSize::k2MiB);
    FakeGuest stalled = host.connect(0, memory0);
    FakeGuest busy = host.connect(1, memory1);
    busy.net.refill();
    const std::uint64_t lost_before = dropped(host.status(1));

    std::size_t received = 0;
    for (std::uint32_t seq = 0; seq < 3000; ++seq) {
        host.arrive(frame_to(host.mac(0), seq));
        REQUIRE(host.arrive(frame_to(host.mac(1), seq)) == soft82599::RxResult::kDelivered);
        received += host.receive(busy, 1).size();
    }

    CHECK(received == 3000);
    CHECK(dropped(host.status(1)) == lost_before);
    CHECK(dropped(host.status(0), DropReason::kNoBuffer) > 0);
    // The oldest frames waited for the stalled guest.
    stalled.net.refill();
    const auto frames = host.receive(stalled, 256);
    REQUIRE_FALSE(frames.empty());
    CHECK(check_frame(frames.front().bytes) == 0u);
    require_clean(stalled);
    require_clean(busy);
    stalled.stop_device();
    busy.stop_device();
    host.require_stopped(0);
    host.require_stopped(1);
}

TEST_CASE("frames longer than the port takes never reach guest memory") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(16_MiB, PageSize::k2MiB);
    FakeGuest guest = host.connect(0, memory, {.layout = RxLayout::linux_small()},
                                   {.features = kFeatureVersion1 | kFeatureVhostUserProtocol});
    guest.net.refill();
    const std::uint16_t tag = 0x2005;

    CHECK(host.arrive(frame_to(host.mac(0), 1, 1514)) == soft82599::RxResult::kDelivered);
    CHECK(host.arrive(make_frame({.dst = host.mac(0), .seq = 2, .size = 1518, .vlan = tag})) !=
          soft82599::RxResult::kDroppedOversize);
    CHECK(host.arrive(frame_to(host.mac(0), 3, 1515)) == soft82599::RxResult::kDroppedOversize);
    CHECK(host.arrive(make_frame({.dst = host.mac(0), .seq = 4, .size = 1519, .vlan = tag})) ==
          soft82599::RxResult::kDroppedOversize);

    const auto frames = host.receive(guest, 1);
    REQUIRE(frames.size() == 1);
    CHECK(check_frame(frames[0].bytes) == 1u);
    require_clean(guest);
    guest.stop_device();
    host.require_stopped(0);
}

TEST_CASE("every layout a guest posts receives through the NIC with its neighbours intact") {
    TestHost& host = TestHost::instance();
    for (const RxLayout& layout : RxLayout::whole_frame_layouts()) {
        DYNAMIC_SECTION(layout.name()) {
            FakeMemory memory(FakeMemory::equal_regions(2, 8_MiB, 0));
            FakeGuest guest = host.connect(0, memory, {.rx_size = 128, .layout = layout});
            guest.net.refill();
            std::size_t received = 0;
            for (std::uint32_t seq = 0; seq < 300; ++seq) {
                host.arrive(frame_to(host.mac(0), seq, 60 + seq * 4));
                for (const ReceivedFrame& frame : host.receive(guest, 1)) {
                    CHECK(check_frame(frame.bytes) == seq);
                    ++received;
                }
            }
            CHECK(received == 300);
            require_clean(guest);
            guest.stop_device();
            host.require_stopped(0);
        }
    }
}

TEST_CASE("the driver is called for every frame it waits for, with and without EVENT_IDX") {
    TestHost& host = TestHost::instance();
    const std::uint64_t event_idx = GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureEventIdx});
    FakeMemory memory(16_MiB);
    const std::uint64_t packed = GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureRingPacked});
    FakeGuest guest = host.connect(
        0, memory, {},
        {.features = kFeatureVersion1 | kFeatureVhostUserProtocol | event_idx | packed});
    CHECK((guest.frontend.features() & kFeatureEventIdx) == event_idx);
    guest.net.refill();
    guest.net.receive();
    guest.net.rx().queue().drain_calls();
    for (std::uint32_t seq = 0; seq < 200; ++seq) {
        host.arrive(frame_to(host.mac(0), seq));
        REQUIRE(guest.net.rx().queue().wait_call(std::chrono::seconds(10)));
        guest.net.rx().queue().drain_calls();
        REQUIRE(host.receive(guest, 1).size() == 1);
    }
    require_clean(guest);
    guest.stop_device();
    host.require_stopped(0);
}

}  // namespace zecorx::test
