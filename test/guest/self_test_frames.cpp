#include <catch2/catch_test_macros.hpp>
#include <stdexcept>

#include "frames.h"

using namespace zecorx;
using namespace zecorx::test;

TEST_CASE("a test frame has its size, addresses and sequence number") {
    const Frame frame = make_frame({.seq = 77, .size = 1514});
    CHECK(frame.size() == 1514);
    CHECK(MacAddress::from_wire(frame) == kGuestMac);
    CHECK(MacAddress::from_wire(std::span(frame).subspan(6)) == kPeerMac);
    CHECK(check_frame(frame) == 77);
}

TEST_CASE("a test frame of any size is checkable, tagged or not") {
    for (std::size_t size = 30; size < 200; ++size) {
        CHECK(check_frame(make_frame({.seq = 5, .size = size})) == 5);
        CHECK(check_frame(make_frame({.seq = 6, .size = size, .vlan = 100})) == 6);
    }
    CHECK_THROWS_AS(make_frame({.size = 21}), std::invalid_argument);
}

TEST_CASE("a changed payload byte, a cut and an extended frame are noticed") {
    const Frame good = make_frame({.seq = 9, .size = 128});
    for (std::size_t i = 14; i < good.size(); ++i) {
        Frame bad = good;
        bad[i] ^= std::byte{0x10};
        CHECK(check_frame(bad) != 9);
    }
    Frame cut = good;
    cut.pop_back();
    CHECK_FALSE(check_frame(cut));
    Frame extended = good;
    extended.push_back(std::byte{0});
    CHECK_FALSE(check_frame(extended));
}

TEST_CASE("a frame stays checkable when its tag is stripped") {
    Frame frame = make_frame({.seq = 3, .size = 200, .vlan = 42});
    frame.erase(frame.begin() + 12, frame.begin() + 16);
    CHECK(check_frame(frame) == 3);
}

TEST_CASE("a UDP frame carries correct checksums") {
    for (const std::size_t size : {60, 61, 1513, 1514}) {
        const Frame frame = make_udp_frame({.seq = 11, .size = size});
        CHECK(check_frame(frame) == 11);
        const auto packet = std::span<const std::byte>(frame).subspan(14);
        CHECK(internet_checksum(packet.first(20)) == 0);
        // Pseudo header: addresses, protocol 17, UDP length.
        const auto udp_len = static_cast<std::uint32_t>(packet.size() - 20);
        const auto addresses =
            static_cast<std::uint16_t>(~internet_checksum(packet.subspan(12, 8)));
        CHECK(internet_checksum(packet.subspan(20), addresses + 17 + udp_len) == 0);
    }
}

TEST_CASE("an echo request carries correct checksums") {
    for (const std::size_t size : {60, 61, 1513, 1514}) {
        const Frame frame =
            make_echo_request({.seq = 12, .size = size}, {10, 0, 0, 2}, {10, 0, 0, 1});
        CHECK(frame.size() == size);
        CHECK(check_frame(frame) == 12);
        const auto packet = std::span<const std::byte>(frame).subspan(14);
        CHECK(internet_checksum(packet.first(20)) == 0);
        CHECK(internet_checksum(packet.subspan(20)) == 0);
    }
}

TEST_CASE("the checksum follows the worked example of RFC 1071") {
    const std::array bytes{std::byte{0x00}, std::byte{0x01}, std::byte{0xf2}, std::byte{0x03},
                           std::byte{0xf4}, std::byte{0xf5}, std::byte{0xf6}, std::byte{0xf7}};
    CHECK(internet_checksum(bytes) == static_cast<std::uint16_t>(~0xddf2));
}

TEST_CASE("an ARP request is a broadcast that asks for the target") {
    const Frame frame = make_arp_request(kPeerMac, {10, 0, 0, 2}, {10, 0, 0, 1});
    CHECK(frame.size() == kMinFrame);
    CHECK(MacAddress::from_wire(frame) == kBroadcast);
    CHECK(frame[12] == std::byte{0x08});
    CHECK(frame[13] == std::byte{0x06});
    CHECK(frame[21] == std::byte{1});
    CHECK(frame[41] == std::byte{1});
    CHECK_FALSE(check_frame(frame));
}
