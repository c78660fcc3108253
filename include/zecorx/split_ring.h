// The device side of a split virtqueue (VIRTIO 2.7); see ring.h.
//
// Indices are free-running 16-bit values, masked only to address a slot, and distances are
// compared in wrapping uint16_t.
//
// Invariants: used_index() <= next_avail() <= the driver's avail index (as distances of at most
// the ring size); a head is read once, from the slot next_avail() names.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "zecorx/chain.h"
#include "zecorx/ring.h"
#include "zecorx/virtio.h"

namespace zecorx {

// Where the rings of one virtqueue lie in this process; all three are guest-controlled memory.
struct SplitRingLayout {
    std::byte* desc = nullptr;
    std::byte* avail = nullptr;
    std::byte* used = nullptr;
    std::uint32_t size = 0;  // descriptors, a power of two up to kMaxRingSize
    bool event_idx = false;  // VIRTIO_F_EVENT_IDX: event words instead of flags (VIRTIO 2.7.7.1)

    // Whether a ring may be built on it (VIRTIO 2.7: alignments of 16, 2 and 4 bytes).
    bool valid() const {
        const auto aligned = [](const std::byte* at, std::uintptr_t to) {
            return at != nullptr && reinterpret_cast<std::uintptr_t>(at) % to == 0;
        };
        return std::has_single_bit(size) && size <= kMaxRingSize && aligned(desc, 16) &&
               aligned(avail, 2) && aligned(used, 4);
    }
};

class SplitRing {
  public:
    SplitRing() = default;

    // Continues where the driver's used index stands: every head beyond it is still the driver's
    // to see again. REQUIRES: layout.valid().
    explicit SplitRing(const SplitRingLayout& layout)
        : layout_(layout),
          mask_(static_cast<std::uint16_t>(layout.size - 1)),
          used_index_(load_relaxed(layout.used + kRingIdxOffset)),
          next_avail_(used_index_),
          avail_index_(used_index_),
          considered_(used_index_),
          published_(used_index_) {}

    std::uint32_t size() const { return layout_.size; }
    std::uint16_t used_index() const { return used_index_; }
    std::uint16_t next_avail() const { return next_avail_; }
    // Heads acquired and not completed.
    std::uint16_t held() const { return static_cast<std::uint16_t>(next_avail_ - used_index_); }

    // False: the driver's avail index is ahead by more than the ring holds (keeps out an index
    // that would make us read slots never written).
    bool refresh() {
        // Pairs with the driver's release store (or write barrier) of avail.idx: the slots and
        // descriptors below the index are visible after this load.
        avail_index_ = load_acquire(layout_.avail + kRingIdxOffset);
        return static_cast<std::uint16_t>(avail_index_ - used_index_) <= layout_.size &&
               available() <= layout_.size;
    }

    RingWatch watch() const {
        return {word(static_cast<const std::byte*>(layout_.avail + kRingIdxOffset)), UINT16_MAX,
                avail_index_, false};
    }

    std::uint32_t available() const {
        return static_cast<std::uint16_t>(avail_index_ - next_avail_);
    }

    RingError acquire(const GuestMemory& memory, Direction direction, Chain& chain, Head& head) {
        const std::size_t slot = next_avail_++ & mask_;
        head.id = load_relaxed(layout_.avail + kRingEntriesOffset + 2 * slot);
        if (head.id >= layout_.size) [[unlikely]]
            return RingError::kHead;
        chain.begin(memory, direction);
        const Desc first = snapshot<Desc>(layout_.desc + sizeof(Desc) * head.id);
        const RingError error = walk(first, chain, head);
        held_entries_ += head.entries;
        return error;
    }

    // Acquires chains of one direct, device-writable buffer in avail order, while
    // accept(i, gpa, length) takes the i-th, and notes their ids. The first that is something else
    // or not taken stays, and is acquired as ever. REQUIRES: limit <= available(), and room for as
    // many `ids`. Returns how many.
    template <class Accept>
    [[gnu::always_inline]] std::uint32_t acquire_singles(std::uint32_t limit, std::uint16_t* ids,
                                                         Accept&& accept) {
        read_heads(limit, ids);
        const std::byte* const table = layout_.desc;
        const std::uint32_t mask = mask_;
        std::uint32_t count = 0;
        for (; count < limit; ++count) {
            const std::uint32_t id = ids[count];
            if (id > mask) [[unlikely]]
                break;
            const Desc desc = snapshot<Desc>(table + sizeof(Desc) * id);
            if (desc.flags != kDescWrite || !accept(count, desc.addr, desc.len)) [[unlikely]]
                break;
        }
        next_avail_ = static_cast<std::uint16_t>(next_avail_ + count);
        held_entries_ += count;
        return count;
    }

    // Completes `count` chains of one descriptor with these ids, of which the i-th got length(i)
    // bytes.
    template <class Length>
    [[gnu::always_inline]] void complete_singles(std::uint32_t count, const std::uint16_t* ids,
                                                 Length&& length) {
        std::byte* const entries = layout_.used + kRingEntriesOffset;
        const std::uint32_t mask = mask_;
        const std::uint32_t first = used_index_;
        for (std::uint32_t i = 0; i < count; ++i) {
            const std::size_t slot = (first + i) & mask;
            // As one word; see ReceivedHeader.
            const std::uint64_t entry = ids[i] | std::uint64_t{length(i)} << 32;
            __builtin_memcpy(entries + sizeof entry * slot, &entry, sizeof entry);
        }
        used_index_ = static_cast<std::uint16_t>(first + count);
        held_entries_ -= count;
    }

    void complete(Head head, std::uint32_t length) {
        const std::size_t slot = used_index_++ & mask_;
        const UsedElem entry{head.id, length};
        auto* at = reinterpret_cast<std::uint64_t*>(layout_.used + kRingEntriesOffset +
                                                    sizeof(UsedElem) * slot);
        // Entries lie 4 bytes off their natural alignment, so this store may be two on the bus;
        // publish() orders both before the index.
        __builtin_memcpy(at, &entry, sizeof entry);
        held_entries_ -= head.entries;
    }

    void publish() {
        // Release: headers, payload and used entries come first. Pairs with the driver's load of
        // used.idx and its read barrier.
        __atomic_store_n(word(layout_.used + kRingIdxOffset), used_index_, __ATOMIC_RELEASE);
        published_ = used_index_;
    }

    [[gnu::noinline, gnu::cold]] void publish(const GuestLog& log) {
        const std::uint32_t count = static_cast<std::uint16_t>(used_index_ - published_);
        const std::uint32_t slot = published_ & mask_;
        const std::uint32_t first = std::min(count, layout_.size - slot);
        const std::byte* const entries = layout_.used + kRingEntriesOffset;
        log.mark(entries + sizeof(UsedElem) * slot, sizeof(UsedElem) * first);
        log.mark(entries, sizeof(UsedElem) * (count - first));
        publish();
        log.mark(layout_.used + kRingIdxOffset, sizeof used_index_);
    }

    // VIRTIO 2.7.7.
    bool call_wanted() {
        // Full fence: the store of used.idx must be visible before the driver's wish is read.
        // Pairs with the driver, which states its wish, fences, then looks at used.idx once more.
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (!layout_.event_idx) {
            return (load_relaxed(layout_.avail + kRingFlagsOffset) & kAvailNoInterrupt) == 0;
        }
        const std::uint16_t event = load_relaxed(used_event());
        const std::uint16_t before = std::exchange(considered_, used_index_);
        // The index passed `event` (VIRTIO 2.7.7.2): distances wrap.
        return static_cast<std::uint16_t>(used_index_ - event - 1) <
               static_cast<std::uint16_t>(used_index_ - before);
    }

    // VIRTIO 2.7.10.
    void suppress_kicks(const GuestLog& log = {}) {
        // With event words: the index just passed, so the driver kicks once in 65536 chains.
        std::byte* const wish = layout_.event_idx ? avail_event() : layout_.used + kRingFlagsOffset;
        store_relaxed(
            wish, layout_.event_idx ? static_cast<std::uint16_t>(next_avail_ - 1) : kUsedNoNotify);
        log.mark(wish, sizeof next_avail_);
    }

    // A driver that lets chains share descriptors can hold more heads than this counts; they
    // still run out.
    bool exhausted(Head like) const {
        return held_entries_ + like.entries > layout_.size || held() >= layout_.size;
    }

    void rewind() {
        next_avail_ = used_index_;
        held_entries_ = 0;
    }

    std::uint16_t base() const { return used_index_; }

  private:
    // The next `count` entries of the avail ring, each read once.
    void read_heads(std::uint32_t count, std::uint16_t* heads) const {
        const auto* const entries =
            reinterpret_cast<const std::uint16_t*>(layout_.avail + kRingEntriesOffset);
        const std::uint32_t slot = next_avail_ & mask_;
        const std::uint32_t first = std::min(count, layout_.size - slot);
        std::copy_n(entries + slot, first, heads);
        if (first < count) std::copy_n(entries, count - first, heads + first);
        // Keeps the compiler from reading the ring, which the driver may write, once more.
        std::atomic_signal_fence(std::memory_order_seq_cst);
    }

    RingError walk(const Desc& first, Chain& chain, Head& head) const {
        head.entries = 1;
        if ((first.flags & kDescIndirect) == 0) {
            return walk_table({layout_.desc, desc_table_size(layout_.size)}, first, chain,
                              head.entries);
        }
        std::span<const std::byte> table;
        const RingError error = chain.indirect_table(first.addr, first.len, first.flags, table);
        if (error != RingError::kNone) return error;
        std::uint16_t descriptors = 0;
        return walk_table(table, snapshot<Desc>(table.data()), chain, descriptors);
    }

    // Follows next indices; touches at most as many descriptors as the table has, so a loop ends.
    static RingError walk_table(std::span<const std::byte> table, Desc desc, Chain& chain,
                                std::uint16_t& descriptors) {
        const std::size_t size = table.size() / sizeof(Desc);
        for (descriptors = 1;; ++descriptors) {
            if (descriptors > size) return RingError::kLoop;
            const RingError error = chain.add(desc.addr, desc.len, desc.flags);
            if (error != RingError::kNone) return error;
            if ((desc.flags & kDescNext) == 0) return RingError::kNone;
            if (desc.next >= size) return RingError::kNext;
            desc = snapshot<Desc>(table.data() + sizeof(Desc) * desc.next);
        }
    }

    static std::uint16_t* word(std::byte* at) { return reinterpret_cast<std::uint16_t*>(at); }
    static const std::uint16_t* word(const std::byte* at) {
        return reinterpret_cast<const std::uint16_t*>(at);
    }
    static std::uint16_t load_relaxed(const std::byte* at) {
        return __atomic_load_n(word(at), __ATOMIC_RELAXED);
    }
    static void store_relaxed(std::byte* at, std::uint16_t value) {
        __atomic_store_n(word(at), value, __ATOMIC_RELAXED);
    }
    // The event words lie behind the last entry of the other side's ring.
    const std::byte* used_event() const {
        return layout_.avail + avail_ring_size(layout_.size, false);
    }
    std::byte* avail_event() const { return layout_.used + used_ring_size(layout_.size, false); }
    static std::uint16_t load_acquire(const std::byte* at) {
        return __atomic_load_n(word(at), __ATOMIC_ACQUIRE);
    }

    SplitRingLayout layout_;
    std::uint16_t mask_ = 0;
    std::uint16_t used_index_ = 0;    // next used entry to write
    std::uint16_t next_avail_ = 0;    // next avail entry to acquire
    std::uint16_t avail_index_ = 0;   // the driver's index at the last refresh()
    std::uint16_t considered_ = 0;    // used_index_ when call_wanted() was last asked
    std::uint16_t published_ = 0;     // what the driver has seen of used_index_
    std::uint32_t held_entries_ = 0;  // descriptors of the table that held chains occupy
};

static_assert(DeviceRing<SplitRing>);

}  // namespace zecorx
