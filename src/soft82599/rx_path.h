// Receive: MAC checks, filters, the packet buffer in front of the queues, and the queues.
//
// Thread rule: used under the device's lock.
#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "counters.h"
#include "dma_engine.h"
#include "filter.h"
#include "frame.h"
#include "register_file.h"
#include "rx_queue.h"
#include "statistics.h"

namespace zecorx::soft82599 {

class RxPath {
  public:
    // The references outlive this object.
    RxPath(RegisterFile registers, DmaEngine& dma, Statistics& statistics, PortCounters& counters);

    // A frame from the wire, without CRC. Shorter ones than 60 bytes are padded, as a wire would.
    RxResult receive(FrameView frame, bool link_up);

    // A frame that a pool sent, for these pools. It never passed the receive MAC, so no size limit
    // holds and no wire statistics count it.
    void loop_back(FrameView frame, PoolSet pools);

    bool receive_enabled() const { return regs_.test(reg::kRxctrl, bits::kRxctrlEnable); }

    // Retries what waits in the packet buffer. Bounded by what it holds.
    void drain_fifo();

    void synchronize_queues();
    void write_qde(std::uint32_t value);
    RxQueue& queue(unsigned index) { return queues_[index]; }
    void reset();

  private:
    // All packet buffer memory as one FIFO (RXPBSIZE of traffic class 0 after reset).
    static constexpr std::size_t kFifoBytes = std::size_t{512} * 1024;

    // How a frame came to the packet buffer: rx_desc::kLoopback or nothing.
    using Origin = std::uint32_t;
    static constexpr Origin kFromWire = 0;

    struct Waiting {
        Frame frame;
        PoolSet pools;
        Origin origin;
    };

    // How the offer of one frame to several pools went.
    struct Offer {
        PoolSet blocked = 0;
        bool delivered = false;
        bool dropped = false;
        bool faulted = false;
    };

    bool fits(const FrameLayout& layout, std::size_t length) const;
    std::uint16_t vlan_ethertype() const;
    RxResult accept(FrameView frame, const FrameLayout& layout, PoolSet pools, Origin origin);
    RxResult hold(FrameView frame, PoolSet pools, Origin origin);
    Offer offer(FrameView frame, const FrameLayout& layout, PoolSet pools, Origin origin);
    RxQueue::Outcome deliver(unsigned queue, FrameView frame, RxPayload payload);
    void note(RxQueue::Outcome outcome, unsigned queue, unsigned pool, Offer& offer);
    unsigned queue_of(unsigned pool, std::uint32_t rss_hash) const;

    RegisterFile regs_;
    Statistics* statistics_;
    PortCounters* counters_;
    ReceiveFilter filter_;
    std::vector<RxQueue> queues_;
    std::deque<Waiting> fifo_;
    std::size_t fifo_bytes_ = 0;
};

}  // namespace zecorx::soft82599
