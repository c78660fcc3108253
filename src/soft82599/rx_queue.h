// One receive queue: its descriptor ring and its life between RXDCTL.ENABLE set and cleared.
//
// Thread rule: used under the device's lock. The driver writes the queue's registers without it.
// Invariants: descriptors are used only while the queue runs; head_ is the device's own, and RDH
// only shows it, except when software rewrites RDH to restart the ring. completed_ is empty unless
// a frame was interrupted.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "dma_engine.h"
#include "frame.h"
#include "register_file.h"

namespace zecorx::soft82599 {

// A frame as it goes to memory, and what the descriptors say about it.
struct RxPayload {
    FrameView bytes;
    std::uint32_t packet_type = 0;  // rx_desc::kType...
    std::uint32_t rss_hash = 0;
    std::uint32_t status = 0;  // rx_desc checksum status and error bits, kLoopback
    bool tagged = false;
    std::uint16_t vlan = 0;
};

class RxQueue {
  public:
    enum class Outcome : std::uint8_t { kDelivered, kNoDescriptor, kTooLong, kDisabled, kFault };

    // No document states a limit of descriptors per frame; what follows from the longest frame,
    // 15.5 KiB (section 1.3), and the smallest buffer, 1 KiB (section 8.2.3.8.7), is this one.
    static constexpr unsigned kMaxPieces = 16;

    // `dma` and `counters` outlive this object.
    RxQueue(unsigned index, RegisterFile registers, DmaEngine& dma, PortCounters& counters);

    // Follows what the driver wrote to RXDCTL and RDH. Called on every trapped register access and
    // before every frame, so that after any such access a disabled queue uses no descriptor.
    void synchronize();

    // Writes the frame to as many descriptors as it needs, or to none: the packet buffer holds all
    // of a frame, so room for its last byte is known before its first is written.
    Outcome deliver(const RxPayload& payload);

    // A driver can look between two write-backs of one frame. With a number other than 0, a frame
    // of more descriptors shows only that many until finish_frame() or the next frame; a stop of
    // the queue forgets the rest.
    void interrupt_frames_after(unsigned descriptors) { interrupt_after_ = descriptors; }
    void finish_frame();

    // For software that must hold on a NIC with a lower limit. REQUIRES: 1 <= pieces <= kMaxPieces.
    void limit_pieces(unsigned pieces) { max_pieces_ = pieces; }

    bool strips_vlan() const { return regs_.test(base_ + reg::kRxdctl, bits::kRxdctlVlanStrip); }
    bool drops_when_empty() const;
    void set_queue_drop_enable(bool enabled) { queue_drop_enable_ = enabled; }  // PFQDE

    // With guarding on, a stop remembers the contents of every posted buffer; verify_stopped then
    // counts those that changed since. The owner of a buffer may only reuse it after verifying.
    void guard_buffers_at_stop(bool on) { guarded_ = on; }
    // No value: the queue runs, or no stop was guarded.
    std::optional<std::size_t> verify_stopped();

  private:
    // RDH of a stopped queue. A driver restarts a queue by writing RDH, and until it has done so
    // the descriptors belong to nobody, although ENABLE may be set already.
    static constexpr std::uint32_t kHeadOfStopped = 0xFFFF;

    struct PostedBuffer {
        std::uint64_t iova;
        std::size_t length;
        std::uint64_t fingerprint;
    };

    bool enabled() const { return regs_.test(base_ + reg::kRxdctl, bits::kQueueEnable); }
    std::uint32_t available() const;
    std::size_t buffer_size() const;
    std::uint64_t descriptor_iova(std::uint32_t slot) const;
    std::uint32_t slot_after_head(std::uint32_t distance) const;
    bool write_payload(FrameView bytes, unsigned pieces);
    void complete(const RxPayload& payload, unsigned pieces);
    bool write_back(unsigned descriptors);
    void advance(unsigned descriptors);
    void start();
    void stop();
    void remember_posted_buffers();

    RegisterFile regs_;
    DmaEngine* dma_;
    PortCounters* counters_;
    std::uint32_t base_;
    std::uint64_t ring_iova_ = 0;  // latched at start, as is the size
    std::uint32_t ring_size_ = 0;  // descriptors
    std::uint32_t head_ = 0;
    std::vector<Descriptor> completed_;  // of one frame, from head_ on, not yet written back
    unsigned interrupt_after_ = 0;
    unsigned max_pieces_ = kMaxPieces;
    bool running_ = false;
    bool queue_drop_enable_ = false;
    bool guarded_ = false;
    bool stop_was_guarded_ = false;
    std::vector<PostedBuffer> posted_at_stop_;
};

}  // namespace zecorx::soft82599
