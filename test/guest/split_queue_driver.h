// The driver side of one split virtqueue (VIRTIO 2.7) in guest memory.
//
// A chain goes through add() -> publish() -> device -> reap(). The driver knows which heads the
// device holds and in which order it got them, so it notices a head that comes back twice, was
// never given, or comes back out of order, and a used index that runs ahead.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "event_fd.h"
#include "guest_memory.h"
#include "violation_log.h"
#include "zecorx/virtio.h"

namespace zecorx::test {

// One descriptor's worth of memory.
struct Piece {
    Gpa gpa = 0;
    std::uint32_t len = 0;
    bool device_writable = false;
};

enum class DescForm {
    kDirect,    // a chain in the descriptor table
    kIndirect,  // one descriptor that points at a table of its own (VIRTIO 2.7.5.3)
};

struct UsedHead {
    std::uint16_t head;
    std::uint32_t len;  // bytes the device says it wrote
};

// One thread uses a queue; the device works on the other side of the rings at any time.
//
// Invariants: a descriptor is on the free list or belongs to exactly one chain; avail_order_
// holds each outstanding head once, oldest first.
class SplitQueueDriver {
  public:
    // `first_index` is where both ring indices start, as after a restart of the device.
    // REQUIRES: size is a power of two, at most kMaxRingSize.
    SplitQueueDriver(FakeMemory& memory, std::uint16_t size, std::uint16_t first_index = 0);

    // Puts a chain into the next avail slot, invisible to the device until publish(). Returns its
    // head, or nothing when too few descriptors are free. REQUIRES: pieces is not empty.
    std::optional<std::uint16_t> add(std::span<const Piece> pieces,
                                     DescForm form = DescForm::kDirect);
    void publish();
    // Signals the kick eventfd if the device wants to hear of what was published since the last
    // call; true if it did.
    bool kick();

    // Takes back every chain the device has used, in used order.
    std::vector<UsedHead> reap();

    std::uint16_t size() const { return size_; }
    std::size_t free_descriptors() const { return free_.size(); }
    std::size_t outstanding() const { return avail_order_.size(); }  // added, not yet reaped

    // Notifications. With EVENT_IDX the event words replace the flags (VIRTIO 2.7.7, 2.7.10).
    int kick_fd() const { return kick_.get(); }
    int call_fd() const { return call_.get(); }
    void use_event_idx();
    void want_calls(bool wanted);
    // Waits for a call. Reap until nothing is left first: what arrived before the last empty
    // reap() may have been announced already, or not at all.
    bool wait_call(std::chrono::milliseconds timeout) const { return call_.wait(timeout); }
    std::uint64_t drain_calls() const { return call_.drain(); }
    std::uint64_t kicks_sent() const { return kicks_sent_; }
    std::uint64_t kicks_suppressed() const { return kicks_suppressed_; }

    const ViolationLog& violations() const { return violations_; }
    // Chains that came back before an older one. Not a violation without VIRTIO_F_IN_ORDER.
    std::uint64_t order_violations() const { return order_violations_; }

    Gpa desc_table() const { return desc_; }
    Gpa avail_ring() const { return avail_; }
    Gpa used_ring() const { return used_; }

    // Raw access, for hostile rings and for reading what the device did. What is written here
    // is not known to add() and reap().
    Desc& desc(std::uint16_t index) const;
    void write_avail_entry(std::uint16_t slot, std::uint16_t head) const;
    void write_avail_idx(std::uint16_t index) const;
    std::uint16_t avail_idx() const;
    std::uint16_t used_idx() const;
    std::uint16_t used_flags() const;

  private:
    enum class ChainState : std::uint8_t { kFree, kAdded, kPublished };
    struct Chain {  // indexed by head
        ChainState state = ChainState::kFree;
        std::vector<std::uint16_t> descs;
        Gpa table = 0;  // indirect table, kept for the next chain with this head
        std::size_t table_entries = 0;
    };

    std::uint16_t& word(Gpa ring, std::size_t offset) const;
    std::uint16_t& used_event() const;
    std::uint16_t& avail_event() const;
    std::uint16_t take_descriptor();
    std::uint16_t add_direct(std::span<const Piece> pieces);
    std::uint16_t add_indirect(std::span<const Piece> pieces);
    bool device_wants_kick(std::uint16_t old_idx, std::uint16_t new_idx) const;
    bool take_back(std::uint32_t id);
    void note_order(std::uint16_t head);

    FakeMemory& memory_;
    const std::uint16_t size_;
    const Gpa desc_;
    const Gpa avail_;
    const Gpa used_;
    EventFd kick_;
    EventFd call_;
    bool event_idx_ = false;
    bool calls_wanted_ = true;

    // First in, first out: with completion in order, descriptors are used in ring order, which
    // VIRTIO_F_IN_ORDER asks of a driver (VIRTIO 2.7.9).
    std::deque<std::uint16_t> free_;
    std::vector<Chain> chains_;
    std::deque<std::uint16_t> avail_order_;
    std::uint16_t next_avail_;  // index of the next chain added
    std::uint16_t published_;   // what the device may see of it
    std::uint16_t kicked_;      // published when kick() last looked
    std::uint16_t next_used_;

    std::uint64_t kicks_sent_ = 0;
    std::uint64_t kicks_suppressed_ = 0;
    std::uint64_t order_violations_ = 0;
    ViolationLog violations_;
};

}  // namespace zecorx::test
