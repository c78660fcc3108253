// One run of the differential test: everything that varies, drawn from a seed.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "receive_bed.h"

namespace zecorx::test {

class Dice {
  public:
    explicit Dice(std::uint32_t seed) : engine_(seed) {}

    std::uint32_t below(std::uint32_t limit) {
        return static_cast<std::uint32_t>(engine_() % limit);
    }
    std::uint32_t between(std::uint32_t low, std::uint32_t high) {
        return low + below(high - low + 1);
    }
    bool one_in(std::uint32_t n) { return below(n) == 0; }
    bool percent(std::uint32_t chance) { return below(100) < chance; }
    template <typename T>
    T any_of(std::initializer_list<T> values) {
        return values.begin()[below(static_cast<std::uint32_t>(values.size()))];
    }
    template <typename T>
    const T& any_of(const std::vector<T>& values) {
        return values[below(static_cast<std::uint32_t>(values.size()))];
    }

  private:
    std::mt19937 engine_;
};

// How a guest and its traffic behave, in percent for each step of the run.
struct Habits {
    std::uint32_t refills = 100;      // posts up to refill_most buffers
    std::uint32_t refill_most = 256;  // buffers
    std::uint32_t receives = 100;     // looks at the used ring
    std::uint32_t freezes = 0;        // does neither for a while
    std::uint32_t stops = 0;          // the queue is stopped and started again
    std::uint32_t burst_most = 32;    // frames that arrive at once
};

struct Plan {
    std::uint32_t seed = 0;
    ReceiveBedOptions bed;
    std::uint32_t mtu = kDefaultMtu;
    std::size_t regions = 1;
    std::size_t region_size = 0;    // bytes
    std::vector<RxLayout> layouts;  // what the driver posts, one after the other
    Habits habits;
    std::uint32_t frames = 0;
    std::size_t most_posted = 0;  // buffers the driver has posted at once

    bool has(std::uint64_t feature) const { return (bed.driver.features & feature) != 0; }
    bool mergeable() const { return has(kFeatureNetMrgRxbuf); }
    const QueueGeometry& geometry() const { return bed.geometry; }
};

inline std::string describe(const Plan& plan) {
    std::ostringstream out;
    out << "seed " << plan.seed << ": features 0x" << std::hex << plan.bed.driver.features
        << std::dec << ", MTU " << plan.mtu << ", F " << plan.geometry().max_frame
        << ", NIC buffer " << plan.geometry().nic_buffer << ", NIC's header "
        << plan.geometry().device_header << ", NIC ring " << plan.bed.nic_ring << ", PMD mode "
        << static_cast<int>(plan.bed.pmd) << ", low water " << plan.bed.low_water
        << ", pending cap " << plan.bed.pending_cap << (plan.bed.zero_copy ? "" : ", copying")
        << ", guest ring " << plan.bed.driver.rx_size << " from index "
        << plan.bed.driver.first_index << ", at most " << plan.most_posted << " posted, "
        << plan.regions << " regions, "
        << std::array{"contiguous", "scattered", "no"}.at(static_cast<std::size_t>(plan.bed.iova))
        << " pages, " << plan.frames << " frames, layouts";
    for (const RxLayout& layout : plan.layouts) out << " [" << layout.name() << ']';
    return out.str();
}

// Chains of one to ten pieces of any length, empty ones among them, some with the header apart and
// some at odd addresses.
inline RxLayout random_pieces(std::uint32_t seed, std::uint32_t most_bytes) {
    return {"random_pieces " + std::to_string(most_bytes),
            [dice = Dice(seed), most_bytes](FakeMemory& memory, std::uint32_t header,
                                            std::size_t) mutable {
                RxBufferBuilder builder(memory);
                builder.offset(dice.any_of({0U, 0U, 1U, 2U, 20U}));
                if (dice.one_in(3)) builder.piece(header);
                for (std::uint32_t n = dice.any_of({1U, 1U, 2U, 3U, 9U}); n > 1; --n)
                    builder.piece(dice.below(most_bytes / n));
                return builder.piece(1 + dice.below(most_bytes)).build();
            }};
}

// Chains of forty pieces, all of which the longest frame reaches.
inline RxLayout many_pieces(std::uint32_t most_bytes) {
    return {"many_pieces " + std::to_string(most_bytes),
            [most_bytes](FakeMemory& memory, std::uint32_t header, std::size_t) {
                RxBufferBuilder builder(memory);
                for (int n = 0; n < 40; ++n) builder.piece((header + most_bytes + 39) / 40);
                return builder.build();
            },
            MrgRxbuf::kAny, DescForm::kIndirect};
}

// The header apart, and room for `len` bytes behind it.
inline RxLayout header_apart(std::uint32_t len) {
    return {"header_apart " + std::to_string(len),
            [len](FakeMemory& memory, std::uint32_t header, std::size_t) {
                return RxBufferBuilder(memory).piece(header).piece(len).build();
            }};
}

// The same buffers behind one descriptor each.
inline RxLayout indirect(RxLayout layout) {
    return {layout.name() + ", indirect",
            [layout](FakeMemory& memory, std::uint32_t header, std::size_t ordinal) mutable {
                return layout.place(memory, header, ordinal);
            },
            layout.mrg_rxbuf(), DescForm::kIndirect};
}

namespace plan_detail {

inline std::uint64_t draw_features(Dice& dice) {
    std::uint64_t features = 0;
    if (dice.percent(75)) features |= kFeatureVersion1;
    if (dice.percent(70)) features |= kFeatureNetMrgRxbuf;
    if (dice.percent(50)) features |= kFeatureNetGuestCsum;
    if (dice.percent(50)) features |= kFeatureEventIdx;
    if (dice.percent(50)) features |= kFeatureIndirectDesc;
    if (dice.percent(30)) features |= kFeatureInOrder;
    if (dice.percent(40)) features |= kFeatureRingPacked | kFeatureVersion1;
    return features;
}

inline QueueGeometry draw_geometry(Dice& dice, std::uint32_t mtu) {
    const std::uint32_t max_frame = PortGeometry{mtu}.max_frame(dice.percent(50));
    if (dice.one_in(6)) return {max_frame, max_frame, kHeaderSize};  // a header of its own
    const auto nic_buffer = dice.any_of<std::uint32_t>({0, 1024, 2048, 4096, 16384});
    return nic_buffer == 0 ? QueueGeometry::whole(max_frame) : QueueGeometry{max_frame, nic_buffer};
}

inline std::vector<RxLayout> layouts_for(const Plan& plan, Dice& dice) {
    const QueueGeometry& geometry = plan.geometry();
    const std::uint32_t piece = geometry.piece();
    std::vector<RxLayout> all = RxLayout::all_layouts(plan.mtu);
    for (const std::uint32_t length : {piece - 1, piece, piece + 1, geometry.max_frame,
                                       geometry.nic_buffer - 1, geometry.nic_buffer})
        all.push_back(RxLayout::single(length));
    for (const std::uint32_t length : {5U, 11U, 12U, 13U, 40U, 72U, 300U, 1024U, 1036U})
        all.push_back(RxLayout::tiny(length));
    for (const std::uint32_t most : {200U, 1200U, piece + 200})
        all.push_back(random_pieces(dice.below(1U << 30), most));
    all.push_back(many_pieces(piece));
    return all;
}

// What takes DMA wherever it lies: half of all runs are about zero copy.
inline RxLayout draw_postable(const Plan& plan, Dice& dice) {
    const std::uint32_t piece = plan.geometry().piece();
    const std::uint32_t most = std::max(plan.geometry().nic_buffer, piece + 500);
    const std::uint32_t room = dice.any_of({piece, piece + 1, dice.between(piece, most)});
    return dice.one_in(3) ? header_apart(room) : RxLayout::single(room);
}

// Whether the driver can post such buffers and the device serve them.
inline bool possible(const Plan& plan, RxLayout layout) {
    // iPXE's one header for all buffers: another frame's header would be in the way of what the
    // test compares, or of what a chain behind a frame's first begins with.
    if (layout.name().starts_with("ipxe") && (plan.mergeable() || plan.has(kFeatureNetGuestCsum)))
        return false;
    if (layout.indirect()) return plan.has(kFeatureIndirectDesc);
    FakeMemory scratch(1_MiB);
    return layout.place(scratch, kHeaderSize, 0).pieces.size() <= plan.bed.driver.rx_size;
}

inline RxLayout draw_layout(const Plan& plan, Dice& dice) {
    const RxLayout layout =
        dice.percent(50) ? draw_postable(plan, dice) : dice.any_of(layouts_for(plan, dice));
    return plan.has(kFeatureIndirectDesc) && dice.percent(50) ? indirect(layout) : layout;
}

inline std::vector<RxLayout> draw_layouts(const Plan& plan, Dice& dice) {
    std::vector<RxLayout> drawn;
    for (std::uint32_t n = dice.any_of({1U, 1U, 2U, 3U}); drawn.size() < n;) {
        RxLayout layout = draw_layout(plan, dice);
        if (possible(plan, layout)) drawn.push_back(std::move(layout));
    }
    return drawn;
}

// Megabytes of canaries would take the time of hundreds of frames.
inline std::size_t draw_most_posted(const Plan& plan, Dice& dice) {
    const bool big = std::ranges::any_of(plan.layouts, [](const RxLayout& layout) {
        return layout.frame_room(kHeaderSize) > 20000;
    });
    return big ? dice.any_of<std::size_t>({8, 30}) : dice.any_of<std::size_t>({8, 40, 200, 400});
}

inline Habits draw_habits(Dice& dice) {
    Habits habits{.refill_most = 400, .burst_most = dice.any_of({1U, 4U, 16U, 40U})};
    if (dice.percent(40)) {
        habits.refill_most = dice.any_of({4U, 16U, 64U, 256U});
        habits.refills = dice.any_of({10U, 40U, 80U});
        habits.receives = dice.any_of({20U, 60U, 100U});
        habits.freezes = dice.any_of({0U, 2U, 10U});
    }
    if (dice.percent(40)) habits.stops = dice.any_of({2U, 8U});
    return habits;
}

}  // namespace plan_detail

inline Plan draw_plan(std::uint32_t seed) {
    Dice dice(seed);
    Plan plan;
    plan.seed = seed;
    plan.regions = dice.any_of<std::size_t>({1, 2, 4});
    plan.region_size = 64_MiB;
    plan.mtu = dice.any_of<std::uint32_t>({1500, 1500, 1501, 4000, 9000, 9216});
    plan.bed.driver = {
        .features = plan_detail::draw_features(dice),
        .rx_size = dice.any_of<std::uint16_t>({16, 16, 32, 64, 128, 256, 256, 512, 1024, 32768}),
        .tx_size = 16,
        .first_index = dice.any_of<std::uint16_t>({0, 7, 65400, 65535, 32768})};
    if (plan.has(kFeatureRingPacked) && dice.percent(50)) {
        // Need not be a power of two (VIRTIO 2.8).
        plan.bed.driver.rx_size = static_cast<std::uint16_t>(dice.between(16, 700));
    }
    plan.bed.geometry = plan_detail::draw_geometry(dice, plan.mtu);
    plan.bed.pmd = dice.any_of({PmdMode::kVector, PmdMode::kBulk, PmdMode::kScalar});
    plan.bed.nic_ring = dice.any_of({64U, 64U, 128U, 192U, 256U, 512U});
    plan.bed.low_water = dice.any_of({32U, 64U});
    plan.bed.pending_cap = dice.any_of({1U, 16U, 64U, 256U});
    plan.bed.iova = dice.any_of({DeviceView::Iova::kContiguous, DeviceView::Iova::kScattered});
    plan.bed.zero_copy = !dice.one_in(16);
    if (dice.one_in(16)) plan.bed.iova = DeviceView::Iova::kNone;
    plan.layouts = plan_detail::draw_layouts(plan, dice);
    plan.bed.driver.layout = plan.layouts.front();
    plan.habits = plan_detail::draw_habits(dice);
    plan.frames = dice.between(50, 300) / (plan.mtu > 4000 ? 2 : 1);
    plan.most_posted = plan_detail::draw_most_posted(plan, dice);
    return plan;
}

}  // namespace zecorx::test
