#include "rx_queue.h"

#include <algorithm>

namespace zecorx::soft82599 {
namespace {

constexpr std::size_t kBufferUnit = 1024;  // of SRRCTL.BSIZEPACKET

}  // namespace

RxQueue::RxQueue(unsigned index, RegisterFile registers, DmaEngine& dma, PortCounters& counters)
    : regs_(registers), dma_(&dma), counters_(&counters), base_(reg::rx_queue(index)) {}

void RxQueue::synchronize() {
    if (!enabled()) {
        if (running_) stop();
        return;
    }
    const std::uint32_t rdh = regs_.get(base_ + reg::kRdh);
    if (!running_) {
        if (rdh != kHeadOfStopped) start();
    } else if (rdh != head_) {
        start();  // stopped and started again between two looks
    }
}

void RxQueue::start() {
    ring_iova_ = regs_.get64(base_ + reg::kRdbal);
    ring_size_ = regs_.get(base_ + reg::kRdlen) / sizeof(Descriptor);
    head_ = regs_.get(base_ + reg::kRdh);
    completed_.clear();
    running_ = true;
    stop_was_guarded_ = false;
    posted_at_stop_.clear();
}

void RxQueue::stop() {
    running_ = false;
    completed_.clear();
    if (guarded_) remember_posted_buffers();
    const bool marked = regs_.replace(base_ + reg::kRdh, head_, kHeadOfStopped);
    // The driver may have restarted the queue since enabled() was read. Only if RDH was 0 before
    // can its store of 0 be the one just overwritten.
    if (marked && head_ == 0 && enabled()) {
        regs_.replace(base_ + reg::kRdh, kHeadOfStopped, 0);
    }
}

RxQueue::Outcome RxQueue::deliver(const RxPayload& payload) {
    synchronize();
    if (!running_) return Outcome::kDisabled;
    finish_frame();
    const std::size_t size = buffer_size();
    const auto pieces = static_cast<unsigned>((payload.bytes.size() + size - 1) / size);
    if (pieces > max_pieces_) return Outcome::kTooLong;
    if (pieces > available()) return Outcome::kNoDescriptor;
    if (!write_payload(payload.bytes, pieces)) return Outcome::kFault;
    complete(payload, pieces);
    const bool whole = interrupt_after_ == 0 || interrupt_after_ > pieces;
    if (!write_back(whole ? pieces : interrupt_after_)) return Outcome::kFault;
    if (!enabled()) ++counters_->writes_after_stop;
    return Outcome::kDelivered;
}

void RxQueue::finish_frame() {
    synchronize();
    if (!completed_.empty()) write_back(static_cast<unsigned>(completed_.size()));
}

// All payload is written before the first write-back, so a fault leaves no frame half delivered.
bool RxQueue::write_payload(FrameView bytes, unsigned pieces) {
    const std::size_t size = buffer_size();
    for (unsigned i = 0; i < pieces; ++i) {
        const auto descriptor =
            dma_->read_descriptor(descriptor_iova(slot_after_head(i)), "receive descriptor");
        if (!descriptor) return false;
        const FrameView piece = bytes.subspan(i * size, std::min(size, bytes.size() - i * size));
        if (!dma_->write(descriptor->low & rx_desc::kAddressMask, piece, "receive buffer")) {
            return false;
        }
    }
    return true;
}

// Only the last descriptor of a frame says anything about the whole frame; the others say that they
// are done and how long they are (section 7.1.6.2).
void RxQueue::complete(const RxPayload& payload, unsigned pieces) {
    const std::size_t size = buffer_size();
    completed_.assign(
        pieces, {0, rx_desc::write_back(rx_desc::kDone, static_cast<std::uint16_t>(size), 0)});
    Descriptor& last = completed_.back();
    last.low = payload.packet_type | std::uint64_t{payload.rss_hash} << 32;
    last.high = rx_desc::write_back(
        payload.status | rx_desc::kDone | rx_desc::kEndOfPacket |
            (payload.tagged ? rx_desc::kVlanPacket : 0),
        static_cast<std::uint16_t>(payload.bytes.size() - (pieces - 1) * size), payload.vlan);
}

// REQUIRES: descriptors <= completed_.size(). After a fault the frame is given up.
bool RxQueue::write_back(unsigned descriptors) {
    for (unsigned i = 0; i < descriptors; ++i) {
        if (!dma_->write_back(descriptor_iova(slot_after_head(i)), completed_[i],
                              "receive descriptor write-back")) {
            completed_.clear();
            return false;
        }
    }
    completed_.erase(completed_.begin(), completed_.begin() + descriptors);
    advance(descriptors);
    return true;
}

void RxQueue::advance(unsigned descriptors) {
    const std::uint32_t next = slot_after_head(descriptors);
    // If the driver wrote RDH meanwhile, its value stands and synchronize() takes it over.
    if (regs_.replace(base_ + reg::kRdh, head_, next)) head_ = next;
}

bool RxQueue::drops_when_empty() const {
    return queue_drop_enable_ || regs_.test(base_ + reg::kSrrctl, bits::kSrrctlDropEnable);
}

std::uint32_t RxQueue::available() const {
    const std::uint32_t tail = regs_.get(base_ + reg::kRdt);
    if (tail >= ring_size_ || head_ >= ring_size_) return 0;
    return tail >= head_ ? tail - head_ : tail + ring_size_ - head_;
}

std::size_t RxQueue::buffer_size() const {
    const std::uint32_t units = regs_.get(base_ + reg::kSrrctl) & bits::kSrrctlBsizeMask;
    return std::max<std::size_t>(units, 1) * kBufferUnit;
}

std::uint64_t RxQueue::descriptor_iova(std::uint32_t slot) const {
    return ring_iova_ + std::uint64_t{slot} * sizeof(Descriptor);
}

std::uint32_t RxQueue::slot_after_head(std::uint32_t distance) const {
    return (head_ + distance) % ring_size_;
}

void RxQueue::remember_posted_buffers() {
    posted_at_stop_.clear();
    stop_was_guarded_ = true;
    const std::uint32_t count = available();
    for (std::uint32_t i = 0; i < count; ++i) {
        const auto descriptor =
            dma_->read_descriptor(descriptor_iova(slot_after_head(i)), "receive descriptor");
        if (!descriptor) return;
        const std::uint64_t iova = descriptor->low & rx_desc::kAddressMask;
        if (const auto print = dma_->fingerprint(iova, buffer_size())) {
            posted_at_stop_.push_back({iova, buffer_size(), *print});
        }
    }
}

std::optional<std::size_t> RxQueue::verify_stopped() {
    synchronize();
    if (running_ || !stop_was_guarded_) return std::nullopt;
    std::size_t changed = 0;
    for (const PostedBuffer& buffer : posted_at_stop_) {
        const auto print = dma_->fingerprint(buffer.iova, buffer.length);
        if (print && *print != buffer.fingerprint) ++changed;
    }
    return changed;
}

}  // namespace zecorx::soft82599
