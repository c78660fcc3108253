// The driver side of one split virtqueue (VIRTIO 2.7) in guest memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "queue_driver.h"

namespace zecorx::test {

// Thread rule of QueueDriver. It notices a used index that runs ahead, besides.
//
// Invariant: a descriptor is on the free list or belongs to exactly one chain.
class SplitQueueDriver final : public QueueDriver {
  public:
    // `first_index` is where both ring indices start, as after a restart of the device.
    // REQUIRES: size is a power of two, at most kMaxRingSize.
    SplitQueueDriver(FakeMemory& memory, std::uint16_t size, std::uint16_t first_index = 0);

    bool is_packed() const override { return false; }
    std::vector<UsedHead> reap() override;
    std::size_t free_descriptors() const override { return free_.size(); }
    // With EVENT_IDX the event word replaces the flag (VIRTIO 2.7.7, 2.7.10).
    void want_calls(bool wanted) override;
    std::uint16_t used_idx() const override;

    Gpa desc_table() const { return descriptor_area(); }
    Gpa avail_ring() const { return driver_area(); }
    Gpa used_ring() const { return device_area(); }

    // Raw access, for hostile rings and for reading what the device did. What is written here
    // is not known to add() and reap().
    Desc& desc(std::uint16_t index) const;
    void write_avail_entry(std::uint16_t slot, std::uint16_t head) const;
    void write_avail_idx(std::uint16_t index) const;
    std::uint16_t avail_idx() const;
    std::uint16_t used_flags() const;

  private:
    std::uint16_t write_chain(std::span<const Piece> pieces, DescForm form) override;
    void make_visible() override;
    bool device_wants_kick() override;
    void release(std::uint16_t head) override;

    std::uint16_t& word(Gpa ring, std::size_t offset) const;
    std::uint16_t& used_event() const;
    std::uint16_t& avail_event() const;
    std::uint16_t take_descriptor();
    void write_direct(std::span<const Piece> pieces, std::vector<std::uint16_t>& descs);
    void write_indirect(std::span<const Piece> pieces, std::uint16_t head);

    // First in, first out: with completion in order, descriptors are used in ring order, which
    // VIRTIO_F_IN_ORDER asks of a driver (VIRTIO 2.7.9).
    std::deque<std::uint16_t> free_;
    std::vector<std::vector<std::uint16_t>> descs_;  // of each chain, by head
    std::uint16_t next_avail_;                       // index of the next chain added
    std::uint16_t published_;                        // what the device may see of it
    std::uint16_t kicked_;                           // published when kick() last looked
    std::uint16_t next_used_;
};

}  // namespace zecorx::test
