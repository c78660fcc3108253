// The ring a session negotiated, chosen when it starts.
//
// The paths look at the kind once a burst, by std::visit, which for two kinds is one comparison.
#pragma once

#include <variant>

#include "zecorx/packed_ring.h"
#include "zecorx/split_ring.h"

namespace zecorx {

using AnyRing = std::variant<SplitRing, PackedRing>;

}  // namespace zecorx
