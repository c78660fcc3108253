// The command line of zecorx-bench, checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "guest.h"
#include "lockstep.h"

namespace zecorx::bench {

struct BenchOptions {
    std::vector<std::string> scenarios;  // names, never empty
    std::vector<Cache> caches{Cache::kWarm, Cache::kFlushed};
    // Of the scenario receive.
    std::vector<std::size_t> sizes{64, 128, 256, 512, 1024, 1280, 1518};  // bytes on the wire
    std::vector<Driver> guests{Driver::kFake, Driver::kVirtioUser};
    std::vector<std::uint16_t> rings{256, 1024};
    std::vector<bool> packed{false, true};
    std::vector<bool> mergeable{true, false};
    // Of the others.
    std::vector<unsigned> vms{1, 2, 8, 32, 63};           // ascending
    std::vector<unsigned> memory{256, 1024, 4096, 8192};  // MiB of a guest that attaches

    unsigned repetitions = 7;
    unsigned bursts = 300;        // of 32 frames, in each repetition
    unsigned huge_memory = 1024;  // MiB for EAL
    unsigned core = 0;            // CPU
    std::string json;             // file; empty: none
    std::string report;           // directory; empty: none
    std::vector<std::string> eal_args;
    bool check = false;
    bool help = false;
    bool version = false;
};

// Throws OptionError.
BenchOptions parse_bench_options(int argc, const char* const* argv);

std::string bench_help_text();

}  // namespace zecorx::bench
