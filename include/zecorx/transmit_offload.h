// What a virtio-net header asks for a frame (VIRTIO 5.1.6.2), turned into what the 82599 can be
// asked for (datasheet 7.2.4 segmentation, 7.2.5 checksums) or done here.
//
// Everything is decided from our copy of header and frame: the driver can rewrite neither between
// check and use, and no offset reaches the NIC that was not checked against the copy.
#pragma once

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "zecorx/counters.h"
#include "zecorx/frame_headers.h"
#include "zecorx/geometry.h"
#include "zecorx/internet_sum.h"
#include "zecorx/virtio.h"

namespace zecorx {

// A frame is copied into rooms of this size, so that an ordinary one needs a single descriptor and
// the longest one fewer than the 40 of a packet (82599 datasheet 7.2.1.2).
inline constexpr std::size_t kTransmitRoom = 2048;

// The longest frame a driver may ask to have segmented: the longest IPv6 packet without a
// jumbogram, tagged. IPv4's is shorter.
inline constexpr std::uint32_t kMaxSegmentable = 65535 + 40 + kEthernetHeader + kVlanTag;
inline constexpr std::size_t kMaxTransmitRooms =
    (kMaxSegmentable + kTransmitRoom - 1) / kTransmitRoom;
static_assert(kMaxTransmitRooms == 33);

// What the NIC is asked to do with one frame.
struct TransmitRequest {
    enum class Offload : std::uint8_t { kNone, kTcpChecksum, kUdpChecksum, kTcpSegmentation };

    std::uint32_t length = 0;  // bytes of the frame, without what the NIC adds
    Offload offload = Offload::kNone;
    bool ipv6 = false;
    std::uint16_t link_length = kEthernetHeader;
    std::uint16_t network_length = 0;
    std::uint16_t transport_length = 0;
    std::uint16_t segment_size = 0;     // payload bytes per segment
    std::optional<std::uint16_t> vlan;  // tag to insert
};

// A frame copied out of guest memory: rooms of kTransmitRoom bytes, all full but the last.
class CopiedFrame {
  public:
    // REQUIRES: length <= kMaxTransmitRooms * kTransmitRoom; every room is set before use.
    explicit CopiedFrame(std::uint32_t length) : length_(length) {}

    std::uint32_t length() const { return length_; }
    std::size_t rooms() const { return (length_ + kTransmitRoom - 1) / kTransmitRoom; }
    void set_room(std::size_t i, std::span<std::byte, kTransmitRoom> room) {
        rooms_[i] = room.data();
    }
    // The bytes of the frame in a room.
    std::span<std::byte> room(std::size_t i) const {
        return {rooms_[i], std::min<std::size_t>(kTransmitRoom, length_ - i * kTransmitRoom)};
    }
    // Where all headers lie that anybody looks at: with extension headers beyond it, a frame is
    // one that the NIC has no offloads for anyway.
    std::span<std::byte> front() const { return room(0); }

    // REQUIRES: at < length().
    std::byte& operator[](std::size_t at) const {
        assert(at < length_);
        return rooms_[at / kTransmitRoom][at % kTransmitRoom];
    }

    // Sum of all bytes from `start` on. REQUIRES: start <= length().
    InternetSum sum_from(std::size_t start) const {
        InternetSum sum;
        std::size_t skip = start % kTransmitRoom;
        for (std::size_t i = start / kTransmitRoom; i < rooms(); ++i, skip = 0) {
            sum.add(room(i).subspan(skip));
        }
        return sum;
    }

  private:
    std::array<std::byte*, kMaxTransmitRooms> rooms_;
    std::uint32_t length_;
};

class TransmitOffload {
  public:
    using Offload = TransmitRequest::Offload;

    TransmitOffload() = default;
    TransmitOffload(std::uint32_t mtu, std::uint64_t features) : mtu_(mtu), features_(features) {}

    // Whether the driver may ask for this at all, by what was negotiated.
    bool negotiated(const NetHeader& header) const {
        if ((header.flags & kNetHeaderNeedsCsum) && !(features_ & kFeatureNetCsum)) return false;
        if (header.gso_type == kNetHeaderGsoNone) return true;
        // VIRTIO 5.1.6.2.1: with a gso_type NEEDS_CSUM is set.
        return (header.flags & kNetHeaderNeedsCsum) && (features_ & feature_of(header.gso_type));
    }

    // The longest frame with such a header, before it is known whether it is tagged.
    std::uint32_t max_length(const NetHeader& header) const {
        if (header.gso_type != kNetHeaderGsoNone) return kMaxSegmentable;
        return mtu_ + kEthernetHeader + kVlanTag;
    }

    // Fills `request` for a frame with this link header, and prepares the frame for it. Nothing:
    // it can be sent. REQUIRES: negotiated(header), frame.length() <= max_length(header), and
    // request.link_length is link.length.
    std::optional<DropReason> prepare(const NetHeader& header, const LinkHeader& link,
                                      const CopiedFrame& frame, TransmitRequest& request) const {
        if (header.gso_type != kNetHeaderGsoNone) {
            return prepare_segmentation(header, link, frame, request);
        }
        // The gate that keeps frames inside other VMs' receive buffers: the NIC may loop this one
        // back to a neighbour's, and there no limit of the MAC's on its length holds. A tag counts
        // extra, because the receiver may have it left in or stripped.
        if (frame.length() > mtu_ + link.length) return DropReason::kTxLength;
        if ((header.flags & kNetHeaderNeedsCsum) == 0) return std::nullopt;
        return prepare_checksum(header, link, frame, request);
    }

  private:
    // No other type is offered, nor a type with the ECN bit.
    static std::uint64_t feature_of(std::uint8_t gso_type) {
        if (gso_type == kNetHeaderGsoTcp4) return kFeatureNetHostTso4;
        return gso_type == kNetHeaderGsoTcp6 ? std::uint64_t{kFeatureNetHostTso6} : 0;
    }

    static constexpr std::uint16_t kTcpChecksumOffset = 16;  // RFC 9293 3.1
    static constexpr std::uint16_t kUdpChecksumOffset = 6;   // RFC 768
    static constexpr std::uint16_t kMaxNetworkHeader = 511;  // IPLEN, datasheet 7.2.3.2.3

    static std::optional<NetworkHeader> network_of(const LinkHeader& link,
                                                   const CopiedFrame& frame) {
        const auto network = parse_network(frame.front().subspan(link.length), link.ethertype);
        return network && network->length <= kMaxNetworkHeader ? network : std::nullopt;
    }

    // VIRTIO 5.1.6.2: the sum from csum_start to the end goes csum_offset behind csum_start, where
    // the driver has left what else belongs to it. The 82599 does just that (datasheet 7.2.5), but
    // only for the checksums of TCP and UDP; any other place a driver may name is served here.
    std::optional<DropReason> prepare_checksum(const NetHeader& header, const LinkHeader& link,
                                               const CopiedFrame& frame,
                                               TransmitRequest& request) const {
        const std::size_t start = header.csum_start;
        const std::size_t field = start + header.csum_offset;
        // Not in the link header either: the VLAN tag has been looked at already.
        if (start < link.length || field + sizeof(std::uint16_t) > frame.length()) {
            return DropReason::kTxHeader;
        }
        const auto network = network_of(link, frame);
        if (network && start == std::size_t{link.length} + network->length) {
            request.ipv6 = network->ipv6;
            request.network_length = network->length;
            const HeaderBytes segment = frame.front().subspan(start);
            request.offload = nic_checksum(network->protocol, header.csum_offset, segment);
        }
        if (request.offload == Offload::kNone) store_checksum(frame, start, field);
        return std::nullopt;
    }

    static Offload nic_checksum(std::uint8_t protocol, std::uint16_t offset, HeaderBytes segment) {
        if (protocol == kProtocolTcp && offset == kTcpChecksumOffset &&
            segment.size() >= kTcpHeader) {
            return Offload::kTcpChecksum;
        }
        if (protocol == kProtocolUdp && offset == kUdpChecksumOffset &&
            segment.size() >= kUdpHeader) {
            return Offload::kUdpChecksum;
        }
        return Offload::kNone;
    }

    static void store_checksum(const CopiedFrame& frame, std::size_t start, std::size_t field) {
        const auto sum = static_cast<std::uint16_t>(~frame.sum_from(start).value());
        // 0 means "no checksum" in UDP; the other representation of 0 is right everywhere.
        const std::uint16_t stored = sum == 0 ? 0xffff : sum;
        frame[field] = static_cast<std::byte>(stored & 0xff);
        frame[field + 1] = static_cast<std::byte>(stored >> 8);
    }

    // hdr_len is a hint (VIRTIO 5.1.6.2.2): the headers are found in the frame.
    std::optional<DropReason> prepare_segmentation(const NetHeader& header, const LinkHeader& link,
                                                   const CopiedFrame& frame,
                                                   TransmitRequest& request) const {
        const auto network = network_of(link, frame);
        if (!network || network->protocol != kProtocolTcp || !network->final_destination ||
            network->ipv6 != (header.gso_type == kNetHeaderGsoTcp6)) {
            return DropReason::kTxHeader;
        }
        const std::size_t tcp = std::size_t{link.length} + network->length;
        const std::uint16_t tcp_length = tcp_header_length(frame.front().subspan(tcp));
        if (tcp_length == 0 || header.csum_start != tcp ||
            header.csum_offset != kTcpChecksumOffset || header.gso_size == 0 ||
            tcp + tcp_length >= frame.length()) {
            return DropReason::kTxHeader;
        }
        // The same gate as for whole frames, for what the NIC will make of this one.
        if (std::uint32_t{network->length} + tcp_length + header.gso_size > mtu_) {
            return DropReason::kTxLength;
        }
        request.offload = Offload::kTcpSegmentation;
        request.ipv6 = network->ipv6;
        request.network_length = network->length;
        request.transport_length = tcp_length;
        request.segment_size = header.gso_size;
        seed_segment_checksums(frame.front().subspan(link.length), *network);
        return std::nullopt;
    }

    // The NIC adds each segment's length to the TCP pseudo header and computes each IPv4 checksum
    // from a field of 0 (datasheet 7.2.4.5), while drivers leave a pseudo header with the length of
    // the whole.
    static void seed_segment_checksums(std::span<std::byte> packet, const NetworkHeader& network) {
        constexpr std::size_t kIpv4Checksum = 10, kIpv4Addresses = 12, kIpv6Addresses = 8;
        InternetSum pseudo;
        if (network.ipv6) {
            pseudo.add(packet.subspan(kIpv6Addresses, 32));
        } else {
            pseudo.add(packet.subspan(kIpv4Addresses, 8));
            packet[kIpv4Checksum] = packet[kIpv4Checksum + 1] = std::byte{0};
        }
        pseudo.add(std::array{std::byte{0}, std::byte{kProtocolTcp}});
        const std::uint16_t sum = pseudo.value();
        std::memcpy(&packet[std::size_t{network.length} + kTcpChecksumOffset], &sum, sizeof sum);
    }

    std::uint32_t mtu_ = kDefaultMtu;
    std::uint64_t features_ = 0;
};

}  // namespace zecorx
