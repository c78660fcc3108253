// Where the headers of an Ethernet frame lie. All checks are against the bytes given, so a frame
// that ends inside a header simply does not have it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "zecorx/geometry.h"
#include "zecorx/vlan_policy.h"

namespace zecorx {

using HeaderBytes = std::span<const std::byte>;

// Network byte order. REQUIRES: offset + 2 <= bytes.size().
inline std::uint16_t load_be16(HeaderBytes bytes, std::size_t offset) {
    return static_cast<std::uint16_t>(std::to_integer<unsigned>(bytes[offset]) << 8 |
                                      std::to_integer<unsigned>(bytes[offset + 1]));
}
inline std::uint8_t load_u8(HeaderBytes bytes, std::size_t offset) {
    return std::to_integer<std::uint8_t>(bytes[offset]);
}

// The Ethernet header, with the 802.1Q tag that the NIC recognizes as one (82599 datasheet
// 7.4.1: a single tag of ethertype 8100h). Whatever else lies between the addresses and the
// network header is payload.
struct LinkHeader {
    std::uint16_t length = kEthernetHeader;
    std::uint16_t ethertype = 0;       // behind the tag
    std::optional<std::uint16_t> tci;  // of the tag
};

inline std::optional<LinkHeader> parse_link(HeaderBytes frame) {
    constexpr std::size_t kTypeOffset = 12;  // IEEE 802.3 3.1.1
    if (frame.size() < kEthernetHeader) return std::nullopt;
    LinkHeader link;
    link.ethertype = load_be16(frame, kTypeOffset);
    if (link.ethertype != kVlanEthertype) return link;
    if (frame.size() < kEthernetHeader + kVlanTag) return std::nullopt;
    link.tci = load_be16(frame, kEthernetHeader);
    link.length = kEthernetHeader + kVlanTag;
    link.ethertype = load_be16(frame, kTypeOffset + kVlanTag);
    return link;
}

inline constexpr std::uint16_t kIpv4Ethertype = 0x0800;     // RFC 894
inline constexpr std::uint16_t kIpv6Ethertype = 0x86dd;     // RFC 2464 3
inline constexpr std::uint16_t kIpv4FragmentMask = 0x3fff;  // more fragments, or an offset
inline constexpr std::uint8_t kProtocolTcp = 6;             // RFC 790, and below
inline constexpr std::uint8_t kProtocolUdp = 17;

// The network header and what follows it.
struct NetworkHeader {
    bool ipv6 = false;
    std::uint8_t protocol = 0;  // of what follows
    std::uint16_t length = 0;   // bytes, with options or extension headers
    // The destination of the pseudo header is the one in the header (RFC 8200 8.1: a routing
    // header may name another).
    bool final_destination = true;
};

namespace header_detail {

inline constexpr std::size_t kIpv4Header = 20;  // without options, RFC 791 3.1
inline constexpr std::size_t kIpv6Header = 40;  // RFC 8200 3

inline std::optional<NetworkHeader> parse_ipv4(HeaderBytes packet) {
    if (packet.size() < kIpv4Header || load_u8(packet, 0) >> 4 != 4) return std::nullopt;
    const std::size_t length = std::size_t{4} * (load_u8(packet, 0) & 0xfu);
    if (length < kIpv4Header || length > packet.size()) return std::nullopt;
    // A fragment (offset or MF set) has no transport segment to itself.
    if ((load_be16(packet, 6) & kIpv4FragmentMask) != 0) return std::nullopt;
    return NetworkHeader{.protocol = load_u8(packet, 9),
                         .length = static_cast<std::uint16_t>(length)};
}

// The extension headers whose common form is next header, length in 8 bytes less the first 8
// (RFC 8200 4). Others end the walk: a fragment, an encrypted payload.
inline bool is_extension(std::uint8_t next) {
    constexpr std::uint8_t kHopByHop = 0, kRouting = 43, kDestinationOptions = 60;
    return next == kHopByHop || next == kRouting || next == kDestinationOptions;
}

inline std::optional<NetworkHeader> parse_ipv6(HeaderBytes packet) {
    constexpr int kMaxExtensions = 8;  // RFC 8200 4.1 lets each occur once, one of them twice
    constexpr std::uint8_t kRouting = 43;
    if (packet.size() < kIpv6Header || load_u8(packet, 0) >> 4 != 6) return std::nullopt;
    NetworkHeader header{.ipv6 = true, .protocol = load_u8(packet, 6)};
    std::size_t end = kIpv6Header;
    for (int count = 0; is_extension(header.protocol); ++count) {
        if (count == kMaxExtensions || packet.size() - end < 8) return std::nullopt;
        const bool routed = header.protocol == kRouting && load_u8(packet, end + 3) != 0;
        header.final_destination = header.final_destination && !routed;
        header.protocol = load_u8(packet, end);
        end += 8 * (std::size_t{load_u8(packet, end + 1)} + 1);
        if (end > packet.size()) return std::nullopt;
    }
    header.length = static_cast<std::uint16_t>(end);
    return header;
}

}  // namespace header_detail

// Nothing: no IP, cut short, or a fragment. `packet` begins behind the link header; at most 64 KiB.
inline std::optional<NetworkHeader> parse_network(HeaderBytes packet, std::uint16_t ethertype) {
    switch (ethertype) {
        case kIpv4Ethertype:
            return header_detail::parse_ipv4(packet);
        case kIpv6Ethertype:
            return header_detail::parse_ipv6(packet);
        default:
            return std::nullopt;
    }
}

inline constexpr std::uint16_t kTcpHeader = 20;  // without options, RFC 9293 3.1
inline constexpr std::uint16_t kUdpHeader = 8;   // RFC 768

// Length of the TCP header that `segment` begins with; 0: it has none.
inline std::uint16_t tcp_header_length(HeaderBytes segment) {
    if (segment.size() < kTcpHeader) return 0;
    const auto length = static_cast<std::uint16_t>(4 * (load_u8(segment, 12) >> 4));
    return length < kTcpHeader || length > segment.size() ? std::uint16_t{0} : length;
}

}  // namespace zecorx
