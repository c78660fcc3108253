// Writing a frame over guest buffers, and the short chains gathered for it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>

#include "zecorx/chain.h"
#include "zecorx/ring.h"

namespace zecorx {

// Fills pieces in order, without holes. REQUIRES: what is put fits.
class Scatter {
  public:
    explicit Scatter(std::span<const Piece> to) : to_(to) {}

    void put(std::span<const std::byte> from) {
        while (!from.empty()) {
            const std::size_t n = std::min<std::size_t>(from.size(), to_.front().length - filled_);
            std::memcpy(to_.front().hva + filled_, from.data(), n);
            from = from.subspan(n);
            filled_ += static_cast<std::uint32_t>(n);
            if (filled_ == to_.front().length) {
                to_ = to_.subspan(1);
                filled_ = 0;
            }
        }
    }

  private:
    std::span<const Piece> to_;
    std::uint32_t filled_ = 0;  // bytes of to_.front()
};

// Chains acquired in avail order for the frame at the front of a receive path's FIFO, because how
// many of them it takes shows only when it is there.
class GatheredChains {
  public:
    static constexpr std::size_t kMaxChains = 128;

    struct Entry {
        Head head;
        std::uint32_t capacity = 0;  // bytes
        std::uint32_t used = 0;      // bytes, header included: what the driver is told
        std::size_t first_piece = 0;
    };

    bool empty() const { return count_ == 0; }
    bool full() const { return count_ == kMaxChains; }
    std::size_t count() const { return count_; }
    std::span<Entry> chains() { return {chains_.data(), count_}; }
    // The pieces of the chains from `first` on.
    std::span<const Piece> pieces_from(std::size_t first) const {
        return {&pieces_[chains_[first].first_piece], piece_count_ - chains_[first].first_piece};
    }

    void clear() {
        count_ = 0;
        piece_count_ = 0;
    }

    // REQUIRES: !full().
    void add(Head head, const Chain& chain) {
        chains_[count_++] = {head, chain.capacity(), 0, piece_count_};
        std::ranges::copy(chain.pieces(), &pieces_[piece_count_]);
        piece_count_ += chain.pieces().size();
    }

    // Puts `length` bytes on the chains from `first` on, each filled before the next.
    // Returns the chain after the last one used. REQUIRES: they hold as much.
    std::size_t allot(std::size_t first, std::uint32_t length) {
        while (length > 0) {
            Entry& chain = chains_[first++];
            chain.used = std::min(length, chain.capacity);
            length -= chain.used;
        }
        return first;
    }

  private:
    std::array<Entry, kMaxChains> chains_{};
    std::unique_ptr<Piece[]> pieces_ = std::make_unique<Piece[]>(kMaxChains * Chain::kMaxPieces);
    std::size_t piece_count_ = 0;
    std::size_t count_ = 0;
};

}  // namespace zecorx
