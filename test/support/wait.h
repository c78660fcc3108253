#pragma once

#include <chrono>
#include <thread>

namespace zecorx::test {

// True as soon as `condition()` is, false when the timeout passes first.
template <typename Condition>
bool wait_until(Condition condition, std::chrono::milliseconds timeout) {
    constexpr std::chrono::milliseconds kInterval{20};
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    while (!condition()) {
        if (std::chrono::steady_clock::now() >= deadline) return false;
        std::this_thread::sleep_for(kInterval);
    }
    return true;
}

}  // namespace zecorx::test
