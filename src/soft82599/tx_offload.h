// What the transmit DMA does to a frame before it leaves: segmentation, checksums, VLAN tag,
// padding (sections 7.2.4 and 7.2.5).
#pragma once

#include <cstdint>
#include <vector>

#include "frame.h"
#include "tx_queue.h"

namespace zecorx::soft82599 {

// Port settings that offloads depend on.
struct TxSettings {
    std::uint16_t vlan_ethertype = 0x8100;  // DMATXCTL.VT
    bool pad = true;                        // HLREG0.TXPADEN
    std::uint16_t first_flags = 0xFF6;      // DTXTCPFLG: TCP flags kept in each kind of segment
    std::uint16_t middle_flags = 0xFF6;
    std::uint16_t last_flags = 0xF7F;
};

// The frames that leave for this packet; none if the packet is malformed: headers outside the
// frame, a segment size of 0, or larger than the hardware sends.
std::vector<Frame> apply_offloads(TxPacket packet, const TxSettings& settings);

}  // namespace zecorx::soft82599
