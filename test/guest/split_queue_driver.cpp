#include "split_queue_driver.h"

#include <bit>
#include <cassert>
#include <cstring>
#include <utility>

namespace zecorx::test {

namespace {

Desc describe(const Piece& piece) {
    return {piece.gpa, piece.len, piece.device_writable ? kDescWrite : std::uint16_t{0}, 0};
}

// Whether moving an index from `old_idx` to `new_idx` passes `event` (VIRTIO 2.7.10).
bool passes_event(std::uint16_t event, std::uint16_t old_idx, std::uint16_t new_idx) {
    const auto since_event = static_cast<std::uint16_t>(new_idx - event - 1);
    const auto moved = static_cast<std::uint16_t>(new_idx - old_idx);
    return since_event < moved;
}

}  // namespace

SplitQueueDriver::SplitQueueDriver(FakeMemory& memory, std::uint16_t size,
                                   std::uint16_t first_index)
    : QueueDriver(memory, size,
                  {memory.allocate(desc_table_size(size)), memory.allocate(avail_ring_size(size)),
                   memory.allocate(used_ring_size(size))}),
      descs_(size),
      next_avail_(first_index),
      published_(first_index),
      kicked_(first_index),
      next_used_(first_index) {
    assert(std::has_single_bit(size) && size <= kMaxRingSize);
    std::memset(memory.at(desc_table(), desc_table_size(size)), 0, desc_table_size(size));
    std::memset(memory.at(avail_ring(), avail_ring_size(size)), 0, avail_ring_size(size));
    std::memset(memory.at(used_ring(), used_ring_size(size)), 0, used_ring_size(size));
    word(used_ring(), kRingIdxOffset) = first_index;
    word(avail_ring(), kRingIdxOffset) = first_index;
    for (std::uint32_t i = 0; i < size; ++i) free_.push_back(static_cast<std::uint16_t>(i));
}

std::uint16_t& SplitQueueDriver::word(Gpa ring, std::size_t offset) const {
    return *memory_.as<std::uint16_t>(ring + offset);
}

std::uint16_t& SplitQueueDriver::used_event() const {
    return word(avail_ring(), kRingEntriesOffset + 2UL * size_);
}

std::uint16_t& SplitQueueDriver::avail_event() const {
    return word(used_ring(), kRingEntriesOffset + 8UL * size_);
}

Desc& SplitQueueDriver::desc(std::uint16_t index) const {
    return *memory_.as<Desc>(desc_table() + sizeof(Desc) * index);
}

void SplitQueueDriver::write_avail_entry(std::uint16_t slot, std::uint16_t head) const {
    word(avail_ring(), kRingEntriesOffset + 2UL * (slot % size_)) = head;
}

// Release half: the device must see descriptors and avail entries before the index that covers
// them; pairs with its acquire load of avail.idx. Sequentially consistent because kick() reads what
// the device wants after this store, while the device writes that and then looks at avail.idx once
// more: only a total order keeps each from missing the other (VIRTIO 2.7.13.4.1).
void SplitQueueDriver::write_avail_idx(std::uint16_t index) const {
    std::atomic_ref(word(avail_ring(), kRingIdxOffset)).store(index, std::memory_order_seq_cst);
}

std::uint16_t SplitQueueDriver::avail_idx() const {
    return std::atomic_ref(word(avail_ring(), kRingIdxOffset)).load(std::memory_order_relaxed);
}

// Acquire: pairs with the device's release store of used.idx, which follows its used entries and
// everything it wrote into the buffers. Sequentially consistent for want_calls(), the mirror image
// of a kick.
std::uint16_t SplitQueueDriver::used_idx() const {
    return std::atomic_ref(word(used_ring(), kRingIdxOffset)).load(std::memory_order_seq_cst);
}

std::uint16_t SplitQueueDriver::used_flags() const {
    return std::atomic_ref(word(used_ring(), kRingFlagsOffset)).load(std::memory_order_seq_cst);
}

std::uint16_t SplitQueueDriver::take_descriptor() {
    const std::uint16_t index = free_.front();
    free_.pop_front();
    return index;
}

std::uint16_t SplitQueueDriver::write_chain(std::span<const Piece> pieces, DescForm form) {
    const std::uint16_t head = free_.front();
    if (form == DescForm::kIndirect) {
        descs_[head].push_back(take_descriptor());
        write_indirect(pieces, head);
    } else {
        write_direct(pieces, descs_[head]);
    }
    write_avail_entry(next_avail_++, head);
    return head;
}

void SplitQueueDriver::write_direct(std::span<const Piece> pieces,
                                    std::vector<std::uint16_t>& descs) {
    for (const Piece& piece : pieces) {
        descs.push_back(take_descriptor());
        Desc entry = describe(piece);
        if (&piece != &pieces.back()) {
            entry.flags |= kDescNext;
            entry.next = free_.front();
        }
        desc(descs.back()) = entry;
    }
}

void SplitQueueDriver::write_indirect(std::span<const Piece> pieces, std::uint16_t head) {
    std::vector<Desc> table;
    for (const Piece& piece : pieces) {
        table.push_back(describe(piece));
        if (&piece == &pieces.back()) continue;
        table.back().flags |= kDescNext;
        table.back().next = static_cast<std::uint16_t>(table.size());
    }
    const auto bytes = std::as_bytes(std::span(table));
    desc(head) = {write_table(head, bytes), static_cast<std::uint32_t>(bytes.size()), kDescIndirect,
                  0};
}

void SplitQueueDriver::make_visible() {
    published_ = next_avail_;
    write_avail_idx(published_);
}

bool SplitQueueDriver::device_wants_kick() {
    const std::uint16_t old_idx = std::exchange(kicked_, published_);
    if (!event_idx_) return (used_flags() & kUsedNoNotify) == 0;
    const std::uint16_t event = std::atomic_ref(avail_event()).load(std::memory_order_seq_cst);
    return passes_event(event, old_idx, published_);
}

void SplitQueueDriver::want_calls(bool wanted) {
    calls_wanted_ = wanted;
    std::atomic_ref(word(avail_ring(), kRingFlagsOffset)).store(wanted ? 0 : kAvailNoInterrupt);
    // An event index just passed is not passed again for a whole turn of the 16-bit index.
    const auto event = static_cast<std::uint16_t>(wanted ? next_used_ : next_used_ - 1);
    std::atomic_ref(used_event()).store(event);
}

std::vector<UsedHead> SplitQueueDriver::reap() {
    std::vector<UsedHead> reaped;
    const std::uint16_t end = used_idx();
    const auto ready = static_cast<std::uint16_t>(end - next_used_);
    if (ready > published()) {
        violations_.add("used.idx is " + std::to_string(ready) + " ahead with " +
                        std::to_string(published()) + " chains outstanding");
        return reaped;
    }
    while (next_used_ != end) {
        const Gpa slot = used_ring() + kRingEntriesOffset + sizeof(UsedElem) * (next_used_ % size_);
        const UsedElem entry = *memory_.as<UsedElem>(slot);
        const std::size_t batch = batch_size(entry.id);
        if (batch > static_cast<std::uint16_t>(end - next_used_)) {
            violations_.add("used.idx ends inside the batch of chain " + std::to_string(entry.id));
            return reaped;
        }
        take_back(entry.id, entry.len, reaped);
        next_used_ = static_cast<std::uint16_t>(next_used_ + batch);
    }
    if (event_idx_) want_calls(calls_wanted_);
    return reaped;
}

void SplitQueueDriver::release(std::uint16_t head) {
    free_.insert(free_.end(), descs_[head].begin(), descs_[head].end());
    descs_[head].clear();
}

}  // namespace zecorx::test
