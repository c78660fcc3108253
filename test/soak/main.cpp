// zecorx-soak: the daemon under traffic while everything around it fails.

#include <fmt/format.h>
#include <unistd.h>

#include <boost/program_options.hpp>
#include <cstdlib>
#include <exception>
#include <iostream>

#include "soak.h"

namespace {

namespace po = boost::program_options;
using zecorx::soak::SoakOptions;

constexpr int kUsageError = 2;

po::options_description all_options(SoakOptions& options, double& minutes) {
    po::options_description all("zecorx-soak --daemon FILE [options]");
    all.add_options()                           //
        ("help,h", "print this help and exit")  //
        ("daemon", po::value(&options.daemon)->required()->value_name("FILE"),
         "the zecorx-vhost to test")                                               //
        ("minutes", po::value(&minutes)->value_name("N"), "of random events [1]")  //
        ("kills", po::value(&options.kills)->value_name("N"),
         "instead: kill -9 so many guests and daemons")  //
        ("cycles", po::value(&options.cycles)->value_name("N"),
         "instead: attach and detach so often, with traffic")  //
        ("seed", po::value(&options.seed)->value_name("N"),
         "repeats a sequence of events [1]")                              //
        ("vms", po::value(&options.vms)->value_name("N"), "1 to 16 [3]")  //
        ("rate", po::value(&options.rate)->value_name("PPS"),
         "frames a second from the wire, over all VMs [20000]")  //
        ("huge-mem", po::value(&options.huge_memory)->value_name("MIB"),
         "of the daemon, in huge pages [64]");
    return all;
}

// Nothing: help was asked for.
std::optional<SoakOptions> parse(int argc, char** argv) {
    SoakOptions options;
    double minutes = 1;
    const po::options_description all = all_options(options, minutes);
    po::variables_map values;
    po::store(po::parse_command_line(argc, argv, all), values);
    if (values.count("help") != 0) {
        std::cout << all;
        return std::nullopt;
    }
    po::notify(values);
    options.duration = std::chrono::seconds(static_cast<long>(minutes * 60));
    if (options.vms == 0 || options.vms > zecorx::soak::kMostVms) {
        throw po::error("--vms must be 1 to 16");
    }
    return options;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const auto options = parse(argc, argv);
        if (!options) return EXIT_SUCCESS;
        return zecorx::soak::Soak(*options).run() ? EXIT_SUCCESS : EXIT_FAILURE;
    } catch (const po::error& error) {
        fmt::print(stderr, "zecorx-soak: {}; see --help\n", error.what());
        return kUsageError;
    } catch (const std::exception& error) {
        fmt::print(stderr, "zecorx-soak: {}\n", error.what());
        return EXIT_FAILURE;
    }
}
