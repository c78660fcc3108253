// SplitRing against a driver that writes anything to its ring at any time, checked with a reference
// that reads the same memory plainly.
#include "zecorx/split_ring.h"

#include <array>
#include <deque>

#include "area.h"
#include "guest_ram.h"
#include "reference_chain.h"

namespace zecorx::fuzz {
namespace {

class SplitBench {
  public:
    explicit SplitBench(Input& input)
        : input_(input),
          ram_(input, {.odd_addresses = true}),
          size_(1u << input.below(9)),
          event_idx_(input.flag()),
          direction_(input.flag() ? Direction::kDeviceWritable : Direction::kDeviceReadable),
          desc_(desc_table_size(size_)),
          avail_(avail_ring_size(size_, event_idx_)),
          used_(used_ring_size(size_, event_idx_)) {
        const auto first = input.any_of<std::uint16_t>({0, 65530, 32767});
        set_avail_index(first);
        used_.store(kRingIdxOffset, first);
        attach();
    }

    void run() {
        for (int steps = 0; steps < 1000 && !input_.ended(); ++steps) step();
        while (!held_.empty()) complete();
        publish();
        desc_.check("the device does not write the descriptor table");
        avail_.check("the device does not write the avail ring");
    }

  private:
    void step() {
        switch (input_.below(16)) {
            case 0:
                return write_descriptor(input_.below(size_), any_descriptor());
            case 1:
                return write_slot();
            case 2:
                return set_avail_index(input_.word());
            case 3:
                return set_avail_index(static_cast<std::uint16_t>(avail_index_ + input_.below(8)));
            case 4:
            case 5:
                return post_chain();
            case 6:
                return write_table();
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

    std::uint16_t any_flags() {
        const std::uint16_t right = direction_ == Direction::kDeviceWritable ? kDescWrite : 0;
        return input_.one_in(8) ? input_.word() : right | (input_.byte() & kDescNext);
    }
    Desc any_descriptor() {
        return {ram_.address(input_), GuestRam::length(input_), any_flags(),
                static_cast<std::uint16_t>(input_.below(size_ + 1))};
    }
    void write_descriptor(std::size_t index, const Desc& desc) {
        desc_.store(sizeof desc * index, desc);
    }
    void write_slot() {
        const std::size_t slot = input_.below(size_);
        avail_.store(kRingEntriesOffset + 2 * slot,
                     static_cast<std::uint16_t>(input_.below(size_ + 1)));
    }
    void set_avail_index(std::uint16_t index) {
        avail_index_ = index;
        avail_.store(kRingIdxOffset, index);
    }

    // A well-formed chain, published. It may take descriptors that are in use.
    void post_chain() {
        const unsigned length = 1 + input_.below(std::min(size_, 64u));
        const std::uint32_t first = input_.below(size_);
        const std::uint16_t right = direction_ == Direction::kDeviceWritable ? kDescWrite : 0;
        for (unsigned i = 0; i < length; ++i) {
            const MemoryRegion& region = ram_.any(input_);
            const std::uint64_t at = input_.word() % region.size;
            const auto bytes = static_cast<std::uint32_t>(
                std::min<std::uint64_t>(input_.byte(), region.size - at));
            const bool more = i + 1 < length;
            write_descriptor(
                (first + i) % size_,
                {region.gpa + at, bytes, static_cast<std::uint16_t>(right | (more ? kDescNext : 0)),
                 static_cast<std::uint16_t>((first + i + 1) % size_)});
        }
        avail_.store(kRingEntriesOffset + 2 * (avail_index_ % size_),
                     static_cast<std::uint16_t>(first));
        set_avail_index(static_cast<std::uint16_t>(avail_index_ + 1));
    }

    // An indirect table in guest memory, and a descriptor that points at it.
    void write_table() {
        const std::uint64_t gpa = ram_.address(input_) & ~(input_.one_in(8) ? 0u : 7u);
        const std::uint32_t count = input_.below(48);
        for (std::uint32_t i = 0; i < count; ++i) {
            Desc desc = any_descriptor();
            if (!input_.one_in(8)) desc.next = static_cast<std::uint16_t>(i + 1);
            std::byte* at = ram_.at(gpa + 16UL * i, sizeof desc);
            if (at != nullptr) std::memcpy(at, &desc, sizeof desc);
        }
        const std::uint32_t length = input_.one_in(8) ? input_.word() : 16 * count;
        const std::uint16_t flags = kDescIndirect | (input_.one_in(8) ? any_flags() : 0);
        write_descriptor(input_.below(size_), {gpa, length, flags, 0});
    }

    // --- The device ---

    void attach() {
        const SplitRingLayout layout{desc_.data(), avail_.data(), used_.data(), size_, event_idx_};
        expect(layout.valid(), "a ring's layout is valid");
        ring_ = SplitRing(layout);
        used_index_ = next_avail_ = considered_ = used_.load<std::uint16_t>(kRingIdxOffset);
        seen_avail_ = used_index_;
        expect(ring_.base() == used_index_, "a ring begins where the driver's used index stands");
        held_.clear();
        held_entries_ = 0;
        stopped_ = false;
    }

    // What a path never does again with a broken ring.
    bool usable() const { return !stopped_ && ring_.available() > 0; }

    void refresh() {
        if (stopped_) return;
        seen_avail_ = avail_index_;
        const auto ahead = static_cast<std::uint16_t>(avail_index_ - used_index_);
        const auto fresh = static_cast<std::uint16_t>(avail_index_ - next_avail_);
        const bool sound = ahead <= size_ && fresh <= size_;
        expect(ring_.refresh() == sound, "an avail index beyond the ring is refused, no other");
        expect(ring_.available() == fresh, "what the driver made available is seen");
        stopped_ = !sound;
    }

    void acquire() {
        if (!usable()) return;
        const auto id = avail_.load<std::uint16_t>(slot_of(next_avail_));
        ReferenceChain reference(ram_, direction_);
        reference.walk_split(desc_.bytes(), id);
        Head head;
        const RingError error = ring_.acquire(ram_.memory(), direction_, chain_, head);
        expect((error == RingError::kNone) == reference.good(), "bad chains are refused, no other");
        ++next_avail_;
        if (error != RingError::kNone) {
            stopped_ = true;
            return;
        }
        expect(head.id == id && head.entries == reference.entries(), "a head is its first's index");
        reference.check(chain_);
        hold(head);
        check_held();
    }

    void acquire_singles() {
        if (!usable() || direction_ != Direction::kDeviceWritable) return;
        const std::uint32_t limit = std::min(ring_.available(), 1 + input_.below(64));
        const std::uint32_t refuse_at = input_.below(80);
        std::array<std::uint16_t, 64> ids{};
        const auto accept = [&](std::uint32_t i, std::uint64_t gpa, std::uint32_t length) {
            const Desc desc = desc_.load<Desc>(
                sizeof(Desc) *
                avail_.load<std::uint16_t>(slot_of(static_cast<std::uint16_t>(next_avail_ + i))));
            expect(desc.addr == gpa && desc.len == length && desc.flags == kDescWrite,
                   "a single is one direct, writable descriptor");
            return i < refuse_at;
        };
        const std::uint32_t count = ring_.acquire_singles(limit, ids.data(), accept);
        expect(count <= limit && count <= refuse_at, "no more singles than wanted are acquired");
        for (std::uint32_t i = 0; i < count; ++i) {
            expect(ids[i] == avail_.load<std::uint16_t>(slot_of(next_avail_)),
                   "singles are acquired in avail order");
            ++next_avail_;
            hold({ids[i], 1});
        }
        check_held();
    }

    void hold(Head head) {
        held_.push_back(head);
        held_entries_ += head.entries;
    }
    void check_held() {
        expect(ring_.next_avail() == next_avail_ && ring_.used_index() == used_index_,
               "the indices are where they were led");
        const std::size_t lost = stopped_ ? 1 : 0;  // the chain that broke it
        expect(ring_.held() >= held_.size() && ring_.held() <= held_.size() + lost,
               "acquired less completed is held");
        expect(ring_.held() <= size_, "no more is held than the ring has");
        const Head like{0, static_cast<std::uint16_t>(input_.below(4))};
        if (stopped_) return;
        expect(ring_.exhausted(like) ==
                   (held_entries_ + like.entries > size_ || held_.size() >= size_),
               "a ring is exhausted if the driver cannot post as long a chain");
    }

    void complete() {
        const auto length = input_.take<std::uint32_t>();
        const Head head = held_.front();
        held_.pop_front();
        held_entries_ -= head.entries;
        foresee_used(head.id, length);
        ring_.complete(head, length);
        check_unpublished();
    }

    void complete_singles() {
        std::array<std::uint16_t, 16> ids{};
        std::uint32_t count = 0;
        for (; count < ids.size() && !held_.empty() && held_.front().entries == 1; ++count) {
            ids[count] = held_.front().id;
            held_.pop_front();
            foresee_used(ids[count], 100 + count);
        }
        held_entries_ -= count;
        ring_.complete_singles(count, ids.data(), [](std::uint32_t i) { return 100 + i; });
        check_unpublished();
    }

    void foresee_used(std::uint16_t id, std::uint32_t length) {
        const std::size_t slot = used_index_++ % size_;
        used_.foresee(kRingEntriesOffset + sizeof(UsedElem) * slot, UsedElem{id, length});
    }
    void check_unpublished() {
        if (input_.flag()) return publish();
        used_.check("used entries go to their slots, and the index stays until they are published");
    }
    void publish() {
        ring_.publish();
        used_.foresee(kRingIdxOffset, used_index_);
        used_.check("publishing moves the used index, and nothing else");
    }

    void look() {
        expect(ring_.watch().has_news() == (avail_index_ != seen_avail_),
               "a watch has news if the avail index moved");
        ring_.suppress_kicks();
        if (event_idx_) {
            used_.foresee(used_ring_size(size_, false),
                          static_cast<std::uint16_t>(next_avail_ - 1));
        } else {
            used_.foresee(kRingFlagsOffset, kUsedNoNotify);
        }
        if (event_idx_) {
            const auto event = static_cast<std::uint16_t>(used_index_ - input_.below(16) + 4);
            avail_.store(avail_ring_size(size_, false), input_.one_in(8) ? input_.word() : event);
        }
        avail_.store(kRingFlagsOffset, static_cast<std::uint16_t>(input_.byte() & 1));
        expect(ring_.call_wanted() == driver_wants_call(),
               "a call is sent if the driver wants one");
        considered_ = used_index_;
    }

    // VIRTIO 2.7.7: the index went from at or below the event to above it.
    bool driver_wants_call() const {
        if (!event_idx_) return avail_.load<std::uint16_t>(kRingFlagsOffset) == 0;
        const auto event = avail_.load<std::uint16_t>(avail_ring_size(size_, false));
        for (std::uint16_t at = considered_; at != used_index_; ++at) {
            if (at == event) return true;
        }
        return false;
    }

    void restart() {
        publish();
        if (input_.flag()) return attach();
        ring_.rewind();
        next_avail_ = used_index_;
        held_.clear();
        held_entries_ = 0;
        stopped_ = false;
        expect(ring_.base() == used_index_ && ring_.held() == 0, "a rewound ring holds nothing");
        refresh();
    }

    std::size_t slot_of(std::uint16_t index) const {
        return kRingEntriesOffset + 2UL * (index % size_);
    }

    Input& input_;
    GuestRam ram_;
    const std::uint32_t size_;
    const bool event_idx_;
    const Direction direction_;
    Area desc_;
    Area avail_;
    Area used_;
    SplitRing ring_;
    Chain chain_;
    std::uint16_t avail_index_ = 0;  // as the driver wrote it last
    std::uint16_t seen_avail_ = 0;   // as the device read it last
    std::uint16_t next_avail_ = 0;
    std::uint16_t used_index_ = 0;
    std::uint16_t considered_ = 0;
    bool stopped_ = false;  // broken
    std::deque<Head> held_;
    std::uint32_t held_entries_ = 0;
};

}  // namespace
}  // namespace zecorx::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    zecorx::fuzz::Input input(data, size);
    zecorx::fuzz::SplitBench(input).run();
    return 0;
}
