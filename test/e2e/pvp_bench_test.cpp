// The live benchmark in its short form: both backends side by side, with real processes.

#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>

#include "support/process.h"
#include "support/temp_dir.h"

namespace zecorx::test {
namespace {

// Four runs of some seconds; the script bounds all its waits itself, so this is for a slow machine.
constexpr std::chrono::minutes kTimeout{8};

std::string required(const char* variable) {
    const char* value = std::getenv(variable);
    if (value == nullptr) throw std::runtime_error(std::string(variable) + " is not set");
    return value;
}

TEST_CASE("Frames come back from the VM through either backend of bench-pvp, zero-copied by zecorx",
          "[pvp]") {
    const TempDir directory;
    const auto log = directory.path() / "log", figures = directory.path() / "figures.json";
    Process bench({required("BENCH_PVP"), "--short", "--json", figures.string()},
                  {.output = directory.path() / "table", .errors = log});
    const std::optional<int> status = bench.wait(kTimeout);
    if (!status) bench.terminate(std::chrono::minutes(1));  // it ends its own processes then
    INFO(tail(log));
    REQUIRE(status == 0);

    std::set<std::string> backends;
    const auto document = nlohmann::json::parse(std::ifstream(figures));
    for (const nlohmann::json& result : document.at("results")) {
        INFO(result.dump());
        backends.insert(result["backend"]);
        CHECK(result["returned"] > 0);
        CHECK(result["returned"] <= result["sent"]);
        const double zero_copy_percent = result["zero_copy_percent"];
        if (result["backend"] == "zecorx") CHECK(zero_copy_percent >= 98);
        if (result["backend"] == "testpmd") CHECK(zero_copy_percent == 0);
    }
    CHECK(backends == std::set<std::string>{"zecorx", "testpmd"});
}

}  // namespace
}  // namespace zecorx::test
