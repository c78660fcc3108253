#include "tx_queue.h"

namespace zecorx::soft82599 {
namespace {

bool is_context(const Descriptor& descriptor) {
    return (descriptor.high & tx_desc::kExtended) != 0 &&
           (descriptor.high & tx_desc::kTypeMask) == tx_desc::kTypeContext;
}

unsigned context_index(const Descriptor& descriptor) {
    return descriptor.high >> tx_desc::kContextIndexShift & 1;
}

}  // namespace

TxQueue::TxQueue(unsigned index, RegisterFile registers, DmaEngine& dma, PortCounters& counters)
    : regs_(registers), dma_(&dma), counters_(&counters), base_(reg::tx_queue(index)) {}

void TxQueue::synchronize() {
    if (!enabled()) {
        if (running_) {
            running_ = false;
            forget_tail();
        }
        return;
    }
    const std::uint32_t tdh = regs_.get(base_ + reg::kTdh);
    if (!running_) {
        start();
    } else if (tdh != head_) {  // stopped and started again between two looks
        forget_tail();
        start();
    }
}

void TxQueue::start() {
    ring_iova_ = regs_.get64(base_ + reg::kTdbal);
    ring_size_ = regs_.get(base_ + reg::kTdlen) / sizeof(Descriptor);
    head_ = regs_.get(base_ + reg::kTdh);
    contexts_ = {};
    running_ = true;
}

// A driver restarts a queue by writing TDH, then ENABLE, then TDT. Between the last two the old
// tail would make stale descriptors look posted, so it is dropped when the queue stops.
void TxQueue::forget_tail() {
    const std::uint32_t tail = regs_.get(base_ + reg::kTdt);
    const bool stopped = !enabled();
    if (stopped) regs_.replace(base_ + reg::kTdt, tail, 0);
    regs_.replace(base_ + reg::kTdh, head_, 0);
}

std::optional<TxPacket> TxQueue::take() {
    synchronize();
    while (running_ && posted() != 0) {
        consume_contexts();
        const Extent extent = find_frame();
        if (extent.descriptors == 0) return std::nullopt;
        std::optional<TxPacket> packet =
            extent.readable ? gather(extent.descriptors) : std::nullopt;
        if (!packet) ++counters_->tx_malformed;
        report_done(extent.descriptors);
        advance(extent.descriptors);
        if (packet) return packet;
    }
    return std::nullopt;
}

// Context descriptors stand between frames and report no status unless RS is set.
void TxQueue::consume_contexts() {
    for (std::uint32_t left = posted(); left != 0; --left) {
        const auto descriptor = descriptor_at(0);
        if (!descriptor || !is_context(*descriptor)) return;
        contexts_[context_index(*descriptor)] = TxContext::from(*descriptor);
        report_done(1);
        advance(1);
    }
}

TxQueue::Extent TxQueue::find_frame() {
    const std::uint32_t count = posted();
    for (std::uint32_t i = 0; i < count; ++i) {
        const auto descriptor = descriptor_at(i);
        // A ring that is not mapped yields nothing to send and nothing to skip.
        if (!descriptor) return {0, false};
        if ((descriptor->high & tx_desc::kEndOfPacket) != 0) {
            return {i + 1, i < tx_desc::kMaxPerFrame};
        }
    }
    return {0, false};
}

std::optional<TxPacket> TxQueue::gather(unsigned descriptors) {
    TxPacket packet;
    for (unsigned i = 0; i < descriptors; ++i) {
        const auto descriptor = descriptor_at(i);
        if (!descriptor || is_context(*descriptor)) return std::nullopt;
        if (i == 0) set_offloads(packet, *descriptor);
        if (!append(packet, *descriptor)) return std::nullopt;
    }
    return packet;
}

bool TxQueue::append(TxPacket& packet, const Descriptor& descriptor) {
    const std::size_t length = descriptor.high & tx_desc::kLengthMask;
    const std::size_t start = packet.bytes.size();
    packet.bytes.resize(start + length);
    return dma_->read(descriptor.low, std::span(packet.bytes).subspan(start), "transmit buffer");
}

void TxQueue::set_offloads(TxPacket& packet, const Descriptor& first) const {
    const bool extended = (first.high & tx_desc::kExtended) != 0;
    if (extended) {
        packet.context = contexts_[context_index(first)];
        packet.segment = (first.high & tx_desc::kSegment) != 0;
        packet.insert_ip_checksum = (first.high & tx_desc::kInsertIpChecksum) != 0;
        packet.insert_l4_checksum = (first.high & tx_desc::kInsertL4Checksum) != 0;
    }
    if ((first.high & tx_desc::kVlanInsert) != 0) {
        packet.vlan = extended
                          ? packet.context.vlan
                          : static_cast<std::uint16_t>(first.high >> tx_desc::kLegacyVlanShift);
    }
}

void TxQueue::report_done(unsigned descriptors) {
    for (unsigned i = 0; i < descriptors; ++i) {
        const auto descriptor = descriptor_at(i);
        if (!descriptor || (descriptor->high & tx_desc::kReportStatus) == 0) continue;
        dma_->write_back(descriptor_iova(i), {0, tx_desc::kDone}, "transmit descriptor write-back");
    }
}

void TxQueue::advance(unsigned descriptors) {
    const std::uint32_t next = (head_ + descriptors) % ring_size_;
    if (regs_.replace(base_ + reg::kTdh, head_, next)) {
        head_ = next;
    } else {
        synchronize();  // the driver restarted the queue meanwhile
    }
}

std::uint32_t TxQueue::posted() const {
    const std::uint32_t tail = regs_.get(base_ + reg::kTdt);
    if (tail >= ring_size_ || head_ >= ring_size_) return 0;
    return tail >= head_ ? tail - head_ : tail + ring_size_ - head_;
}

std::optional<Descriptor> TxQueue::descriptor_at(std::uint32_t distance) {
    return dma_->read_descriptor(descriptor_iova(distance), "transmit descriptor");
}

std::uint64_t TxQueue::descriptor_iova(std::uint32_t distance) const {
    return ring_iova_ + std::uint64_t{(head_ + distance) % ring_size_} * sizeof(Descriptor);
}

}  // namespace zecorx::soft82599
