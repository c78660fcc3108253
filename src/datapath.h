// The data path of one VM: its receiveq fed by its NIC RX queue, its transmitq to its TX queue.
//
// Thread rule: poll() belongs to the worker that holds the datapath, everything else to the
// control side while no worker holds it; marked members cross threads. The hot path neither locks,
// allocates, throws nor logs.
#pragma once

#include <rte_mbuf.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

#include "port.h"
#include "rx_pool.h"
#include "transmit_queue.h"
#include "zecorx/any_ring.h"
#include "zecorx/counters.h"
#include "zecorx/dirty_log.h"
#include "zecorx/mac_address.h"
#include "zecorx/unique_fd.h"

namespace zecorx {

class Datapath {
  public:
    static constexpr std::uint16_t kBurst = 32;

    struct Settings {
        QueueGeometry geometry;
        VlanPolicy vlan;
        bool zero_copy = true;
    };
    // Creates the VM's mempools and sets its queue pair up on the port.
    Datapath(const std::string& name, Port& port, const VmQueues& queues, const Settings& settings);
    Datapath(const Datapath&) = delete;
    Datapath& operator=(const Datapath&) = delete;

    static constexpr std::size_t kRings = 2;  // receiveq and transmitq, by virtqueue number

    struct Rings {
        AnyRing receive;
        AnyRing transmit;
        std::uint64_t features = 0;             // negotiated
        std::array<UniqueFd, kRings> call_fds;  // eventfds, non-blocking
        DirtyLog log;                           // off, unless the frontend migrates the VM
    };

    // Begins serving a session. `memory` outlives the attachment.
    void attach(Rings rings, const GuestMemory& memory);

    // Where what both rings' paths write to guest memory is logged from now on, until detach().
    // What is posted to the NIC stays so. The bitmap before is not used any more when this returns.
    // REQUIRES: attached.
    void set_log(const DirtyLog& log) noexcept;

    // A worker waits in a call if the frontend has filled its eventfd and made it blocking again,
    // which no write can rule out. Then lets it go on, and true: the session is not to be trusted.
    // Any thread of the control side, while a worker holds the datapath.
    bool free_stuck_call() noexcept;

    // Replaces the eventfd of a ring's calls; the worker calls once, since the driver may have
    // missed one.
    void replace_call_fd(std::uint32_t ring, UniqueFd fd) noexcept;

    // Sends a RARP in the guest's name, with what it sends itself. False: there is no room for it
    // now. REQUIRES: attached.
    bool announce(const MacAddress& mac) noexcept;

    struct Bases {
        std::uint16_t receive = 0;
        std::uint16_t transmit = 0;
    };
    // Ends it, logs what the NIC may have written, and returns where both rings resume.
    // REQUIRES: the RX queue is stopped.
    Bases detach() noexcept;

    // Drops what arrived while no session was served. REQUIRES: the RX queue is stopped, detached.
    void forget() noexcept { receive_.detach(); }

    // One round over both rings and the NIC's queue. False: there was nothing to do. While that
    // goes on, a round is no more than a look at what would end it.
    bool poll() noexcept;

    // Completes what the NIC has already delivered, at most one descriptor ring of it, without
    // calls. REQUIRES: steering is removed and no worker holds the datapath.
    void drain() noexcept;

    // Any thread.
    const VmCounters& counters() const { return counters_; }
    // Something for the control side: a broken ring or a learned address. Any thread.
    bool needs_control() const { return needs_control_.load(std::memory_order_acquire); }
    // An exchange: a plain store could still be on its way when the worker reports the next thing,
    // and wipe that report out before it was read.
    void control_done() { needs_control_.exchange(false, std::memory_order_acq_rel); }

    // Control side; while a worker holds the datapath only after needs_control().
    bool broken() const { return broken_.load(std::memory_order_acquire); }
    // What broke first. REQUIRES: broken().
    std::string describe_broken() const;
    // Learn the VM's address from what it sends next; see TransmitQueue.
    void learn_address(TransmitQueue::LearnFrom learn) { transmit_.learn_address(learn); }
    void release_transmit() { transmit_.release(); }
    std::optional<MacAddress> learned() const { return transmit_.learned(); }

    // Buffers that are neither posted nor pending, of how many. Control side, detached.
    std::uint32_t mbufs() const { return mbufs_; }
    std::uint32_t mbufs_held() const {
        return mbufs_ - static_cast<std::uint32_t>(receive_.idle());
    }

  private:
    bool has_news() const noexcept;
    bool poll_all() noexcept;
    bool poll_receive() noexcept;
    void take_frame(rte_mbuf* frame) noexcept;
    bool poll_transmit() noexcept;
    void send_calls() noexcept;
    void call(std::uint32_t ring) noexcept;
    void report_broken() noexcept;

    // What a round of an idle VM looks at: one cache line, for there may be many of them.
    alignas(64) bool idle_ = false;  // the last round found nothing to do and left nothing undone
    const VmQueues queues_;
    RingWatch receive_watch_;
    RingWatch transmit_watch_;

    const std::uint32_t mbufs_;
    VmCounters counters_;
    MbufReceivePath receive_;
    TransmitQueue transmit_;
    Mempool rx_pool_;  // after receive_: freeing it takes every mbuf back from there
    std::array<UniqueFd, kRings> call_fds_;
    std::array<bool, kRings> call_due_{};
    std::atomic<int> calling_{-1};  // the descriptor that is being written to

    // The first two do not change while the third is set: the other ring may break meanwhile.
    std::uint32_t broken_ring_ = 0;
    RingError broken_error_ = RingError::kNone;
    std::atomic<bool> broken_{false};
    std::atomic<bool> needs_control_{false};
};

}  // namespace zecorx
