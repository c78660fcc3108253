// Ethernet frames whose content a receiver can check without knowing what was sent.
//
// The payload of a test frame is a sequence number, its own length and pseudo-random bytes made
// from the two. It is checkable after MAC addresses were swapped or a VLAN tag was stripped.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "zecorx/mac_address.h"

namespace zecorx::test {

using Frame = std::vector<std::byte>;
using Ipv4 = std::array<std::uint8_t, 4>;

inline constexpr std::size_t kMinFrame = 60;  // bytes, without the 4 of the CRC
inline constexpr std::size_t kMaxUntaggedFrame = 1514;
inline constexpr std::size_t kVlanTagSize = 4;
inline constexpr std::uint16_t kTestEtherType = 0x88B5;  // IEEE 802 local experimental 1

inline constexpr MacAddress kBroadcast{{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}};
inline constexpr MacAddress kGuestMac{{0x52, 0x54, 0x00, 0x00, 0x00, 0x01}};
inline constexpr MacAddress kPeerMac{{0x52, 0x54, 0x00, 0x00, 0x00, 0x02}};

struct FrameSpec {
    MacAddress dst = kGuestMac;
    MacAddress src = kPeerMac;
    std::uint32_t seq = 0;
    std::size_t size = kMinFrame;         // whole frame without CRC, tag included
    std::optional<std::uint16_t> vlan{};  // tag control information of an 802.1Q tag
};

struct UdpSpec {
    Ipv4 src_ip{10, 0, 0, 2};
    Ipv4 dst_ip{10, 0, 0, 1};
    std::uint16_t src_port = 1024;
    std::uint16_t dst_port = 1025;
};

// Throw std::invalid_argument when `size` has no room for the headers and 8 bytes of payload.
Frame make_frame(const FrameSpec& spec);
// The same payload inside UDP over IPv4, both checksums correct.
Frame make_udp_frame(const FrameSpec& spec, const UdpSpec& udp = {});
// The same payload in an ICMP echo request; check_frame() takes the reply, too.
Frame make_echo_request(const FrameSpec& spec, const Ipv4& src_ip, const Ipv4& dst_ip);

// "Who has target_ip?", broadcast.
Frame make_arp_request(const MacAddress& sender, const Ipv4& sender_ip, const Ipv4& target_ip);

// The sequence number of a frame that was made by the above, or nothing if a single
// byte of its payload or its length is wrong. Bytes of padding up to kMinFrame are accepted.
std::optional<std::uint32_t> check_frame(std::span<const std::byte> frame);

// Internet checksum (RFC 1071) over `bytes`, an odd last byte padded with zero.
std::uint16_t internet_checksum(std::span<const std::byte> bytes, std::uint32_t initial = 0);

}  // namespace zecorx::test
