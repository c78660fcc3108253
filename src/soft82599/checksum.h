// Internet checksums (RFC 1071) and the Ethernet CRC, as the 82599 computes them for offloads.
#pragma once

#include <cstdint>

#include "frame.h"

namespace zecorx::soft82599 {

// A one's complement sum that is not yet folded to 16 bits.
using PartialSum = std::uint64_t;

PartialSum sum_bytes(FrameView bytes);
std::uint16_t fold(PartialSum sum);  // to 16 bits, not inverted

// Sum of the pseudo header of the frame's TCP or UDP. REQUIRES: layout.l3 != kOther.
PartialSum pseudo_header_sum(FrameView frame, const FrameLayout& layout);

// What the receive descriptor reports (section 7.1.11).
struct ChecksumReport {
    bool ip_checked = false;
    bool ip_bad = false;
    bool l4_checked = false;
    bool l4_bad = false;
};
ChecksumReport check_received(FrameView frame, const FrameLayout& layout);

// CRC-32 of IEEE 802.3, in the order in which the four bytes follow the frame.
std::uint32_t ethernet_crc(FrameView frame);

// CRC-32C of an SCTP packet whose checksum field is taken as 0. REQUIRES: packet.size() >= 12.
std::uint32_t sctp_crc(FrameView packet);

}  // namespace zecorx::soft82599
