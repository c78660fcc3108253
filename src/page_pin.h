// Pages that must keep their place while a device may write to them.
#pragma once

#include <cstddef>
#include <span>

#include "zecorx/unique_fd.h"

namespace zecorx {

// Populates [memory] and pins its pages: the kernel neither swaps nor migrates them (compaction
// moves pages that are only mlocked), so an IOVA read from pagemap stays right. The pin is an
// io_uring buffer registration, which is how an unprivileged interface reaches FOLL_LONGTERM.
// Throws std::runtime_error.
class PagePin {
  public:
    explicit PagePin(std::span<std::byte> memory);

  private:
    UniqueFd ring_;  // closing it drops the pins
};

}  // namespace zecorx
