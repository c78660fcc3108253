#include <catch2/catch_test_macros.hpp>
#include <stdexcept>

#include "soft82599/config.h"

using namespace zecorx;
using namespace zecorx::soft82599;

TEST_CASE("a port config takes address, MAC, idle time and a wire with commas", "[soft82599]") {
    const PortConfig port =
        parse_port_config("0000:04:00.1,mac=52:54:00:00:00:07,idle=0,wire=gen:size=64,rate=5");
    CHECK(port.bdf == "0000:04:00.1");
    CHECK(port.mac == MacAddress::parse("52:54:00:00:00:07"));
    CHECK(port.idle_sleep.count() == 0);
    CHECK(port.wire == "gen:size=64,rate=5");
}

TEST_CASE("the word soft stands for the default address", "[soft82599]") {
    const PortConfig port = parse_port_config("soft,wire=tap:vm0");
    CHECK(port.bdf == "0000:03:00.0");
    CHECK(port.wire == "tap:vm0");
    CHECK_FALSE(port.mac.has_value());
}

TEST_CASE("wrong port configs are refused", "[soft82599]") {
    for (const char* text : {"03:00.0", "0000:03:00.8", "mac=1", "mac=01:00:00:00:00:01", "idle=x",
                             "idle=2000000", "color=red", "0000:03:00.0,soft"}) {
        INFO(text);
        CHECK_THROWS_AS(parse_port_config(text), std::runtime_error);
    }
}

TEST_CASE("a machine config names its mode and ports", "[soft82599]") {
    const Config config = parse_config(" mode=step port=0000:03:00.0  port=0000:04:00.0,idle=5 ");
    CHECK(config.mode == Mode::kStep);
    REQUIRE(config.ports.size() == 2);
    CHECK(config.ports[1].bdf == "0000:04:00.0");
    CHECK(parse_config("").ports.size() == 1);
    CHECK_THROWS_AS(parse_config("mode=fast"), std::runtime_error);
}
