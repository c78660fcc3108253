// Descriptor formats: advanced receive (section 7.1.6), advanced and legacy transmit (7.2.3).
#pragma once

#include <cstdint>

namespace zecorx::soft82599 {

// Two little-endian words of 8 bytes; meaning depends on direction and on who wrote it last.
struct Descriptor {
    std::uint64_t low = 0;
    std::uint64_t high = 0;
};
static_assert(sizeof(Descriptor) == 16);

namespace rx_desc {

// Bit 0 of the packet address in the read format is a flag (A0/NSE), not address.
inline constexpr std::uint64_t kAddressMask = ~std::uint64_t{1};

// Write-back, low word: packet type.
inline constexpr std::uint32_t kTypeIpv4 = 1u << 4;
inline constexpr std::uint32_t kTypeIpv4Options = 1u << 5;
inline constexpr std::uint32_t kTypeIpv6 = 1u << 6;
inline constexpr std::uint32_t kTypeIpv6Extensions = 1u << 7;
inline constexpr std::uint32_t kTypeTcp = 1u << 8;
inline constexpr std::uint32_t kTypeUdp = 1u << 9;
inline constexpr std::uint32_t kTypeSctp = 1u << 10;

// Write-back, high word bits 0..31: extended status and errors.
inline constexpr std::uint32_t kDone = 1u << 0;
inline constexpr std::uint32_t kEndOfPacket = 1u << 1;
inline constexpr std::uint32_t kVlanPacket = 1u << 3;
inline constexpr std::uint32_t kL4Checked = 1u << 5;
inline constexpr std::uint32_t kIpChecked = 1u << 6;
inline constexpr std::uint32_t kLoopback = 1u << 18;  // sent by a pool of this port
inline constexpr std::uint32_t kL4Error = 1u << 30;
inline constexpr std::uint32_t kIpError = 1u << 31;

constexpr std::uint64_t write_back(std::uint32_t status, std::uint16_t length, std::uint16_t vlan) {
    return status | std::uint64_t{length} << 32 | std::uint64_t{vlan} << 48;
}

}  // namespace rx_desc

namespace tx_desc {

inline constexpr std::uint64_t kLengthMask = 0xFFFF;
inline constexpr std::uint64_t kTypeMask = 0xF << 20;
inline constexpr std::uint64_t kTypeContext = 0x2 << 20;
inline constexpr std::uint64_t kEndOfPacket = 1u << 24;
inline constexpr std::uint64_t kReportStatus = 1u << 27;
inline constexpr std::uint64_t kExtended = 1u << 29;
inline constexpr std::uint64_t kVlanInsert = 1u << 30;
inline constexpr std::uint64_t kSegment = std::uint64_t{1} << 31;
inline constexpr std::uint64_t kDone = std::uint64_t{1} << 32;
inline constexpr unsigned kContextIndexShift = 36;  // 3 bits; 2 contexts per queue
inline constexpr std::uint64_t kInsertIpChecksum = std::uint64_t{1} << 40;
inline constexpr std::uint64_t kInsertL4Checksum = std::uint64_t{1} << 41;
inline constexpr unsigned kPayloadLengthShift = 46;

// A legacy descriptor carries its tag in the last 16 bits.
inline constexpr unsigned kLegacyVlanShift = 48;

// A frame may use this many data descriptors (section 7.2.1.1).
inline constexpr unsigned kMaxPerFrame = 40;

}  // namespace tx_desc

// The fields of an advanced context descriptor (section 7.2.3.2.3).
struct TxContext {
    enum class L4Type : std::uint8_t { kUdp = 0, kTcp = 1, kSctp = 2, kReserved = 3 };

    std::uint16_t vlan = 0;
    std::uint16_t ip_length = 0;  // bytes of IP header, extensions included
    std::uint8_t mac_length = 0;  // bytes of Ethernet header
    std::uint8_t l4_length = 0;   // bytes of TCP header, for segmentation
    std::uint16_t segment_size = 0;
    bool ipv4 = false;
    L4Type l4 = L4Type::kUdp;

    static constexpr TxContext from(const Descriptor& descriptor) {
        TxContext context;
        context.ip_length = descriptor.low & 0x1FF;
        context.mac_length = descriptor.low >> 9 & 0x7F;
        context.vlan = static_cast<std::uint16_t>(descriptor.low >> 16 & 0xFFFF);
        context.ipv4 = (descriptor.high >> 10 & 1) != 0;
        context.l4 = static_cast<L4Type>(descriptor.high >> 11 & 3);
        context.l4_length = descriptor.high >> 40 & 0xFF;
        context.segment_size = static_cast<std::uint16_t>(descriptor.high >> 48);
        return context;
    }
};

}  // namespace zecorx::soft82599
