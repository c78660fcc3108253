// What the model observed: the oracle's view, next to the statistics registers the driver reads.
#pragma once

#include <cstdint>

namespace zecorx::soft82599 {

struct PortCounters {
    std::uint64_t dma_faults = 0;         // accesses to addresses where nothing is mapped
    std::uint64_t writes_after_stop = 0;  // frames written while their queue was being disabled

    std::uint64_t rx_delivered = 0;              // frames written to a queue, once per pool
    std::uint64_t rx_dropped_disabled = 0;       // RXCTRL.RXEN clear or link down
    std::uint64_t rx_dropped_filter = 0;         // no pool wants it
    std::uint64_t rx_dropped_oversize = 0;       // above 1518/1522 or MAXFRS
    std::uint64_t rx_dropped_no_descriptor = 0;  // queue full with drop enable, or disabled
    std::uint64_t rx_dropped_too_long = 0;       // of these, more descriptors than a frame may use
    std::uint64_t rx_dropped_fifo = 0;           // the packet buffer was full (missed)
    std::uint64_t rx_held = 0;                   // frames that had to wait in the packet buffer

    std::uint64_t tx_frames = 0;     // frames sent, to the wire or looped; TSO segments one by one
    std::uint64_t tx_looped = 0;     // copies handed to pools
    std::uint64_t tx_malformed = 0;  // descriptors that describe no valid frame
    std::uint64_t tx_too_long_to_switch = 0;  // not sent: longer than the transmit switch allows

    std::uint64_t trapped_accesses = 0;
    std::uint64_t interrupts = 0;
};

// What became of a frame from the wire.
enum class RxResult : std::uint8_t {
    kDelivered,  // at least one queue got it
    kHeld,       // in the packet buffer until a queue without drop enable has descriptors
    kDroppedDisabled,
    kDroppedFilter,
    kDroppedOversize,
    kDroppedNoDescriptor,
    kDroppedFifo,
    kDmaFault,
};

}  // namespace zecorx::soft82599
