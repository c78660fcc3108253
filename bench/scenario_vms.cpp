// One worker with many VMs: all of them busy, and all but one idle.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "comparison.h"
#include "scenarios.h"
#include "table.h"

namespace zecorx::bench {
namespace {

// As many VMs of ours as the largest of the counts, with a small guest each.
class ManyVms {
  public:
    explicit ManyVms(Context& context)
        : bed_(context.make_bed(kDefaultMtu, lanes_for(context.options))),
          parties_(bed_, indexes(bed_.size()), {.memory = kMemory}) {
        for (const Party& party : all()) {
            const Frame frame = make_frame(party.lane.mac(), 64);
            check_delivery(nic(), party, frame);
            run_bursts(nic(), party, frame, kBurst, kWarmUp);
        }
    }
    soft82599::Port& nic() { return bed_.nic(); }
    std::span<const Party> all() const { return parties_.all(); }

  private:
    static constexpr std::size_t kMemory = std::size_t{4} << 20;

    static std::vector<LaneOptions> lanes_for(const BenchOptions& options) {
        return std::vector<LaneOptions>(std::ranges::max(options.vms));
    }
    static std::vector<std::size_t> indexes(std::size_t count) {
        std::vector<std::size_t> all(count);
        std::iota(all.begin(), all.end(), std::size_t{0});
        return all;
    }

    Bed bed_;
    Parties parties_;
};

// As many queues without VMs: what the NIC and its driver cost when there are many.
class ManyFloors {
  public:
    explicit ManyFloors(Context& context)
        : bed_(context.make_bed(
              kDefaultMtu, std::vector<LaneOptions>(std::ranges::max(context.options.vms),
                                                    {.backend = Backend::kFloor, .rxbuf = {}}))) {
        for (std::size_t i = 0; i < bed_.size(); ++i) all_.push_back({bed_.lane(i)});
    }
    soft82599::Port& nic() { return bed_.nic(); }
    std::span<const Party> all() const { return all_; }

  private:
    Bed bed_;
    std::vector<Party> all_;
};

// The counts with 1 in front, with which the others are compared.
std::vector<unsigned> from_one(std::vector<unsigned> counts) {
    if (counts.front() != 1) counts.insert(counts.begin(), 1);
    return counts;
}

// By place in the counts, by repetition: cycles a frame.
using ByCount = std::vector<std::vector<double>>;

void measure_once(ByCount& cycles, auto& many, std::span<const unsigned> counts, std::size_t size,
                  unsigned bursts) {
    for (std::size_t i = 0; i < counts.size(); ++i) {
        const auto busy = many.all().first(counts[i]);
        const double all = run_worker(many.nic(), busy, {}, size, bursts);
        cycles[i].push_back(all / (kBurst * counts[i]));
    }
}

Summary quotient(const std::vector<double>& of, const std::vector<double>& to) {
    std::vector<double> ratios(of.size());
    std::ranges::transform(of, to, ratios.begin(), std::divides());
    return summarize(ratios);
}

// By repetition: cycles to poll an idle VM.
struct IdlePolls {
    std::vector<double> beside_busy, all_idle;
};

// By place in `counts`, the VMs of a worker of which one may be busy.
std::vector<IdlePolls> measure_idle(ManyVms& vms, std::span<const unsigned> counts,
                                    const BenchOptions& options) {
    constexpr std::size_t kSize = 64;
    // What is looked for is small beside what the busy VM's traffic varies by.
    const unsigned bursts = 10 * options.bursts;
    std::vector<IdlePolls> polls(counts.size());
    const auto busy = vms.all().first(1);
    for (unsigned repetition = 0; repetition < options.repetitions; ++repetition) {
        const double alone = run_worker(vms.nic(), busy, {}, kSize, bursts);
        for (std::size_t i = 0; i < counts.size(); ++i) {
            const auto idle = vms.all().subspan(1, counts[i] - 1);
            const double all = run_worker(vms.nic(), busy, idle, kSize, bursts);
            const auto count = static_cast<double>(idle.size());
            polls[i].beside_busy.push_back((all - alone) / count);
            polls[i].all_idle.push_back(run_idle_worker(idle, bursts) / count);
        }
    }
    return polls;
}

void add(Table& table, const VmsFigures& figures) {
    table.add({name_of(figures.cache), fmt::format("{}", figures.size),
               fmt::format("{}", figures.vms), fmt::format("{:.1f}", figures.cycles.median),
               fmt::format("{:.2f}", figures.to_one.median),
               fmt::format("{:.1f}", figures.floor.median),
               fmt::format("{:.2f}", figures.floor_to_one.median)});
}

}  // namespace

void run_vms(Context& context) {
    ManyVms vms(context);
    ManyFloors floors(context);
    const std::vector<unsigned> counts = from_one(context.options.vms);
    Table table({"cache", "bytes", "VMs", "cycles a frame", "to one VM", "floor", "to one floor"});
    for (const Cache cache : context.options.caches) {
        vms.nic().write_past_cache(cache == Cache::kFlushed);
        floors.nic().write_past_cache(cache == Cache::kFlushed);
        for (const std::size_t size : {64, 1518}) {
            ByCount cycles(counts.size()), floor(counts.size());
            for (unsigned i = 0; i < context.options.repetitions; ++i) {
                measure_once(cycles, vms, counts, size, context.options.bursts);
                measure_once(floor, floors, counts, size, context.options.bursts);
            }
            for (std::size_t i = 0; i < counts.size(); ++i) {
                context.results.vms.push_back({counts[i], cache, size, summarize(cycles[i]),
                                               quotient(cycles[i], cycles[0]), summarize(floor[i]),
                                               quotient(floor[i], floor[0])});
                add(table, context.results.vms.back());
            }
        }
    }
    print_heading("VMs of one worker, the same traffic to each");
    table.print();
}

void run_idle(Context& context) {
    std::vector<unsigned> counts = context.options.vms;
    std::erase(counts, 1U);
    if (counts.empty()) return;
    ManyVms vms(context);
    const std::vector<IdlePolls> polls = measure_idle(vms, counts, context.options);
    Table table({"idle VMs", "cycles a poll beside a busy VM", "no VM busy"});
    for (std::size_t i = 0; i < counts.size(); ++i) {
        const IdleFigures figures{counts[i] - 1, summarize(polls[i].beside_busy),
                                  summarize(polls[i].all_idle)};
        context.results.idle.push_back(figures);
        table.add({fmt::format("{}", figures.idle_vms),
                   fmt::format("{:.1f}", figures.cycles.median),
                   fmt::format("{:.1f}", figures.all_idle.median)});
    }
    print_heading("VMs without traffic");
    table.print();
}

void run_stalled(Context& context) {
    Bed bed = context.make_bed(kDefaultMtu, std::vector<LaneOptions>(2));
    Parties parties(bed, std::array<std::size_t, 2>{0, 1}, {});
    const Party &busy = parties.all()[0], &stalled = parties.all()[1];
    Table table({"bytes", "cycles a frame alone", "beside", "to alone", "of the stalled VM"});
    for (const std::size_t size : {64, 1518}) {
        // Its ring, the NIC's and what the daemon keeps for it are full before anything is timed.
        run_beside_stalled(bed.nic(), busy, stalled, size, 4 * kWarmUp);
        std::vector<double> alone, beside, dropped;
        for (unsigned i = 0; i < context.options.repetitions; ++i) {
            const unsigned bursts = 10 * context.options.bursts;
            alone.push_back(run_worker(bed.nic(), {&busy, 1}, {}, size, bursts) / kBurst);
            const auto both = run_beside_stalled(bed.nic(), busy, stalled, size, bursts);
            beside.push_back(both.busy / kBurst);
            dropped.push_back(both.stalled / kBurst);
        }
        const StalledFigures figures{size, summarize(alone), summarize(beside),
                                     quotient(beside, alone), summarize(dropped)};
        context.results.stalled.push_back(figures);
        table.add({fmt::format("{}", size), fmt::format("{:.1f}", figures.alone.median),
                   fmt::format("{:.1f}", figures.beside.median),
                   fmt::format("{:.2f}", figures.to_alone.median),
                   fmt::format("{:.1f}", figures.stalled.median)});
    }
    print_heading("A VM beside one that posts no buffers, as many frames to each");
    table.print();
}

}  // namespace zecorx::bench
