#include "ip_packets.h"

#include <algorithm>
#include <random>
#include <span>

namespace zecorx::test {
namespace {

constexpr std::uint8_t kTcp = 6;
constexpr std::uint8_t kUdp = 17;
constexpr std::uint8_t kDestinationOptions = 60;

void put8(Frame& frame, unsigned value) { frame.push_back(static_cast<std::byte>(value)); }
void put16(Frame& frame, std::size_t value) {
    put8(frame, static_cast<unsigned>(value >> 8));
    put8(frame, static_cast<unsigned>(value & 0xff));
}
void put32(Frame& frame, std::uint32_t value) {
    put16(frame, value >> 16);
    put16(frame, value & 0xffff);
}

std::uint16_t at16(std::span<const std::byte> bytes, std::size_t at) {
    return static_cast<std::uint16_t>(std::to_integer<unsigned>(bytes[at]) << 8 |
                                      std::to_integer<unsigned>(bytes[at + 1]));
}
std::uint8_t at8(std::span<const std::byte> bytes, std::size_t at) {
    return std::to_integer<std::uint8_t>(bytes[at]);
}

void append_link(Frame& frame, const PacketSpec& spec) {
    for (const std::uint8_t byte : spec.dst.bytes) put8(frame, byte);
    for (const std::uint8_t byte : spec.src.bytes) put8(frame, byte);
    if (spec.vlan) {
        put16(frame, 0x8100);
        put16(frame, *spec.vlan);
    }
    put16(frame, spec.ipv6 ? 0x86dd : 0x0800);
}

void append_ipv4(Frame& frame, const PacketSpec& spec, std::size_t carried) {
    const std::size_t start = frame.size();
    put8(frame, static_cast<unsigned>(0x45 + spec.ip_extra / 4));
    put8(frame, 0);
    put16(frame, 20 + spec.ip_extra + carried);
    put16(frame, spec.ip_id);
    put16(frame, 0x4000);  // don't fragment
    put8(frame, 64);
    put8(frame, spec.tcp ? kTcp : kUdp);
    put16(frame, 0);
    put32(frame, 0x0a00'0102);
    put32(frame, 0x0a00'0203);
    for (std::size_t i = 0; i < spec.ip_extra; ++i) put8(frame, 1);  // no operation
    const std::uint16_t sum = internet_checksum(std::span(frame).subspan(start));
    frame[start + 10] = static_cast<std::byte>(sum >> 8);
    frame[start + 11] = static_cast<std::byte>(sum & 0xff);
}

void append_ipv6(Frame& frame, const PacketSpec& spec, std::size_t carried) {
    const unsigned transport = spec.tcp ? kTcp : kUdp;
    put32(frame, 0x6000'0000);
    put16(frame, spec.ip_extra + carried);
    put8(frame, spec.ip_extra > 0 ? kDestinationOptions : transport);
    put8(frame, 64);
    for (unsigned i = 0; i < 32; ++i) put8(frame, 0xf1 + 7 * i);
    if (spec.ip_extra == 0) return;
    put8(frame, transport);
    put8(frame, static_cast<unsigned>(spec.ip_extra / 8 - 1));
    put8(frame, 1);  // padding option
    put8(frame, static_cast<unsigned>(spec.ip_extra - 4));
    for (std::size_t i = 4; i < spec.ip_extra; ++i) put8(frame, 0);
}

// The sum of the pseudo header, not inverted.
std::uint16_t pseudo_sum(std::span<const std::byte> ip, bool ipv6, std::uint8_t protocol,
                         std::size_t length) {
    const auto addresses = ipv6 ? ip.subspan(8, 32) : ip.subspan(12, 8);
    return static_cast<std::uint16_t>(
        ~internet_checksum(addresses, protocol + static_cast<std::uint32_t>(length)));
}

void append_tcp(Frame& frame, const PacketSpec& spec, std::uint16_t pseudo) {
    put16(frame, 4000);
    put16(frame, 5000);
    put32(frame, spec.tcp_seq);
    put32(frame, 77);
    put8(frame, static_cast<unsigned>((20 + spec.tcp_extra) / 4 << 4));
    put8(frame, spec.tcp_flags);
    put16(frame, 0x1234);
    put16(frame, pseudo);
    put16(frame, 0);
    for (std::size_t i = 0; i < spec.tcp_extra; ++i) put8(frame, 1);  // no operation
}

void append_udp(Frame& frame, const PacketSpec& spec, std::uint16_t pseudo) {
    put16(frame, 4000);
    put16(frame, 5000);
    put16(frame, 8 + spec.payload);
    put16(frame, pseudo);
}

struct Ip {
    std::size_t header = 0;
    std::uint8_t protocol = 0;
};

std::optional<Ip> check_ipv4(std::span<const std::byte>& packet) {
    if (packet.size() < 20 || at8(packet, 0) >> 4 != 4) return std::nullopt;
    const std::size_t header = (at8(packet, 0) & 0xfu) * 4;
    const std::size_t total = at16(packet, 2);
    if (header < 20 || total < header || total > packet.size()) return std::nullopt;
    packet = packet.first(total);
    if (internet_checksum(packet.first(header)) != 0) return std::nullopt;
    return Ip{header, at8(packet, 9)};
}

std::optional<Ip> check_ipv6(std::span<const std::byte>& packet) {
    if (packet.size() < 40 || at8(packet, 0) >> 4 != 6) return std::nullopt;
    const std::size_t total = std::size_t{40} + at16(packet, 4);
    if (total > packet.size()) return std::nullopt;
    packet = packet.first(total);
    Ip ip{40, at8(packet, 6)};
    if (ip.protocol == kDestinationOptions) {
        ip = {40 + 8 * (std::size_t{at8(packet, 41)} + 1), at8(packet, 40)};
    }
    return ip;
}

}  // namespace

NetHeader Packet::checksum_header() const {
    NetHeader header{};
    header.flags = kNetHeaderNeedsCsum;
    header.csum_start = transport;
    header.csum_offset = tcp ? 16 : 6;
    return header;
}

NetHeader Packet::segment_header(std::uint16_t gso_size) const {
    NetHeader header = checksum_header();
    header.gso_type = ipv6 ? kNetHeaderGsoTcp6 : kNetHeaderGsoTcp4;
    header.gso_size = gso_size;
    header.hdr_len = payload;
    return header;
}

Packet make_packet(const PacketSpec& spec) {
    Packet packet;
    packet.ipv6 = spec.ipv6;
    packet.tcp = spec.tcp;
    Frame& frame = packet.frame;
    const std::size_t carried = (spec.tcp ? 20 + spec.tcp_extra : 8) + spec.payload;
    append_link(frame, spec);
    packet.network = static_cast<std::uint16_t>(frame.size());
    spec.ipv6 ? append_ipv6(frame, spec, carried) : append_ipv4(frame, spec, carried);
    packet.transport = static_cast<std::uint16_t>(frame.size());
    const std::uint16_t pseudo = pseudo_sum(std::span(frame).subspan(packet.network), spec.ipv6,
                                            spec.tcp ? kTcp : kUdp, carried);
    spec.tcp ? append_tcp(frame, spec, pseudo) : append_udp(frame, spec, pseudo);
    packet.payload = static_cast<std::uint16_t>(frame.size());
    std::minstd_rand random(spec.seed);
    for (std::size_t i = 0; i < spec.payload; ++i) put8(frame, random() >> 8);
    return packet;
}

std::optional<Received> parse_packet(const Frame& frame) {
    std::span<const std::byte> rest(frame);
    if (rest.size() < kMinFrame) return std::nullopt;
    Received result;
    std::size_t link = 14;
    if (at16(rest, 12) == 0x8100) {
        result.vlan = at16(rest, 14);
        link = 18;
    }
    result.ipv6 = at16(rest, link - 2) == 0x86dd;
    rest = rest.subspan(link);
    const auto ip = result.ipv6 ? check_ipv6(rest) : check_ipv4(rest);
    if (!ip || (ip->protocol != kTcp && ip->protocol != kUdp)) return std::nullopt;
    if (!result.ipv6) result.ip_id = at16(rest, 4);
    const auto segment = rest.subspan(ip->header);
    const std::uint16_t pseudo = pseudo_sum(rest, result.ipv6, ip->protocol, segment.size());
    if (segment.size() < 8 || internet_checksum(segment, pseudo) != 0) return std::nullopt;
    result.tcp = ip->protocol == kTcp;
    std::size_t header = 8;
    if (result.tcp) {
        if (segment.size() < 20) return std::nullopt;
        header = (at8(segment, 12) >> 4) * 4u;
        result.tcp_seq = static_cast<std::uint32_t>(at16(segment, 4)) << 16 | at16(segment, 6);
        result.tcp_flags = at8(segment, 13);
    } else if (at16(segment, 4) != segment.size()) {
        return std::nullopt;
    }
    if (header > segment.size()) return std::nullopt;
    result.payload.assign(segment.begin() + static_cast<std::ptrdiff_t>(header), segment.end());
    return result;
}

}  // namespace zecorx::test
