// A receive hook that unwraps frames: 802.1Q tags (IEEE 802.1Q 9.6) and VXLAN (RFC 7348).
//
// It takes the listed VLAN tags and the outer headers of the listed VXLAN networks off, drops the
// others or passes them, as configured, and leaves every other frame as it is. A VXLAN packet may
// be tagged itself, its IPv4 header may have options; IP fragments and IPv6 extension headers are
// no VXLAN to it. Headers are looked for in a frame's first piece only.
//
// The frame may lie in guest memory that the driver rewrites meanwhile. Each header is therefore
// read once, and every length is checked against what the NIC wrote, so a driver can change what
// becomes of its own frame and no more.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "zecorx/frame_headers.h"
#include "zecorx/geometry.h"
#include "zecorx/receive_hook.h"

namespace zecorx {

struct DecapsulationOptions {
    std::vector<std::uint16_t> vlans{};  // identifiers; none: tags are not looked at
    std::vector<std::uint32_t> vnis{};   // VXLAN network identifiers; none: VXLAN is not looked at
    bool drop_unlisted = false;          // tagged frames of other VLANs, VXLAN of other networks
};

// Headers on the wire: unaligned, in network byte order.
namespace wire {

template <std::size_t Bytes>
struct Big {
    std::array<std::uint8_t, Bytes> bytes;
    constexpr std::uint32_t value() const {
        std::uint32_t value = 0;
        for (const std::uint8_t byte : bytes) value = value << 8 | byte;
        return value;
    }
};

struct Ethernet {
    std::array<std::byte, 12> addresses;  // destination, source
    Big<2> type;
};
static_assert(sizeof(Ethernet) == kEthernetHeader);

struct VlanTag {  // IEEE 802.1Q 9.6, behind the tag's own type
    Big<2> control;
    Big<2> type;
};
static_assert(sizeof(VlanTag) == kVlanTag);

struct Ipv4 {  // RFC 791 3.1
    std::uint8_t version_words;
    std::uint8_t service;
    Big<2> length;
    Big<2> identification;
    Big<2> fragment;
    std::uint8_t ttl;
    std::uint8_t protocol;
    Big<2> checksum;
    std::array<std::byte, 8> addresses;
};
static_assert(sizeof(Ipv4) == 20);

struct Ipv6 {  // RFC 8200 3
    Big<4> version_flow;
    Big<2> length;
    std::uint8_t next_header;
    std::uint8_t hop_limit;
    std::array<std::byte, 32> addresses;
};
static_assert(sizeof(Ipv6) == 40);

struct Udp {  // RFC 768
    Big<2> source;
    Big<2> destination;
    Big<2> length;
    Big<2> checksum;
};
static_assert(sizeof(Udp) == 8);

struct Vxlan {  // RFC 7348 5
    std::uint8_t flags;
    std::array<std::byte, 3> reserved;
    Big<3> vni;
    std::byte reserved_too;
};
static_assert(sizeof(Vxlan) == 8);

inline constexpr std::uint32_t kVxlanPort = 4789;
inline constexpr std::uint8_t kVxlanVniValid = 0x08;  // the I flag

// Takes the headers of a frame off its first piece, one after the other, each byte once.
class Reader {
  public:
    explicit Reader(FramePiece piece) : piece_(piece) {}

    std::uint32_t offset() const { return static_cast<std::uint32_t>(offset_); }

    // False: the piece ends before the header does.
    template <class Header>
    bool take(Header& header) noexcept {
        if (piece_.size() - offset_ < sizeof header) return false;
        std::memcpy(&header, &piece_[offset_], sizeof header);
        // The compiler may take memory for unchanged and read it again where the copy is used.
        std::atomic_signal_fence(std::memory_order_seq_cst);
        offset_ += sizeof header;
        return true;
    }

    bool skip(std::size_t bytes) noexcept {
        if (piece_.size() - offset_ < bytes) return false;
        offset_ += bytes;
        return true;
    }

  private:
    FramePiece piece_;
    std::size_t offset_ = 0;  // at most piece_.size()
};

}  // namespace wire

// Thread rule: none; the object does not change after construction.
class Decapsulation {
  public:
    static constexpr std::uint32_t kMaxVlan = 4094;  // 4095 is reserved, IEEE 802.1Q table 9-2
    static constexpr std::uint32_t kMaxVni = (1U << 24) - 1;  // RFC 7348 5

    // Passes every frame.
    Decapsulation() = default;

    // Throws std::invalid_argument for an identifier that cannot be.
    explicit Decapsulation(const DecapsulationOptions& options)
        : vnis_(options.vnis),
          unwraps_vlan_(!options.vlans.empty()),
          drop_unlisted_(options.drop_unlisted) {
        for (const std::uint16_t vlan : options.vlans) {
            require("VLAN", vlan, kMaxVlan);
            vlans_.set(vlan);
        }
        for (const std::uint32_t vni : vnis_) require("VXLAN network", vni, kMaxVni);
        std::ranges::sort(vnis_);
    }

    Cut operator()(std::span<const FramePiece> frame) const noexcept {
        wire::Reader headers(frame.front());
        wire::Ethernet ethernet;
        if (!headers.take(ethernet)) return {};
        std::uint32_t type = ethernet.type.value();
        bool untags = false;
        if (type == kVlanEthertype) {
            wire::VlanTag tag;
            if (!headers.take(tag)) return {};
            untags = vlans_[tag.control.value() & kVlanIdMask];
            if (unwraps_vlan_ && drop_unlisted_ && !untags) return kDrop;
            type = tag.type.value();
        }
        if (!vnis_.empty()) {
            if (const std::optional<Cut> cut = unwrap_vxlan(frame, headers, type)) return *cut;
        }
        return untags ? untag(frame.front(), ethernet) : Cut{};
    }

  private:
    static constexpr Cut kDrop{.drop = true};

    static void require(const char* what, std::uint32_t identifier, std::uint32_t most) {
        if (identifier <= most) return;
        throw std::invalid_argument(std::string("cannot unwrap ") + what + ' ' +
                                    std::to_string(identifier) + ": identifiers go up to " +
                                    std::to_string(most));
    }

    // The tag lies between the addresses and the type they belong to. What the NIC said of the
    // checksum is about the IP packet, which stays.
    // REQUIRES: `first` holds a tagged Ethernet header.
    static Cut untag(FramePiece first, const wire::Ethernet& ethernet) noexcept {
        std::memcpy(&first[kVlanTag], ethernet.addresses.data(), ethernet.addresses.size());
        return {.front = kVlanTag};
    }

    // Nothing: the frame is not VXLAN, or of a network that passes.
    std::optional<Cut> unwrap_vxlan(std::span<const FramePiece> frame, wire::Reader& headers,
                                    std::uint32_t type) const noexcept {
        if (!take_ip(headers, type)) return std::nullopt;
        const std::uint32_t datagram = headers.offset();
        wire::Udp udp;
        if (!headers.take(udp) || udp.destination.value() != wire::kVxlanPort) return std::nullopt;
        wire::Vxlan vxlan;
        if (!headers.take(vxlan) || (vxlan.flags & wire::kVxlanVniValid) == 0 ||
            !std::ranges::binary_search(vnis_, vxlan.vni.value())) {
            return drop_unlisted_ ? std::optional(kDrop) : std::nullopt;
        }
        return keep(frame, headers.offset(), datagram + udp.length.value());
    }

    // False: no UDP datagram, or a part of one, follows.
    static bool take_ip(wire::Reader& headers, std::uint32_t type) noexcept {
        if (type == kIpv4Ethertype) return take_ipv4(headers);
        wire::Ipv6 ip;
        return type == kIpv6Ethertype && headers.take(ip) && ip.version_flow.value() >> 28 == 6 &&
               ip.next_header == kProtocolUdp;
    }

    static bool take_ipv4(wire::Reader& headers) noexcept {
        wire::Ipv4 ip;
        if (!headers.take(ip) || ip.version_words >> 4 != 4) return false;
        const std::size_t size = (ip.version_words & 0xF) * std::size_t{4};
        return size >= sizeof ip && ip.protocol == kProtocolUdp &&
               (ip.fragment.value() & kIpv4FragmentMask) == 0 && headers.skip(size - sizeof ip);
    }

    // The frame inside is the bytes [begin, end) of this one. Dropped if the NIC wrote less, if
    // its Ethernet header is not whole in the first piece, or if what the sender added behind it
    // fills a piece.
    static Cut keep(std::span<const FramePiece> frame, std::uint32_t begin,
                    std::uint32_t end) noexcept {
        std::size_t total = 0;
        for (const FramePiece& piece : frame) total += piece.size();
        const std::uint32_t least = begin + kEthernetHeader;
        if (end < least || end > total || frame.front().size() < least ||
            total - end >= frame.back().size()) {
            return kDrop;
        }
        return {.front = begin,
                .back = static_cast<std::uint32_t>(total - end),
                .keeps_checksum = false};
    }

    std::bitset<kMaxVlan + 2> vlans_;
    std::vector<std::uint32_t> vnis_;  // sorted
    bool unwraps_vlan_ = false;
    bool drop_unlisted_ = false;
};

static_assert(ReceiveHook<Decapsulation>);

}  // namespace zecorx
