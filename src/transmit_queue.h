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
#include <string>

#include "port.h"
#include "zecorx/any_ring.h"
#include "zecorx/counters.h"
#include "zecorx/mac_address.h"
#include "zecorx/transmit_path.h"

namespace zecorx {

class TransmitQueue {
  public:
    static constexpr std::uint16_t kBurst = 32;

    // Creates the pool of what the VM sends, which the port keeps. Sets `needs_control` when an
    // address was learned; it and `counters` outlive this object.
    TransmitQueue(const std::string& name, Port& port, const VmQueues& queues, VmCounters& counters,
                  std::atomic<bool>& needs_control);
    TransmitQueue(const TransmitQueue&) = delete;
    TransmitQueue& operator=(const TransmitQueue&) = delete;

    // Serves a transmitq of a session that negotiated `features`. `memory` outlives the
    // attachment.
    void attach(const AnyRing& ring, const GuestMemory& memory, std::uint64_t features) {
        path_.attach(ring, memory, features);
    }
    // Drops what could not be sent yet. Returns where the ring resumes (vring base).
    std::uint16_t detach() noexcept;

    // One round. False: nothing was taken off the ring.
    bool poll() noexcept;
    // Whether the driver wants to be told of what poll() took. REQUIRES: poll() returned true.
    bool call_wanted() noexcept { return path_.call_wanted(); }

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
    bool stage_frames(std::uint32_t count) noexcept;
    bool send_staged() noexcept;
    void learn_from(const rte_mbuf* frame) noexcept;

    const VmQueues queues_;
    VmCounters& counters_;
    std::atomic<bool>& needs_control_;
    TransmitPath path_;
    rte_mempool& pool_;  // the port's
    // Frames copied out of the guest that the TX queue had no room for yet.
    std::array<rte_mbuf*, kBurst> staged_{};
    std::uint16_t staged_first_ = 0;
    std::uint16_t staged_end_ = 0;
    LearnFrom learn_;

    std::atomic<bool> held_{false};
    std::atomic<std::uint64_t> learned_{0};  // MAC in the low 6 bytes, 0 = none
};

}  // namespace zecorx
