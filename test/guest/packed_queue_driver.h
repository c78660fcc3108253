// The driver side of one packed virtqueue (VIRTIO 2.8) in guest memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "queue_driver.h"

namespace zecorx::test {

// Descriptor flags by which a driver makes a descriptor available and a device marks it used, for
// a wrap counter of 1 or 0 (VIRTIO 2.8.1).
constexpr std::uint16_t packed_avail_flags(bool wrap) {
    return wrap ? kPackedDescAvail : kPackedDescUsed;
}
constexpr std::uint16_t packed_used_flags(bool wrap) {
    return wrap ? kPackedDescAvail | kPackedDescUsed : 0;
}
inline constexpr std::uint16_t kPackedStateFlags = kPackedDescAvail | kPackedDescUsed;

// Whether making the `count` descriptors from `from` on available or used passes `event` in a ring
// of `size`; both positions carry kPackedWrap (VIRTIO 2.8.10).
constexpr bool packed_passes_event(std::uint16_t size, std::uint16_t event, std::uint16_t from,
                                   std::size_t count) {
    // Two laps around the ring bring position and wrap counter back to where they were.
    const auto unrolled = [size](std::uint16_t at) {
        return (at & kPackedWrap) != 0 ? at & ~kPackedWrap : at + size;
    };
    return static_cast<std::size_t>(unrolled(event) + 2 * size - unrolled(from)) % (2UL * size) <
           count;
}

// Thread rule of QueueDriver. It keeps a copy of what every descriptor must look like, so that it
// notices a device that writes where it must not, or marks a descriptor used before the rest of it
// is written.
//
// Buffer ids are handed out from the highest down, unless IN_ORDER makes them ring positions: a
// device that confuses the two is noticed.
//
// Invariant: outstanding chains have avail_ - used_ descriptors together; those outside
// [used_, avail_) are free.
class PackedQueueDriver final : public QueueDriver {
  public:
    // `first_index` is how many descriptors have gone by since the ring was set up, as after a
    // restart of the device. REQUIRES: size is at most kMaxRingSize.
    PackedQueueDriver(FakeMemory& memory, std::uint16_t size, std::uint16_t first_index = 0);

    bool is_packed() const override { return true; }
    // Stops at an entry that is in error: where the next one would be cannot be told.
    std::vector<UsedHead> reap() override;
    std::size_t free_descriptors() const override { return size_ - (avail_ - used_); }
    void want_calls(bool wanted) override;
    void use_in_order() override;
    std::uint16_t used_idx() const override;
    void audit() override;

    // Where the next chain added goes and the next used one is looked for, with kPackedWrap.
    std::uint16_t next_avail() const { return position(avail_); }
    std::uint16_t next_used() const { return position(used_); }

    // Raw access, for hostile rings and for reading what the device did. What is written here
    // is not known to add(), reap() and audit().
    PackedDesc& desc(std::uint16_t position) const;
    EventSuppress& driver_event() const { return *memory_.as<EventSuppress>(driver_area()); }
    EventSuppress& device_event() const { return *memory_.as<EventSuppress>(device_area()); }

  private:
    // Descriptors are counted from the set-up of the ring on, so that position and wrap counter
    // follow from one number.
    using Count = std::uint64_t;

    std::uint16_t write_chain(std::span<const Piece> pieces, DescForm form) override;
    void make_visible() override;
    bool device_wants_kick() override;
    void release(std::uint16_t id) override;

    bool wrap(Count at) const { return at / size_ % 2 == 0; }
    std::uint16_t position(Count at) const;
    std::uint16_t take_id();
    PackedDesc indirect_desc(std::span<const Piece> pieces, std::uint16_t id);
    void write_desc(const PackedDesc& desc);

    PackedDesc look(Count at) const;
    bool is_used(Count at) const;
    std::optional<PackedDesc> next_used_desc();
    bool take_used(const PackedDesc& used, std::vector<UsedHead>& reaped);
    std::uint32_t used_length(const PackedDesc& used);
    void check_desc(Count at, const std::string& when);

    std::vector<PackedDesc> expected_;  // by position
    std::vector<std::uint16_t> free_ids_;
    std::vector<std::uint16_t> lengths_;  // descriptors of each chain, by id
    Count avail_;                         // next descriptor to write
    Count published_;                     // what the device may see of it
    Count kicked_;                        // published when kick() last looked
    Count used_;                          // next descriptor the device will mark
    bool broken_ = false;
};

}  // namespace zecorx::test
