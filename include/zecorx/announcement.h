// Which frames announce their sender's address to a network: what a host sends unasked when an
// interface comes up, changes its address or moves. And one to send for a host that moved and does
// not know it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "zecorx/frame_headers.h"
#include "zecorx/mac_address.h"

namespace zecorx {

namespace announcement {

using Bytes = std::span<const std::byte>;

inline constexpr std::size_t kMac = 6;              // bytes of an Ethernet address
inline constexpr std::uint16_t kTypeArp = 0x0806;   // RFC 826
inline constexpr std::uint16_t kTypeRarp = 0x8035;  // RFC 903
inline constexpr std::uint16_t kRarpRequest = 3;

inline bool same(Bytes bytes, std::size_t a, std::size_t b, std::size_t size) {
    return std::memcmp(bytes.data() + a, bytes.data() + b, size) == 0;
}

// ARP and RARP for Ethernet and IPv4: the hardware type, protocol type and address lengths, the
// operation, then sender and target, each hardware address before protocol address (RFC 826).
inline constexpr std::size_t kArpSize = 28;
inline constexpr std::size_t kArpOperation = 6;
inline constexpr std::size_t kArpSender = 8;
inline constexpr std::size_t kArpSenderIp = 14;
inline constexpr std::size_t kArpTarget = 18;
inline constexpr std::size_t kArpTargetIp = 24;

inline bool is_ethernet_ipv4(Bytes arp) {
    constexpr std::array<std::uint8_t, 6> kForm{0, 1, 8, 0, 6, 4};
    return arp.size() >= kArpSize && std::memcmp(arp.data(), kForm.data(), kForm.size()) == 0;
}

// A probe has no sender IP, an announcement asks for the sender's own (RFC 5227 1.1).
inline bool is_gratuitous_arp(Bytes arp) {
    if (!is_ethernet_ipv4(arp)) return false;
    constexpr std::array<std::byte, 4> kNone{};
    return same(arp, kArpSenderIp, kArpTargetIp, 4) ||
           std::memcmp(arp.data() + kArpSenderIp, kNone.data(), kNone.size()) == 0;
}

inline bool is_rarp_request(Bytes arp) {
    return is_ethernet_ipv4(arp) && load_be16(arp, kArpOperation) == kRarpRequest;
}

// Neighbour advertisement (RFC 4861 4.4) behind an IPv6 header without extensions. 7.1.2: hop
// limit 255; 7.2.6: an unsolicited one is not marked solicited, and here it must override.
inline constexpr std::size_t kIpv6Header = 40;
inline constexpr std::size_t kAdvertisement = 24;  // bytes less options

inline bool is_unsolicited_advertisement(Bytes ip) {
    if (ip.size() < kIpv6Header + kAdvertisement) return false;
    const auto byte = [ip](std::size_t at) { return std::to_integer<std::uint8_t>(ip[at]); };
    constexpr std::uint8_t kIcmpv6 = 58, kType = 136, kHopLimit = 255;
    constexpr std::uint8_t kSolicited = 0x40, kOverride = 0x20;
    return byte(0) >> 4 == 6 && byte(6) == kIcmpv6 && byte(7) == kHopLimit &&
           byte(kIpv6Header) == kType && byte(kIpv6Header + 1) == 0 &&
           (byte(kIpv6Header + 4) & (kSolicited | kOverride)) == kOverride;
}

// Whether the option of the advertisement says that the target's address is `mac` (RFC 4861 4.6.1).
inline bool advertises(Bytes ip, Bytes mac) {
    constexpr std::uint8_t kTargetAddress = 2, kUnits = 1;  // of 8 bytes
    const Bytes options = ip.subspan(kIpv6Header + kAdvertisement);
    return options.size() >= 2 + kMac &&
           std::to_integer<std::uint8_t>(options[0]) == kTargetAddress &&
           std::to_integer<std::uint8_t>(options[1]) == kUnits &&
           std::ranges::equal(options.subspan(2, kMac), mac);
}

}  // namespace announcement

// Whether an Ethernet frame, tagged or not, announces its own source address: a gratuitous ARP, a
// RARP request or an unsolicited neighbour advertisement, to a group. Frames that announce somebody
// else's address, as a bridge or proxy inside the guest would send, do not count.
inline bool announces_address(std::span<const std::byte> frame) {
    using namespace announcement;
    const auto link = parse_link(frame);
    if (!link) return false;
    const bool to_group = (std::to_integer<unsigned>(frame[0]) & 1) != 0;
    if (!to_group) return false;
    const Bytes source = frame.subspan(kMac, kMac);
    const Bytes payload = frame.subspan(link->length);
    switch (link->ethertype) {
        case kTypeArp:
            return is_gratuitous_arp(payload) &&
                   std::ranges::equal(payload.subspan(kArpSender, kMac), source);
        case kTypeRarp:
            return is_rarp_request(payload) &&
                   std::ranges::equal(payload.subspan(kArpSender, kMac), source);
        case kIpv6Ethertype:
            return is_unsolicited_advertisement(payload) && advertises(payload, source);
        default:
            return false;
    }
}

// A frame of the least length (IEEE 802.3 4.2.3.3, without CRC).
using Announcement = std::array<std::byte, 60>;

// A broadcast RARP request by which a switch learns where `mac` is now. It asks for the protocol
// address of its own sender (RFC 903), which needs none to be known.
inline Announcement rarp_announcement(const MacAddress& mac) {
    using namespace announcement;
    constexpr std::array<std::uint8_t, 10> kRequest{0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, kRarpRequest};
    constexpr std::size_t kArp = kEthernetHeader;
    Announcement frame{};
    std::fill_n(frame.begin(), kMac, std::byte{0xff});
    std::memcpy(&frame[2 * kMac], kRequest.data(), kRequest.size());
    for (const std::size_t at : {kMac, kArp + kArpSender, kArp + kArpTarget}) {
        std::memcpy(&frame[at], mac.bytes.data(), kMac);
    }
    return frame;
}

}  // namespace zecorx
