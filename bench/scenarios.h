// What is measured, by name.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "bench_options.h"
#include "results.h"
#include "rig.h"

namespace zecorx::bench {

// What a scenario works with, and where it leaves what it found.
class Context {
  public:
    Context(const BenchOptions& options, Rig& rig, Results& results)
        : options(options), results(results), rig_(rig) {}

    // On the next port: a port serves one bed. Scenario::ports says how many there are.
    Bed make_bed(std::uint32_t mtu, const std::vector<LaneOptions>& lanes) {
        return Bed(rig_, next_port_++, mtu, lanes);
    }

    const BenchOptions& options;
    Results& results;

  private:
    Rig& rig_;
    std::size_t next_port_ = 0;
};

struct Scenario {
    std::string_view name;
    std::string_view about;
    std::size_t ports;
    void (*run)(Context& context);
};

// In the order they run in.
std::span<const Scenario> all_scenarios();

void run_receive(Context& context);
void run_segmented(Context& context);
void run_jumbo(Context& context);
void run_vms(Context& context);
void run_idle(Context& context);
void run_stalled(Context& context);
void run_latency(Context& context);
void run_attach(Context& context);
void run_memory(Context& context);

}  // namespace zecorx::bench
