// TCP and UDP packets as a guest's network stack leaves them to the device: checksum unfinished,
// segmentation not done. And what a receiver finds in them, by code of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "frames.h"
#include "zecorx/virtio.h"

namespace zecorx::test {

struct PacketSpec {
    MacAddress dst = kGuestMac;
    MacAddress src = kPeerMac;
    std::optional<std::uint16_t> vlan{};  // tag control information
    bool ipv6 = false;
    bool tcp = true;
    std::size_t ip_extra = 0;   // bytes of IPv4 options (4n) or destination options (8n)
    std::size_t tcp_extra = 0;  // bytes of TCP options (4n)
    std::size_t payload = 100;
    std::uint32_t seed = 1;  // of the payload
    std::uint16_t ip_id = 0xfffe;
    std::uint32_t tcp_seq = 0xffff'ff00;
    std::uint8_t tcp_flags = 0x18;  // PSH, ACK
};

struct Packet {
    Frame frame;                // the pseudo header's sum stands in the checksum field
    std::uint16_t network = 0;  // offsets of the headers
    std::uint16_t transport = 0;
    std::uint16_t payload = 0;
    bool ipv6 = false;
    bool tcp = true;

    // What the driver asks for: the checksum, or with a segment size, segments.
    NetHeader checksum_header() const;
    NetHeader segment_header(std::uint16_t gso_size) const;
};

Packet make_packet(const PacketSpec& spec);

// A TCP or UDP packet as received: every length and checksum in it is right.
struct Received {
    std::optional<std::uint16_t> vlan;
    bool ipv6 = false;
    bool tcp = false;
    std::uint16_t ip_id = 0;
    std::uint32_t tcp_seq = 0;
    std::uint8_t tcp_flags = 0;
    std::vector<std::byte> payload;
};
// Nothing: something in it is wrong.
std::optional<Received> parse_packet(const Frame& frame);

}  // namespace zecorx::test
