// The driver side of one virtqueue in guest memory: what split and packed rings have in common.
//
// A chain goes through add() -> publish() -> device -> reap(). The driver knows which chains the
// device holds and in which order it got them, so it notices one that comes back twice, was never
// given, comes back out of order or claims more bytes than it has room for.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
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
    kDirect,    // a chain in the ring
    kIndirect,  // one descriptor that points at a table of its own (VIRTIO 2.7.5.3, 2.8.7)
};

struct UsedHead {
    std::uint16_t head;  // what add() returned
    std::uint32_t len;   // bytes the device says it wrote
};

// One thread uses a queue; the device works on the other side of the rings at any time.
//
// Invariants: avail_order_ holds each outstanding chain once, oldest first; the last unpublished_
// of them are invisible to the device.
class QueueDriver {
  public:
    QueueDriver(const QueueDriver&) = delete;
    QueueDriver& operator=(const QueueDriver&) = delete;
    virtual ~QueueDriver() = default;

    virtual bool is_packed() const = 0;

    // Puts a chain on the ring, invisible to the device until publish(). Returns its name (split:
    // index of the first descriptor; packed: buffer id), below size() in either case, or nothing
    // when too few descriptors are free. REQUIRES: pieces is not empty.
    std::optional<std::uint16_t> add(std::span<const Piece> pieces,
                                     DescForm form = DescForm::kDirect);
    void publish();
    // Signals the kick eventfd if the device wants to hear of what was published since the last
    // call; true if it did.
    bool kick();

    // Takes back every chain the device has used, in used order.
    virtual std::vector<UsedHead> reap() = 0;

    std::uint16_t size() const { return size_; }
    virtual std::size_t free_descriptors() const = 0;
    std::size_t outstanding() const { return avail_order_.size(); }  // added, not yet reaped

    // Notifications. With EVENT_IDX the device is told a position instead of yes or no.
    int kick_fd() const { return kick_.get(); }
    int call_fd() const { return call_.get(); }
    void use_event_idx();
    virtual void want_calls(bool wanted) = 0;
    // Waits for a call. Reap until nothing is left first: what arrived before the last empty
    // reap() may have been announced already, or not at all.
    bool wait_call(std::chrono::milliseconds timeout) const { return call_.wait(timeout); }
    std::uint64_t drain_calls() const { return call_.drain(); }
    std::uint64_t kicks_sent() const { return kicks_sent_; }
    std::uint64_t kicks_suppressed() const { return kicks_suppressed_; }

    // Completion out of order becomes a violation, and the ring is used as VIRTIO_F_IN_ORDER asks
    // (VIRTIO 2.7.9, 2.8.8). Before the first add().
    virtual void use_in_order() { in_order_ = true; }
    // Allows what VIRTIO_F_IN_ORDER allows besides: one used entry for a batch, naming its last
    // chain. Chains ahead of it count as filled to the brim.
    void accept_batches() { batches_accepted_ = true; }

    const ViolationLog& violations() const { return violations_; }
    // Chains that came back before an older one. Not a violation without VIRTIO_F_IN_ORDER.
    std::uint64_t order_violations() const { return order_violations_; }
    // Compares everything on the ring that is the driver's at the moment with what it should be.
    virtual void audit() {}

    // The three areas a transport gives the device (VIRTIO 2.6).
    Gpa descriptor_area() const { return descriptor_area_; }
    Gpa driver_area() const { return driver_area_; }
    Gpa device_area() const { return device_area_; }

    // Where the device's used side stands, in the form of a vring base: split, used.idx; packed,
    // the ring position and kPackedWrap for its wrap counter.
    virtual std::uint16_t used_idx() const = 0;

  protected:
    struct Areas {
        Gpa descriptor;
        Gpa driver;
        Gpa device;
    };

    QueueDriver(FakeMemory& memory, std::uint16_t size, const Areas& areas);

    // For add(): writes the chain and returns its name. Enough descriptors are free.
    virtual std::uint16_t write_chain(std::span<const Piece> pieces, DescForm form) = 0;
    virtual void make_visible() = 0;
    // About all that became visible since the last call.
    virtual bool device_wants_kick() = 0;
    // The chain came back; its descriptors are free again.
    virtual void release(std::uint16_t head) = 0;

    // Handles a used entry: appends what came back with it, or records the violation and returns
    // false.
    bool take_back(std::uint32_t head, std::uint32_t len, std::vector<UsedHead>& taken);
    // Chains from the oldest up to `head` if that is how a used entry is read, else just it.
    std::size_t batch_size(std::uint32_t head) const;
    bool device_holds(std::uint32_t head) const;
    std::size_t published() const { return avail_order_.size() - unpublished_; }
    std::uint16_t outstanding_at(std::size_t i) const { return avail_order_[i]; }  // 0: the oldest
    std::uint64_t writable(std::uint16_t head) const { return chains_[head].writable; }

    // Writes an indirect table for a chain, which take_back() compares.
    Gpa write_table(std::uint16_t head, std::span<const std::byte> entries);

    FakeMemory& memory_;
    const std::uint16_t size_;
    bool event_idx_ = false;
    bool calls_wanted_ = true;
    bool in_order_ = false;
    bool batches_accepted_ = false;
    ViolationLog violations_;

  private:
    enum class ChainState : std::uint8_t { kFree, kAdded, kPublished };
    struct Chain {  // indexed by its name
        ChainState state = ChainState::kFree;
        std::uint64_t writable = 0;  // bytes
        bool indirect = false;
        Gpa table = 0;  // kept for the next chain of this name
        std::size_t table_room = 0;
        std::vector<std::byte> table_bytes;
    };

    void take_one(std::uint16_t head, std::uint64_t len, std::vector<UsedHead>& taken);
    void check_table(std::uint16_t head);
    void note_order(std::uint16_t head);

    const Gpa descriptor_area_;
    const Gpa driver_area_;
    const Gpa device_area_;
    EventFd kick_;
    EventFd call_;

    std::vector<Chain> chains_;
    std::deque<std::uint16_t> avail_order_;
    std::size_t unpublished_ = 0;
    bool unkicked_ = false;  // something was published since kick() last looked

    std::uint64_t kicks_sent_ = 0;
    std::uint64_t kicks_suppressed_ = 0;
    std::uint64_t order_violations_ = 0;
};

// The ring that `features` call for; `first_index` as the two drivers' constructors take it.
std::unique_ptr<QueueDriver> make_queue_driver(FakeMemory& memory, std::uint16_t size,
                                               std::uint64_t features,
                                               std::uint16_t first_index = 0);

}  // namespace zecorx::test
