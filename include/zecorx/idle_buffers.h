// The NIC's buffers that are neither posted nor pending: what was put last is taken first, because
// it is in the cache.
//
// Thread rule: that of its user. Never grows.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <memory>
#include <span>

namespace zecorx {

class IdleBuffers {
  public:
    explicit IdleBuffers(std::size_t room)
        : room_(room), buffers_(std::make_unique<void*[]>(room)) {}

    std::size_t size() const { return size_; }
    std::span<void* const> all() const { return {buffers_.get(), size_}; }

    // REQUIRES: there is room.
    void put(void* buffer) {
        assert(size_ < room_);
        buffers_[size_++] = buffer;
    }
    void put(std::span<void* const> buffers) {
        assert(buffers.size() <= room_ - size_);
        std::ranges::copy(buffers, &buffers_[size_]);
        size_ += buffers.size();
    }

    // REQUIRES: size() > 0.
    void* take() { return buffers_[--size_]; }

    // What take() would return, the other way round. REQUIRES: count <= size().
    std::span<void* const> last(std::size_t count) const {
        return {&buffers_[size_ - count], count};
    }
    // Takes the first `count` of last(of). REQUIRES: count <= of.
    void take_of_last(std::size_t count, std::size_t of) {
        std::copy(&buffers_[size_ - of + count], &buffers_[size_], &buffers_[size_ - of]);
        size_ -= count;
    }

  private:
    const std::size_t room_;
    std::size_t size_ = 0;
    std::unique_ptr<void*[]> buffers_;
};

}  // namespace zecorx
