// The slots of a receive path that hold what nearly every slot holds: a guest chain of one
// descriptor, with room for the header right in front of the data. Either all of a path's are
// zero copy, or all are copied.
//
// Of such a slot few bytes are needed and the same work is due for each, so they are kept apart
// from the others, dense, and are served by runs. Everything else about them can be told from the
// buffer.
//
// Thread rule: that of its user.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace zecorx {

class PlainSlots {
  public:
    // REQUIRES: count is a power of two.
    explicit PlainSlots(std::size_t count)
        : mask_(count - 1),
          buffers_(std::make_unique<void*[]>(count)),
          ids_(std::make_unique<std::uint16_t[]>(count)),
          flags_(std::make_unique<std::uint8_t[]>(count)),
          targets_(std::make_unique<std::byte*[]>(count)) {}

    // Slots from `cursor` on that lie in a row, at most `most` of them.
    std::size_t row(std::uint32_t cursor, std::size_t most) const {
        return std::min(most, mask_ + 1 - (cursor & mask_));
    }

    // The arrays from `cursor` on, for a row: null for slots that are not plain; heads, or buffer
    // ids of a packed ring; what the flags of the virtio-net header in the chain are already; and
    // where the chain begins, if frames are to be copied there.
    void** buffers(std::uint32_t cursor) { return &buffers_[cursor & mask_]; }
    std::uint16_t* ids(std::uint32_t cursor) { return &ids_[cursor & mask_]; }
    std::uint8_t* flags(std::uint32_t cursor) { return &flags_[cursor & mask_]; }

    std::byte** targets(std::uint32_t cursor) { return &targets_[cursor & mask_]; }

    bool is(std::uint32_t cursor) const { return buffers_[cursor & mask_] != nullptr; }
    void clear(std::uint32_t cursor) { buffers_[cursor & mask_] = nullptr; }
    void clear() { std::fill_n(buffers_.get(), mask_ + 1, nullptr); }

  private:
    const std::size_t mask_;
    std::unique_ptr<void*[]> buffers_;
    std::unique_ptr<std::uint16_t[]> ids_;
    std::unique_ptr<std::uint8_t[]> flags_;
    std::unique_ptr<std::byte*[]> targets_;
};

}  // namespace zecorx
