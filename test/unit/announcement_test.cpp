// Which frames announce their sender's address.

#include "zecorx/announcement.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <initializer_list>
#include <vector>

#include "guest/frames.h"

namespace zecorx {
namespace {

using test::Frame;

constexpr MacAddress kMac{{0x52, 0x54, 0, 0, 0, 7}};
constexpr test::Ipv4 kNone{0, 0, 0, 0};
constexpr test::Ipv4 kOwn{10, 0, 0, 7};
constexpr test::Ipv4 kPeer{10, 0, 0, 8};

constexpr std::size_t kOperation = 21;  // low byte, in an untagged ARP frame
constexpr std::size_t kSender = 22;

void set(Frame& frame, std::size_t at, std::initializer_list<int> values) {
    for (const int value : values) frame[at++] = static_cast<std::byte>(value);
}

Frame gratuitous() { return test::make_arp_request(kMac, kOwn, kOwn); }

Frame with(Frame frame, std::size_t at, std::initializer_list<int> values) {
    set(frame, at, values);
    return frame;
}

Frame tagged(Frame frame) {
    const Frame tag{std::byte{0x81}, std::byte{0}, std::byte{0}, std::byte{10}};
    frame.insert(frame.begin() + 12, tag.begin(), tag.end());
    return frame;
}

Frame rarp() { return with(with(gratuitous(), 12, {0x80, 0x35}), kOperation, {3}); }

constexpr std::size_t kIp = 14;
constexpr std::size_t kIcmp = kIp + 40;
constexpr std::size_t kOption = kIcmp + 24;

// An unsolicited neighbour advertisement to all nodes that overrides.
Frame advertisement() {
    Frame frame(86);
    set(frame, 0, {0x33, 0x33, 0, 0, 0, 1});
    set(frame, 6, {0x52, 0x54, 0, 0, 0, 7, 0x86, 0xDD});
    set(frame, kIp, {0x60, 0, 0, 0, 0, 32, 58, 255});
    set(frame, kIcmp, {136, 0, 0, 0, 0x20});
    set(frame, kOption, {2, 1, 0x52, 0x54, 0, 0, 0, 7});
    return frame;
}

}  // namespace

TEST_CASE("a gratuitous ARP, request or reply, announces its sender") {
    CHECK(announces_address(gratuitous()));
    CHECK(announces_address(with(gratuitous(), kOperation, {2})));
    CHECK(announces_address(tagged(gratuitous())));
}

TEST_CASE("an ARP probe announces its sender, a question does not") {
    CHECK(announces_address(test::make_arp_request(kMac, kNone, kOwn)));
    CHECK_FALSE(announces_address(test::make_arp_request(kMac, kOwn, kPeer)));
}

TEST_CASE("a RARP request announces its sender, a RARP reply does not") {
    CHECK(announces_address(rarp()));
    CHECK_FALSE(announces_address(with(rarp(), kOperation, {4})));
}

TEST_CASE("an unsolicited neighbour advertisement that overrides announces its sender") {
    CHECK(announces_address(advertisement()));
    CHECK(announces_address(tagged(advertisement())));
    CHECK(announces_address(with(advertisement(), kIcmp + 4, {0xA0})));        // a router's
    CHECK_FALSE(announces_address(with(advertisement(), kIcmp + 4, {0x60})));  // solicited
    CHECK_FALSE(announces_address(with(advertisement(), kIcmp + 4, {0x00})));  // does not override
    CHECK_FALSE(announces_address(with(advertisement(), kIcmp, {135})));       // a solicitation
    CHECK_FALSE(announces_address(with(advertisement(), kIp + 6, {17})));      // UDP
    CHECK_FALSE(announces_address(with(advertisement(), kIp + 7, {64})));      // through a router
    CHECK_FALSE(announces_address(with(advertisement(), kOption, {1})));       // source address
}

TEST_CASE("who announces somebody else's address announces nothing") {
    // As frames that a bridge or proxy in the guest passes on.
    CHECK_FALSE(announces_address(with(gratuitous(), kSender + 5, {8})));
    CHECK_FALSE(announces_address(with(rarp(), kSender + 5, {8})));
    CHECK_FALSE(announces_address(with(advertisement(), kOption + 7, {8})));
}

TEST_CASE("an announcement to one station is none") {
    CHECK_FALSE(announces_address(with(gratuitous(), 0, {0x52, 0x54, 0, 0, 0, 8})));
    CHECK_FALSE(announces_address(with(advertisement(), 0, {0x52, 0x54, 0, 0, 0, 8})));
}

TEST_CASE("other frames announce nothing") {
    CHECK_FALSE(announces_address(test::make_frame({.dst = test::kBroadcast, .src = kMac})));
    CHECK_FALSE(announces_address(test::make_udp_frame({.dst = test::kBroadcast, .size = 100})));
    CHECK_FALSE(announces_address(with(gratuitous(), 15, {6})));     // hardware type IEEE 802
    CHECK_FALSE(announces_address(with(gratuitous(), 16, {0x86})));  // not for IPv4
    CHECK_FALSE(announces_address(with(gratuitous(), 18, {8})));     // longer addresses
}

TEST_CASE("the frame for a host that does not announce itself is a RARP request to everybody") {
    const Announcement frame = rarp_announcement(kMac);
    CHECK(announces_address(frame));
    Frame expected = with(test::make_arp_request(kMac, kNone, kNone), 12, {0x80, 0x35});
    set(expected, kOperation, {3});
    set(expected, kSender + 10, {0x52, 0x54, 0, 0, 0, 7});
    CHECK(std::ranges::equal(frame, expected));
}

TEST_CASE("a frame that is cut short announces nothing and is not read past its end") {
    constexpr std::size_t kArp = 42, kAdvertisement = 86, kTag = 4;
    const auto check_cut = [](const Frame& whole, std::size_t needed) {
        for (std::size_t size = 0; size <= needed; ++size) {
            // Of exactly this size, so that a sanitizer sees a read beyond it.
            const Frame cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
            CHECK(announces_address(cut) == (size == needed));
        }
    };
    check_cut(gratuitous(), kArp);
    check_cut(rarp(), kArp);
    check_cut(advertisement(), kAdvertisement);
    check_cut(tagged(gratuitous()), kArp + kTag);
    check_cut(tagged(advertisement()), kAdvertisement + kTag);
}

}  // namespace zecorx
