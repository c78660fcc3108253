// The device side of a packed virtqueue (VIRTIO 2.8); see ring.h.
//
// Chains are completed in the order they were acquired, so a used descriptor always goes to the
// slot that the first descriptor of its own chain had (VIRTIO 2.8.6: the device skips as many
// slots as the chain had descriptors).
//
// Invariants, in ring order:
//   used_ <= next_avail_ <= scan_ <= used_ + size
//   [used_, next_avail_)  held chains, held_entries_ descriptors: nothing is written there, so
//                         after rewind() they are read again as the driver wrote them;
//   [next_avail_, scan_)  ahead_ descriptors in which refresh() counted available_ chains, which
//                         are never more. The driver may rewrite them all the same: acquire() reads
//                         and checks each once more, and nothing but its own reading counts.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "zecorx/chain.h"
#include "zecorx/ring.h"
#include "zecorx/virtio.h"

namespace zecorx {

// Where one virtqueue lies in this process, all of it guest-controlled memory, and where to go on.
struct PackedRingLayout {
    std::byte* desc = nullptr;
    std::byte* driver_event = nullptr;
    std::byte* device_event = nullptr;
    std::uint32_t size = 0;            // descriptors, any number up to kMaxRingSize
    bool event_idx = false;            // VIRTIO_F_EVENT_IDX: the driver may name one descriptor
    std::uint16_t base = kPackedWrap;  // the frontend's vring base: position and wrap counter

    // Whether a ring may be built on it (VIRTIO 2.8.10.1: alignments of 16 and 4 bytes).
    bool valid() const {
        const auto aligned = [](const std::byte* at, std::uintptr_t to) {
            return at != nullptr && reinterpret_cast<std::uintptr_t>(at) % to == 0;
        };
        return size <= kMaxRingSize && (base & ~kPackedWrap) < size && aligned(desc, 16) &&
               aligned(driver_event, 4) && aligned(device_event, 4);
    }
};

class PackedRing {
  public:
    PackedRing() = default;

    // REQUIRES: layout.valid().
    explicit PackedRing(const PackedRingLayout& layout)
        : layout_(layout),
          used_(place_of(layout.base, layout.size)),
          next_avail_(used_),
          scan_(used_),
          considered_(used_) {}

    std::uint32_t size() const { return layout_.size; }

    // Never false: what a scan finds wrong, acquire() finds too, and says what it is.
    bool refresh() {
        while (available_ < kLookAhead && unseen() > 0) {
            // Pairs with the driver's release store (or write barrier) of the first flags of a
            // chain: its other fields and the rest of its chain are visible after this load.
            const std::uint16_t first = __atomic_load_n(flags_at(scan_), __ATOMIC_ACQUIRE);
            if (!is_available(first, wrap(scan_))) break;
            scan_chain(first);
        }
        return true;
    }

    RingWatch watch() const {
        static constexpr std::uint16_t kNothing = 0;
        if (available_ >= kLookAhead || unseen() == 0) return {&kNothing, 0, 1, true};  // never
        return {flags_at(scan_), kPackedDescAvail | kPackedDescUsed,
                wrap(scan_) ? kPackedDescAvail : kPackedDescUsed, true};
    }

    std::uint32_t available() const { return available_; }

    // A chain in which an error is found is not held. The driver may have joined chains since they
    // were counted, so running out of them is its error, not the caller's.
    RingError acquire(const GuestMemory& memory, Direction direction, Chain& chain, Head& head) {
        chain.begin(memory, direction);
        if (available_ == 0) [[unlikely]]
            return RingError::kTakenBack;
        // refresh() loaded the flags of this descriptor with acquire order.
        const PackedDesc first = read(next_avail_);
        if (!is_available(first.flags, wrap(next_avail_))) [[unlikely]]
            return RingError::kTakenBack;
        const RingError error = first.flags & kDescIndirect
                                    ? walk_indirect(first, direction, chain, head)
                                    : walk(first, chain, head);
        if (error != RingError::kNone) [[unlikely]]
            return error;
        hold(head.entries, 1);
        return RingError::kNone;
    }

    // As SplitRing's.
    template <class Accept>
    [[gnu::always_inline]] std::uint32_t acquire_singles(std::uint32_t limit, std::uint16_t* ids,
                                                         Accept&& accept) {
        // One wrap counter holds up to the ring's end.
        limit = std::min(limit, layout_.size - slot(next_avail_));
        const std::uint16_t wanted =
            kDescWrite | (wrap(next_avail_) ? kPackedDescAvail : kPackedDescUsed);
        const std::byte* const first = at(next_avail_);
        std::uint32_t count = 0;
        for (; count < limit; ++count) {
            const auto desc = snapshot<PackedDesc>(first + sizeof(PackedDesc) * count);
            if ((desc.flags & kKindFlags) != wanted || desc.id >= layout_.size ||
                !accept(count, desc.addr, desc.len)) [[unlikely]]
                break;
            ids[count] = desc.id;
        }
        if (count > 0) hold(count, count);
        return count;
    }

    // As SplitRing's.
    template <class Length>
    [[gnu::always_inline]] void complete_singles(std::uint32_t count, const std::uint16_t* ids,
                                                 Length&& length) {
        std::uint32_t i = 0;
        if (count > 0 && first_at_ == nullptr) {
            complete({ids[0], 1}, length(0));
            i = 1;
        }
        const std::uint32_t rest = count - i;
        for (std::uint32_t place = used_; i < count; ++i, place = advanced(place, 1)) {
            const std::uint32_t bytes = length(i);
            write_used(at(place), used_desc(ids[i], bytes, place), __ATOMIC_RELAXED);
        }
        used_ = advanced(used_, rest);
        held_entries_ -= rest;
        completed_ += rest;
    }

    // A used descriptor's WRITE flag says that bytes were written (VIRTIO 2.8.3).
    void complete(Head head, std::uint32_t length) {
        const PackedDesc entry = used_desc(head.id, length, used_);
        if (first_at_ == nullptr) {
            first_at_ = at(used_);
            first_ = entry;
        } else {
            // The driver takes used descriptors in ring order, and the first is still missing.
            write_used(at(used_), entry, __ATOMIC_RELAXED);
        }
        used_ = advanced(used_, head.entries);
        held_entries_ -= head.entries;
        completed_ += head.entries;
    }

    // VIRTIO 2.8.9: the first used descriptor comes last.
    void publish() {
        if (first_at_ == nullptr) return;
        // Release: headers, payload, the used descriptors behind and the rest of this one come
        // first. Pairs with the driver's load of these flags and its read barrier.
        write_used(first_at_, first_, __ATOMIC_RELEASE);
        first_at_ = nullptr;
    }

    // Between used descriptors lie those that their chains had besides; marking them too does no
    // harm.
    [[gnu::noinline, gnu::cold]] void publish(const GuestLog& log) {
        const std::byte* const first = first_at_;
        if (first == nullptr) return;
        const std::byte* const end = at(used_);
        if (first < end) {
            log.mark(first, static_cast<std::size_t>(end - first));
        } else {
            const std::size_t before = static_cast<std::size_t>(first - layout_.desc);
            log.mark(first, packed_ring_size(layout_.size) - before);
            log.mark(layout_.desc, static_cast<std::size_t>(end - layout_.desc));
        }
        publish();
        log.mark(first, sizeof(PackedDesc));
    }

    // VIRTIO 2.8.10, 2.8.14.
    bool call_wanted() {
        // Full fence: the used flags must be visible before the driver's wish is read. Pairs with
        // the driver, which states its wish, fences, then looks at the ring once more.
        std::atomic_thread_fence(std::memory_order_seq_cst);
        const EventSuppress wish = read_wish();
        const bool named = passed(wish.off_wrap);
        considered_ = used_;
        completed_ = 0;
        const std::uint16_t mode = wish.flags & kEventFlagsMask;
        if (mode == kEventDesc && layout_.event_idx) return named;
        return mode != kEventDisable;
    }

    void suppress_kicks(const GuestLog& log = {}) {
        auto* to =
            reinterpret_cast<std::uint16_t*>(layout_.device_event + offsetof(EventSuppress, flags));
        __atomic_store_n(to, kEventDisable, __ATOMIC_RELAXED);
        log.mark(layout_.device_event, sizeof(EventSuppress));
    }

    bool exhausted(Head like) const { return held_entries_ + like.entries > layout_.size; }

    // REQUIRES: everything completed is published.
    void rewind() {
        next_avail_ = scan_ = used_;
        held_entries_ = ahead_ = available_ = 0;
    }

    // Once rewound also the next position to acquire.
    std::uint16_t base() const {
        return static_cast<std::uint16_t>(slot(used_) | (wrap(used_) ? kPackedWrap : 0));
    }

  private:
    // A place is a slot and the wrap counter of whoever stands there (VIRTIO 2.8.1), as one number
    // below two turns of the ring: the first turn with wrap counter 1, the second with 0.
    std::uint32_t two_turns() const { return 2 * layout_.size; }
    bool wrap(std::uint32_t place) const { return place < layout_.size; }
    std::uint32_t slot(std::uint32_t place) const {
        return wrap(place) ? place : place - layout_.size;
    }
    // REQUIRES: count <= size.
    std::uint32_t advanced(std::uint32_t place, std::uint32_t count) const {
        const std::uint32_t sum = place + count;
        return sum < two_turns() ? sum : sum - two_turns();
    }
    // From and to the form of a vring base and of event suppression.
    static std::uint32_t place_of(std::uint16_t position, std::uint32_t size) {
        return (position & ~kPackedWrap) + ((position & kPackedWrap) ? 0 : size);
    }

    // Descriptors that are neither held nor looked at: what the driver may post next.
    std::uint32_t unseen() const { return layout_.size - held_entries_ - ahead_; }

    // What tells an available chain of one direct, device-writable buffer.
    static constexpr std::uint16_t kKindFlags =
        kPackedDescAvail | kPackedDescUsed | kDescNext | kDescWrite | kDescIndirect;

    // VIRTIO 2.8.1: available is AVAIL = wrap counter, USED = its inverse; used is both = it.
    static bool is_available(std::uint16_t flags, bool wrap) {
        return (flags & (kPackedDescAvail | kPackedDescUsed)) ==
               (wrap ? kPackedDescAvail : kPackedDescUsed);
    }
    static std::uint16_t used_bits(bool wrap) {
        return wrap ? kPackedDescAvail | kPackedDescUsed : 0;
    }

    // Counts the chain that begins at scan_ with these flags, looking at no more than the driver
    // can have posted; what has no end until there is acquire()'s to refuse.
    // REQUIRES: unseen() > 0.
    void scan_chain(std::uint16_t each) {
        for (step(); (each & kDescNext) != 0 && unseen() > 0; step()) {
            each = __atomic_load_n(flags_at(scan_), __ATOMIC_RELAXED);
        }
        ++available_;
    }
    void step() {
        scan_ = advanced(scan_, 1);
        ++ahead_;
    }

    void hold(std::uint32_t entries, std::uint32_t chains) {
        next_avail_ = advanced(next_avail_, entries);
        held_entries_ += entries;
        ahead_ -= entries;
        // A driver that joined chains since they were counted has made fewer of them, each of one
        // descriptor at least.
        available_ = std::min(available_ - chains, ahead_);
        if (available_ > 0) return;
        // One that shortened them leaves a remainder: count it anew.
        scan_ = next_avail_;
        ahead_ = available_ = 0;
    }

    // Descriptors follow each other without an index, and the last has the buffer id (VIRTIO
    // 2.8.6). Goes no further than refresh() did, so an endless chain ends.
    RingError walk(PackedDesc desc, Chain& chain, Head& head) const {
        std::uint32_t place = next_avail_;
        for (head.entries = 1;; ++head.entries) {
            const RingError error = chain.add(desc.addr, desc.len, desc.flags);
            if (error != RingError::kNone) return error;
            if ((desc.flags & kDescNext) == 0) return identify(desc, head);
            if (head.entries >= ahead_) return RingError::kLoop;
            place = advanced(place, 1);
            desc = read(place);
        }
    }

    // The table is in order, from its first descriptor to its last, and of their flags only WRITE
    // means anything (VIRTIO 2.8.7). DPDK's driver sets it on what it sends, too, where it is no
    // more than a permission that nobody needs.
    RingError walk_indirect(const PackedDesc& desc, Direction direction, Chain& chain,
                            Head& head) const {
        const std::uint16_t meant = direction == Direction::kDeviceWritable ? kDescWrite : 0;
        std::span<const std::byte> table;
        RingError error = chain.indirect_table(desc.addr, desc.len, desc.flags, table);
        for (; error == RingError::kNone && !table.empty();
             table = table.subspan(sizeof(PackedDesc))) {
            const auto entry = snapshot<PackedDesc>(table.data());
            error = chain.add(entry.addr, entry.len, entry.flags & meant);
        }
        if (error != RingError::kNone) return error;
        head.entries = 1;
        return identify(desc, head);
    }

    RingError identify(const PackedDesc& last, Head& head) const {
        head.id = last.id;
        return last.id < layout_.size ? RingError::kNone : RingError::kHead;
    }

    // Whether `event`, a position as the driver writes it, lies among the places passed since
    // call_wanted() was last asked.
    bool passed(std::uint16_t event) const {
        const std::uint32_t to = place_of(event, layout_.size) + two_turns();
        return (to - considered_) % two_turns() < completed_;
    }

    // Both halves by one load, so that they belong together.
    EventSuppress read_wish() const {
        return std::bit_cast<EventSuppress>(__atomic_load_n(
            reinterpret_cast<const std::uint32_t*>(layout_.driver_event), __ATOMIC_RELAXED));
    }

    std::byte* at(std::uint32_t place) const {
        return layout_.desc + sizeof(PackedDesc) * slot(place);
    }
    PackedDesc read(std::uint32_t place) const { return snapshot<PackedDesc>(at(place)); }
    const std::uint16_t* flags_at(std::uint32_t place) const {
        return reinterpret_cast<const std::uint16_t*>(at(place) + offsetof(PackedDesc, flags));
    }
    PackedDesc used_desc(std::uint16_t id, std::uint32_t length, std::uint32_t place) const {
        const std::uint16_t flags = used_bits(wrap(place)) | (length > 0 ? kDescWrite : 0);
        return {0, length, id, flags};
    }
    // Length, id and flags are all that a used descriptor has (VIRTIO 2.8.4), and are one word.
    static void write_used(std::byte* to, const PackedDesc& used, int order) {
        constexpr unsigned kIdShift = 8 * (offsetof(PackedDesc, id) - offsetof(PackedDesc, len));
        constexpr unsigned kFlagsShift =
            8 * (offsetof(PackedDesc, flags) - offsetof(PackedDesc, len));
        const std::uint64_t word = used.len | std::uint64_t{used.id} << kIdShift |
                                   std::uint64_t{used.flags} << kFlagsShift;
        __atomic_store_n(reinterpret_cast<std::uint64_t*>(to + offsetof(PackedDesc, len)), word,
                         order);
    }

    PackedRingLayout layout_;
    std::uint32_t used_ = 0;          // next used descriptor
    std::uint32_t next_avail_ = 0;    // next descriptor to acquire
    std::uint32_t scan_ = 0;          // next descriptor to look at
    std::uint32_t considered_ = 0;    // used_ when call_wanted() was last asked
    std::uint32_t completed_ = 0;     // descriptors between considered_ and used_
    std::uint32_t held_entries_ = 0;  // descriptors between used_ and next_avail_
    std::uint32_t ahead_ = 0;         // descriptors between next_avail_ and scan_
    std::uint32_t available_ = 0;     // chains among them
    std::byte* first_at_ = nullptr;   // of the batch; nullptr: nothing to publish
    PackedDesc first_{};              // what goes there
};

static_assert(DeviceRing<PackedRing>);

}  // namespace zecorx
