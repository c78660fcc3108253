// The receive path against a backend that only copies: the same random traffic, drivers and faults
// through both, and every frame must end up in the same chains with the same lengths and header.
//
// Losses are as strict: what the wire lost is known from the NIC, and the reference computes which
// of the newest frames a starving driver costs, which never fit and which a stop loses.
//
// A failure names its seed. Environment:
//   DIFFERENTIAL_SEED=n    begin with seed n, and run only that one
//   DIFFERENTIAL_SEEDS=n   run n seeds instead
#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "copying_reference.h"
#include "differential_plan.h"
#include "receive_bed.h"

namespace zecorx::test {
namespace {

struct Mismatch : std::runtime_error {
    using std::runtime_error::runtime_error;
};

void expect(bool holds, const char* what) {
    if (!holds) [[unlikely]]
        throw Mismatch(what);
}

template <typename Left, typename Right>
void expect_equal(const Left& got, const Right& wanted, const char* what) {
    if (got == wanted) [[likely]]
        return;
    throw Mismatch(std::string(what) + ": " + std::to_string(got) + " instead of " +
                   std::to_string(wanted));
}

std::string list(const auto& numbers) {
    std::string text;
    for (const auto number : numbers) text += ' ' + std::to_string(number);
    return text;
}

// What all seeds of a test have seen together, to show that it tests what it means to.
struct Coverage {
    std::uint64_t frames = 0;
    std::uint64_t zero_copied = 0;
    std::array<std::uint64_t, kCopyReasons> copied{};
    std::uint64_t merged = 0;  // frames in several chains
    std::uint64_t wire_lost = 0;
    std::uint64_t too_big = 0;
    std::uint64_t no_buffer = 0;
    std::uint64_t stopped = 0;
    std::uint64_t wedged = 0;  // runs whose driver could not post what its first frame needs
};

class Run {
  public:
    explicit Run(const Plan& plan, Coverage& coverage)
        : plan_(plan),
          coverage_(coverage),
          dice_(plan.seed ^ 0x5eed),
          memory_(FakeMemory::equal_regions(plan.regions, plan.region_size, 0)),
          bed_(memory_, plan.bed),
          posted_(memory_, bed_.driver().rx().queue()),
          reference_({.header_size = net_header_size(plan.bed.driver.features),
                      .mergeable = plan.mergeable(),
                      .guest_csum = plan.has(kFeatureNetGuestCsum),
                      .nic_buffer = plan.geometry().nic_buffer,
                      .max_frame = plan.geometry().max_frame,
                      .pending_cap = plan.bed.pending_cap,
                      .ring_size = plan.bed.driver.rx_size}) {
        driver().rx().set_refill_threshold(NetReceiver::kRefillFrozen);
        queue().want_calls(calls_wanted_ = dice_.percent(70));
        tolerate(plan.mergeable() && plan.geometry().segmented() ? kHeaderSize : 0);
        bed_.observe_polls([this](std::uint32_t delivered, std::uint32_t completed) {
            follow_poll(delivered, completed);
        });
    }

    void run() {
        if (dice_.percent(80)) post(dice_.percent(80) ? plan_.most_posted : dice_.below(8));
        bed_.start();
        const std::uint32_t most_steps = 40 * plan_.frames;
        for (std::uint32_t step = 0; sent_ < plan_.frames && step < most_steps; ++step) {
            if (dice_.percent(plan_.habits.stops)) restart();
            if (dice_.percent(plan_.habits.freezes)) frozen_ = dice_.between(1, 20);
            send_burst();
            if (dice_.percent(80)) bed_.poll();
            if (frozen_ > 0) {
                --frozen_;
                continue;
            }
            if (dice_.percent(plan_.habits.receives)) receive();
            if (dice_.percent(plan_.habits.refills)) refill(plan_.habits.refill_most);
            if (dice_.one_in(8)) change_layout();
        }
        finish();
    }

  private:
    // Chains that no frame needs more of.
    static constexpr std::size_t kEnoughPosted = 300;

    NetDriver& driver() { return bed_.driver(); }
    QueueDriver& queue() { return driver().rx().queue(); }

    // --- The driver ---

    void refill(std::uint32_t most) {
        const std::size_t held = queue().outstanding();
        const std::size_t room = plan_.most_posted - std::min(plan_.most_posted, held);
        post(std::min<std::size_t>(room, dice_.between(0, most)));
    }

    std::size_t post(std::size_t buffers) {
        const std::size_t count = driver().rx().refill(buffers);
        reference_.posted(posted_.fresh());
        return count;
    }

    // Buffers of the layout before stay allocated, so there is an end to it.
    void change_layout() {
        if (layout_changes_++ < 2 * plan_.layouts.size())
            driver().rx().set_layout(dice_.any_of(plan_.layouts));
    }

    void receive() {
        for (const ReceivedFrame& frame : driver().receive()) check(frame);
        expect(reference_.expected().empty(), "a completed frame is missing on the used ring");
        expect_equal(driver().rx().empty_completions(), reference_.empty_heads(),
                     "heads returned empty");
        called_since_received_ = false;
        check_violations();
    }

    void check(const ReceivedFrame& got) {
        expect(!reference_.expected().empty(), "a frame nobody expects");
        const CopyingReference::Expected wanted = std::move(reference_.expected().front());
        reference_.expected().pop_front();
        if (got.heads != wanted.heads)
            throw Mismatch("heads" + list(got.heads) + " instead of" + list(wanted.heads));
        if (got.used_lens != wanted.used_lens) {
            throw Mismatch("used.len" + list(got.used_lens) + " instead of" +
                           list(wanted.used_lens));
        }
        check_header(got.header, wanted);
        expect_equal(got.bytes.size(), wanted.bytes.size(), "bytes of a frame");
        expect(got.bytes == wanted.bytes, "the bytes of a frame differ");
        if (wanted.heads.size() > 1) ++coverage_.merged;
    }

    void check_header(const NetHeader& got, const CopyingReference::Expected& wanted) {
        const bool counts_buffers = plan_.has(kFeatureVersion1) || plan_.mergeable();
        expect_equal(got.flags, wanted.flags, "flags of the header");
        expect_equal(got.gso_type, kNetHeaderGsoNone, "gso_type of the header");
        expect(got.hdr_len == 0 && got.gso_size == 0 && got.csum_start == 0 && got.csum_offset == 0,
               "an offload field of the header is not 0");
        expect_equal(got.num_buffers, counts_buffers ? wanted.heads.size() : 0,
                     "num_buffers of the header");
    }

    void check_violations() {
        for (const ViolationLog* log : {&queue().violations(), &driver().rx().violations()}) {
            if (log->count() > 0) throw Mismatch(log->texts().front());
        }
        expect(queue().order_violations() == 0, "used order is not avail order");
    }

    // --- The wire ---

    void send_burst() {
        for (std::uint32_t n = dice_.between(0, plan_.habits.burst_most); n > 0; --n) send();
    }

    void send() {
        const bool verified = dice_.percent(50);
        bed_.verify_checksums(verified);
        Frame frame = next_frame();
        if (bed_.arrive(frame)) {
            reference_.arrived(std::move(frame), verified);
        } else {
            ++coverage_.wire_lost;
        }
    }

    Frame next_frame() {
        FrameSpec spec{.seq = sent_++, .size = draw_size()};
        if (dice_.one_in(4)) spec.dst = kBroadcast;
        if (dice_.one_in(3)) spec.vlan = static_cast<std::uint16_t>(dice_.below(4096));
        return make_frame(spec);
    }

    std::uint32_t draw_size() {
        const std::uint32_t f = plan_.geometry().max_frame;
        const auto around = [&](std::uint32_t step) {
            return step * dice_.between(1, 1 + f / step) + dice_.any_of({0U, 0U, 1U, 12U}) -
                   dice_.any_of({0U, 0U, 1U, 12U});
        };
        const std::uint32_t sizes[] = {60,
                                       64,
                                       f - 1,
                                       f,
                                       around(1024),
                                       around(plan_.geometry().nic_buffer),
                                       dice_.between(60, 200),
                                       dice_.between(60, 1514),
                                       dice_.between(60, f)};
        return std::clamp<std::uint32_t>(sizes[dice_.below(std::size(sizes))], 60, f);
    }

    // --- The device ---

    void follow_poll(std::uint32_t delivered, std::uint32_t completed) {
        const std::uint64_t too_big_before = reference_.too_big();
        const std::uint64_t chains_before = reference_.completed_chains();
        reference_.delivered(delivered);
        expect_equal(completed, reference_.complete(completed), "frames a poll completed");
        const std::size_t ready = reference_.ready_chains();
        // A path need not look further ahead on its ring in one poll.
        const std::uint64_t chains = reference_.completed_chains() - chains_before;
        expect(ready == 0 || (queue().is_packed() && chains + ready > kLookAhead),
               "a poll left a frame that has its chains");
        reference_.enforce_cap();
        // The NIC may have written to buffers that return empty (VIRTIO 2.7.8.2).
        if (reference_.too_big() != too_big_before && plan_.geometry().segmented()) tolerate_all();
        check_losses();
        if (completed > 0) check_call();
    }

    void check_losses() {
        expect_equal(bed_.counters().rx_packets.get(), reference_.completed_frames(),
                     "frames counted");
        expect_equal(bed_.counters().rx_bytes.get(), reference_.completed_bytes(), "bytes counted");
        expect_equal(bed_.dropped(DropReason::kTooBig), reference_.too_big(), "too big");
        expect_equal(bed_.dropped(DropReason::kNoBuffer), reference_.no_buffer(), "no buffer");
        expect_equal(bed_.dropped(DropReason::kStopped), reference_.stopped(), "stopped");
    }

    // With EVENT_IDX a driver is told once, until it looked again (VIRTIO 2.7.7).
    void check_call() {
        const bool told = plan_.has(kFeatureEventIdx) && called_since_received_;
        expect_equal(bed_.path().call_wanted(), calls_wanted_ && !told, "call wanted");
        called_since_received_ = true;
    }

    void restart() {
        const std::uint32_t pieces = plan_.geometry().descriptors();
        if (pieces > 1 && bed_.posted() >= pieces && dice_.percent(50)) {
            bed_.arrive_in_part(make_frame({.size = plan_.geometry().max_frame}),
                                dice_.between(1, pieces - 1));
            tolerate_all();
        }
        const std::uint16_t base = bed_.stop();
        reference_.stop();
        if (plan_.geometry().segmented()) tolerate_all();
        check_losses();
        expect_equal(bed_.path().idle(), bed_.buffer_count(), "buffers given back");
        expect_equal(base, queue().used_idx(), "vring base");
        if (dice_.percent(50)) receive();
        if (dice_.percent(50)) refill(plan_.habits.refill_most);
        bed_.start();
    }

    // The driver serves everything that is still on its way.
    void finish() {
        std::uint32_t idle_rounds = 0;
        for (std::uint32_t round = 0; round < 4000 && idle_rounds < 3; ++round) {
            const std::size_t before = bed_.undelivered() + reference_.pending();
            bed_.poll();
            receive();
            if (bed_.undelivered() + reference_.pending() == 0) break;
            const bool moved = bed_.undelivered() + reference_.pending() != before;
            const bool enough = queue().outstanding() > kEnoughPosted;
            const std::size_t posted = enough ? 0 : post(32);
            idle_rounds = posted == 0 && !moved ? idle_rounds + 1 : 0;
        }
        check_progress();
        bed_.stop();
        reference_.stop();
        receive();
        check_losses();
        expect_equal(bed_.path().idle(), bed_.buffer_count(), "buffers given back at the end");
        expect(!bed_.path().broken(), "the ring is broken");
        const std::vector<std::string> found = driver().violations();
        if (!found.empty()) throw Mismatch(found.front());
        cover();
    }

    // Nothing waits for ever, unless the driver has too few descriptors left for a chain of its
    // and the frame is not there.
    void check_progress() {
        if (bed_.undelivered() + reference_.pending() == 0) return;
        expect(queue().free_descriptors() > 0 && post(1) == 0, "a frame is stuck");
        ++coverage_.wedged;
    }

    void cover() {
        coverage_.frames += reference_.completed_frames();
        coverage_.zero_copied += bed_.counters().zero_copied.get();
        for (std::size_t i = 0; i < kCopyReasons; ++i)
            coverage_.copied[i] += bed_.counters().copied[i].get();
        coverage_.too_big += reference_.too_big();
        coverage_.no_buffer += reference_.no_buffer();
        coverage_.stopped += reference_.stopped();
    }

    // Bytes past used.len the device may have written to (VIRTIO 2.7.8.2): what goes to
    // the next chain stays behind as well, and what was lost leaves all that the NIC wrote.
    void tolerate(std::uint32_t bytes) { driver().rx().tolerate_scratch(bytes); }
    void tolerate_all() { tolerate(1U << 24); }

    const Plan& plan_;
    Coverage& coverage_;
    Dice dice_;
    FakeMemory memory_;
    ReceiveBed bed_;
    PostedChains posted_;
    CopyingReference reference_;
    std::uint32_t sent_ = 0;
    std::size_t layout_changes_ = 0;
    std::uint32_t frozen_ = 0;  // steps the guest will not run
    bool calls_wanted_ = true;
    bool called_since_received_ = false;
};

std::uint32_t from_environment(const char* name, std::uint32_t otherwise) {
    const char* value = std::getenv(name);
    return value == nullptr ? otherwise
                            : static_cast<std::uint32_t>(std::strtoul(value, nullptr, 10));
}

// A thousand seeds see everything, many times.
void check_coverage(const Coverage& seen) {
    CAPTURE(seen.frames, seen.wedged);
    CHECK(seen.zero_copied * 6 > seen.frames);
    CHECK(seen.merged * 20 > seen.frames);
    for (std::size_t reason = 0; reason < kCopyReasons; ++reason) {
        CAPTURE(kCopyReasonNames[reason]);
        CHECK(seen.copied[reason] * 200 > seen.frames);
    }
    CHECK(seen.wire_lost > 0);
    CHECK(seen.too_big > 0);
    CHECK(seen.no_buffer > 0);
    CHECK(seen.stopped > 0);
}

}  // namespace

TEST_CASE("random traffic ends up where a backend that only copies puts it") {
    const bool one = std::getenv("DIFFERENTIAL_SEED") != nullptr;
    const std::uint32_t first = from_environment("DIFFERENTIAL_SEED", 1);
    const std::uint32_t count = from_environment("DIFFERENTIAL_SEEDS", one ? 1 : 4000);
    Coverage coverage;
    for (std::uint32_t seed = first; seed - first < count; ++seed) {
        const Plan plan = draw_plan(seed);
        INFO(describe(plan));  // here for a crash, too
        try {
            Run(plan, coverage).run();
        } catch (const std::exception& error) {
            FAIL(error.what());
        }
    }
    if (count >= 1000) check_coverage(coverage);
}

}  // namespace zecorx::test
