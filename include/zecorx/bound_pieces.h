// The pieces of the chains that copied frames go to, from binding to completion.
//
// Chains are bound and completed in one order, so their pieces are a ring: first in, first out. A
// driver that posts chains of many pieces can fill it; its chains then stay on the avail ring until
// older ones are completed.
//
// Thread rule: that of its user.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "zecorx/chain.h"

namespace zecorx {

class BoundPieces {
  public:
    // Eight for each of 512 buffers. Drivers need four for the longest frame: the header and pages.
    static constexpr std::uint32_t kRoom = 4096;

    // For the pieces of any chain.
    bool has_room() const { return kRoom - (next_ - oldest_) >= Chain::kMaxPieces; }

    // Returns where they are. REQUIRES: has_room().
    std::uint32_t add(std::span<const Piece> chain) {
        const std::uint32_t first = next_;
        std::ranges::copy(chain, &pieces_[first % kRoom]);
        next_ += static_cast<std::uint32_t>(chain.size());
        return first;
    }

    std::span<const Piece> at(std::uint32_t first, std::size_t count) const {
        return {&pieces_[first % kRoom], count};
    }

    // Forgets these pieces, and all that were added before them.
    void free(std::uint32_t first, std::size_t count) {
        oldest_ = first + static_cast<std::uint32_t>(count);
    }

    void clear() { oldest_ = next_; }

  private:
    static_assert(UINT32_MAX % kRoom == kRoom - 1, "positions run freely");

    // A chain's pieces lie behind each other: those of the last one go on past the ring's end.
    std::unique_ptr<Piece[]> pieces_ = std::make_unique<Piece[]>(kRoom + Chain::kMaxPieces);
    std::uint32_t oldest_ = 0;
    std::uint32_t next_ = 0;
};

}  // namespace zecorx
