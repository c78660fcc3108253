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
//   [next_avail_, scan_)  ahead_ descriptors in which refresh() counted available_ chains. The
//                         driver may rewrite them all the same: acquire() reads and checks each
//                         once more, and nothing but its own reading counts.
#pragma once

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
          used_(Position::from_wire(layout.base)),
          next_avail_(used_),
          scan_(used_),
          considered_(used_) {}

    std::uint32_t size() const { return layout_.size; }

    // Never false: what a scan finds wrong, acquire() finds too, and says what it is.
    bool refresh() {
        while (available_ < kLookAhead && unseen() > 0 && available_at(scan_)) scan_chain();
        return true;
    }

    std::uint32_t available() const { return available_; }

    // A chain in which an error is found is not held. The driver may have joined chains since they
    // were counted, so running out of them is its error, not the caller's.
    RingError acquire(const GuestMemory& memory, Direction direction, Chain& chain, Head& head) {
        chain.begin(memory, direction);
        if (available_ == 0) [[unlikely]]
            return RingError::kTakenBack;
        // refresh() loaded the flags of this descriptor with acquire order.
        const PackedDesc first = read(next_avail_.index);
        if (!is_available(first.flags, next_avail_.wrap)) [[unlikely]]
            return RingError::kTakenBack;
        const RingError error = first.flags & kDescIndirect ? walk_indirect(first, chain, head)
                                                            : walk(first, chain, head);
        if (error != RingError::kNone) [[unlikely]]
            return error;
        hold(head.entries);
        return RingError::kNone;
    }

    // A used descriptor's WRITE flag says that bytes were written (VIRTIO 2.8.3).
    void complete(Head head, std::uint32_t length) {
        const std::uint16_t flags = used_bits(used_.wrap) | (length > 0 ? kDescWrite : 0);
        const std::uint64_t word = used_word({0, length, head.id, flags});
        std::uint64_t* at = second_half(used_.index);
        if (first_used_ == nullptr) {
            first_used_ = at;
            first_word_ = word;
        } else {
            // The driver takes used descriptors in ring order, and the first is still missing.
            __atomic_store_n(at, word, __ATOMIC_RELAXED);
        }
        used_.advance(head.entries, layout_.size);
        held_entries_ -= head.entries;
        completed_ += head.entries;
    }

    // VIRTIO 2.8.9: the first used descriptor comes last.
    void publish() {
        if (first_used_ == nullptr) return;
        // Release: headers, payload and the used descriptors behind come first. Pairs with the
        // driver's load of these flags and its read barrier. Id, length and flags are one store.
        __atomic_store_n(first_used_, first_word_, __ATOMIC_RELEASE);
        first_used_ = nullptr;
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

    void suppress_kicks() {
        auto* flags =
            reinterpret_cast<std::uint16_t*>(layout_.device_event + offsetof(EventSuppress, flags));
        __atomic_store_n(flags, kEventDisable, __ATOMIC_RELAXED);
    }

    bool exhausted() const { return held_entries_ >= layout_.size; }

    // REQUIRES: everything completed is published.
    void rewind() {
        next_avail_ = scan_ = used_;
        held_entries_ = ahead_ = available_ = 0;
    }

    // Once rewound also the next position to acquire.
    std::uint16_t base() const { return used_.to_wire(); }

  private:
    // A slot and the wrap counter of whoever stands there (VIRTIO 2.8.1).
    struct Position {
        std::uint16_t index = 0;
        bool wrap = true;

        static Position from_wire(std::uint16_t position) {
            return {static_cast<std::uint16_t>(position & ~kPackedWrap),
                    (position & kPackedWrap) != 0};
        }
        std::uint16_t to_wire() const { return index | (wrap ? kPackedWrap : 0); }

        // REQUIRES: count <= size.
        void advance(std::uint32_t count, std::uint32_t size) {
            const std::uint32_t sum = index + count;
            wrap = wrap != (sum >= size);
            index = static_cast<std::uint16_t>(sum >= size ? sum - size : sum);
        }
    };

    // Descriptors that are neither held nor looked at: what the driver may post next.
    std::uint32_t unseen() const { return layout_.size - held_entries_ - ahead_; }

    // VIRTIO 2.8.1: available is AVAIL = wrap counter, USED = its inverse; used is both = it.
    static bool is_available(std::uint16_t flags, bool wrap) {
        return (flags & (kPackedDescAvail | kPackedDescUsed)) ==
               (wrap ? kPackedDescAvail : kPackedDescUsed);
    }
    static std::uint16_t used_bits(bool wrap) {
        return wrap ? kPackedDescAvail | kPackedDescUsed : 0;
    }

    bool available_at(const Position& at) const {
        // Pairs with the driver's release store (or write barrier) of the first flags of a chain:
        // its other fields and the rest of its chain are visible after this load.
        return is_available(__atomic_load_n(flags(at.index), __ATOMIC_ACQUIRE), at.wrap);
    }

    // Counts the chain that begins at scan_, looking at no more than the driver can have posted;
    // what has no end until there is acquire()'s to refuse. REQUIRES: unseen() > 0.
    void scan_chain() {
        bool more = true;
        for (std::uint32_t left = unseen(); more && left > 0; --left) {
            more = (__atomic_load_n(flags(scan_.index), __ATOMIC_RELAXED) & kDescNext) != 0;
            scan_.advance(1, layout_.size);
            ++ahead_;
        }
        ++available_;
    }

    void hold(std::uint32_t entries) {
        next_avail_.advance(entries, layout_.size);
        held_entries_ += entries;
        ahead_ -= entries;
        if (--available_ > 0 && ahead_ > 0) return;
        // A driver that shortened its chains or joined them leaves a remainder: count it anew.
        scan_ = next_avail_;
        ahead_ = available_ = 0;
    }

    // Descriptors follow each other without an index, and the last has the buffer id (VIRTIO
    // 2.8.6). Goes no further than refresh() did, so an endless chain ends.
    RingError walk(PackedDesc desc, Chain& chain, Head& head) const {
        Position at = next_avail_;
        for (head.entries = 1;; ++head.entries) {
            const RingError error = chain.add(desc.addr, desc.len, desc.flags);
            if (error != RingError::kNone) return error;
            if ((desc.flags & kDescNext) == 0) return identify(desc, head);
            if (head.entries >= ahead_) return RingError::kLoop;
            at.advance(1, layout_.size);
            desc = read(at.index);
        }
    }

    // The table is in order, from its first descriptor to its last, and of their flags only WRITE
    // means anything (VIRTIO 2.8.7).
    RingError walk_indirect(const PackedDesc& desc, Chain& chain, Head& head) const {
        std::span<const std::byte> table;
        RingError error = chain.indirect_table(desc.addr, desc.len, desc.flags, table);
        for (; error == RingError::kNone && !table.empty();
             table = table.subspan(sizeof(PackedDesc))) {
            const auto entry = snapshot<PackedDesc>(table.data());
            error = chain.add(entry.addr, entry.len, entry.flags & kDescWrite);
        }
        if (error != RingError::kNone) return error;
        head.entries = 1;
        return identify(desc, head);
    }

    RingError identify(const PackedDesc& last, Head& head) const {
        head.id = last.id;
        return last.id < layout_.size ? RingError::kNone : RingError::kHead;
    }

    // Whether `event`, a position as the driver writes it, lies among the slots passed since
    // call_wanted() was last asked. Two turns of the ring bring back slot and wrap counter.
    bool passed(std::uint16_t event) const {
        const auto place = [this](const Position& at) {
            return at.index + (at.wrap ? 0 : layout_.size);
        };
        const std::uint32_t turns = 2 * layout_.size;
        const std::uint32_t to = place(Position::from_wire(event));
        return (to + turns - place(considered_)) % turns < completed_;
    }

    // Both halves by one load, so that they belong together.
    EventSuppress read_wish() const {
        return std::bit_cast<EventSuppress>(__atomic_load_n(
            reinterpret_cast<const std::uint32_t*>(layout_.driver_event), __ATOMIC_RELAXED));
    }

    std::byte* slot(std::uint32_t index) const { return layout_.desc + sizeof(PackedDesc) * index; }
    PackedDesc read(std::uint32_t index) const { return snapshot<PackedDesc>(slot(index)); }
    const std::uint16_t* flags(std::uint32_t index) const {
        return reinterpret_cast<const std::uint16_t*>(slot(index) + offsetof(PackedDesc, flags));
    }
    // Length, id and flags: all that a used descriptor has (VIRTIO 2.8.4).
    std::uint64_t* second_half(std::uint32_t index) const {
        return reinterpret_cast<std::uint64_t*>(slot(index) + offsetof(PackedDesc, len));
    }
    static std::uint64_t used_word(const PackedDesc& desc) {
        struct Halves {
            std::uint64_t addr, rest;
        };
        return std::bit_cast<Halves>(desc).rest;
    }

    PackedRingLayout layout_;
    Position used_;                        // next used descriptor
    Position next_avail_;                  // next descriptor to acquire
    Position scan_;                        // next descriptor to look at
    Position considered_;                  // used_ when call_wanted() was last asked
    std::uint32_t completed_ = 0;          // descriptors between considered_ and used_
    std::uint32_t held_entries_ = 0;       // descriptors between used_ and next_avail_
    std::uint32_t ahead_ = 0;              // descriptors between next_avail_ and scan_
    std::uint32_t available_ = 0;          // chains among them
    std::uint64_t* first_used_ = nullptr;  // of the batch; nullptr: nothing to publish
    std::uint64_t first_word_ = 0;         // what goes there
};

static_assert(DeviceRing<PackedRing>);

}  // namespace zecorx
