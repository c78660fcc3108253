// Frames from guests to the wire, and the addresses learned from them.

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cstring>
#include <iterator>

#include "test_host.h"

namespace zecorx::test {

TEST_CASE("what a guest sends leaves the port byte for byte and in order") {
    TestHost& host = TestHost::instance();
    const std::uint64_t features =
        GENERATE(std::uint64_t{kFeatureVersion1 | kFeatureNetMrgRxbuf}, std::uint64_t{0},
                 kFeatureVersion1 | kFeatureNetMrgRxbuf | kFeatureRingPacked);
    FakeMemory memory(16_MiB);
    FakeGuest guest =
        host.connect(0, memory, {}, {.features = features | kFeatureVhostUserProtocol});
    host.sent();

    std::vector<Frame> sent, arrived;
    for (std::uint32_t seq = 0; seq < 1000; ++seq) {
        sent.push_back(make_frame({.src = host.mac(0), .seq = seq, .size = 60 + seq % 1455}));
        REQUIRE(host.eventually([&] {
            guest.net.reap_transmitted();
            return guest.net.send(sent.back(), {.header_apart = seq % 2 == 0});
        }));
        for (Frame& frame : host.sent()) arrived.push_back(std::move(frame));
    }
    host.eventually([&] {
        for (Frame& frame : host.sent()) arrived.push_back(std::move(frame));
        return arrived.size() >= sent.size();
    });

    CHECK(arrived == sent);
    CHECK(host.eventually([&] {
        guest.net.reap_transmitted();
        return guest.net.tx().queue().outstanding() == 0;
    }));
    CHECK(guest.net.violations().empty());
    guest.stop_device();
    host.require_stopped(0);
}

TEST_CASE("an address is learned from the first frame, in time for the answer to it") {
    TestHost& host = TestHost::instance();
    constexpr std::size_t kVm = TestHost::kLearningVm;
    FakeMemory memory(16_MiB);
    FakeGuest guest = host.connect(kVm, memory);
    guest.net.refill();
    CHECK_FALSE(host.status(kVm).mac.has_value());
    CHECK(host.arrive(make_frame({.dst = host.mac(kVm), .seq = 1})) !=
          soft82599::RxResult::kDelivered);

    REQUIRE(guest.net.send(make_frame({.src = host.mac(kVm), .seq = 2})));
    REQUIRE(host.eventually([&] { return !host.sent().empty(); }));

    CHECK(host.status(kVm).mac == host.mac(kVm));
    CHECK(host.arrive(make_frame({.dst = host.mac(kVm), .seq = 3})) ==
          soft82599::RxResult::kDelivered);
    const auto frames = host.receive(guest, 1);
    REQUIRE(frames.size() == 1);
    CHECK(check_frame(frames[0].bytes) == 3u);
    guest.stop_device();
    host.require_stopped(kVm);

    // Whoever connects next is somebody else.
    CHECK_FALSE(host.status(kVm).mac.has_value());
    CHECK(host.arrive(make_frame({.dst = host.mac(kVm), .seq = 4})) !=
          soft82599::RxResult::kDelivered);
}

TEST_CASE("an address is learned from the frontend's RARP request") {
    TestHost& host = TestHost::instance();
    constexpr std::size_t kVm = TestHost::kLearningVm;
    FakeMemory memory(16_MiB);
    FakeGuest guest = host.connect(kVm, memory);
    guest.net.refill();

    CHECK(guest.frontend.send_rarp(host.mac(kVm)));

    CHECK(host.eventually([&] { return host.status(kVm).mac == host.mac(kVm); }));
    CHECK(host.arrive(make_frame({.dst = host.mac(kVm), .seq = 1})) ==
          soft82599::RxResult::kDelivered);
    CHECK(host.receive(guest, 1).size() == 1);
    guest.stop_device();
    host.require_stopped(kVm);
}

namespace {

// RFC 903, from and for `mac`, to everybody.
Frame rarp_request(const MacAddress& mac) {
    Frame frame = make_arp_request(mac, {}, {});
    frame[12] = std::byte{0x80};
    frame[13] = std::byte{0x35};
    frame[21] = std::byte{3};  // operation
    std::memcpy(&frame[32], mac.bytes.data(), mac.bytes.size());
    return frame;
}

}  // namespace

TEST_CASE("a guest that does not announce itself is announced when its frontend asks for it") {
    TestHost& host = TestHost::instance();
    const std::size_t vm = GENERATE(std::size_t{0}, std::size_t{TestHost::kLearningVm});
    FakeMemory memory(16_MiB);
    FakeGuest guest = host.connect(vm, memory);
    guest.net.refill();
    host.sent();

    // Another's address is the other's.
    CHECK(guest.frontend.send_rarp(host.mac(1)));
    CHECK(guest.frontend.send_rarp(kBroadcast));
    if (vm != TestHost::kLearningVm) {
        CHECK(guest.frontend.send_rarp(host.nic().mac()));
    }
    for (std::uint32_t round = 0; round < 5; ++round) {
        CHECK(guest.frontend.send_rarp(host.mac(vm)));
        std::vector<Frame> sent;
        REQUIRE(host.eventually([&] {
            std::ranges::move(host.sent(), std::back_inserter(sent));
            return !sent.empty();
        }));
        CHECK(sent == std::vector<Frame>{rarp_request(host.mac(vm))});
    }
    host.require_delivered(vm, guest, 1);
    guest.stop_device();
    host.require_stopped(vm);
}

// A frontend asks as soon as the guest has come, and again for a while; it may be paused so long.
TEST_CASE("a guest is announced when it runs, if it was asked for before") {
    TestHost& host = TestHost::instance();
    const std::size_t vm = GENERATE(std::size_t{0}, std::size_t{TestHost::kLearningVm});
    FakeMemory memory(16_MiB);
    Frontend frontend = Frontend::connect(host.socket(vm));
    NetDriverOptions options;
    options.features = frontend.negotiate();
    host.sent();
    CHECK(frontend.send_rarp(host.mac(vm)));
    FakeGuest guest{memory, std::move(frontend), NetDriver(memory, options)};
    guest.net.refill();
    host.pump();
    CHECK(host.sent().empty());

    guest.start_device();

    std::vector<Frame> sent;
    REQUIRE(host.eventually([&] {
        std::ranges::move(host.sent(), std::back_inserter(sent));
        return !sent.empty();
    }));
    CHECK(sent == std::vector<Frame>{rarp_request(host.mac(vm))});
    host.require_delivered(vm, guest, 1);
    guest.stop_device();
    host.require_stopped(vm);
}

TEST_CASE("an address of a neighbour or of the host is not given away") {
    TestHost& host = TestHost::instance();
    constexpr std::size_t kVm = TestHost::kLearningVm;
    FakeMemory memory0(16_MiB), memory(16_MiB);
    FakeGuest owner = host.connect(0, memory0);
    FakeGuest thief = host.connect(kVm, memory);
    owner.net.refill();
    thief.net.refill();

    CHECK(thief.frontend.send_rarp(host.mac(0)));
    CHECK(thief.frontend.send_rarp(host.nic().mac()));
    REQUIRE(thief.net.send(make_frame({.src = host.mac(0), .seq = 1})));
    REQUIRE(host.eventually([&] { return !host.sent().empty(); }));

    CHECK_FALSE(host.status(kVm).mac.has_value());
    host.require_delivered(0, owner, 2);
    host.pump();
    CHECK(thief.net.receive().empty());
    owner.stop_device();
    thief.stop_device();
    host.require_stopped(0);
    host.require_stopped(kVm);
}

TEST_CASE("a multicast source address is never learned") {
    TestHost& host = TestHost::instance();
    constexpr std::size_t kVm = TestHost::kLearningVm;
    FakeMemory memory(16_MiB);
    FakeGuest guest = host.connect(kVm, memory);
    host.sent();
    REQUIRE(guest.net.send(make_frame({.src = kBroadcast})));
    REQUIRE(host.eventually([&] { return !host.sent().empty(); }));
    CHECK_FALSE(host.status(kVm).mac.has_value());
    guest.stop_device();
    host.require_stopped(kVm);
}

}  // namespace zecorx::test
