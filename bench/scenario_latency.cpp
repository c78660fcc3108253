// From the NIC's write-back of a frame's descriptor to the guest's used ring. In lockstep that is
// the time of the backend's polls: nothing waits for a CPU.
#include <fmt/format.h>
#include <rte_cycles.h>

#include <array>

#include "comparison.h"
#include "scenarios.h"
#include "table.h"

namespace zecorx::bench {
namespace {

constexpr std::array kBackends{Backend::kZeroCopy, Backend::kCopy, Backend::kRteVhost};
constexpr std::array<std::size_t, kBackends.size()> kLanes{0, 1, 2};

struct Load {
    const char* name;
    unsigned frames;  // at a time
};
constexpr std::array kLoads{Load{"one frame at a time", 1},
                            Load{"the last of 32 frames at a time", kBurst}};

struct Quantiles {
    std::vector<double> p50, p99;  // ns, by repetition

    void add(const std::vector<double>& cycles) {
        const double nanoseconds = 1e9 / static_cast<double>(rte_get_tsc_hz());
        p50.push_back(quantile(cycles, 0.5) * nanoseconds);
        p99.push_back(quantile(cycles, 0.99) * nanoseconds);
    }
};

std::array<Quantiles, kBackends.size()> measure(soft82599::Port& nic, const Parties& parties,
                                                const Load& load, std::size_t size,
                                                const BenchOptions& options) {
    constexpr unsigned kSamples = 8;  // a burst, for the 99th percentile
    std::array<Quantiles, kBackends.size()> quantiles;
    for (unsigned repetition = 0; repetition < options.repetitions; ++repetition) {
        for (std::size_t i = 0; i < kBackends.size(); ++i) {
            const Party& party = parties.all()[i];
            const Frame frame = make_frame(party.lane.mac(), size);
            check_delivery(nic, party, frame);
            quantiles[i].add(run_bursts(nic, party, frame, load.frames, kSamples * options.bursts));
        }
    }
    return quantiles;
}

void add(Table& table, const LatencyFigures& figures) {
    table.add({name_of(figures.backend), figures.load, name_of(figures.cache),
               fmt::format("{}", figures.size), fmt::format("{:.0f}", figures.p50.median),
               fmt::format("{:.0f}", figures.p99.median)});
}

}  // namespace

void run_latency(Context& context) {
    Bed bed = context.make_bed(
        kDefaultMtu,
        {{.backend = kBackends[0]}, {.backend = kBackends[1]}, {.backend = kBackends[2]}});
    const Parties parties(bed, kLanes, {});
    Table table({"backend", "load", "cache", "bytes", "p50, ns", "p99, ns"});
    for (const Cache cache : context.options.caches) {
        bed.nic().write_past_cache(cache == Cache::kFlushed);
        for (const Load& load : kLoads) {
            for (const std::size_t size : {64, 1518}) {
                const auto all = measure(bed.nic(), parties, load, size, context.options);
                for (std::size_t i = 0; i < kBackends.size(); ++i) {
                    context.results.latency.push_back({kBackends[i], cache, size, load.name,
                                                       summarize(all[i].p50),
                                                       summarize(all[i].p99)});
                    add(table, context.results.latency.back());
                }
            }
        }
    }
    print_heading("Latency, from the NIC's write-back to the used ring");
    table.print();
}

}  // namespace zecorx::bench
