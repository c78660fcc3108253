#include "frame.h"

namespace zecorx::soft82599 {
namespace {

constexpr std::uint16_t kEthertypeIpv4 = 0x0800;
constexpr std::uint16_t kEthertypeIpv6 = 0x86DD;
constexpr std::size_t kMacAddresses = 12;

L4 l4_of_protocol(std::uint8_t protocol) {
    switch (protocol) {
        case 6:
            return L4::kTcp;
        case 17:
            return L4::kUdp;
        case 132:
            return L4::kSctp;
        default:
            return L4::kOther;
    }
}

std::size_t minimum_header(L4 l4) {
    switch (l4) {
        case L4::kTcp:
            return 20;
        case L4::kUdp:
            return 8;
        case L4::kSctp:
            return 12;
        case L4::kOther:
            break;
    }
    return 0;
}

std::uint8_t byte_at(FrameView frame, std::size_t offset) {
    return std::to_integer<std::uint8_t>(frame[offset]);
}

// Sets the L4 fields if the header is complete inside the frame.
void set_l4(FrameLayout& layout, FrameView frame, std::uint8_t protocol, std::size_t offset,
            std::size_t ip_end) {
    const L4 l4 = l4_of_protocol(protocol);
    if (l4 == L4::kOther || layout.fragment || ip_end > frame.size()) return;
    if (offset + minimum_header(l4) > ip_end) return;
    layout.l4 = l4;
    layout.l4_offset = offset;
    layout.l4_length = ip_end - offset;
}

void parse_ipv4(FrameLayout& layout, FrameView frame) {
    const std::size_t start = layout.l3_offset;
    if (start + 20 > frame.size() || byte_at(frame, start) >> 4 != 4) return;
    const std::size_t header = std::size_t{4} * (byte_at(frame, start) & 0xF);
    const std::size_t total = load_be16(frame, start + 2);
    if (header < 20 || start + header > frame.size() || total < header) return;
    layout.l3 = L3::kIpv4;
    layout.ip_options = header > 20;
    layout.fragment = (load_be16(frame, start + 6) & 0x3FFF) != 0;  // MF or an offset
    set_l4(layout, frame, byte_at(frame, start + 9), start + header, start + total);
}

bool is_ipv6_extension(std::uint8_t next) {
    return next == 0 || next == 43 || next == 44 || next == 60;
}

void parse_ipv6(FrameLayout& layout, FrameView frame) {
    const std::size_t start = layout.l3_offset;
    if (start + 40 > frame.size() || byte_at(frame, start) >> 4 != 6) return;
    layout.l3 = L3::kIpv6;
    const std::size_t end = start + 40 + load_be16(frame, start + 4);
    std::uint8_t next = byte_at(frame, start + 6);
    std::size_t offset = start + 40;
    while (is_ipv6_extension(next)) {  // every round advances by at least 8 bytes
        if (offset + 8 > frame.size()) return;
        layout.ip_options = true;
        layout.fragment = layout.fragment || next == 44;
        next = byte_at(frame, offset);
        offset += 8 + std::size_t{8} * (layout.fragment ? 0 : byte_at(frame, offset + 1));
    }
    set_l4(layout, frame, next, offset, end);
}

}  // namespace

std::uint16_t load_be16(FrameView frame, std::size_t offset) {
    return static_cast<std::uint16_t>(byte_at(frame, offset) << 8 | byte_at(frame, offset + 1));
}

std::uint32_t load_be32(FrameView frame, std::size_t offset) {
    return std::uint32_t{load_be16(frame, offset)} << 16 | load_be16(frame, offset + 2);
}

void store_be16(std::span<std::byte> frame, std::size_t offset, std::uint16_t value) {
    frame[offset] = static_cast<std::byte>(value >> 8);
    frame[offset + 1] = static_cast<std::byte>(value & 0xFF);
}

void store_be32(std::span<std::byte> frame, std::size_t offset, std::uint32_t value) {
    store_be16(frame, offset, static_cast<std::uint16_t>(value >> 16));
    store_be16(frame, offset + 2, static_cast<std::uint16_t>(value & 0xFFFF));
}

FrameLayout parse_frame(FrameView frame, std::uint16_t vlan_ethertype) {
    FrameLayout layout;
    layout.destination = MacAddress::from_wire(frame);
    layout.ethertype = load_be16(frame, kMacAddresses);
    layout.l3_offset = kEthernetHeader;
    if (layout.ethertype == vlan_ethertype && frame.size() >= kEthernetHeader + kVlanTag) {
        layout.vlan = load_be16(frame, kEthernetHeader);
        layout.ethertype = load_be16(frame, kEthernetHeader + 2);
        layout.l3_offset += kVlanTag;
    }
    if (layout.ethertype == kEthertypeIpv4) parse_ipv4(layout, frame);
    if (layout.ethertype == kEthertypeIpv6) parse_ipv6(layout, frame);
    return layout;
}

Frame with_vlan_tag(FrameView frame, std::uint16_t ethertype, std::uint16_t tag) {
    Frame tagged(frame.begin(), frame.begin() + kMacAddresses);
    tagged.resize(kMacAddresses + kVlanTag);
    store_be16(tagged, kMacAddresses, ethertype);
    store_be16(tagged, kMacAddresses + 2, tag);
    tagged.insert(tagged.end(), frame.begin() + kMacAddresses, frame.end());
    return tagged;
}

Frame without_vlan_tag(FrameView frame) {
    Frame untagged(frame.begin(), frame.begin() + kMacAddresses);
    untagged.insert(untagged.end(), frame.begin() + kMacAddresses + kVlanTag, frame.end());
    return untagged;
}

}  // namespace zecorx::soft82599
