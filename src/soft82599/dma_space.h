// The device's view of memory: the one door through which it reads and writes host and guest RAM.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace zecorx::soft82599 {

class DmaSpace {
  public:
    virtual ~DmaSpace() = default;

    // The memory at `iova`: at most `length` bytes, fewer where a page ends. Empty = nothing is
    // mapped there, which is a DMA fault. The span is only valid until memory is unmapped, so it is
    // asked for again for every access.
    virtual std::span<std::byte> translate(std::uint64_t iova, std::size_t length) = 0;

  protected:
    DmaSpace() = default;
    DmaSpace(const DmaSpace&) = default;
    DmaSpace& operator=(const DmaSpace&) = default;
};

}  // namespace zecorx::soft82599
