// The processor's time stamp counter, and the figures made of it.
#pragma once

#include <sched.h>
#include <x86intrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace zecorx::bench {

// Neither what comes before nor what comes after moves across the reading.
inline std::uint64_t now() {
    _mm_lfence();
    const std::uint64_t cycles = __rdtsc();
    _mm_lfence();
    return cycles;
}

// What two readings cost between them.
inline std::uint64_t clock_cost() {
    std::uint64_t least = UINT64_MAX;
    for (int i = 0; i < 1000; ++i) {
        const std::uint64_t start = now();
        least = std::min(least, now() - start);
    }
    return least;
}

// Counters of two cores may differ. Threads that exist already run where they like. False: there is
// no such core, or not for this process.
inline bool stay_on(unsigned core) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(core, &cores);
    return ::sched_setaffinity(0, sizeof cores, &cores) == 0;
}

// REQUIRES: values is not empty, 0 <= part <= 1.
inline double quantile(std::vector<double> values, double part) {
    const auto index = static_cast<std::size_t>(part * static_cast<double>(values.size() - 1));
    const auto at = values.begin() + static_cast<std::ptrdiff_t>(index);
    std::ranges::nth_element(values, at);
    return *at;
}

inline double median(const std::vector<double>& values) { return quantile(values, 0.5); }

// Over the repetitions of one measurement.
struct Summary {
    double min = 0;
    double median = 0;
    double max = 0;
};

// REQUIRES: values is not empty.
inline Summary summarize(const std::vector<double>& values) {
    return {*std::ranges::min_element(values), median(values), *std::ranges::max_element(values)};
}

// Cycles of one burst each, as one figure: their mean without what the machine did meanwhile. An
// interrupt costs a burst many times what any burst costs.
// REQUIRES: bursts is not empty.
inline double mean_undisturbed(const std::vector<double>& bursts) {
    constexpr double kDisturbed = 8;
    const double limit = kDisturbed * median(bursts);
    double sum = 0;
    std::size_t count = 0;
    for (const double cycles : bursts) {
        if (cycles > limit) continue;
        sum += cycles;
        ++count;
    }
    return sum / static_cast<double>(count);
}

}  // namespace zecorx::bench
