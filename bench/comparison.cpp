#include "comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "table.h"

namespace zecorx::bench {
namespace {

constexpr std::array kRatios{kToFloor, kGain, kCopies};

using Rounds = std::map<Backend, std::vector<Round>>;

Rounds take_turns(soft82599::Port& nic, std::span<const Party> parties, std::size_t size,
                  const Plan& plan) {
    Rounds rounds;
    for (const Party& party : parties) {
        run_round(nic, party, make_frame(party.lane.mac(), size), kWarmUp);
    }
    for (unsigned repetition = 0; repetition < plan.repetitions; ++repetition) {
        for (const Party& party : parties) {
            const Frame frame = make_frame(party.lane.mac(), size);
            check_delivery(nic, party, frame);
            rounds[party.lane.backend()].push_back(run_round(nic, party, frame, plan.bursts));
        }
    }
    return rounds;
}

Point::Figures figures_of(Backend backend, const std::vector<Round>& rounds) {
    std::vector<double> cycles;
    double zero_copied = 0;
    for (const Round& round : rounds) {
        cycles.push_back(round.cycles);
        zero_copied += round.zero_copied;
    }
    Point::Figures figures{summarize(cycles), {}};
    if (backend == Backend::kZeroCopy) {
        figures.zero_copied = zero_copied / static_cast<double>(rounds.size());
    }
    return figures;
}

// Of what was measured in the same repetition.
Summary quotient(const std::vector<Round>& of, const std::vector<Round>& to) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < of.size(); ++i) ratios.push_back(of[i].cycles / to[i].cycles);
    return summarize(ratios);
}

std::vector<std::string> header_of(const Point& point) {
    std::vector<std::string> header{"cache", "bytes"};
    for (const auto& [backend, figures] : point.backends) header.emplace_back(name_of(backend));
    for (const auto& [ratio, summary] : point.ratios) header.push_back(ratio.name());
    header.emplace_back("zero-copied");
    return header;
}

std::vector<std::string> row_of(const Point& point) {
    std::vector<std::string> row{name_of(point.cache), fmt::format("{}", point.size)};
    std::string share;
    for (const auto& [backend, figures] : point.backends) {
        row.push_back(fmt::format("{:.1f}", figures.cycles.median));
        if (figures.zero_copied) share = fmt::format("{:.1f} %", 100 * *figures.zero_copied);
    }
    for (const auto& [ratio, summary] : point.ratios) {
        row.push_back(fmt::format("{:.2f}", summary.median));
    }
    row.push_back(share);
    return row;
}

}  // namespace

Parties::Parties(Bed& bed, std::span<const std::size_t> lanes, const GuestOptions& guests) {
    for (std::size_t i = 0; i < bed.size(); ++i) await_vacant(bed.lane(i));
    for (const std::size_t index : lanes) {
        Lane& lane = bed.lane(index);
        if (lane.backend() == Backend::kFloor) {
            all_.push_back({lane});
            continue;
        }
        guests_.push_back(connect(lane.socket(), guests));
        await_running(lane);
        all_.push_back({lane, guests_.back().get()});
    }
}

Point compare(soft82599::Port& nic, std::span<const Party> parties, Cache cache, std::size_t size,
              const Plan& plan) {
    nic.write_past_cache(cache == Cache::kFlushed);
    const Rounds rounds = take_turns(nic, parties, size, plan);
    Point point{.cache = cache, .size = size};
    for (const auto& [backend, all] : rounds) point.backends[backend] = figures_of(backend, all);
    for (const Ratio& ratio : kRatios) {
        if (!rounds.contains(ratio.of) || !rounds.contains(ratio.to)) continue;
        point.ratios[ratio] = quotient(rounds.at(ratio.of), rounds.at(ratio.to));
    }
    return point;
}

void print_points(std::span<const Point> points) {
    if (points.empty()) return;
    print_heading(describe(points.front().setup));
    Table table(header_of(points.front()));
    for (const Point& point : points) table.add(row_of(point));
    table.print();
}

}  // namespace zecorx::bench
