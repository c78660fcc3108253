// A fuzzer's input, taken as the decisions of a program: numbers from the front on. One that has
// ended goes on with zeros, so every input is a whole program.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <span>

namespace zecorx::fuzz {

// Ends the process, which makes the input a finding. `rule` says what must hold.
inline void expect(bool holds, const char* rule) {
    if (holds) [[likely]]
        return;
    std::fprintf(stderr, "\nDoes not hold: %s\n", rule);
    std::abort();
}

class Input {
  public:
    Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}

    bool ended() const { return rest_.empty(); }

    template <std::unsigned_integral T>
    T take() {
        T value = 0;
        const std::size_t size = std::min(sizeof value, rest_.size());
        std::memcpy(&value, rest_.data(), size);
        rest_ = rest_.subspan(size);
        return value;
    }
    std::uint8_t byte() { return take<std::uint8_t>(); }
    std::uint16_t word() { return take<std::uint16_t>(); }
    bool flag() { return (byte() & 1) != 0; }
    // One time in `n`.
    bool one_in(unsigned n) { return byte() % n == n - 1; }

    // A number below `limit`. REQUIRES: limit > 0.
    std::uint32_t below(std::uint32_t limit) {
        if (limit <= 0x100) return byte() % limit;
        return limit <= 0x10000 ? word() % limit : take<std::uint32_t>() % limit;
    }

    template <class T>
    T any_of(std::initializer_list<T> choices) {
        return *(choices.begin() + below(static_cast<std::uint32_t>(choices.size())));
    }

    // As many of the next bytes as there are; `to` is zero behind them.
    void fill(std::span<std::byte> to) {
        const std::size_t size = std::min(to.size(), rest_.size());
        std::memcpy(to.data(), rest_.data(), size);
        std::ranges::fill(to.subspan(size), std::byte{0});
        rest_ = rest_.subspan(size);
    }

  private:
    std::span<const std::uint8_t> rest_;
};

}  // namespace zecorx::fuzz
