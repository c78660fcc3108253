// Which frames reach which VM: VLANs, promiscuity, multicast, several and changing addresses, and
// VMs that talk to each other through the port.

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "test_host.h"

namespace zecorx::test {
namespace {

using soft82599::RxResult;

enum Member : std::size_t {
    kPlain,
    kAccess,  // vlan=10, two addresses
    kTrunk,   // trunk=10:20
    kPromisc,
    kQuiet,      // allmulti=0
    kLearning,   // learn=1, no address
    kFollowing,  // learn=1, starts with an address
    kFirstIdle,  // never connected
    kFar = 33,   // trunk=20; its VMDq pool is in the upper word of the pool masks
};

constexpr std::uint16_t kVlan = 10;
constexpr std::uint16_t kOtherVlan = 20;
constexpr MacAddress kSecond{{0x52, 0x54, 0, 0, 2, 1}};
constexpr MacAddress kNobody{{0x52, 0x54, 0, 0, 2, 2}};
constexpr MacAddress kMoved{{0x52, 0x54, 0, 0, 2, 3}};
constexpr MacAddress kGroup{{0x01, 0x00, 0x5E, 0, 0, 1}};

// A VM's guest, whose buffers were all posted before its queue started: no frame of the test is
// copied because its buffer came late.
struct Station {
    explicit Station(std::size_t index)
        : vm(index),
          guest(TestHost::instance().connect(index, memory, {.rx_size = Port::kRxDescriptors})) {
        TestHost& host = TestHost::instance();
        guest.net.refill();
        const VringBases bases = guest.stop_device();
        guest.start_device(bases);
        REQUIRE(host.eventually([&] { return host.status(vm).running; }));
        host.sent();
    }
    ~Station() {
        guest.stop_device();
        TestHost::instance().require_stopped(vm);
        TestHost::instance().sent();  // what it left with the NIC must not reach the next test
        CHECK(guest.net.violations() == std::vector<std::string>{});
    }
    Station(const Station&) = delete;
    Station& operator=(const Station&) = delete;

    // All frames that arrived, by when a broadcast sent last is there. REQUIRES: the VM is in
    // `vlan`, or in none.
    std::vector<Frame> received(std::optional<std::uint16_t> vlan = std::nullopt) {
        static std::uint32_t mark = kFirstMark;
        TestHost& host = TestHost::instance();
        host.arrive(make_frame({.dst = kBroadcast, .seq = ++mark, .size = 64, .vlan = vlan}));
        std::vector<Frame> frames;
        bool ended = false;
        host.eventually([&] {
            for (ReceivedFrame& frame : guest.net.receive()) {
                const std::uint32_t seq = check_frame(frame.bytes).value_or(0);
                if (seq < kFirstMark) frames.push_back(std::move(frame.bytes));
                ended = ended || seq == mark;
            }
            return ended;
        });
        CHECK(ended);
        return frames;
    }

    static constexpr std::uint32_t kFirstMark = 0x80000000;  // of other stations too

    std::size_t vm;
    FakeMemory memory{16_MiB, PageSize::k2MiB};
    FakeGuest guest;
};

std::uint64_t zero_copied(std::size_t vm) {
    return TestHost::instance().status(vm).counters->zero_copied.get();
}

Frame gratuitous_arp(const MacAddress& mac) {
    constexpr Ipv4 kAddress{10, 0, 0, 9};
    return make_arp_request(mac, kAddress, kAddress);
}

bool delivered(const FrameSpec& spec) {
    return TestHost::instance().arrive(make_frame(spec)) == RxResult::kDelivered;
}

}  // namespace

HostSetup host_setup() {
    HostSetup setup;
    setup.huge_memory = 384;
    for (std::size_t i = 0; i <= kFar; ++i) {
        setup.vms.push_back({.name = "vm" + std::to_string(i), .macs = {TestHost::mac(i)}});
    }
    setup.vms[kAccess].macs.push_back(kSecond);
    setup.vms[kAccess].vlan = kVlan;
    setup.vms[kTrunk].trunk = {kVlan, kOtherVlan};
    setup.vms[kPromisc].promisc = true;
    setup.vms[kQuiet].allmulti = false;
    setup.vms[kLearning].macs.clear();
    setup.vms[kLearning].learn = true;
    setup.vms[kFollowing].learn = true;
    setup.vms[kFar].trunk = {kOtherVlan};
    return setup;
}

TEST_CASE("a VM in a VLAN gets that VLAN's frames without their tag and no others") {
    Station access(kAccess);
    const MacAddress mac = TestHost::mac(kAccess);
    std::vector<Frame> expected;
    for (std::uint32_t seq = 0; seq < 100; ++seq) {
        const std::size_t size = 60 + seq * 14;
        CHECK(delivered({.dst = mac, .seq = seq, .size = size + kVlanTagSize, .vlan = kVlan}));
        expected.push_back(make_frame({.dst = mac, .seq = seq, .size = size}));
        CHECK_FALSE(delivered({.dst = mac, .seq = 1000, .size = 100}));
        CHECK_FALSE(delivered({.dst = mac, .seq = 1001, .size = 100, .vlan = kOtherVlan}));
        CHECK_FALSE(delivered({.dst = mac, .seq = 1002, .size = 100, .vlan = 0}));
    }
    CHECK_FALSE(delivered({.dst = kBroadcast, .seq = 1003, .vlan = kOtherVlan}));
    CHECK_FALSE(delivered({.dst = kBroadcast, .seq = 1004}));
    CHECK(access.received(kVlan) == expected);
}

TEST_CASE("a VM with a trunk gets its VLANs' frames with their tags, and untagged ones") {
    Station trunk(kTrunk);
    const MacAddress mac = TestHost::mac(kTrunk);
    std::vector<Frame> expected;
    for (const auto vlan : {std::optional(kVlan), std::optional(kOtherVlan),
                            std::optional<std::uint16_t>(), std::optional<std::uint16_t>(0xA00A)}) {
        const std::size_t size = vlan ? 1518 : 1514;
        expected.push_back(make_frame({.dst = mac, .seq = 1, .size = size, .vlan = vlan}));
        CHECK(TestHost::instance().arrive(expected.back()) == RxResult::kDelivered);
    }
    CHECK_FALSE(delivered({.dst = mac, .seq = 2, .size = 100, .vlan = 11}));
    CHECK(trunk.received() == expected);
}

TEST_CASE("a VM without VLANs gets untagged frames only") {
    Station plain(kPlain);
    const MacAddress mac = TestHost::mac(kPlain);
    CHECK_FALSE(delivered({.dst = mac, .seq = 1, .vlan = kVlan}));
    CHECK_FALSE(delivered({.dst = mac, .seq = 2, .vlan = 0}));
    CHECK_FALSE(delivered({.dst = kBroadcast, .seq = 3, .vlan = kVlan}));
    CHECK(delivered({.dst = mac, .seq = 4}));
    CHECK(plain.received() == std::vector<Frame>{make_frame({.dst = mac, .seq = 4})});
}

TEST_CASE("a guest in a VLAN is announced in that VLAN") {
    TestHost& host = TestHost::instance();
    Station access(kAccess);
    for (const MacAddress& mac : {TestHost::mac(kAccess), kSecond}) {
        CHECK(access.guest.frontend.send_rarp(mac));
        std::vector<Frame> sent;
        REQUIRE(host.eventually([&] {
            sent = host.sent();
            return !sent.empty();
        }));
        REQUIRE(sent.size() == 1);
        REQUIRE(sent[0].size() == kMinFrame + kVlanTagSize);
        CHECK(MacAddress::from_wire(std::span(sent[0]).subspan(6)) == mac);
        const Frame types{std::byte{0x81},  std::byte{0},    std::byte{0},
                          std::byte{kVlan}, std::byte{0x80}, std::byte{0x35}};
        CHECK(std::ranges::equal(types, std::span(sent[0]).subspan(12, types.size())));
    }
}

TEST_CASE("a VLAN has members in both halves of the pools") {
    Station trunk(kTrunk), far(kFar);
    const FrameSpec to_all{.dst = kBroadcast, .seq = 1, .size = 100, .vlan = kOtherVlan};
    CHECK(delivered(to_all));
    CHECK(delivered({.dst = TestHost::mac(kFar), .seq = 2, .size = 100, .vlan = kOtherVlan}));
    CHECK_FALSE(delivered({.dst = TestHost::mac(kFar), .seq = 3, .size = 100, .vlan = kVlan}));
    CHECK(trunk.received() == std::vector<Frame>{make_frame(to_all)});
    CHECK(far.received().size() == 2);
}

TEST_CASE("stripping goes on after a queue was stopped and started") {
    for (int session = 0; session < 3; ++session) {
        Station access(kAccess);
        const MacAddress mac = TestHost::mac(kAccess);
        CHECK(delivered({.dst = mac, .seq = 5, .size = 104, .vlan = kVlan}));
        CHECK(access.received(kVlan) ==
              std::vector<Frame>{make_frame({.dst = mac, .seq = 5, .size = 100})});
    }
}

TEST_CASE("every address of a VM reaches it, while it runs") {
    const FrameSpec to_second{.dst = kSecond, .seq = 1, .size = 104, .vlan = kVlan};
    CHECK_FALSE(delivered(to_second));
    {
        Station access(kAccess);
        CHECK(delivered(to_second));
        CHECK(delivered({.dst = TestHost::mac(kAccess), .seq = 2, .size = 104, .vlan = kVlan}));
        CHECK(access.received(kVlan).size() == 2);
    }
    CHECK_FALSE(delivered(to_second));
}

TEST_CASE("a promiscuous VM gets unicast for nobody, and no neighbour's") {
    Station promisc(kPromisc), plain(kPlain);
    CHECK(delivered({.dst = kNobody, .seq = 1}));
    CHECK(delivered({.dst = TestHost::mac(kPlain), .seq = 2}));
    CHECK(delivered({.dst = TestHost::mac(kPromisc), .seq = 3}));
    CHECK_FALSE(delivered({.dst = TestHost::instance().nic().mac(), .seq = 4}));
    CHECK(promisc.received() ==
          std::vector<Frame>{make_frame({.dst = kNobody, .seq = 1}),
                             make_frame({.dst = TestHost::mac(kPromisc), .seq = 3})});
    CHECK(plain.received() ==
          std::vector<Frame>{make_frame({.dst = TestHost::mac(kPlain), .seq = 2})});
}

TEST_CASE("nobody gets unicast for nobody unless promiscuous") {
    Station plain(kPlain), trunk(kTrunk);
    CHECK_FALSE(delivered({.dst = kNobody, .seq = 1}));
    CHECK(plain.received().empty());
}

TEST_CASE("multicast reaches every VM but one that wants none, which still hears broadcast") {
    Station quiet(kQuiet), plain(kPlain);
    CHECK(delivered({.dst = kGroup, .seq = 1}));
    CHECK(delivered({.dst = kBroadcast, .seq = 2}));
    CHECK(quiet.received() == std::vector<Frame>{make_frame({.dst = kBroadcast, .seq = 2})});
    const auto heard = plain.received();
    REQUIRE(heard.size() == 2);
    CHECK(heard[0] == make_frame({.dst = kGroup, .seq = 1}));
}

TEST_CASE("nothing reaches a VM that does not run, nor the host") {
    TestHost& host = TestHost::instance();
    const auto filtered = host.nic().counters().rx_dropped_filter;
    CHECK_FALSE(delivered({.dst = kBroadcast, .seq = 1}));
    CHECK_FALSE(delivered({.dst = kGroup, .seq = 2}));
    CHECK_FALSE(delivered({.dst = kNobody, .seq = 3}));
    CHECK_FALSE(delivered({.dst = host.nic().mac(), .seq = 4}));
    CHECK_FALSE(delivered({.dst = kBroadcast, .seq = 5, .vlan = kVlan}));
    // Filtered, not lost at a stopped queue, which would count as missed.
    CHECK(host.nic().counters().rx_dropped_filter == filtered + 5);
}

TEST_CASE("steering follows the address a guest announces") {
    const std::size_t vm = GENERATE(std::size_t{kLearning}, std::size_t{kFollowing});
    TestHost& host = TestHost::instance();
    const MacAddress first = TestHost::mac(vm);
    Station station(vm);
    if (vm == kLearning) {
        REQUIRE(station.guest.net.send(make_frame({.dst = kPeerMac, .src = first})));
    }
    REQUIRE(host.eventually([&] { return host.status(vm).mac == first; }));
    CHECK(delivered({.dst = first, .seq = 1}));

    // Mere traffic from another address does not count.
    REQUIRE(station.guest.net.send(make_frame({.dst = kBroadcast, .src = kNobody})));
    REQUIRE(host.eventually([&] {
        station.guest.net.reap_transmitted();
        return station.guest.net.transmitq().outstanding() == 0;
    }));
    host.pump();
    CHECK(host.status(vm).mac == first);

    REQUIRE(station.guest.net.send(gratuitous_arp(kMoved)));
    REQUIRE(host.eventually([&] { return host.status(vm).mac == kMoved; }));
    CHECK_FALSE(delivered({.dst = first, .seq = 2}));
    CHECK(delivered({.dst = kMoved, .seq = 3}));

    REQUIRE(station.guest.net.send(gratuitous_arp(first)));
    REQUIRE(host.eventually([&] { return host.status(vm).mac == first; }));
    CHECK(delivered({.dst = first, .seq = 4}));
    CHECK_FALSE(delivered({.dst = kMoved, .seq = 5}));
    std::vector<std::uint32_t> seqs;
    for (const Frame& frame : station.received()) seqs.push_back(check_frame(frame).value_or(0));
    CHECK(seqs == std::vector<std::uint32_t>{1, 3, 4});
}

TEST_CASE("an announcement takes no address from a neighbour, running or not") {
    TestHost& host = TestHost::instance();
    Station thief(kFollowing);
    for (const std::size_t victim : {std::size_t{kPlain}, std::size_t{kFirstIdle}}) {
        REQUIRE(thief.guest.net.send(gratuitous_arp(TestHost::mac(victim))));
        // It leaves the port once the control side has looked at it.
        REQUIRE(host.eventually([&] { return !host.sent().empty(); }));
        CHECK(host.status(kFollowing).mac == TestHost::mac(kFollowing));
        CHECK_FALSE(delivered({.dst = TestHost::mac(victim), .seq = 1}));
    }
    CHECK(delivered({.dst = TestHost::mac(kFollowing), .seq = 2}));
    CHECK(thief.received().size() == 1);
}

TEST_CASE("a session starts with the configured address, whatever its predecessor announced") {
    TestHost& host = TestHost::instance();
    {
        Station station(kFollowing);
        REQUIRE(station.guest.net.send(gratuitous_arp(kMoved)));
        REQUIRE(host.eventually([&] { return host.status(kFollowing).mac == kMoved; }));
    }
    Station station(kFollowing);
    CHECK(host.status(kFollowing).mac == TestHost::mac(kFollowing));
    CHECK_FALSE(delivered({.dst = kMoved, .seq = 1}));
    CHECK(delivered({.dst = TestHost::mac(kFollowing), .seq = 2}));
}

TEST_CASE("unicast between VMs reaches the peer alone, without a copy and without the wire") {
    TestHost& host = TestHost::instance();
    Station plain(kPlain), quiet(kQuiet), promisc(kPromisc);
    const std::uint64_t before = zero_copied(kQuiet);
    std::vector<Frame> sent;
    for (std::uint32_t seq = 0; seq < 100; ++seq) {
        sent.push_back(make_frame({.dst = TestHost::mac(kQuiet),
                                   .src = TestHost::mac(kPlain),
                                   .seq = seq,
                                   .size = 60 + seq * 14}));
        REQUIRE(plain.guest.net.send(sent.back()));
    }
    std::vector<Frame> arrived;
    host.eventually([&] {
        for (ReceivedFrame& frame : quiet.guest.net.receive()) {
            arrived.push_back(std::move(frame.bytes));
        }
        return arrived.size() >= sent.size();
    });
    CHECK(arrived == sent);
    CHECK(zero_copied(kQuiet) - before == sent.size());
    CHECK(host.sent().empty());
    CHECK(plain.received().empty());
    CHECK(promisc.received().empty());
}

TEST_CASE("broadcast of a VM reaches each other one and the wire once, and not itself") {
    TestHost& host = TestHost::instance();
    Station plain(kPlain), quiet(kQuiet), trunk(kTrunk), access(kAccess);
    const Frame frame = make_frame({.dst = kBroadcast, .src = TestHost::mac(kPlain), .seq = 1});
    REQUIRE(plain.guest.net.send(frame));
    std::vector<Frame> wire;
    REQUIRE(host.eventually([&] {
        for (Frame& sent : host.sent()) wire.push_back(std::move(sent));
        return !wire.empty();
    }));
    CHECK(wire == std::vector<Frame>{frame});
    CHECK(access.received(kVlan).empty());
    CHECK(plain.received().empty());
    for (Station* other : {&quiet, &trunk}) {
        const auto frames = other->received();
        CHECK(std::ranges::count(frames, frame) == 1);
    }
}

TEST_CASE("unicast to nobody reaches a promiscuous neighbour and the wire") {
    TestHost& host = TestHost::instance();
    Station plain(kPlain), promisc(kPromisc);
    const Frame frame = make_frame({.dst = kNobody, .src = TestHost::mac(kPlain), .seq = 1});
    REQUIRE(plain.guest.net.send(frame));
    std::vector<Frame> wire;
    REQUIRE(host.eventually([&] {
        for (Frame& sent : host.sent()) wire.push_back(std::move(sent));
        return !wire.empty();
    }));
    CHECK(wire == std::vector<Frame>{frame});
    CHECK(promisc.received() == std::vector<Frame>{frame});
}

TEST_CASE("a frontend may announce the port's MTU to its guest and no larger one") {
    Station plain(kPlain);
    CHECK(plain.guest.frontend.set_mtu(1500));
    CHECK(plain.guest.frontend.set_mtu(1280));
    CHECK_FALSE(plain.guest.frontend.set_mtu(1501));
    CHECK_FALSE(plain.guest.frontend.set_mtu(9000));
    CHECK(plain.guest.frontend.is_connected());
    CHECK(delivered({.dst = TestHost::mac(kPlain), .seq = 1}));
    CHECK(plain.received().size() == 1);
}

TEST_CASE("what the backend and the frontend do for a guest is offered, and no more") {
    Station plain(kPlain);
    const std::uint64_t offered = plain.guest.frontend.get_features();
    for (const std::uint64_t feature : {kFeatureNetMtu, kFeatureNetGuestAnnounce, kFeatureInOrder,
                                        kFeatureEventIdx, kFeatureRingPacked}) {
        CHECK((offered & feature) == feature);
    }
    CHECK((offered & (kFeatureNetMq | kFeatureAccessPlatform)) == 0);
    CHECK((plain.guest.frontend.get_protocol_features() & kProtocolNetMtu) != 0);
}

}  // namespace zecorx::test
