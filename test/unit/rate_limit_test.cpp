#include "rate_limit.h"

#include <catch2/catch_test_macros.hpp>

namespace zecorx {
namespace {

using namespace std::chrono_literals;

int admitted(RateLimit& limit, RateLimit::Clock::time_point now, int events) {
    int count = 0;
    for (int i = 0; i < events; ++i) count += limit.admit(now) ? 1 : 0;
    return count;
}

TEST_CASE("a burst passes, and then one a second") {
    RateLimit limit;
    const auto start = RateLimit::Clock::now();
    const int burst = admitted(limit, start, 1000);
    CHECK(burst > 1);
    CHECK(burst < 100);
    CHECK(admitted(limit, start + 500ms, 10) == 0);
    CHECK(admitted(limit, start + 1s, 10) == 1);
    CHECK(admitted(limit, start + 4500ms, 10) == 3);
    // Half a second of the last was left.
    CHECK(admitted(limit, start + 5s, 10) == 1);
}

TEST_CASE("after a quiet time a whole burst passes again, and no more") {
    RateLimit limit;
    const auto start = RateLimit::Clock::now();
    const int burst = admitted(limit, start, 1000);
    CHECK(admitted(limit, start + 24h, 1000) == burst);
}

TEST_CASE("what did not pass is counted once") {
    RateLimit limit;
    const auto start = RateLimit::Clock::now();
    const int burst = admitted(limit, start, 100);
    CHECK(limit.take_suppressed() == static_cast<std::uint64_t>(100 - burst));
    CHECK(limit.take_suppressed() == 0);
}

}  // namespace
}  // namespace zecorx
