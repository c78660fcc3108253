// What the NIC may write for one frame, and which guest buffers can take it without a copy.
//
// The 82599 counts receive buffers in steps of 1 KiB (datasheet 8.2.3.8.7, SRRCTL.BSIZEPACKET) and
// guests post buffers of about 1.5 KiB. Two ways out:
//   round up   tell the NIC 2048. Safe exactly while no frame can be longer than the guest's
//              buffer: F, computed from the port's real configuration;
//   segment    tell the NIC 1024 and let a frame span several descriptors, each in a guest buffer
//              of its own. Needs mergeable buffers.
#pragma once

#include <algorithm>
#include <cstdint>

namespace zecorx {

inline constexpr std::uint32_t kEthernetHeader = 14;  // bytes, IEEE 802.3 3.2
inline constexpr std::uint32_t kVlanTag = 4;          // bytes, IEEE 802.1Q 9.5
inline constexpr std::uint32_t kMinFrame = 60;        // bytes without CRC
inline constexpr std::uint32_t kDefaultMtu = 1500;
inline constexpr std::uint32_t kMinMtu = 68;  // RFC 791
// With frames looped from pool to pool the 82599 takes at most 9.5 KiB (datasheet 7.10.3.4).
inline constexpr std::uint32_t kMaxMtu = 9216;

inline constexpr std::uint32_t kNicBufferStep = 1024;      // bytes, SRRCTL.BSIZEPACKET
inline constexpr std::uint32_t kMaxNicBuffer = 16 * 1024;  // bytes, SRRCTL.BSIZEPACKET

// Descriptors one frame may span. The datasheet names no number; its largest frame (15.5 KiB,
// 8.2.3.22.13) in its smallest buffers is 16.
inline constexpr std::uint32_t kMaxFrameDescriptors = 16;

constexpr std::uint32_t round_up(std::uint32_t value, std::uint32_t step) {
    return (value + step - 1) / step * step;
}

struct PortGeometry {
    std::uint32_t mtu = kDefaultMtu;

    // F: the largest number of bytes the NIC can write for one frame. QinQ is off, the CRC is
    // stripped and receive-side coalescing is off. Up to an MTU of 1500 jumbo frames are off too,
    // and the NIC then takes 1518 bytes with CRC and 4 more with a tag, whatever the
    // MTU (8.2.3.22.13, MAXFRS).
    constexpr std::uint32_t max_frame(bool vlan_tag_left_in) const {
        return std::max(mtu, kDefaultMtu) + kEthernetHeader + (vlan_tag_left_in ? kVlanTag : 0);
    }
};

// One RX queue: how the NIC cuts frames of up to `max_frame` bytes into buffers of `nic_buffer`.
struct QueueGeometry {
    std::uint32_t max_frame = 0;   // F, bytes
    std::uint32_t nic_buffer = 0;  // what the NIC is told a buffer holds, bytes
    // Bytes that the NIC writes in front of a frame, in the same buffer: a header of its own, as a
    // virtio-net device does (VIRTIO 5.1.6.4). Even, and for frames that take one buffer only.
    std::uint32_t device_header = 0;

    // Rounds up: a frame takes one descriptor.
    static constexpr QueueGeometry whole(std::uint32_t max_frame) {
        return {max_frame, round_up(max_frame, kNicBufferStep)};
    }

    // The most the NIC writes to one buffer: what a guest buffer must hold.
    constexpr std::uint32_t piece() const { return std::min(max_frame, nic_buffer); }
    constexpr bool segmented() const { return max_frame > nic_buffer; }
    // Descriptors the longest frame spans.
    constexpr std::uint32_t descriptors() const {
        return (max_frame + nic_buffer - 1) / nic_buffer;
    }
};

static_assert(PortGeometry{}.max_frame(true) == 1518);
static_assert(QueueGeometry::whole(1518).nic_buffer == 2048);
static_assert(QueueGeometry{PortGeometry{kMaxMtu}.max_frame(true), kNicBufferStep}.descriptors() <=
              kMaxFrameDescriptors);
static_assert(PortGeometry{.mtu = kMinMtu}.max_frame(true) == 1518);

}  // namespace zecorx
