// The values of all registers: the BAR's 512 KiB as words.
//
// Thread rule: single loads and stores are atomic, because the driver reads and writes the doorbell
// pages at any time without the device's lock. Everything else is called under that lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "registers.h"

namespace zecorx::soft82599 {

class RegisterFile {
  public:
    // REQUIRES: words.size() == kBarWords, and the words outlive this object.
    explicit RegisterFile(std::span<std::uint32_t> words) : words_(words) {}

    // The acquire load pairs with the driver's store to a doorbell: descriptors written before the
    // doorbell are seen after it.
    std::uint32_t get(std::uint32_t offset) const {
        return word(offset).load(std::memory_order_acquire);
    }
    void set(std::uint32_t offset, std::uint32_t value) const {
        word(offset).store(value, std::memory_order_release);
    }
    bool test(std::uint32_t offset, std::uint32_t mask) const { return (get(offset) & mask) != 0; }

    // Replaces the value only if it is still `expected`, so that a driver's store is never lost.
    bool replace(std::uint32_t offset, std::uint32_t expected, std::uint32_t value) const {
        return word(offset).compare_exchange_strong(expected, value);
    }

    std::uint32_t take(std::uint32_t offset) const { return word(offset).exchange(0); }

    void add(std::uint32_t offset, std::uint32_t amount = 1) const {
        set(offset, get(offset) + amount);
    }

    // Adds to a counter of two words, low word first.
    void add64(std::uint32_t offset, std::uint64_t amount) const {
        const std::uint64_t sum = get64(offset) + amount;
        set(offset, static_cast<std::uint32_t>(sum));
        set(offset + 4, static_cast<std::uint32_t>(sum >> 32));
    }
    std::uint64_t get64(std::uint32_t offset) const {
        return get(offset) | std::uint64_t{get(offset + 4)} << 32;
    }

    // Bit `index` of a bitmap that starts at `offset`.
    bool test_bit(std::uint32_t offset, unsigned index) const {
        return test(offset + index / 32 * 4, 1u << (index % 32));
    }

  private:
    std::atomic_ref<std::uint32_t> word(std::uint32_t offset) const {
        return std::atomic_ref<std::uint32_t>(words_[offset / 4]);
    }

    std::span<std::uint32_t> words_;
};

}  // namespace zecorx::soft82599
