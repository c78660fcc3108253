#include "checksum.h"

#include <array>

namespace zecorx::soft82599 {
namespace {

constexpr std::uint16_t kAllOnes = 0xFFFF;

constexpr std::array<std::uint32_t, 256> crc_table(std::uint32_t reflected_polynomial) {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t i = 0; i < table.size(); ++i) {
        std::uint32_t crc = i;
        for (int bit = 0; bit < 8; ++bit) {
            crc = (crc & 1) != 0 ? crc >> 1 ^ reflected_polynomial : crc >> 1;
        }
        table[i] = crc;
    }
    return table;
}

constexpr auto kCrc32 = crc_table(0xEDB88320);
constexpr auto kCrc32c = crc_table(0x82F63B78);

std::uint32_t step(const std::array<std::uint32_t, 256>& table, std::uint32_t crc,
                   std::byte value) {
    return crc >> 8 ^ table[(crc ^ std::to_integer<std::uint32_t>(value)) & 0xFF];
}

bool tcp_or_udp_bad(FrameView frame, const FrameLayout& layout) {
    const PartialSum sum = pseudo_header_sum(frame, layout) +
                           sum_bytes(frame.subspan(layout.l4_offset, layout.l4_length));
    return fold(sum) != kAllOnes;
}

bool sctp_bad(FrameView frame, const FrameLayout& layout) {
    const FrameView packet = frame.subspan(layout.l4_offset, layout.l4_length);
    const std::uint32_t stored = load_be32(packet, 8);
    return __builtin_bswap32(stored) != sctp_crc(packet);  // stored least significant byte first
}

}  // namespace

PartialSum sum_bytes(FrameView bytes) {
    PartialSum sum = 0;
    std::size_t i = 0;
    for (; i + 1 < bytes.size(); i += 2) sum += load_be16(bytes, i);
    if (i < bytes.size()) sum += std::to_integer<std::uint64_t>(bytes[i]) << 8;
    return sum;
}

std::uint16_t fold(PartialSum sum) {
    while (sum > kAllOnes) sum = (sum & kAllOnes) + (sum >> 16);
    return static_cast<std::uint16_t>(sum);
}

PartialSum pseudo_header_sum(FrameView frame, const FrameLayout& layout) {
    const bool v4 = layout.l3 == L3::kIpv4;
    const PartialSum addresses = v4 ? sum_bytes(frame.subspan(layout.l3_offset + 12, 8))
                                    : sum_bytes(frame.subspan(layout.l3_offset + 8, 32));
    const std::uint64_t protocol = layout.l4 == L4::kTcp ? 6 : 17;
    return addresses + protocol + layout.l4_length;
}

ChecksumReport check_received(FrameView frame, const FrameLayout& layout) {
    ChecksumReport report;
    if (layout.l3 == L3::kIpv4) {
        const std::size_t header =
            std::to_integer<std::size_t>(frame[layout.l3_offset] & std::byte{0xF}) * 4;
        report.ip_checked = true;
        report.ip_bad = fold(sum_bytes(frame.subspan(layout.l3_offset, header))) != kAllOnes;
    }
    // A UDP datagram over IPv4 with checksum 0 has none to check (RFC 768), but the 82599 sums it
    // all the same and reports an error, as its specification update says.
    if (layout.l4 == L4::kOther) return report;
    report.l4_checked = true;
    report.l4_bad =
        layout.l4 == L4::kSctp ? sctp_bad(frame, layout) : tcp_or_udp_bad(frame, layout);
    return report;
}

std::uint32_t ethernet_crc(FrameView frame) {
    std::uint32_t crc = ~0u;
    for (const std::byte value : frame) crc = step(kCrc32, crc, value);
    return ~crc;
}

std::uint32_t sctp_crc(FrameView packet) {
    std::uint32_t crc = ~0u;
    for (std::size_t i = 0; i < packet.size(); ++i) {
        const bool in_checksum_field = i >= 8 && i < 12;
        crc = step(kCrc32c, crc, in_checksum_field ? std::byte{0} : packet[i]);
    }
    return ~crc;
}

}  // namespace zecorx::soft82599
