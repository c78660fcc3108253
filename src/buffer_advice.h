// What to tell the operator of a VM whose buffers do not fit the geometry of its RX queue.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "zecorx/geometry.h"

namespace zecorx {

// The sentence for a guest that posts buffers with `room` bytes behind the header and merges them
// or not, on a queue of this geometry; none if the buffers are not what keeps frames from landing.
std::optional<std::string> buffer_advice(const QueueGeometry& geometry, std::uint32_t room,
                                         bool mergeable);

}  // namespace zecorx
