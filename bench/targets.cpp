#include "targets.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "table.h"

namespace zecorx::bench {
namespace {

using Bound = Target::Bound;

constexpr std::size_t kSmallest = 64, kLargest = 1518;  // bytes

// Takes the value if it is worse than what there is.
void add(Target& target, double value, const std::string& where) {
    if (std::isnan(value)) return;
    const bool worse =
        !target.measured ||
        (target.bound == Bound::kAtMost ? value > *target.measured : value < *target.measured);
    if (!worse) return;
    target.measured = value;
    target.where = where;
}

std::string describe(const Point& point) {
    return fmt::format("{} bytes, {}", point.size, bench::describe(point.setup));
}

// Of the points in this cache state for which `about` holds.
Target on_points(Target target, const std::vector<Point>& points, Cache cache, const auto& about,
                 const auto& value) {
    for (const Point& point : points) {
        if (point.cache == cache && about(point)) add(target, value(point), describe(point));
    }
    return target;
}

auto ratio(const Ratio& which) {
    return [which](const Point& point) { return point.ratio(which); };
}

auto of_size(std::size_t first, std::size_t last) {
    return [=](const Point& point) { return point.size >= first && point.size <= last; };
}

auto of_size(std::size_t size) { return of_size(size, size); }

bool same(const Setup& a, const Setup& b) { return bench::describe(a) == bench::describe(b); }

// How much more zero-copy grows with the frame than the floor does.
double growth(const std::vector<Point>& points, const Point& largest) {
    for (const Point& point : points) {
        if (point.size == kSmallest && point.cache == largest.cache &&
            same(point.setup, largest.setup)) {
            return largest.ratio(kToFloor) / point.ratio(kToFloor);
        }
    }
    return NAN;
}

void judge_gains(std::vector<Target>& targets, const std::vector<Point>& points, Cache cache) {
    struct Gain {
        std::size_t size;
        double warm, flushed;
    };
    for (const Gain& gain : {Gain{64, 2.5, 2}, Gain{512, 8, 5}, Gain{1518, 15, 9}}) {
        targets.push_back(on_points(
            {.name = fmt::format("rte_vhost / zero-copy, {}, {}", gain.size, name_of(cache)),
             .bound = Bound::kAtLeast,
             .limit = cache == Cache::kWarm ? gain.warm : gain.flushed},
            points, cache, of_size(gain.size), ratio(kGain)));
    }
}

void judge_receive(std::vector<Target>& targets, const std::vector<Point>& points, Cache cache) {
    const auto named = [&](const char* what) {
        return fmt::format("{}, {}-{}, {}", what, kSmallest, kLargest, name_of(cache));
    };
    const auto whole_range = of_size(kSmallest, kLargest);
    targets.push_back(on_points({.name = named("zero-copy / floor"), .limit = 1.35}, points, cache,
                                whole_range, ratio(kToFloor)));
    targets.push_back(on_points({.name = named("growth of zero-copy / of floor"), .limit = 1.15},
                                points, cache, of_size(kLargest),
                                [&](const Point& point) { return growth(points, point); }));
    judge_gains(targets, points, cache);
    targets.push_back(on_points({.name = named("copy / rte_vhost"), .limit = 1}, points, cache,
                                whole_range, ratio(kCopies)));
}

void judge_share(std::vector<Target>& targets, const std::vector<Point>& points,
                 std::uint16_t ring) {
    Target target{.name = fmt::format("zero-copy share, ring of {}", ring),
                  .bound = Bound::kAtLeast,
                  .limit = 0.98};
    for (const Point& point : points) {
        const auto found = point.backends.find(Backend::kZeroCopy);
        if (point.setup.ring != ring || found == point.backends.end()) continue;
        add(target, found->second.zero_copied.value_or(NAN), describe(point));
    }
    targets.push_back(target);
}

void judge_pieces(std::vector<Target>& targets, const Results& results) {
    targets.push_back(on_points({.name = "segmented: rte_vhost / zero-copy, 1518, warm",
                                 .bound = Bound::kMoreThan,
                                 .limit = 1},
                                results.segmented, Cache::kWarm, of_size(kLargest), ratio(kGain)));
    const auto in_pages = [](const Point& point) {
        return point.size == 9000 && point.setup.buffers == test::RxLayout::page().name();
    };
    targets.push_back(on_points({.name = "jumbo: rte_vhost / zero-copy, 9000, page buffers, warm",
                                 .bound = Bound::kAtLeast,
                                 .limit = 5},
                                results.jumbo, Cache::kWarm, in_pages, ratio(kGain)));
}

void judge_vms(std::vector<Target>& targets, const Results& results) {
    Target many{.name = "32 VMs / 1 VM", .limit = 1.3};
    for (const VmsFigures& figures : results.vms) {
        if (figures.vms != 32) continue;
        add(many, figures.to_one.median,
            fmt::format("{} bytes, cache {}", figures.size, name_of(figures.cache)));
    }
    Target idle{.name = "poll of an idle VM, cycles", .limit = 20};
    for (const IdleFigures& figures : results.idle) {
        add(idle, figures.cycles.median, fmt::format("{} idle VMs", figures.idle_vms));
    }
    targets.push_back(many);
    targets.push_back(idle);
}

void judge_sessions(std::vector<Target>& targets, const Results& results) {
    Target attach{.name = "attach with 1024 MiB, ms", .limit = 50};
    for (const AttachFigures& figures : results.attach) {
        if (figures.backend != Backend::kZeroCopy || figures.memory != 1024) continue;
        add(attach, figures.attach.median, "");
    }
    Target memory{.name = "memory of a VM, MiB", .limit = 4};
    if (results.memory) add(memory, results.memory->per_vm / (1 << 20), "");
    targets.push_back(attach);
    targets.push_back(memory);
}

std::string verdict(const Target& target) {
    if (!target.met()) return "not measured";
    return *target.met() ? "met" : "MISSED";
}

}  // namespace

std::vector<Target> judge(const Results& results) {
    std::vector<Target> targets;
    for (const Cache cache : {Cache::kWarm, Cache::kFlushed}) {
        judge_receive(targets, results.receive, cache);
    }
    for (const std::uint16_t ring : {256, 1024}) judge_share(targets, results.receive, ring);
    judge_pieces(targets, results);
    judge_vms(targets, results);
    judge_sessions(targets, results);
    return targets;
}

bool print_verdicts(const std::vector<Target>& targets) {
    Table table({"target", "wanted", "measured", "verdict"});
    for (const Target& target : targets) {
        const std::string measured = target.measured ? fmt::format("{:.3f}", *target.measured) : "";
        table.add({target.name, target.wanted(), measured, verdict(target)});
    }
    print_heading("Targets, each by the worst that was measured");
    table.print();
    return std::ranges::none_of(targets,
                                [](const Target& target) { return target.met() == false; });
}

}  // namespace zecorx::bench
