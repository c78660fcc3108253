// Migrations of a guest under random traffic: what the copy has is what the memory has, when the
// driver sees a frame completed and when the queue is stopped.
#include "migration.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>

#include "copying_reference.h"
#include "differential_plan.h"
#include "receive_bed.h"
#include "transmit_bed.h"
#include "write_watch.h"

namespace zecorx::test {
namespace {

void expect(bool holds, const std::string& what) {
    if (!holds) [[unlikely]]
        throw std::runtime_error(what);
}

// Two regions of RAM from a low address on, so that the bitmap is short.
FakeMemory small_memory(std::size_t gap) {
    std::vector<RegionSpec> specs = FakeMemory::equal_regions(2, 3_MiB, gap);
    for (RegionSpec& spec : specs) spec.gpa -= kDefaultRamBase - 64_KiB;
    return FakeMemory(specs);
}

// --- What a driver sees of a queue ---

// The side of a virtqueue that the device writes, while it is migrated.
class UsedSide {
  public:
    UsedSide(FakeMemory& memory, QueueDriver& queue, Migration& migration)
        : memory_(memory), queue_(queue), migration_(migration), posted_(memory, queue) {}

    // Call it when the driver has posted something.
    void note_posted() {
        for (PostedChain& chain : posted_.fresh()) held_.push_back(std::move(chain));
    }

    // Lets the device act, and checks that at the moment at which the driver can see chains
    // completed, all that was written to them and to the ring is in the migration's copy or
    // marked. `act` completes chains in one step, if any.
    void watch(const std::function<void()>& act) {
        if (!migration_.converging()) {
            act();
            take_completed();
            return;
        }
        const std::uint16_t before = queue_.used_idx();
        const GuestRange shown = shows(before);
        const Migration::Image* seen = nullptr;
        int writes = 0;
        {
            WriteWatch watch({memory_.at(shown.gpa, shown.len), shown.len}, [&] {
                seen = &migration_.view();
                migration_.transfer(1);  // what is marked too early is lost
            });
            act();
            writes = watch.writes();
        }
        const std::vector<PostedChain> completed = take_completed();
        expect(writes == 1 || (writes == 0 && completed.empty()),
               "completions are not shown by one step");
        if (completed.empty()) return;
        ++watched_;
        for (const PostedChain& chain : completed)
            for (const GuestRange& piece : chain.pieces) expect_same(*seen, piece, "a chain");
        expect_same(*seen, {ring().gpa, shown.gpa - ring().gpa}, "the used ring");
        expect_same(*seen, {shown.end(), ring().end() - shown.end()}, "the used ring");
        expect_same(migration_.view(), ring(), "what shows the driver that");
    }

    // The guest's driver forgets what the device wishes of kicks, so that it has to say it again.
    void forget_wish() {
        if (queue_.is_packed()) {
            *memory_.as<EventSuppress>(queue_.device_area()) = {0xffff, 0};
        } else {
            *memory_.as<std::uint16_t>(queue_.device_area()) = 0;
            const Gpa event = queue_.device_area() + used_ring_size(queue_.size(), false);
            *memory_.as<std::uint16_t>(event) = 0x1234;
        }
    }

    // Forgets what was completed unwatched.
    void catch_up() { take_completed(); }

    std::uint64_t watched() const { return watched_; }

  private:
    GuestRange ring() const {
        if (queue_.is_packed()) return {queue_.descriptor_area(), packed_ring_size(queue_.size())};
        return {queue_.device_area(), used_ring_size(queue_.size())};
    }

    // What is written last of all that a step of the used side writes.
    GuestRange shows(std::uint16_t position) const {
        if (!queue_.is_packed()) return {queue_.device_area() + kRingIdxOffset, 2};
        const std::size_t slot = position & ~kPackedWrap;
        return {queue_.descriptor_area() + sizeof(PackedDesc) * slot + offsetof(PackedDesc, len),
                sizeof(std::uint64_t)};
    }

    void expect_same(const Migration::Image& image, GuestRange range, const char* what) const {
        const auto at = migration_.difference(image, range);
        if (at) throw std::runtime_error(std::string(what) + " differs at GPA " + hex(*at));
    }
    static std::string hex(Gpa gpa) {
        std::ostringstream text;
        text << std::hex << gpa;
        return text.str();
    }

    std::vector<PostedChain> take_completed() {
        std::vector<PostedChain> completed;
        const std::uint16_t end = queue_.used_idx();
        while (!held_.empty() && used_ != end) {
            used_ = after(used_, held_.front().entries);
            completed.push_back(std::move(held_.front()));
            held_.pop_front();
        }
        expect(used_ == end, "the driver sees more completed than it posted");
        return completed;
    }

    std::uint16_t after(std::uint16_t position, std::uint16_t entries) const {
        if (!queue_.is_packed()) return static_cast<std::uint16_t>(position + 1);
        const std::uint32_t slot = (position & ~kPackedWrap) + std::uint32_t{entries};
        const bool turn = slot >= queue_.size();
        return static_cast<std::uint16_t>((turn ? slot - queue_.size() : slot) |
                                          ((position & kPackedWrap) ^ (turn ? kPackedWrap : 0)));
    }

    FakeMemory& memory_;
    QueueDriver& queue_;
    Migration& migration_;
    PostedChains posted_;
    std::deque<PostedChain> held_;  // posted, not completed
    std::uint16_t used_ = queue_.used_idx();
    std::uint64_t watched_ = 0;
};

// What all seeds of a test have seen together.
struct Coverage {
    std::uint64_t frames = 0;
    std::uint64_t zero_copied = 0;
    std::array<std::uint64_t, kCopyReasons> copied{};
    std::array<std::uint64_t, kDropReasons> dropped{};
    std::uint64_t watched = 0;     // steps of the used index
    std::uint64_t migrations = 0;  // that came to their end
    std::uint64_t cancelled = 0;

    void add(const VmCounters& counters) {
        frames += counters.rx_packets.get() + counters.tx_packets.get();
        zero_copied += counters.zero_copied.get();
        for (std::size_t i = 0; i < kCopyReasons; ++i) copied[i] += counters.copied[i].get();
        for (std::size_t i = 0; i < kDropReasons; ++i) dropped[i] += counters.dropped[i].get();
    }
    std::uint64_t of(CopyReason reason) const { return copied[static_cast<std::size_t>(reason)]; }
    std::uint64_t of(DropReason reason) const { return dropped[static_cast<std::size_t>(reason)]; }
};

// --- Receive ---

// Buffers of which `before` bytes lie in the page before: the header, or some of the frame too.
RxLayout at_page_end(std::uint32_t before, std::uint32_t len) {
    return {"at_page_end " + std::to_string(before),
            [before, len](FakeMemory& memory, std::uint32_t header, std::size_t) {
                const Gpa page = memory.allocate(4_KiB + len, 4_KiB) + 4_KiB;
                return RxBufferBuilder(memory).piece_at(page - before, header + len).build();
            }};
}
RxLayout pages_apart(std::uint32_t len) {
    return {"pages_apart", [len](FakeMemory& memory, std::uint32_t header, std::size_t) {
                const Gpa page = memory.allocate(4_KiB + len, 4_KiB);
                return RxBufferBuilder(memory)
                    .piece_at(page, header)
                    .piece_at(page + 4_KiB, len)
                    .build();
            }};
}

// How many buffers of any of the layouts the memory has room for.
std::size_t fitting(std::vector<RxLayout> layouts) {
    std::size_t largest = 0;
    for (RxLayout& layout : layouts) {
        FakeMemory scratch(1_MiB);
        const RxBuffer buffer = layout.place(scratch, kHeaderSize, 0);
        largest = std::max(largest, buffer.capacity() + buffer.pieces.size() * 4_KiB);
    }
    return std::clamp<std::size_t>(2_MiB / largest, 8, 100);
}

Plan draw_small_plan(std::uint32_t seed) {
    Dice dice(seed);
    Plan plan;
    plan.seed = seed;
    plan.mtu = dice.any_of<std::uint32_t>({1500, 1500, 4000});
    plan.bed.driver = {.features = plan_detail::draw_features(dice),
                       .rx_size = dice.any_of<std::uint16_t>({16, 32, 64, 128, 1024}),
                       .tx_size = 16,
                       .first_index = dice.any_of<std::uint16_t>({0, 7, 65535})};
    if (plan.has(kFeatureRingPacked))
        plan.bed.driver.rx_size = static_cast<std::uint16_t>(dice.between(20, 600));
    plan.bed.geometry = plan_detail::draw_geometry(dice, plan.mtu);
    plan.bed.pmd = dice.any_of({PmdMode::kVector, PmdMode::kBulk, PmdMode::kScalar});
    plan.bed.nic_ring = dice.any_of({64U, 128U});
    plan.bed.low_water = 32;
    plan.bed.pending_cap = dice.any_of({1U, 16U, 64U});
    plan.bed.iova = dice.any_of({DeviceView::Iova::kContiguous, DeviceView::Iova::kScattered});
    plan.bed.zero_copy = !dice.one_in(8);
    if (dice.one_in(8)) plan.bed.iova = DeviceView::Iova::kNone;
    const std::uint32_t piece = plan.geometry().piece();
    for (int n = 0; n < 2;) {
        const RxLayout layout = dice.any_of(
            {at_page_end(12, piece), at_page_end(dice.between(13, 1500), piece), pages_apart(piece),
             plan_detail::draw_layout(plan, dice), plan_detail::draw_layout(plan, dice)});
        if (!plan_detail::possible(plan, layout)) continue;
        plan.layouts.push_back(layout);
        ++n;
    }
    plan.bed.driver.layout = plan.layouts.front();
    plan.most_posted = fitting(plan.layouts);
    return plan;
}

// Decides at random. The path copies it, so the dice are elsewhere.
struct RandomCuts {
    std::shared_ptr<Dice> dice;
    Cut operator()(std::span<const FramePiece>) const noexcept {
        Cut cut;
        if (dice->percent(20)) cut.front = dice->any_of({4U, 50U, 700U});
        if (dice->percent(20)) cut.back = dice->any_of({1U, 30U, 700U});
        cut.drop = dice->percent(10);
        return cut;
    }
};

template <ReceiveHook Hook>
class ReceiveRun {
  public:
    ReceiveRun(const Plan& plan, Hook hook, Coverage& coverage)
        : plan_(plan),
          coverage_(coverage),
          dice_(plan.seed ^ 0x10c),
          memory_(small_memory(dice_.any_of({0_MiB, 1_MiB}))),
          bed_(memory_, plan.bed, std::move(hook)),
          migration_(memory_),
          used_(memory_, queue(), migration_) {
        driver().rx().set_refill_threshold(NetReceiver::kRefillFrozen);
        driver().rx().tolerate_scratch();
    }

    void run() {
        if (dice_.percent(80)) refill();
        bed_.start();
        for (int step = 0; step < kSteps; ++step) {
            if (dice_.one_in(12)) switch_log();
            for (std::uint32_t n = dice_.below(20); n > 0; --n) arrive();
            if (dice_.percent(80)) used_.watch([&] { bed_.poll(); });
            if (dice_.one_in(16)) restart();
            if (dice_.percent(50)) migration_.guest([&] { driver().receive(); });
            if (dice_.percent(60)) migration_.guest([&] { refill(); });
            if (step == kSteps / 2) driver().rx().set_layout(plan_.layouts.back());
            migration_.transfer(dice_.below(400));
        }
        if (!migration_.active()) bed_.set_log(migration_.begin());
        restart();
        ++coverage_.migrations;
        coverage_.watched += used_.watched();
        coverage_.add(bed_.counters());
        expect(!bed_.path().broken(), "the ring is broken");
        expect(migration_.strange_pages() == 0, "a page is marked that no region has");
        expect(migration_.sentinels_intact(), "bytes behind the bitmap were written");
    }

  private:
    static constexpr int kSteps = 60;

    NetDriver& driver() { return bed_.driver(); }
    QueueDriver& queue() { return driver().rx().queue(); }

    void refill() {
        const std::size_t held = queue().outstanding();
        const std::size_t room = plan_.most_posted - std::min(plan_.most_posted, held);
        driver().rx().refill(std::min<std::size_t>(room, dice_.below(121)));
        used_.note_posted();
    }

    void arrive() {
        const std::uint32_t f = plan_.geometry().max_frame;
        const auto size = dice_.any_of({60U, 64U, f, dice_.between(60, 200), dice_.between(60, f)});
        bed_.arrive(make_frame({.seq = dice_.below(1000), .size = size}));
    }

    void switch_log() {
        if (migration_.active() && dice_.percent(40)) {
            migration_.cancel();
            bed_.set_log({});
            ++coverage_.cancelled;
        } else if (!migration_.active()) {
            bed_.set_log(migration_.begin());
        }
    }

    // The VM is stopped, and if it is migrated goes on from the copy, which must be the memory.
    void restart() {
        const std::uint32_t pieces = plan_.geometry().descriptors();
        if (pieces > 1 && bed_.posted() >= pieces && dice_.percent(50)) {
            bed_.arrive_in_part(make_frame({.size = plan_.geometry().max_frame}),
                                dice_.between(1, pieces - 1));
        }
        bed_.stop(dice_.percent(50));
        used_.catch_up();
        if (migration_.active()) check_copy();
        migration_.guest([&] { used_.forget_wish(); });
        bed_.start();
    }

    void check_copy() {
        migration_.finish();
        const auto at = migration_.difference();
        expect(!at,
               "the copy differs from what is stopped, at GPA " + std::to_string(at.value_or(0)));
    }

    const Plan& plan_;
    Coverage& coverage_;
    Dice dice_;
    FakeMemory memory_;
    HookedReceiveBed<Hook> bed_;
    Migration migration_;
    UsedSide used_;
};

template <ReceiveHook Hook>
void run_receive(std::uint32_t seed, Hook hook, Coverage& coverage) {
    const Plan plan = draw_small_plan(seed);
    INFO(describe(plan));
    try {
        ReceiveRun<Hook>(plan, std::move(hook), coverage).run();
    } catch (const std::exception& error) {
        FAIL(error.what());
    }
}

}  // namespace

TEST_CASE("a guest that receives can be migrated at any moment, and log on and off between",
          "[random]") {
    Coverage coverage;
    for (std::uint32_t seed = 1; seed <= 80; ++seed) run_receive(seed, NoHook{}, coverage);

    CHECK(coverage.zero_copied * 6 > coverage.frames);
    for (std::size_t reason = 0; reason < kCopyReasons; ++reason) {
        CAPTURE(kCopyReasonNames[reason]);
        CHECK(coverage.copied[reason] > 0);
    }
    CHECK(coverage.of(DropReason::kTooBig) > 0);
    CHECK(coverage.of(DropReason::kNoBuffer) > 0);
    CHECK(coverage.of(DropReason::kStopped) > 0);
    CHECK(coverage.watched > 1000);
    CHECK(coverage.cancelled > 50);
}

TEST_CASE("so can one whose frames are cut and dropped by a receive hook", "[random]") {
    Coverage coverage;
    for (std::uint32_t seed = 201; seed <= 240; ++seed)
        run_receive(seed, RandomCuts{std::make_shared<Dice>(seed)}, coverage);
    CHECK(coverage.of(DropReason::kHook) > 100);
    CHECK(coverage.zero_copied > 100);
    CHECK(coverage.watched > 500);
}

// --- Transmit ---

namespace {

class TransmitRun {
  public:
    TransmitRun(std::uint32_t seed, Coverage& coverage)
        : coverage_(coverage),
          dice_(seed),
          features_(kTransmitFeatures | dice_.any_of<std::uint64_t>({0, kFeatureRingPacked}) |
                    dice_.any_of<std::uint64_t>({0, kFeatureEventIdx})),
          bed_({.features = features_, .tx_size = dice_.any_of<std::uint16_t>({8, 64, 1024})},
               small_memory(1_MiB)),
          migration_(bed_.memory),
          used_(bed_.memory, queue(), migration_) {}

    void run() {
        for (int step = 0; step < kSteps; ++step) {
            if (dice_.one_in(12)) switch_log();
            migration_.guest([&] { send(); });
            if (dice_.percent(80))
                used_.watch([&] { bed_.path.burst(dice_.between(1, 32), bed_.sink); });
            if (dice_.one_in(16)) restart();
            if (dice_.percent(50)) migration_.guest([&] { bed_.driver.reap_transmitted(); });
            migration_.transfer(dice_.below(400));
        }
        if (!migration_.active()) bed_.path.set_log(log_ = migration_.begin());
        restart();
        ++coverage_.migrations;
        coverage_.watched += used_.watched();
        coverage_.add(bed_.counters);
        expect(migration_.strange_pages() == 0, "a page is marked that no region has");
        expect(bed_.driver.violations().empty(), "the driver found a violation");
    }

  private:
    static constexpr int kSteps = 60;

    QueueDriver& queue() { return bed_.driver.tx().queue(); }

    void send() {
        for (std::uint32_t n = dice_.below(20); n > 0; --n) {
            const auto max_piece = dice_.any_of({UINT32_MAX, 100U});
            bed_.driver.send(make_frame({.size = dice_.between(60, 400)}),
                             {.header_apart = dice_.percent(30), .max_piece = max_piece});
        }
        used_.note_posted();
    }

    void switch_log() {
        if (migration_.active() && dice_.percent(40)) {
            migration_.cancel();
            bed_.path.set_log(log_ = {});
            ++coverage_.cancelled;
        } else if (!migration_.active()) {
            bed_.path.set_log(log_ = migration_.begin());
        }
    }

    void restart() {
        bed_.path.detach();
        if (migration_.active()) {
            migration_.finish();
            expect(!migration_.difference(), "the copy differs from what is stopped");
        }
        migration_.guest([&] { used_.forget_wish(); });
        const bool event_idx = (features_ & kFeatureEventIdx) != 0;
        bed_.path.attach(bed_.view.ring(queue(), bed_.memory, event_idx), bed_.view.guest(),
                         features_, log_);
        if (!migration_.active()) return;
        migration_.finish();
        expect(!migration_.difference(), "the copy differs from what is started");
    }

    Coverage& coverage_;
    Dice dice_;
    const std::uint64_t features_;
    TransmitBed bed_;
    DirtyLog log_;
    Migration migration_;
    UsedSide used_;
};

}  // namespace

TEST_CASE("a guest that transmits can be migrated at any moment, and log on and off between",
          "[random]") {
    Coverage coverage;
    for (std::uint32_t seed = 1; seed <= 40; ++seed) {
        CAPTURE(seed);
        try {
            TransmitRun(seed, coverage).run();
        } catch (const std::exception& error) {
            FAIL(error.what());
        }
    }
    CHECK(coverage.frames > 5000);
    CHECK(coverage.watched > 500);
    CHECK(coverage.cancelled > 20);
}

}  // namespace zecorx::test
