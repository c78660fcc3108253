// The ones' complement sum of RFC 1071.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace zecorx {

// Adds up bytes in any number of pieces. The sum is kept in memory order (RFC 1071 2B: it does not
// depend on the byte order it is computed in), so storing value() needs no swap.
class InternetSum {
  public:
    // REQUIRES: fewer than 4 GiB in all, so that the 64-bit accumulator cannot overflow.
    void add(std::span<const std::byte> bytes) {
        std::uint64_t sum = 0;
        std::uint32_t word = 0;
        std::span<const std::byte> rest = bytes;
        for (; rest.size() >= sizeof word; rest = rest.subspan(sizeof word)) {
            std::memcpy(&word, rest.data(), sizeof word);
            sum += word;
        }
        word = 0;
        if (!rest.empty()) std::memcpy(&word, rest.data(), rest.size());
        // A piece that begins at an odd offset counts with its bytes swapped (RFC 1071 2B).
        const std::uint16_t folded = fold(sum + word);
        sum_ += odd_ ? __builtin_bswap16(folded) : folded;
        odd_ ^= bytes.size() % 2 != 0;
    }

    std::uint16_t value() const { return fold(sum_); }

  private:
    static std::uint16_t fold(std::uint64_t sum) {
        while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
        return static_cast<std::uint16_t>(sum);
    }

    std::uint64_t sum_ = 0;
    bool odd_ = false;  // bytes added so far
};

}  // namespace zecorx
