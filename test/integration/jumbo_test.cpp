// Jumbo frames and receive buffers of every size: one port at an MTU of 9000, and a VM for each way
// to cut its frames.

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <optional>

#include "test_host.h"

namespace zecorx::test {

namespace {

constexpr std::uint32_t kMtu = 9000;
constexpr std::size_t kLongest = kMtu + 14;
constexpr std::uint16_t kVlan = 30;

constexpr std::size_t kPieces1024 = 0;
constexpr std::size_t kPieces2048 = 1;
constexpr std::size_t kWhole = 2;
constexpr std::size_t kLargest = 3;  // buffers of 16 KiB
constexpr std::size_t kTrunk = 4;    // in pieces of 1024

VmOptions vm_with(std::size_t index, std::optional<std::uint32_t> rxbuf) {
    return {.name = "net_vhost" + std::to_string(index),
            .macs = {TestHost::mac(index)},
            .rxbuf = rxbuf};
}

}  // namespace

HostSetup host_setup() {
    HostSetup setup{.vms = {vm_with(kPieces1024, 1024), vm_with(kPieces2048, 2048),
                            vm_with(kWhole, {}), vm_with(kLargest, 16384), vm_with(kTrunk, 1024)},
                    .mtu = kMtu,
                    .huge_memory = 256};
    setup.vms[kTrunk].trunk = {kVlan};
    return setup;
}

namespace {

constexpr std::uint64_t kMergeable = kFeatureVersion1 | kFeatureNetMrgRxbuf;

Negotiation wanting(std::uint64_t features) {
    return {.features = features | kFeatureVhostUserProtocol};
}

// A guest on a ring that no burst of jumbo frames exhausts.
FakeGuest connect(std::size_t vm, FakeMemory& memory, RxLayout layout,
                  std::uint64_t features = kMergeable) {
    FakeGuest guest = TestHost::instance().connect(
        vm, memory, {.rx_size = 1024, .layout = std::move(layout)}, wanting(features));
    // The last bytes of a piece stay where they landed though the next one's buffer has them.
    guest.net.rx().tolerate_scratch(net_header_size(features));
    guest.net.refill();
    return guest;
}

void disconnect(std::size_t vm, FakeGuest& guest) {
    CHECK(guest.net.violations() == std::vector<std::string>{});
    CHECK(guest.net.order_violations() == 0);
    guest.stop_device();
    TestHost::instance().require_stopped(vm);
}

// Frames of all lengths, one by one, each of which must come whole and in order.
void exchange(std::size_t vm, FakeGuest& guest) {
    TestHost& host = TestHost::instance();
    for (std::uint32_t seq = 0; seq < 120; ++seq) {
        const std::size_t size = seq % 4 == 3 ? kLongest - seq : 60 + seq * 61 % (kLongest - 60);
        REQUIRE(host.arrive(make_frame({.dst = host.mac(vm), .seq = seq, .size = size})) ==
                soft82599::RxResult::kDelivered);
        const auto frames = host.receive(guest, 1);
        REQUIRE(frames.size() == 1);
        REQUIRE(frames[0].bytes.size() == size);
        REQUIRE(check_frame(frames[0].bytes) == seq);
    }
}

std::uint64_t zero_copied(std::size_t vm) {
    return TestHost::instance().status(vm).counters->zero_copied.get();
}

}  // namespace

TEST_CASE("frames up to the MTU reach guests whole, however the NIC cuts them") {
    const std::size_t vm = GENERATE(kPieces1024, kPieces2048, kWhole, kLargest);
    const std::uint64_t features =
        GENERATE(kMergeable, kMergeable | kFeatureRingPacked | kFeatureInOrder,
                 std::uint64_t{kFeatureVersion1}, kFeatureVersion1 | kFeatureRingPacked);
    const RxLayout layout =
        GENERATE(RxLayout::linux_mergeable(), RxLayout::dpdk(), RxLayout::page(), RxLayout::jumbo(),
                 RxLayout::ipxe(kMtu), RxLayout::linux_big_mtu(kMtu));
    FakeMemory memory(64_MiB, PageSize::k2MiB);
    // Without mergeable buffers only a buffer that holds a frame can take it.
    const std::uint32_t header = net_header_size(features);
    const bool merges = (features & kFeatureNetMrgRxbuf) != 0;
    if (!layout.suits(features) || (!merges && layout.frame_room(header) < kLongest)) return;
    CAPTURE(vm, features, layout.name());
    FakeGuest guest = connect(vm, memory, layout, features);
    exchange(vm, guest);
    disconnect(vm, guest);
}

TEST_CASE("buffers that hold a piece take it without a copy") {
    struct Fit {
        std::size_t vm;
        RxLayout layout;
    };
    const Fit fit =
        GENERATE(Fit{kPieces1024, RxLayout::linux_mergeable()}, Fit{kPieces2048, RxLayout::dpdk()},
                 Fit{kWhole, RxLayout::jumbo()}, Fit{kLargest, RxLayout::jumbo()});
    CAPTURE(fit.vm, fit.layout.name());
    TestHost& host = TestHost::instance();
    FakeMemory memory(64_MiB, PageSize::k2MiB);
    FakeGuest guest = connect(fit.vm, memory, fit.layout);
    // What the NIC's ring was filled with before the driver had posted anything.
    for (std::uint32_t seq = 0; seq < Port::kRxDescriptors; ++seq) {
        host.require_delivered(fit.vm, guest, seq);
    }
    const std::uint64_t before = zero_copied(fit.vm);
    exchange(fit.vm, guest);
    CHECK(zero_copied(fit.vm) - before == 120);
    disconnect(fit.vm, guest);
}

TEST_CASE("the longest frame arrives and a byte more reaches no memory") {
    TestHost& host = TestHost::instance();
    const std::size_t vm = GENERATE(kPieces1024, kWhole, kTrunk);
    const bool tagged = vm == kTrunk && GENERATE(false, true);
    const std::size_t longest = kLongest + (tagged ? kVlanTagSize : 0);
    const std::optional<std::uint16_t> tag =
        tagged ? std::optional<std::uint16_t>(kVlan) : std::nullopt;
    CAPTURE(vm, tagged);
    FakeMemory memory(64_MiB, PageSize::k2MiB);
    FakeGuest guest =
        connect(vm, memory, vm == kWhole ? RxLayout::jumbo() : RxLayout::linux_mergeable());
    const auto frame = [&](std::size_t size) {
        return make_frame({.dst = host.mac(vm), .seq = 5, .size = size, .vlan = tag});
    };
    for (const std::size_t size : {longest - 1, longest}) {
        REQUIRE(host.arrive(frame(size)) == soft82599::RxResult::kDelivered);
        const auto frames = host.receive(guest, 1);
        REQUIRE(frames.size() == 1);
        CHECK(frames[0].bytes == frame(size));
    }
    const std::uint64_t untouched = guest.net.rx().memory_digest();
    CHECK(host.arrive(frame(longest + 1)) == soft82599::RxResult::kDroppedOversize);
    CHECK(guest.net.rx().memory_digest() == untouched);
    disconnect(vm, guest);
}

TEST_CASE("the NIC's verdict on a checksum reaches drivers that asked for it") {
    TestHost& host = TestHost::instance();
    const bool wanted = GENERATE(false, true);
    const std::size_t size = GENERATE(200u, 5000u);
    CAPTURE(wanted, size);
    FakeMemory memory(64_MiB, PageSize::k2MiB);
    FakeGuest guest = connect(kPieces1024, memory, RxLayout::linux_mergeable(),
                              kMergeable | (wanted ? kFeatureNetGuestCsum : std::uint64_t{0}));
    const auto flags_of = [&](const Frame& frame) {
        REQUIRE(host.arrive(frame) == soft82599::RxResult::kDelivered);
        const auto frames = host.receive(guest, 1);
        REQUIRE(frames.size() == 1);
        CHECK(frames[0].bytes == frame);
        return frames[0].header.flags;
    };
    const MacAddress to = host.mac(kPieces1024);
    Frame udp = make_udp_frame({.dst = to, .size = size});
    CHECK(flags_of(udp) == (wanted ? kNetHeaderDataValid : std::uint8_t{0}));
    // The NIC has no complaint of what it does not look at, which is no verdict.
    CHECK(flags_of(make_frame({.dst = to, .size = size})) == 0);
    udp.back() ^= std::byte{1};
    CHECK(flags_of(udp) == 0);
    disconnect(kPieces1024, guest);
}

TEST_CASE("a queue stopped in the middle of a frame gives every buffer back") {
    TestHost& host = TestHost::instance();
    const unsigned there = GENERATE(1u, 4u, 8u);
    FakeMemory memory(64_MiB, PageSize::k2MiB);
    for (int round = 0; round < 5; ++round) {
        FakeGuest guest = connect(kPieces1024, memory, RxLayout::linux_mergeable());
        guest.net.rx().tolerate_scratch();  // what came of the frame stays where it landed
        host.require_delivered(kPieces1024, guest, 1);
        host.nic().interrupt_frames_after(there);
        host.arrive(make_frame({.dst = host.mac(kPieces1024), .seq = 2, .size = kLongest}));
        // The PMD takes what is there and waits for the rest.
        for (int i = 0; i < 50; ++i) host.pump();
        CHECK(guest.net.receive().empty());
        guest.stop_device();
        host.require_stopped(kPieces1024);
        host.nic().interrupt_frames_after(0);
    }
    FakeGuest guest = connect(kPieces1024, memory, RxLayout::linux_mergeable());
    exchange(kPieces1024, guest);
    disconnect(kPieces1024, guest);
}

}  // namespace zecorx::test
