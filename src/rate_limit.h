// How often one VM's frontend may cause what costs others something: a line in the log, a pause of
// their port.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <utility>

namespace zecorx {

// Lets `kBurst` events pass at once and one a second beyond that.
class RateLimit {
  public:
    using Clock = std::chrono::steady_clock;

    // Whether the next one may pass.
    bool admit(Clock::time_point now) {
        const auto passed = std::chrono::floor<std::chrono::seconds>(now - since_);
        since_ += passed;
        tokens_ = std::min<std::int64_t>(kBurst, tokens_ + passed.count());
        if (tokens_ == kBurst) since_ = now;  // seconds count from the first event on
        if (tokens_ == 0) {
            ++suppressed_;
            return false;
        }
        --tokens_;
        return true;
    }

    // Events that did not pass since this was last asked.
    std::uint64_t take_suppressed() { return std::exchange(suppressed_, 0); }

  private:
    static constexpr std::int64_t kBurst = 20;

    std::int64_t tokens_ = kBurst;
    Clock::time_point since_{};
    std::uint64_t suppressed_ = 0;
};

}  // namespace zecorx
