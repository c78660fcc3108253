#pragma once

#include <cstddef>
#include <cstdint>

#include "guest/frames.h"

namespace zecorx::test {

// Every size from the shortest to the longest frame, in an order that mixes short and long.
constexpr std::size_t size_of_numbered(std::uint32_t seq) {
    return kMinFrame + seq * 377 % (kMaxUntaggedFrame - kMinFrame + 1);
}

}  // namespace zecorx::test
