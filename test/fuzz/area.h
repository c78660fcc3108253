// Memory of a ring: an allocation of exactly its size, so that a sanitizer sees the first byte
// beyond it, and beside it what the driver knows to be there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "input.h"

namespace zecorx::fuzz {

class Area {
  public:
    explicit Area(std::size_t size)
        : size_(size), memory_(std::make_unique<std::byte[]>(size)), known_(size) {}

    std::byte* data() const { return memory_.get(); }
    std::span<const std::byte> bytes() const { return {memory_.get(), size_}; }

    // The driver writes.
    template <class T>
    void store(std::size_t at, const T& value) {
        std::memcpy(memory_.get() + at, &value, sizeof value);
        foresee(at, value);
    }
    // The device is to write, or has been allowed to.
    template <class T>
    void foresee(std::size_t at, const T& value) {
        std::memcpy(known_.data() + at, &value, sizeof value);
    }
    template <class T>
    T load(std::size_t at) const {
        T value;
        std::memcpy(&value, memory_.get() + at, sizeof value);
        return value;
    }

    // Nothing else was written.
    void check(const char* rule) const {
        expect(std::memcmp(memory_.get(), known_.data(), size_) == 0, rule);
    }

  private:
    std::size_t size_;
    std::unique_ptr<std::byte[]> memory_;
    std::vector<std::byte> known_;
};

}  // namespace zecorx::fuzz
