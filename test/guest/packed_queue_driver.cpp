#include "packed_queue_driver.h"

#include <cassert>
#include <cstring>
#include <utility>

namespace zecorx::test {

namespace {

std::uint16_t data_flags(const Piece& piece) { return piece.device_writable ? kDescWrite : 0; }

// Only the last descriptor of a chain has a meaningful id, and none in an indirect table (VIRTIO
// 2.8.6, 2.8.7). The others get one that a device must not use.
std::uint16_t wrong_id(std::uint16_t id) { return static_cast<std::uint16_t>(~id); }

}  // namespace

PackedQueueDriver::PackedQueueDriver(FakeMemory& memory, std::uint16_t size,
                                     std::uint16_t first_index)
    : QueueDriver(memory, size,
                  {memory.allocate(packed_ring_size(size)), memory.allocate(sizeof(EventSuppress)),
                   memory.allocate(sizeof(EventSuppress))}),
      expected_(size),
      lengths_(size),
      avail_(first_index),
      published_(first_index),
      kicked_(first_index),
      used_(first_index) {
    assert(size > 0 && size <= kMaxRingSize);
    // As a ring looks on which every chain so far was one descriptor and came back.
    for (Count i = 0; i < size; ++i) {
        PackedDesc& entry = expected_[i];
        entry.flags = packed_used_flags(wrap(used_) == (i < used_ % size));
        desc(static_cast<std::uint16_t>(i)) = entry;
        free_ids_.push_back(static_cast<std::uint16_t>(i));
    }
    driver_event() = {};
    device_event() = {};
}

std::uint16_t PackedQueueDriver::position(Count at) const {
    return static_cast<std::uint16_t>(at % size_ | (wrap(at) ? kPackedWrap : 0));
}

PackedDesc& PackedQueueDriver::desc(std::uint16_t position) const {
    const Gpa offset = sizeof(PackedDesc) * (position & ~kPackedWrap);
    return *memory_.as<PackedDesc>(descriptor_area() + offset);
}

void PackedQueueDriver::use_in_order() {
    QueueDriver::use_in_order();
    free_ids_.clear();
}

// Last in, first out, as Linux does it. In order, the position of the chain's first descriptor.
std::uint16_t PackedQueueDriver::take_id() {
    if (in_order_) return static_cast<std::uint16_t>(avail_ % size_);
    const std::uint16_t id = free_ids_.back();
    free_ids_.pop_back();
    return id;
}

std::uint16_t PackedQueueDriver::write_chain(std::span<const Piece> pieces, DescForm form) {
    const std::uint16_t id = take_id();
    if (form == DescForm::kIndirect) {
        lengths_[id] = 1;
        write_desc(indirect_desc(pieces, id));
        return id;
    }
    lengths_[id] = static_cast<std::uint16_t>(pieces.size());
    for (const Piece& piece : pieces) {
        const bool last = &piece == &pieces.back();
        const std::uint16_t next = last ? 0 : kDescNext;
        write_desc({piece.gpa, piece.len, last ? id : wrong_id(id),
                    static_cast<std::uint16_t>(data_flags(piece) | next)});
    }
    return id;
}

PackedDesc PackedQueueDriver::indirect_desc(std::span<const Piece> pieces, std::uint16_t id) {
    std::vector<PackedDesc> table;
    for (const Piece& piece : pieces) {
        table.push_back({piece.gpa, piece.len, wrong_id(id), data_flags(piece)});
    }
    const auto bytes = std::as_bytes(std::span(table));
    return {write_table(id, bytes), static_cast<std::uint32_t>(bytes.size()), id, kDescIndirect};
}

// Everything but the flags of the first unpublished descriptor, which keep the rest from the
// device until make_visible(). Atomic, because the device looks at flags meanwhile.
void PackedQueueDriver::write_desc(const PackedDesc& desc) {
    check_desc(avail_, "while it was free");
    PackedDesc entry = desc;
    entry.flags |= packed_avail_flags(wrap(avail_));
    expected_[avail_ % size_] = entry;
    PackedDesc& slot = this->desc(position(avail_));
    std::atomic_ref(slot.addr).store(entry.addr, std::memory_order_relaxed);
    std::atomic_ref(slot.len).store(entry.len, std::memory_order_relaxed);
    std::atomic_ref(slot.id).store(entry.id, std::memory_order_relaxed);
    if (avail_ != published_) {
        std::atomic_ref(slot.flags).store(entry.flags, std::memory_order_relaxed);
    }
    ++avail_;
}

// Release: the device must see the other descriptors before these flags. Sequentially consistent
// because kick() reads the device's event suppression after this store, while the device writes
// that and then looks at these flags once more (VIRTIO 2.8.21).
void PackedQueueDriver::make_visible() {
    if (avail_ == published_) return;
    std::atomic_ref(desc(position(published_)).flags)
        .store(expected_[published_ % size_].flags, std::memory_order_seq_cst);
    published_ = avail_;
}

bool PackedQueueDriver::device_wants_kick() {
    const Count from = std::exchange(kicked_, published_);
    EventSuppress& event = device_event();
    const std::uint16_t flags = std::atomic_ref(event.flags).load() & kEventFlagsMask;
    if (flags != kEventDesc) return flags != kEventDisable;
    if (!event_idx_) {
        violations_.add("the device asks for kicks by position without EVENT_IDX");
        return true;
    }
    const std::uint16_t off_wrap = std::atomic_ref(event.off_wrap).load();
    return packed_passes_event(size_, off_wrap, position(from), published_ - from);
}

// The position first: with the old one, new flags could have the device wait for a descriptor that
// has gone by.
void PackedQueueDriver::want_calls(bool wanted) {
    calls_wanted_ = wanted;
    const std::uint16_t wanted_flags = event_idx_ ? kEventDesc : kEventEnable;
    EventSuppress& event = driver_event();
    std::atomic_ref(event.off_wrap).store(position(used_));
    std::atomic_ref(event.flags).store(wanted ? wanted_flags : kEventDisable);
}

// Acquire: pairs with the device's release store of the flags, which follows the rest of the
// descriptor and everything it wrote into the buffers. Sequentially consistent for want_calls(),
// the mirror image of a kick.
PackedDesc PackedQueueDriver::look(Count at) const {
    PackedDesc& slot = desc(position(at));
    PackedDesc seen{};
    seen.flags = std::atomic_ref(slot.flags).load(std::memory_order_seq_cst);
    seen.addr = std::atomic_ref(slot.addr).load(std::memory_order_relaxed);
    seen.len = std::atomic_ref(slot.len).load(std::memory_order_relaxed);
    seen.id = std::atomic_ref(slot.id).load(std::memory_order_relaxed);
    return seen;
}

bool PackedQueueDriver::is_used(Count at) const {
    return (look(at).flags & kPackedStateFlags) == packed_used_flags(wrap(at));
}

std::optional<PackedDesc> PackedQueueDriver::next_used_desc() {
    if (broken_ || published() == 0) return std::nullopt;
    const PackedDesc seen = look(used_);
    const std::uint16_t state = seen.flags & kPackedStateFlags;
    if (state == packed_used_flags(wrap(used_))) return seen;
    if (state != packed_avail_flags(wrap(used_))) {
        violations_.add("descriptor " + std::to_string(used_ % size_) +
                        " is marked used with the wrong wrap counter");
        broken_ = true;
    }
    return std::nullopt;
}

std::vector<UsedHead> PackedQueueDriver::reap() {
    std::vector<UsedHead> reaped;
    while (const auto used = next_used_desc()) broken_ = !take_used(*used, reaped);
    if (event_idx_) want_calls(calls_wanted_);
    return reaped;
}

// From here on the descriptor is to stay as it was seen, which audit() and the next write to it
// check: a device that sets the flags before the rest of it does not keep to that.
bool PackedQueueDriver::take_used(const PackedDesc& used, std::vector<UsedHead>& reaped) {
    const std::uint32_t len = used_length(used);
    expected_[used_ % size_] = used;
    const Count first = used_;
    if (!take_back(used.id, len, reaped)) return false;
    for (Count at = first + 1; at < used_; ++at) check_desc(at, "while the device held it");
    return true;
}

// The length counts only with the WRITE flag (VIRTIO 2.8.4).
std::uint32_t PackedQueueDriver::used_length(const PackedDesc& used) {
    if ((used.flags & kDescWrite) != 0) return used.len;
    if (device_holds(used.id) && used.len != 0 && writable(used.id) != 0) {
        violations_.add("descriptor " + std::to_string(used_ % size_) +
                        " is used with a length, but without the WRITE flag");
    }
    return 0;
}

void PackedQueueDriver::release(std::uint16_t id) {
    used_ += lengths_[id];
    if (!in_order_) free_ids_.push_back(id);
}

std::uint16_t PackedQueueDriver::used_idx() const {
    Count at = used_;
    for (std::size_t i = 0; i < published() && is_used(at); ++i) {
        const std::uint16_t id = look(at).id;
        if (!device_holds(id)) break;
        at += lengths_[id];
        if (!batches_accepted_) continue;
        for (; i + 1 < published() && outstanding_at(i) != id; ++i) {
            at += lengths_[outstanding_at(i)];
        }
    }
    return position(at);
}

void PackedQueueDriver::check_desc(Count at, const std::string& when) {
    PackedDesc& expected = expected_[at % size_];
    const PackedDesc seen = look(at);
    if (std::memcmp(&seen, &expected, sizeof(seen)) == 0) return;
    violations_.add("descriptor " + std::to_string(at % size_) + " was changed " + when);
    expected = seen;
}

void PackedQueueDriver::audit() {
    for (Count at = avail_; at < used_ + size_; ++at) check_desc(at, "while it was free");
}

}  // namespace zecorx::test
