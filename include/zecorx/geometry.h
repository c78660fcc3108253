// What the NIC may write for one frame, and which guest buffers can take it without a copy.
//
// The 82599 counts receive buffers in steps of 1 KiB (datasheet 8.2.3.8.7, SRRCTL.BSIZEPACKET) and
// guests post buffers of about 1.5 KiB. Telling the NIC 2048 is safe exactly while no frame can be
// longer than the guest's piece: F, computed from the port's real configuration.
#pragma once

#include <cstdint>

namespace zecorx {

inline constexpr std::uint32_t kEthernetHeader = 14;  // bytes, IEEE 802.3 3.2
inline constexpr std::uint32_t kVlanTag = 4;          // bytes, IEEE 802.1Q 9.5
inline constexpr std::uint32_t kMinFrame = 60;        // bytes without CRC
inline constexpr std::uint32_t kDefaultMtu = 1500;

inline constexpr std::uint32_t kNicBufferStep = 1024;  // bytes, SRRCTL.BSIZEPACKET

struct PortGeometry {
    std::uint32_t mtu = kDefaultMtu;
    // Tags stay in the frame, so a tagged frame is 4 bytes longer. QinQ is off, jumbo frames are
    // off at this MTU, the CRC is stripped and receive-side coalescing is off.
    bool vlan_tags_left_in = true;

    // F: the largest number of bytes the NIC can write for one frame.
    constexpr std::uint32_t max_frame() const {
        return mtu + kEthernetHeader + (vlan_tags_left_in ? kVlanTag : 0);
    }

    // What the NIC is told a receive buffer holds: F rounded up to its granularity.
    constexpr std::uint32_t nic_buffer() const {
        return (max_frame() + kNicBufferStep - 1) / kNicBufferStep * kNicBufferStep;
    }
};

static_assert(PortGeometry{}.max_frame() == 1518 && PortGeometry{}.nic_buffer() == 2048);

}  // namespace zecorx
