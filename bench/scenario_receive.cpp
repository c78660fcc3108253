// Every backend with whole frames of every size: receive, and with frames in several buffers:
// segmented and jumbo.
#include <array>

#include "comparison.h"
#include "scenarios.h"

namespace zecorx::bench {
namespace {

using test::RxLayout;

// Indexes of the lanes on a bed of all_backends().
constexpr std::array<std::size_t, 4> kAll{0, 1, 2, 3};
// net_virtio_user hands out all of DPDK's memory, and cannot once that of another guest belongs to
// it: one VM of ours at a time, connected last.
constexpr std::array<std::size_t, 3> kWithZeroCopy{0, 3, 1};
constexpr std::array<std::size_t, 3> kWithCopy{0, 3, 2};

std::vector<LaneOptions> all_backends(std::optional<std::uint32_t> rxbuf = {}) {
    return {{Backend::kFloor, {}},
            {Backend::kZeroCopy, rxbuf},
            {Backend::kCopy, rxbuf},
            {Backend::kRteVhost, {}}};
}

struct Case {
    GuestOptions guest;
    std::vector<std::size_t> sizes;
    std::optional<std::uint32_t> rxbuf{};
};

Setup setup_of(const Case& of) {
    const PortGeometry port{of.guest.mtu};
    const bool fake = of.guest.driver == Driver::kFake;
    return {.guest = of.guest.driver,
            .buffers = fake ? of.guest.buffers.name() : RxLayout::dpdk().name(),
            .ring = of.guest.ring,
            .packed = of.guest.packed,
            .mergeable = of.guest.mergeable,
            .nic_buffer = of.rxbuf.value_or(QueueGeometry::whole(port.max_frame(false)).nic_buffer),
            .mtu = of.guest.mtu};
}

std::vector<Point> measure(const Context& context, Bed& bed, std::span<const std::size_t> lanes,
                           const Case& of) {
    const Parties parties(bed, lanes, of.guest);
    const Plan plan{context.options.repetitions, context.options.bursts};
    std::vector<Point> points;
    for (const Cache cache : context.options.caches) {
        for (const std::size_t size : of.sizes) {
            points.push_back(compare(bed.nic(), parties.all(), cache, size, plan));
            points.back().setup = setup_of(of);
        }
    }
    return points;
}

// What both measured, as the first did.
void merge(std::vector<Point>& points, const std::vector<Point>& others) {
    for (std::size_t i = 0; i < points.size(); ++i) {
        points[i].backends.insert(others[i].backends.begin(), others[i].backends.end());
        points[i].ratios.insert(others[i].ratios.begin(), others[i].ratios.end());
    }
}

void measure_all(const Context& context, Bed& bed, const Case& of, std::vector<Point>& results) {
    std::vector<Point> points;
    if (of.guest.driver == Driver::kFake) {
        points = measure(context, bed, kAll, of);
    } else {
        points = measure(context, bed, kWithZeroCopy, of);
        merge(points, measure(context, bed, kWithCopy, of));
    }
    print_points(points);
    results.insert(results.end(), points.begin(), points.end());
}

std::vector<Case> receive_cases(const BenchOptions& options) {
    std::vector<Case> cases;
    for (const Driver driver : options.guests) {
        for (const std::uint16_t ring : options.rings) {
            for (const bool packed : options.packed) {
                for (const bool mergeable : options.mergeable) {
                    cases.push_back({{.driver = driver,
                                      .ring = ring,
                                      .packed = packed,
                                      .mergeable = mergeable,
                                      .buffers = mergeable ? RxLayout::linux_mergeable()
                                                           : RxLayout::linux_small()},
                                     options.sizes});
                }
            }
        }
    }
    return cases;
}

void run_jumbo_case(Context& context, RxLayout buffers, std::optional<std::uint32_t> rxbuf) {
    constexpr std::uint32_t kMtu = 9000;
    // A burst of the longest frames takes 288 buffers of 1 KiB.
    constexpr std::uint16_t kRing = 1024;
    Bed bed = context.make_bed(kMtu, all_backends(rxbuf));
    measure_all(
        context, bed,
        {{.ring = kRing, .buffers = std::move(buffers), .mtu = kMtu}, {1518, 4096, 9000}, rxbuf},
        context.results.jumbo);
}

}  // namespace

void run_receive(Context& context) {
    Bed bed = context.make_bed(kDefaultMtu, all_backends());
    for (const Case& of : receive_cases(context.options)) {
        measure_all(context, bed, of, context.results.receive);
    }
}

// On a port of its own: one queue with such buffers is enough for the PMD to take another receive
// function for all.
void run_segmented(Context& context) {
    constexpr std::uint32_t kNicBuffer = 1024;
    Bed bed = context.make_bed(kDefaultMtu, all_backends(kNicBuffer));
    measure_all(context, bed, {{}, {64, 1024, 1518}, kNicBuffer}, context.results.segmented);
}

void run_jumbo(Context& context) {
    run_jumbo_case(context, RxLayout::page(), 3072);
    run_jumbo_case(context, RxLayout::linux_mergeable(), 1024);
    run_jumbo_case(context, RxLayout::jumbo(), std::nullopt);
}

}  // namespace zecorx::bench
