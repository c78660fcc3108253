// PackedRing against a driver that writes anything to its ring at any time, checked with a
// reference that reads the same memory plainly.
#include "zecorx/packed_ring.h"

#include <array>
#include <deque>

#include "area.h"
#include "guest_ram.h"
#include "reference_chain.h"

namespace zecorx::fuzz {
namespace {

class PackedBench {
  public:
    explicit PackedBench(Input& input)
        : input_(input),
          ram_(input, {.odd_addresses = true}),
          size_(1 + input.below(input.flag() ? 8 : 256)),
          event_idx_(input.flag()),
          direction_(input.flag() ? Direction::kDeviceWritable : Direction::kDeviceReadable),
          ring_area_(packed_ring_size(size_)),
          driver_event_(sizeof(EventSuppress)),
          device_event_(sizeof(EventSuppress)) {
        used_ = input.below(2 * size_);
        const bool wrap = (used_ < size_) != input.one_in(16);
        place_ = used_ % size_ + (wrap ? 0 : size_);
        attach();
    }

    void run() {
        for (int steps = 0; steps < 1000 && !input_.ended(); ++steps) step();
        while (!held_.empty()) complete();
        publish();
        driver_event_.check("the device does not write the driver's event suppression");
    }

  private:
    void step() {
        switch (input_.below(16)) {
            case 0:
                return write_descriptor(input_.below(size_), any_descriptor());
            case 1:
                return write_flags();
            case 2:
            case 3:
            case 4:
                return post_chain();
            case 5:
                return post_singles();
            case 6:
                return post_table();
            case 7:
            case 8:
                return refresh();
            case 9:
            case 10:
                for (unsigned n = 1 + input_.below(8); n > 0; --n) acquire();
                return;
            case 11:
                return acquire_singles();
            case 12:
                for (unsigned n = 1 + input_.below(8); n > 0 && !held_.empty(); --n) complete();
                return;
            case 13:
                return complete_singles();
            case 14:
                return look();
            default:
                return restart();
        }
    }

    // --- The driver ---

    // A place is a slot and the wrap counter of whoever stands there: the first turn of the ring
    // with wrap counter 1, the second with 0.
    std::uint32_t advanced(std::uint32_t place, std::uint32_t by) const {
        return (place + by) % (2 * size_);
    }
    bool wrap(std::uint32_t place) const { return place < size_; }
    std::uint16_t available_at(std::uint32_t place) const {
        return wrap(place) ? kPackedDescAvail : kPackedDescUsed;
    }
    std::uint16_t right() const {
        return direction_ == Direction::kDeviceWritable ? kDescWrite : 0;
    }

    std::uint16_t any_flags(std::uint32_t place) {
        if (input_.one_in(8)) return input_.word();
        return available_at(place) | right() | (input_.byte() & kDescNext);
    }
    PackedDesc any_descriptor() {
        return {ram_.address(input_), GuestRam::length(input_),
                static_cast<std::uint16_t>(input_.below(size_ + 1)),
                any_flags(input_.below(2 * size_))};
    }
    void write_descriptor(std::uint32_t slot, const PackedDesc& desc) {
        ring_area_.store(sizeof desc * slot, desc);
        rewritten_ = true;
    }
    void write_flags() {
        const std::uint32_t slot = input_.below(size_);
        ring_area_.store(sizeof(PackedDesc) * slot + offsetof(PackedDesc, flags),
                         any_flags(input_.below(2 * size_)));
        rewritten_ = true;
    }

    std::pair<std::uint64_t, std::uint32_t> any_buffer() {
        const MemoryRegion& region = ram_.any(input_);
        const std::uint64_t at = input_.word() % region.size;
        return {region.gpa + at, static_cast<std::uint32_t>(
                                     std::min<std::uint64_t>(input_.byte(), region.size - at))};
    }
    void post(std::uint16_t flags) {
        const auto [gpa, length] = any_buffer();
        const auto id = static_cast<std::uint16_t>(place_ % size_);
        write_descriptor(
            place_ % size_,
            {gpa, length, id, static_cast<std::uint16_t>(available_at(place_) | flags)});
        place_ = advanced(place_, 1);
    }

    // A well-formed chain. It may take descriptors that are in use.
    void post_chain() {
        const unsigned length = 1 + input_.below(std::min(size_, 64u));
        for (unsigned i = 0; i < length; ++i)
            post(right() | (i + 1 < length ? kDescNext : std::uint16_t{0}));
    }
    void post_singles() {
        for (unsigned n = 1 + input_.below(std::min(size_, 32u)); n > 0; --n) post(kDescWrite);
    }
    void post_table() {
        const std::uint64_t gpa = ram_.address(input_) & ~(input_.one_in(8) ? 0u : 7u);
        const std::uint32_t count = input_.below(48);
        for (std::uint32_t i = 0; i < count; ++i) {
            const PackedDesc desc = any_descriptor();
            std::byte* at = ram_.at(gpa + 16UL * i, sizeof desc);
            if (at != nullptr) std::memcpy(at, &desc, sizeof desc);
        }
        const std::uint32_t length = input_.one_in(8) ? input_.word() : 16 * count;
        const auto flags = static_cast<std::uint16_t>(kDescIndirect | any_flags(place_));
        write_descriptor(place_ % size_,
                         {gpa, length, static_cast<std::uint16_t>(input_.below(size_ + 1)),
                          static_cast<std::uint16_t>(flags & ~(input_.one_in(8) ? 0 : kDescNext))});
        place_ = advanced(place_, 1);
    }

    // --- The device ---

    std::uint16_t base() const {
        return static_cast<std::uint16_t>(used_ % size_ | (wrap(used_) ? kPackedWrap : 0));
    }

    void attach() {
        const PackedRingLayout layout{ring_area_.data(),    driver_event_.data(),
                                      device_event_.data(), size_,
                                      event_idx_,           base()};
        expect(layout.valid(), "a ring's layout is valid");
        ring_ = PackedRing(layout);
        expect(ring_.base() == base(), "a ring begins at its base");
        considered_ = used_;
        completed_ = 0;
        forget_held();
    }
    void forget_held() {
        held_.clear();
        held_entries_ = 0;
        next_ = used_;
        stopped_ = false;
        rewritten_ = true;
    }

    void refresh() {
        if (stopped_) return;
        const bool anew = ring_.available() == 0;
        expect(ring_.refresh(), "looking at a packed ring does not break it");
        expect(ring_.available() <= size_ - held_entries_, "no more chains than descriptors");
        // What was counted before is not looked at again.
        if (anew) rewritten_ = false;
        if (ring_.available() > 0) return;
        const auto flags = ring_area_.load<PackedDesc>(sizeof(PackedDesc) * (next_ % size_)).flags;
        const std::uint16_t both = kPackedDescAvail | kPackedDescUsed;
        expect(held_entries_ == size_ || (flags & both) != available_at(next_),
               "what the driver made available is seen");
    }

    void acquire() {
        if (stopped_ || ring_.available() == 0) return;
        ReferenceChain reference(ram_, direction_);
        reference.walk_packed(ring_area_.bytes(), next_ % size_, size_ - held_entries_);
        Head head;
        const RingError error = ring_.acquire(ram_.memory(), direction_, chain_, head);
        if (error != RingError::kNone) {
            // Of a chain that was joined with others since it was counted, the end was not seen.
            expect(rewritten_ || !reference.good(), "no good chain is refused");
            stopped_ = true;
            return check_held();
        }
        expect(reference.good(), "bad chains are refused");
        expect(head.entries == reference.entries(), "a chain has the entries it occupies");
        const std::uint32_t last = (next_ + head.entries - 1) % size_;
        expect(head.id == ring_area_.load<PackedDesc>(sizeof(PackedDesc) * last).id,
               "a chain is named by its last descriptor");
        reference.check(chain_);
        hold(head);
        check_held();
    }

    void acquire_singles() {
        if (stopped_ || direction_ != Direction::kDeviceWritable) return;
        const std::uint32_t limit = std::min(ring_.available(), 1 + input_.below(64));
        const std::uint32_t refuse_at = input_.below(80);
        std::array<std::uint16_t, 64> ids{};
        const auto accept = [&](std::uint32_t i, std::uint64_t gpa, std::uint32_t length) {
            const auto desc =
                ring_area_.load<PackedDesc>(sizeof(PackedDesc) * ((next_ + i) % size_));
            expect(desc.addr == gpa && desc.len == length && desc.id < size_,
                   "a single is what its descriptor says");
            return i < refuse_at;
        };
        const std::uint32_t count = ring_.acquire_singles(limit, ids.data(), accept);
        expect(count <= limit && count <= refuse_at, "no more singles than wanted are acquired");
        for (std::uint32_t i = 0; i < count; ++i) hold({ids[i], 1});
        check_held();
    }

    void hold(Head head) {
        expect(head.id < size_, "a buffer id is below the ring size");
        held_.push_back(head);
        held_entries_ += head.entries;
        next_ = advanced(next_, head.entries);
    }
    void check_held() {
        expect(held_entries_ <= size_, "no more is held than the ring has");
        const Head like{0, static_cast<std::uint16_t>(input_.below(4))};
        expect(ring_.exhausted(like) == (held_entries_ + like.entries > size_),
               "a ring is exhausted if the driver cannot post as long a chain");
    }

    // The driver may see none of a batch before all of it.
    void foresee_used(Head head, std::uint32_t length) {
        const std::size_t at = sizeof(PackedDesc) * (used_ % size_);
        const auto flags =
            static_cast<std::uint16_t>((wrap(used_) ? 0x8080 : 0) | (length > 0 ? kDescWrite : 0));
        const PackedDesc used{ring_area_.load<std::uint64_t>(at), length, head.id, flags};
        if (first_at_ == SIZE_MAX) {
            first_at_ = at;
            first_ = used;
        } else {
            ring_area_.foresee(at, used);
        }
        used_ = advanced(used_, head.entries);
        held_entries_ -= head.entries;
        completed_ += head.entries;
        rewritten_ = true;
    }

    void complete() {
        const auto length = input_.take<std::uint32_t>();
        const Head head = held_.front();
        held_.pop_front();
        foresee_used(head, length);
        ring_.complete(head, length);
        check_unpublished();
    }

    void complete_singles() {
        std::array<std::uint16_t, 16> ids{};
        std::uint32_t count = 0;
        for (; count < ids.size() && !held_.empty() && held_.front().entries == 1; ++count) {
            ids[count] = held_.front().id;
            foresee_used(held_.front(), count);
            held_.pop_front();
        }
        ring_.complete_singles(count, ids.data(), [](std::uint32_t i) { return i; });
        check_unpublished();
    }

    void check_unpublished() {
        if (input_.flag()) return publish();
        ring_area_.check("the first used descriptor of a batch stays away until it is published");
        expect(ring_.base() == base(), "completing moves the used position by a chain's entries");
    }
    void publish() {
        ring_.publish();
        rewritten_ = true;  // a driver may have posted where the batch begins
        if (first_at_ != SIZE_MAX) {
            // The driver may have rewritten what is its own, the address.
            first_.addr = ring_area_.load<std::uint64_t>(first_at_);
            ring_area_.foresee(first_at_, first_);
        }
        first_at_ = SIZE_MAX;
        ring_area_.check("used descriptors go to the slots of the chains they name");
    }

    void look() {
        ring_.suppress_kicks();
        device_event_.foresee(offsetof(EventSuppress, flags), kEventDisable);
        device_event_.check("only the flags of the device's event suppression are written");
        write_wish();
        expect(ring_.call_wanted() == driver_wants_call(),
               "a call is sent if the driver wants one");
        considered_ = used_;
        completed_ = 0;
        const RingWatch watch = ring_.watch();
        (void)watch.has_news();
    }
    void write_wish() {
        const std::uint32_t near = (used_ + 2 * size_ - input_.below(8)) % (2 * size_);
        const auto off = static_cast<std::uint16_t>(near % size_ | (wrap(near) ? kPackedWrap : 0));
        const std::uint16_t mode = input_.one_in(8) ? input_.word() : input_.byte() & 3;
        driver_event_.store(0, EventSuppress{input_.one_in(8) ? input_.word() : off, mode});
    }

    // VIRTIO 2.8.10: one of the descriptors used since is the one that the driver named.
    bool driver_wants_call() const {
        const auto wish = driver_event_.load<EventSuppress>(0);
        const unsigned mode = wish.flags & kEventFlagsMask;
        if (mode != kEventDesc || !event_idx_) return mode != kEventDisable;
        const std::uint32_t slot = wish.off_wrap & ~kPackedWrap;
        const std::uint32_t named = slot + ((wish.off_wrap & kPackedWrap) != 0 ? 0 : size_);
        for (std::uint32_t i = 0; i < completed_; ++i) {
            if (advanced(considered_, i) == named % (2 * size_)) return true;
        }
        return false;
    }

    void restart() {
        publish();
        if (input_.flag()) {
            attach();
        } else {
            ring_.rewind();
            forget_held();
        }
        expect(ring_.available() == 0 && ring_.base() == base(), "a rewound ring holds nothing");
        if (input_.flag()) place_ = used_;
    }

    Input& input_;
    GuestRam ram_;
    const std::uint32_t size_;
    const bool event_idx_;
    const Direction direction_;
    Area ring_area_;
    Area driver_event_;
    Area device_event_;
    PackedRing ring_;
    Chain chain_;
    std::uint32_t place_ = 0;  // where the driver posts next
    std::uint32_t used_ = 0;
    std::uint32_t next_ = 0;  // where the device acquires next
    std::uint32_t considered_ = 0;
    std::uint32_t completed_ = 0;
    std::uint32_t held_entries_ = 0;
    bool stopped_ = false;             // broken
    bool rewritten_ = true;            // since the device looked at what it counts as available
    std::size_t first_at_ = SIZE_MAX;  // of the batch that is not published
    PackedDesc first_{};
    std::deque<Head> held_;
};

}  // namespace
}  // namespace zecorx::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    zecorx::fuzz::Input input(data, size);
    zecorx::fuzz::PackedBench(input).run();
    return 0;
}
