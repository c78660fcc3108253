#include "buffer_advice.h"

#include <fmt/format.h>

#include <algorithm>

namespace zecorx {
namespace {

// The largest receive buffer of the NIC that `room` holds; 0: none.
std::uint32_t largest_fitting(std::uint32_t room) {
    return std::min(room / kNicBufferStep * kNicBufferStep, kMaxNicBuffer);
}

std::string remedy(const QueueGeometry& geometry, std::uint32_t room, bool mergeable) {
    // Round up where the longest frame fits, segment otherwise.
    const bool whole = room >= geometry.max_frame;
    const std::uint32_t rxbuf =
        whole ? QueueGeometry::whole(geometry.max_frame).nic_buffer : largest_fitting(room);
    if (rxbuf == 0) {
        return fmt::format("the NIC's smallest buffer is {} bytes, so only larger buffers help",
                           kNicBufferStep);
    }
    return fmt::format("{}rxbuf={} would let them land",
                       whole || mergeable ? "" : "mergeable buffers (mrg_rxbuf=on) with ", rxbuf);
}

}  // namespace

std::optional<std::string> buffer_advice(const QueueGeometry& geometry, std::uint32_t room,
                                         bool mergeable) {
    if (room >= geometry.piece() && (mergeable || !geometry.segmented())) return std::nullopt;
    return fmt::format(
        "the guest's buffers hold {} bytes{}, the longest frame has {} and the NIC's buffers {}: "
        "frames are copied; {}",
        room, mergeable ? "" : " and are not merged", geometry.max_frame, geometry.nic_buffer,
        remedy(geometry, room, mergeable));
}

}  // namespace zecorx
