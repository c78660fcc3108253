// Copying out of the pieces of a chain.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "zecorx/chain.h"

namespace zecorx {

// Takes bytes of the pieces in order, each byte of guest memory once: what the driver writes later
// is never seen.
class Gather {
  public:
    explicit Gather(std::span<const Piece> from) : from_(from) {}

    // REQUIRES: at least to.size() bytes are left.
    void take(std::span<std::byte> to) {
        while (!to.empty()) {
            const Piece& piece = from_.front();
            const std::size_t n = std::min<std::size_t>(to.size(), piece.length - taken_);
            std::memcpy(to.data(), piece.hva + taken_, n);
            to = to.subspan(n);
            taken_ += static_cast<std::uint32_t>(n);
            if (taken_ < piece.length) return;
            from_ = from_.subspan(1);
            taken_ = 0;
        }
    }

  private:
    std::span<const Piece> from_;
    std::uint32_t taken_ = 0;  // bytes of from_.front()
};

}  // namespace zecorx
