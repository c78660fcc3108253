// Random choices that a seed repeats.
#pragma once

#include <array>
#include <cstdint>
#include <random>
#include <span>

namespace zecorx::soak {

class Dice {
  public:
    explicit Dice(std::uint64_t seed) : engine_(seed) {}

    // 0 to below - 1. REQUIRES: below > 0.
    std::uint64_t below(std::uint64_t below) { return engine_() % below; }
    std::uint64_t between(std::uint64_t low, std::uint64_t high) {
        return low + below(high - low + 1);
    }
    bool percent(unsigned chance) { return below(100) < chance; }
    template <class T>
    const T& pick(std::span<const T> from) {
        return from[below(from.size())];
    }

  private:
    std::mt19937_64 engine_;
};

// Another stream for each process that a run starts.
inline std::uint64_t derived_seed(std::uint64_t seed, std::uint64_t a, std::uint64_t b) {
    std::seed_seq all{seed, seed >> 32, a, b};
    std::array<std::uint32_t, 2> words{};
    all.generate(words.begin(), words.end());
    return std::uint64_t{words[0]} << 32 | words[1];
}

}  // namespace zecorx::soak
