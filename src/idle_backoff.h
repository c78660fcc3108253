// How a polling thread gives the processor back when there is nothing to do.
#pragma once

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <chrono>

namespace zecorx {

// Steps: spin, then yield, then sleep twice as long each time up to the bound. One round with work
// starts over. A bound of 0 spins for ever.
class IdleBackoff {
  public:
    explicit IdleBackoff(std::chrono::microseconds longest) : longest_(longest) {}

    void busy() noexcept { rounds_ = 0; }

    void idle() noexcept {
        if (longest_.count() == 0) return;
        ++rounds_;
        if (rounds_ <= kSpins) return __builtin_ia32_pause();
        if (rounds_ <= kSpins + kYields) {
            ::sched_yield();
            return;
        }
        const unsigned doublings = std::min(rounds_ - kSpins - kYields, 16U);
        const auto sleep =
            std::min<std::chrono::nanoseconds>(longest_, kFirstSleep * (1 << doublings));
        const timespec time{0, sleep.count()};
        ::nanosleep(&time, nullptr);
    }

  private:
    static constexpr unsigned kSpins = 256;
    static constexpr unsigned kYields = 16;
    static constexpr std::chrono::nanoseconds kFirstSleep{1000};

    const std::chrono::microseconds longest_;
    unsigned rounds_ = 0;
};

}  // namespace zecorx
