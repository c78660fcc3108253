// An Ethernet frame (no CRC, no preamble) and where its headers lie.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "zecorx/mac_address.h"

namespace zecorx::soft82599 {

using Frame = std::vector<std::byte>;
using FrameView = std::span<const std::byte>;

inline constexpr std::size_t kEthernetHeader = 14;
inline constexpr std::size_t kVlanTag = 4;
inline constexpr std::size_t kCrc = 4;
inline constexpr std::size_t kMinFrame = 60;  // without CRC
// The largest frame the hardware handles, CRC included: 15.5 KiB (section 1.3).
inline constexpr std::size_t kMaxJumboFrame = 15872;
// The longest frame that may be sent while pools are switched to each other, CRC included: 9.5 KiB
// (section 7.10.3.4). A longer one can hang the transmitter.
inline constexpr std::size_t kMaxSwitchedFrame = 9728;

enum class L3 : std::uint8_t { kOther, kIpv4, kIpv6 };
enum class L4 : std::uint8_t { kOther, kTcp, kUdp, kSctp };

// What the receive parser finds (section 7.1.2.1 and 7.1.11). A header that is cut short by the end
// of the frame is reported as kOther.
struct FrameLayout {
    MacAddress destination;
    std::optional<std::uint16_t> vlan;  // the outer tag's TCI
    std::uint16_t ethertype = 0;        // after the tag
    L3 l3 = L3::kOther;
    bool ip_options = false;  // IPv4 options or IPv6 extension headers
    bool fragment = false;
    std::size_t l3_offset = 0;
    L4 l4 = L4::kOther;
    std::size_t l4_offset = 0;
    std::size_t l4_length = 0;  // header and payload, as the IP header says
};

// REQUIRES: frame.size() >= kEthernetHeader.
FrameLayout parse_frame(FrameView frame, std::uint16_t vlan_ethertype);

// Big-endian fields. REQUIRES: offset + size of the field <= frame.size().
std::uint16_t load_be16(FrameView frame, std::size_t offset);
std::uint32_t load_be32(FrameView frame, std::size_t offset);
void store_be16(std::span<std::byte> frame, std::size_t offset, std::uint16_t value);
void store_be32(std::span<std::byte> frame, std::size_t offset, std::uint32_t value);

// The frame with `tag` inserted after the MAC addresses, or with the tag there taken out.
Frame with_vlan_tag(FrameView frame, std::uint16_t ethertype, std::uint16_t tag);
Frame without_vlan_tag(FrameView frame);

}  // namespace zecorx::soft82599
