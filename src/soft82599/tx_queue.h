// One transmit queue: gathers the frames that its descriptors describe.
//
// Thread rule: used under the device's lock. The driver writes the queue's registers without it.
// Invariants: a frame is taken only when all of its descriptors are posted; descriptors are used
// only while the queue runs.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "dma_engine.h"
#include "frame.h"
#include "register_file.h"

namespace zecorx::soft82599 {

// A frame as the driver posted it, before offloads.
struct TxPacket {
    Frame bytes;
    TxContext context;
    bool segment = false;             // TSO
    bool insert_ip_checksum = false;  // IXSM
    bool insert_l4_checksum = false;  // TXSM
    std::optional<std::uint16_t> vlan;
};

class TxQueue {
  public:
    // `dma` and `counters` outlive this object.
    TxQueue(unsigned index, RegisterFile registers, DmaEngine& dma, PortCounters& counters);

    // Follows what the driver wrote to TXDCTL and TDH.
    void synchronize();

    // The next complete frame; its descriptors are consumed and reported as done. No value: nothing
    // to send. A frame that cannot be read is counted, consumed and skipped.
    std::optional<TxPacket> take();

  private:
    // Descriptors of one frame, from head on. Zero: the last one is not posted yet.
    struct Extent {
        unsigned descriptors = 0;
        bool readable = true;
    };

    bool enabled() const { return regs_.test(base_ + reg::kTxdctl, bits::kQueueEnable); }
    std::uint32_t posted() const;
    std::optional<Descriptor> descriptor_at(std::uint32_t distance);
    std::uint64_t descriptor_iova(std::uint32_t distance) const;
    Extent find_frame();
    void consume_contexts();
    std::optional<TxPacket> gather(unsigned descriptors);
    bool append(TxPacket& packet, const Descriptor& descriptor);
    void set_offloads(TxPacket& packet, const Descriptor& first) const;
    void report_done(unsigned descriptors);
    void advance(unsigned descriptors);
    void start();
    void forget_tail();

    RegisterFile regs_;
    DmaEngine* dma_;
    PortCounters* counters_;
    std::uint32_t base_;
    std::uint64_t ring_iova_ = 0;  // latched at start, as is the size
    std::uint32_t ring_size_ = 0;  // descriptors
    std::uint32_t head_ = 0;
    bool running_ = false;
    std::array<TxContext, 2> contexts_{};
};

}  // namespace zecorx::soft82599
