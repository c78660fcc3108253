#include "buffer_advice.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

namespace zecorx::test {
namespace {

using Catch::Matchers::ContainsSubstring;

constexpr QueueGeometry kStandard = QueueGeometry::whole(1518);
constexpr QueueGeometry kJumbo = QueueGeometry::whole(9018);

}  // namespace

TEST_CASE("buffers that fit their queue get no advice") {
    CHECK_FALSE(buffer_advice(kStandard, 1524, true));
    CHECK_FALSE(buffer_advice(kStandard, 1518, false));
    CHECK_FALSE(buffer_advice({9018, 1024}, 1524, true));
}

TEST_CASE("mergeable buffers shorter than a frame are advised to be filled in pieces") {
    CHECK_THAT(*buffer_advice(kJumbo, 1524, true), ContainsSubstring("rxbuf=1024 would"));
    CHECK_THAT(*buffer_advice(kJumbo, 4084, true), ContainsSubstring("rxbuf=3072 would"));
}

TEST_CASE("buffers that are not merged are advised to be merged, or to hold a frame") {
    const std::string merged = *buffer_advice(kJumbo, 4064, false);
    CHECK_THAT(merged, ContainsSubstring("mrg_rxbuf=on") && ContainsSubstring("rxbuf=3072"));
    CHECK_THAT(*buffer_advice({9018, 1024}, 9030, false), ContainsSubstring("rxbuf=9216 would"));
}

TEST_CASE("buffers below the NIC's smallest cannot be helped by a setting") {
    CHECK_THAT(*buffer_advice(kStandard, 1000, true), ContainsSubstring("only larger buffers"));
}

}  // namespace zecorx::test
