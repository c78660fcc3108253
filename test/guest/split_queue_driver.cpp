#include "split_queue_driver.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

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
    : memory_(memory),
      size_(size),
      desc_(memory.allocate(desc_table_size(size))),
      avail_(memory.allocate(avail_ring_size(size))),
      used_(memory.allocate(used_ring_size(size))),
      chains_(size),
      next_avail_(first_index),
      published_(first_index),
      kicked_(first_index),
      next_used_(first_index) {
    assert(std::has_single_bit(size) && size <= kMaxRingSize);
    std::memset(memory.at(desc_, desc_table_size(size)), 0, desc_table_size(size));
    std::memset(memory.at(avail_, avail_ring_size(size)), 0, avail_ring_size(size));
    std::memset(memory.at(used_, used_ring_size(size)), 0, used_ring_size(size));
    word(used_, kRingIdxOffset) = first_index;
    word(avail_, kRingIdxOffset) = first_index;
    for (std::uint32_t i = 0; i < size; ++i) free_.push_back(static_cast<std::uint16_t>(i));
}

std::uint16_t& SplitQueueDriver::word(Gpa ring, std::size_t offset) const {
    return *memory_.as<std::uint16_t>(ring + offset);
}

std::uint16_t& SplitQueueDriver::used_event() const {
    return word(avail_, kRingEntriesOffset + 2UL * size_);
}

std::uint16_t& SplitQueueDriver::avail_event() const {
    return word(used_, kRingEntriesOffset + 8UL * size_);
}

Desc& SplitQueueDriver::desc(std::uint16_t index) const {
    return *memory_.as<Desc>(desc_ + sizeof(Desc) * index);
}

void SplitQueueDriver::write_avail_entry(std::uint16_t slot, std::uint16_t head) const {
    word(avail_, kRingEntriesOffset + 2UL * (slot % size_)) = head;
}

// Release half: the device must see descriptors and avail entries before the index that covers
// them; pairs with its acquire load of avail.idx. Sequentially consistent because kick() reads what
// the device wants after this store, while the device writes that and then looks at avail.idx once
// more: only a total order keeps each from missing the other (VIRTIO 2.7.13.4.1).
void SplitQueueDriver::write_avail_idx(std::uint16_t index) const {
    std::atomic_ref(word(avail_, kRingIdxOffset)).store(index, std::memory_order_seq_cst);
}

std::uint16_t SplitQueueDriver::avail_idx() const {
    return std::atomic_ref(word(avail_, kRingIdxOffset)).load(std::memory_order_relaxed);
}

// Acquire: pairs with the device's release store of used.idx, which follows its used entries and
// everything it wrote into the buffers. Sequentially consistent for want_calls(), the mirror image
// of a kick.
std::uint16_t SplitQueueDriver::used_idx() const {
    return std::atomic_ref(word(used_, kRingIdxOffset)).load(std::memory_order_seq_cst);
}

std::uint16_t SplitQueueDriver::used_flags() const {
    return std::atomic_ref(word(used_, kRingFlagsOffset)).load(std::memory_order_seq_cst);
}

std::optional<std::uint16_t> SplitQueueDriver::add(std::span<const Piece> pieces, DescForm form) {
    assert(!pieces.empty());
    const std::size_t needed = form == DescForm::kIndirect ? 1 : pieces.size();
    if (free_.size() < needed) return std::nullopt;
    const std::uint16_t head =
        form == DescForm::kIndirect ? add_indirect(pieces) : add_direct(pieces);
    chains_[head].state = ChainState::kAdded;
    write_avail_entry(next_avail_++, head);
    avail_order_.push_back(head);
    return head;
}

std::uint16_t SplitQueueDriver::take_descriptor() {
    const std::uint16_t index = free_.front();
    free_.pop_front();
    return index;
}

std::uint16_t SplitQueueDriver::add_direct(std::span<const Piece> pieces) {
    const std::uint16_t head = free_.front();
    std::vector<std::uint16_t>& descs = chains_[head].descs;
    for (const Piece& piece : pieces) {
        descs.push_back(take_descriptor());
        Desc entry = describe(piece);
        if (&piece != &pieces.back()) {
            entry.flags |= kDescNext;
            entry.next = free_.front();
        }
        desc(descs.back()) = entry;
    }
    return head;
}

std::uint16_t SplitQueueDriver::add_indirect(std::span<const Piece> pieces) {
    const std::uint16_t head = take_descriptor();
    Chain& chain = chains_[head];
    chain.descs.push_back(head);
    if (chain.table_entries < pieces.size()) {
        chain.table = memory_.allocate(sizeof(Desc) * pieces.size());
        chain.table_entries = pieces.size();
    }
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        Desc entry = describe(pieces[i]);
        if (i + 1 < pieces.size()) {
            entry.flags |= kDescNext;
            entry.next = static_cast<std::uint16_t>(i + 1);
        }
        *memory_.as<Desc>(chain.table + sizeof(Desc) * i) = entry;
    }
    desc(head) = {chain.table, static_cast<std::uint32_t>(sizeof(Desc) * pieces.size()),
                  kDescIndirect, 0};
    return head;
}

void SplitQueueDriver::publish() {
    const auto fresh = static_cast<std::uint16_t>(next_avail_ - published_);
    for (std::size_t i = avail_order_.size() - fresh; i < avail_order_.size(); ++i) {
        chains_[avail_order_[i]].state = ChainState::kPublished;
    }
    published_ = next_avail_;
    write_avail_idx(published_);
}

bool SplitQueueDriver::kick() {
    const std::uint16_t old_idx = kicked_;
    kicked_ = published_;
    if (old_idx == published_) return false;
    if (!device_wants_kick(old_idx, published_)) {
        ++kicks_suppressed_;
        return false;
    }
    kick_.signal();
    ++kicks_sent_;
    return true;
}

bool SplitQueueDriver::device_wants_kick(std::uint16_t old_idx, std::uint16_t new_idx) const {
    if (!event_idx_) return (used_flags() & kUsedNoNotify) == 0;
    const std::uint16_t event = std::atomic_ref(avail_event()).load(std::memory_order_seq_cst);
    return passes_event(event, old_idx, new_idx);
}

void SplitQueueDriver::use_event_idx() {
    event_idx_ = true;
    want_calls(calls_wanted_);
}

void SplitQueueDriver::want_calls(bool wanted) {
    calls_wanted_ = wanted;
    std::atomic_ref(word(avail_, kRingFlagsOffset)).store(wanted ? 0 : kAvailNoInterrupt);
    // An event index just passed is not passed again for a whole turn of the 16-bit index.
    const auto event = static_cast<std::uint16_t>(wanted ? next_used_ : next_used_ - 1);
    std::atomic_ref(used_event()).store(event);
}

std::vector<UsedHead> SplitQueueDriver::reap() {
    std::vector<UsedHead> reaped;
    const auto ready = static_cast<std::uint16_t>(used_idx() - next_used_);
    const auto unpublished = static_cast<std::uint16_t>(next_avail_ - published_);
    if (ready > outstanding() - unpublished) {
        violations_.add("used.idx is " + std::to_string(ready) + " ahead with " +
                        std::to_string(outstanding() - unpublished) + " chains outstanding");
        return reaped;
    }
    for (std::uint16_t i = 0; i < ready; ++i) {
        const Gpa slot = used_ + kRingEntriesOffset + sizeof(UsedElem) * (next_used_++ % size_);
        const UsedElem entry = *memory_.as<UsedElem>(slot);
        if (!take_back(entry.id)) continue;
        reaped.push_back({static_cast<std::uint16_t>(entry.id), entry.len});
    }
    if (event_idx_) want_calls(calls_wanted_);
    return reaped;
}

bool SplitQueueDriver::take_back(std::uint32_t id) {
    if (id >= size_ || chains_[id].state != ChainState::kPublished) {
        violations_.add("used entry names head " + std::to_string(id) +
                        ", which the device does not hold");
        return false;
    }
    const auto head = static_cast<std::uint16_t>(id);
    Chain& chain = chains_[head];
    chain.state = ChainState::kFree;
    free_.insert(free_.end(), chain.descs.begin(), chain.descs.end());
    chain.descs.clear();
    note_order(head);
    return true;
}

void SplitQueueDriver::note_order(std::uint16_t head) {
    if (avail_order_.front() != head) ++order_violations_;
    avail_order_.erase(std::find(avail_order_.begin(), avail_order_.end(), head));
}

}  // namespace zecorx::test
