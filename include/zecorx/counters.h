// Per-VM counters: written by the VM's worker, read by anyone.
//
// Thread rule: a Counter has one writer at a time; readers may be on any thread and see a recent
// value. No read-modify-write on the bus, so counting costs an add.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace zecorx {

class Counter {
  public:
    void add(std::uint64_t n) {
        value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
    }
    std::uint64_t get() const { return value_.load(std::memory_order_relaxed); }

  private:
    std::atomic<std::uint64_t> value_{0};
};

// Why a received frame was copied instead of landing in the guest's buffer.
enum class CopyReason : std::uint8_t {
    kStarved,      // no chain was available when the NIC needed a buffer
    kSmall,        // the buffer is shorter than what the NIC may write to it
    kCrossing,     // the buffer is not contiguous for the device
    kLayout,       // header split over buffers, or an odd data address
    kUnmerged,     // a frame may span several NIC buffers, but the driver merges none
    kDisabled,     // the operator asked for copies
    kUnreachable,  // the guest's memory could not be mapped for the device
};
inline constexpr std::size_t kCopyReasons = 7;
inline constexpr std::array<const char*, kCopyReasons> kCopyReasonNames{
    "starved", "small", "crossing", "layout", "unmerged", "disabled", "unreachable"};

// Why a frame was lost.
enum class DropReason : std::uint8_t {
    kNoBuffer,   // rx: the driver posted nothing and the pending queue is full
    kTooBig,     // rx: the frame does not fit the chain it belongs to
    kStopped,    // rx: in flight while the queue was stopped
    kBroken,     // rx: the ring is broken
    kHook,       // rx: the receive hook's decision
    kTxHeader,   // tx: chain shorter than its header, or an offload not negotiated or impossible
    kTxLength,   // tx: shorter than an Ethernet header or longer than the port sends
    kTxVlan,     // tx: a VLAN tag that the VM may not send
    kTxStopped,  // tx: copied but not sent when the queue was stopped
};
inline constexpr std::size_t kDropReasons = 9;
inline constexpr std::array<const char*, kDropReasons> kDropReasonNames{
    "no-buffer", "too-big",   "stopped", "broken-ring", "hook",
    "tx-header", "tx-length", "tx-vlan", "tx-stopped"};

struct VmCounters {
    Counter rx_packets;  // completed on the used ring; zero_copied + all of copied
    Counter rx_bytes;
    Counter tx_packets;
    Counter tx_bytes;
    Counter zero_copied;
    std::array<Counter, kCopyReasons> copied;
    Counter moved_bytes;  // by the processor: copied, or moved within guest memory
    std::array<Counter, kDropReasons> dropped;
    // Bytes behind the header in the last chain that was too short to be posted; 0: none yet.
    std::atomic<std::uint32_t> short_room{0};
    Counter calls;
    Counter broken_rings;

    void copy(CopyReason reason, std::uint64_t n = 1) {
        copied[static_cast<std::size_t>(reason)].add(n);
    }
    void drop(DropReason reason, std::uint64_t n = 1) {
        dropped[static_cast<std::size_t>(reason)].add(n);
    }
};

}  // namespace zecorx
