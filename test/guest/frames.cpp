#include "frames.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "zecorx/numbered_payload.h"

namespace zecorx::test {

namespace {

constexpr std::size_t kEtherHeader = 14;
constexpr std::size_t kIpv4Header = 20;
constexpr std::size_t kUdpHeader = 8;
constexpr std::size_t kIcmpHeader = 8;
static_assert(kIcmpHeader == kUdpHeader);  // for payload_offset()
constexpr std::uint16_t kEtherTypeVlan = 0x8100;
constexpr std::uint16_t kEtherTypeIpv4 = 0x0800;
constexpr std::uint16_t kEtherTypeArp = 0x0806;
constexpr std::uint8_t kProtocolIcmp = 1;
constexpr std::uint8_t kProtocolUdp = 17;

// Appends fields in network byte order.
class Writer {
  public:
    explicit Writer(Frame& frame) : frame_(frame) {}
    void u8(std::uint8_t value) { frame_.push_back(std::byte{value}); }
    void u16(std::uint16_t value) {
        u8(static_cast<std::uint8_t>(value >> 8));
        u8(static_cast<std::uint8_t>(value));
    }
    void u32(std::uint32_t value) {
        u16(static_cast<std::uint16_t>(value >> 16));
        u16(static_cast<std::uint16_t>(value));
    }
    template <std::size_t N>
    void octets(const std::array<std::uint8_t, N>& values) {
        for (const std::uint8_t value : values) u8(value);
    }

  private:
    Frame& frame_;
};

std::uint16_t load_u16(std::span<const std::byte> bytes, std::size_t at) {
    return static_cast<std::uint16_t>(std::to_integer<unsigned>(bytes[at]) << 8 |
                                      std::to_integer<unsigned>(bytes[at + 1]));
}

void store_u16(std::span<std::byte> bytes, std::size_t at, std::uint16_t value) {
    bytes[at] = std::byte(value >> 8);
    bytes[at + 1] = std::byte(value & 0xFF);
}

void append_ether_header(Frame& frame, const FrameSpec& spec, std::uint16_t ether_type) {
    Writer out(frame);
    out.octets(spec.dst.bytes);
    out.octets(spec.src.bytes);
    if (spec.vlan) {
        out.u16(kEtherTypeVlan);
        out.u16(*spec.vlan);
    }
    out.u16(ether_type);
}

void append_payload(Frame& frame, std::uint32_t seq, std::size_t frame_size) {
    if (frame_size < frame.size() + kNumberedHead) {
        throw std::invalid_argument("test frame too short for its headers and sequence number");
    }
    const std::size_t start = frame.size();
    frame.resize(frame_size);
    write_numbered(std::span(frame).subspan(start), seq);
}

void append_ipv4_header(Frame& frame, const Ipv4& src_ip, const Ipv4& dst_ip, std::uint8_t protocol,
                        std::size_t total_length) {
    const std::size_t start = frame.size();
    Writer out(frame);
    out.u16(0x4500);  // version 4, 5 words of header, default service
    out.u16(static_cast<std::uint16_t>(total_length));
    out.u32(0x0000'4000);  // no identification, don't fragment
    out.u8(64);            // time to live
    out.u8(protocol);
    out.u16(0);  // checksum, once the rest is there
    out.octets(src_ip);
    out.octets(dst_ip);
    const std::span header = std::span(frame).subspan(start, kIpv4Header);
    store_u16(header, 10, internet_checksum(header));
}

// RFC 768: over a pseudo header of addresses, protocol and length, then the datagram.
std::uint16_t udp_checksum(std::span<const std::byte> ip_packet) {
    const std::span addresses = ip_packet.subspan(12, 8);
    const std::span datagram = ip_packet.subspan(kIpv4Header);
    std::uint32_t pseudo = kProtocolUdp + static_cast<std::uint32_t>(datagram.size());
    for (std::size_t i = 0; i < addresses.size(); i += 2) pseudo += load_u16(addresses, i);
    const std::uint16_t sum = internet_checksum(datagram, pseudo);
    return sum == 0 ? 0xFFFF : sum;  // 0 would say "no checksum"
}

// Offset of the payload behind the headers of the frames that are made here.
std::optional<std::size_t> payload_offset(std::span<const std::byte> frame) {
    std::size_t offset = kEtherHeader;
    if (frame.size() < kEtherHeader + kVlanTagSize) return std::nullopt;
    std::uint16_t ether_type = load_u16(frame, offset - 2);
    if (ether_type == kEtherTypeVlan) {
        offset += kVlanTagSize;
        ether_type = load_u16(frame, offset - 2);
    }
    if (ether_type == kEtherTypeIpv4) return offset + kIpv4Header + kUdpHeader;
    if (ether_type == kTestEtherType) return offset;
    return std::nullopt;
}

}  // namespace

std::uint16_t internet_checksum(std::span<const std::byte> bytes, std::uint32_t initial) {
    std::uint64_t sum = initial;
    for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) sum += load_u16(bytes, i);
    if (bytes.size() % 2 != 0) sum += std::to_integer<unsigned>(bytes.back()) << 8;
    while (sum >> 16 != 0) sum = (sum & 0xFFFF) + (sum >> 16);
    return static_cast<std::uint16_t>(~sum);
}

Frame make_frame(const FrameSpec& spec) {
    Frame frame;
    frame.reserve(spec.size);
    append_ether_header(frame, spec, kTestEtherType);
    append_payload(frame, spec.seq, spec.size);
    return frame;
}

Frame make_udp_frame(const FrameSpec& spec, const UdpSpec& udp) {
    Frame frame;
    frame.reserve(spec.size);
    append_ether_header(frame, spec, kEtherTypeIpv4);
    const std::size_t ip_start = frame.size();
    append_ipv4_header(frame, udp.src_ip, udp.dst_ip, kProtocolUdp, spec.size - ip_start);
    Writer out(frame);
    out.u16(udp.src_port);
    out.u16(udp.dst_port);
    out.u16(static_cast<std::uint16_t>(spec.size - ip_start - kIpv4Header));
    out.u16(0);
    append_payload(frame, spec.seq, spec.size);
    const std::span packet = std::span(frame).subspan(ip_start);
    store_u16(packet, kIpv4Header + 6, udp_checksum(packet));
    return frame;
}

Frame make_echo_request(const FrameSpec& spec, const Ipv4& src_ip, const Ipv4& dst_ip) {
    Frame frame;
    frame.reserve(spec.size);
    append_ether_header(frame, spec, kEtherTypeIpv4);
    append_ipv4_header(frame, src_ip, dst_ip, kProtocolIcmp, spec.size - frame.size());
    const std::size_t icmp_start = frame.size();
    Writer out(frame);
    out.u16(0x0800);  // RFC 792: echo request
    out.u16(0);       // checksum, once the rest is there
    out.u32(spec.seq);
    append_payload(frame, spec.seq, spec.size);
    const std::span message = std::span(frame).subspan(icmp_start);
    store_u16(message, 2, internet_checksum(message));
    return frame;
}

Frame make_arp_request(const MacAddress& sender, const Ipv4& sender_ip, const Ipv4& target_ip) {
    Frame frame;
    append_ether_header(frame, {.dst = kBroadcast, .src = sender}, kEtherTypeArp);
    Writer out(frame);
    out.u16(1);  // hardware: Ethernet
    out.u16(kEtherTypeIpv4);
    out.u8(6);
    out.u8(4);
    out.u16(1);  // request
    out.octets(sender.bytes);
    out.octets(sender_ip);
    out.octets(MacAddress{}.bytes);
    out.octets(target_ip);
    frame.resize(kMinFrame);
    return frame;
}

std::optional<std::uint32_t> check_frame(std::span<const std::byte> frame) {
    const auto offset = payload_offset(frame);
    if (!offset || frame.size() < *offset) return std::nullopt;
    const auto found = check_numbered(frame.subspan(*offset));
    if (!found) return std::nullopt;
    const bool padded = found->len < frame.size() - *offset;
    if (padded && frame.size() > kMinFrame) return std::nullopt;
    return found->seq;
}

}  // namespace zecorx::test
