// The transmit half of a VM's datapath: its transmitq to its TX queue.
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
#include <span>
#include <string>

#include "port.h"
#include "zecorx/any_ring.h"
#include "zecorx/counters.h"
#include "zecorx/dirty_log.h"
#include "zecorx/mac_address.h"
#include "zecorx/transmit_path.h"
#include "zecorx/vlan_policy.h"

namespace zecorx {

// Frames on their way from guest memory to a TX queue, in mbufs of kTransmitRoom bytes.
class TransmitStage {
  public:
    static constexpr std::uint16_t kFrames = 32;

    explicit TransmitStage(rte_mempool& pool) : pool_(pool) {}

    // As a TransmitSink.
    bool ready() noexcept { return spare_count_ >= kMaxTransmitRooms || refill(); }
    std::span<std::byte, kTransmitRoom> room(std::size_t i) noexcept {
        return std::span<std::byte, kTransmitRoom>(
            rte_pktmbuf_mtod(spare_[spare_count_ - 1 - i], std::byte*), kTransmitRoom);
    }
    void send(const TransmitRequest& request) noexcept;

    std::span<rte_mbuf* const> frames() const {
        return {&staged_[first_], static_cast<std::size_t>(end_ - first_)};
    }
    // Whether send() may be called.
    bool accepts() noexcept { return end_ < kFrames && ready(); }
    // Hands frames to the TX queue in order. True: nothing is left staged.
    bool flush(const VmQueues& queues) noexcept;
    // Frees the staged frames and returns how many they were.
    std::uint16_t drop() noexcept;

  private:
    bool refill() noexcept;
    rte_mbuf* take_spare() noexcept { return spare_[--spare_count_]; }

    rte_mempool& pool_;
    // Empty mbufs at hand, so that a frame's length need not be known before its chain is taken.
    std::array<rte_mbuf*, 2 * kMaxTransmitRooms> spare_{};
    std::size_t spare_count_ = 0;
    std::array<rte_mbuf*, kFrames> staged_{};
    std::uint16_t first_ = 0;
    std::uint16_t end_ = 0;
};

class TransmitQueue {
  public:
    // Creates the pool of what the VM sends, which the port keeps. Sets `needs_control` when an
    // address was learned; it and `counters` outlive this object.
    TransmitQueue(const std::string& name, Port& port, const VmQueues& queues,
                  const VlanPolicy& vlan, VmCounters& counters, std::atomic<bool>& needs_control);
    TransmitQueue(const TransmitQueue&) = delete;
    TransmitQueue& operator=(const TransmitQueue&) = delete;

    // Serves a transmitq of a session that negotiated `features`. `memory` outlives the
    // attachment; what is written to it goes to `log`.
    void attach(const AnyRing& ring, const GuestMemory& memory, std::uint64_t features,
                const DirtyLog& log) {
        path_.attach(ring, memory, features, log);
    }
    // As TransmitPath's.
    void set_log(const DirtyLog& log) noexcept { path_.set_log(log); }
    // Drops what could not be sent yet. Returns where the ring resumes (vring base).
    std::uint16_t detach() noexcept;

    // One round. False: nothing was taken off the ring.
    bool poll() noexcept;
    // Whether the driver wants to be told of what poll() took. REQUIRES: poll() returned true.
    bool call_wanted() noexcept { return path_.call_wanted(); }

    // Sends a RARP for the guest, behind what it has sent itself. False: not now, there is no room.
    bool announce(const MacAddress& mac) noexcept;

    // What to look at for whether there is more to do, once there is none.
    RingWatch watch() const noexcept { return path_.watch(); }
    // Whether there is something for poll() to do: frames that the driver sends, or that wait for
    // room in the TX queue or for release().
    bool has_work() const noexcept { return path_.has_chains() || !stage_.frames().empty(); }

    bool broken() const { return path_.broken(); }
    RingError error() const { return path_.error(); }

    // Which of the frames it sends tell a VM's address.
    struct LearnFrom {
        bool first_frame = false;
        bool announcements = false;  // those of a new address
    };
    // Learn the VM's address from what it sends next. Frames then wait from the one that tells it
    // on until release(), so that the answer finds the address steered.
    void learn_address(LearnFrom learn);
    // Control side, also while a worker holds the datapath.
    void release() { held_.store(false, std::memory_order_release); }
    std::optional<MacAddress> learned() const;

  private:
    bool send_staged() noexcept;
    void learn_from(const rte_mbuf* frame) noexcept;

    const VmQueues queues_;
    const std::optional<std::uint16_t> tag_;  // of what the VM sends, which it does not know of
    VmCounters& counters_;
    std::atomic<bool>& needs_control_;
    TransmitPath path_;
    TransmitStage stage_;
    LearnFrom learn_;

    std::atomic<bool> held_{false};
    std::atomic<std::uint64_t> learned_{0};  // MAC in the low 6 bytes, 0 = none
};

}  // namespace zecorx
