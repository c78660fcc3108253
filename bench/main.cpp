// zecorx-bench: what the receive path costs, beside the least that is possible and beside copying.

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>

#include "bench_options.h"
#include "cycles.h"
#include "host_checks.h"
#include "log.h"
#include "machine.h"
#include "options.h"
#include "report.h"
#include "scenarios.h"
#include "targets.h"

namespace zecorx::bench {
namespace {

constexpr int kUsageError = 2;

using Json = nlohmann::ordered_json;

std::vector<Scenario> chosen(const BenchOptions& options) {
    std::vector<Scenario> scenarios;
    for (const Scenario& scenario : all_scenarios()) {
        if (std::ranges::count(options.scenarios, scenario.name) > 0) scenarios.push_back(scenario);
    }
    return scenarios;
}

RigOptions rig_options(const BenchOptions& options, std::span<const Scenario> scenarios) {
    RigOptions rig{.ports = 0, .huge_memory = options.huge_memory, .eal_args = options.eal_args};
    for (const Scenario& scenario : scenarios) rig.ports += scenario.ports;
    return rig;
}

Results measure(const BenchOptions& options) {
    const std::vector<Scenario> scenarios = chosen(options);
    Rig rig(rig_options(options, scenarios));
    if (!stay_on(options.core)) {
        throw std::runtime_error(
            fmt::format("cannot run on CPU {}: give one that is there with --core", options.core));
    }
    Results results;
    Context context(options, rig, results);
    for (const Scenario& scenario : scenarios) scenario.run(context);
    return results;
}

Json settings_of(const BenchOptions& options) {
    return {{"repetitions", options.repetitions},
            {"bursts", options.bursts},
            {"burst", kBurst},
            {"nic_ring", Bed::nic_ring()},
            {"core", options.core},
            {"huge_memory_mib", options.huge_memory}};
}

Json describe_run(const BenchOptions& options, std::span<char* const> command) {
    Json json{{"format", 1},
              {"command", fmt::format("{}", fmt::join(command, " "))},
              {"started", fmt::format("{:%FT%TZ}", fmt::gmtime(std::time(nullptr)))}};
    json["settings"] = settings_of(options);
    return json;
}

int run(int argc, char** argv) {
    const BenchOptions options = parse_bench_options(argc, argv);
    if (options.help) {
        fmt::print("{}", bench_help_text());
        return EXIT_SUCCESS;
    }
    if (options.version) {
        fmt::print("zecorx-bench {}\n", ZECORX_VERSION);
        return EXIT_SUCCESS;
    }
    set_up_log("warning");
    check_permission();
    check_huge_pages(options.huge_memory);
    Report report(options);
    Json json = describe_run(options, {argv, static_cast<std::size_t>(argc)});
    const Results results = measure(options);
    const std::vector<Target> targets = judge(results);
    json["machine"] = describe_machine();
    json["versions"] = describe_versions();
    add_to(json, results);
    add_to(json, targets);
    const bool all_met = print_verdicts(targets);
    report.write(json);
    return options.check && !all_met ? EXIT_FAILURE : EXIT_SUCCESS;
}

}  // namespace
}  // namespace zecorx::bench

int main(int argc, char** argv) {
    try {
        return zecorx::bench::run(argc, argv);
    } catch (const zecorx::OptionError& error) {
        fmt::print(stderr, "zecorx-bench: {}\n", error.what());
        return zecorx::bench::kUsageError;
    } catch (const std::exception& error) {
        fmt::print(stderr, "zecorx-bench: {}\n", error.what());
        return EXIT_FAILURE;
    }
}
