#include "rx_path.h"

#include <bit>

#include "checksum.h"
#include "descriptor.h"
#include "rss.h"

namespace zecorx::soft82599 {
namespace {

// Hard-wired limit without HLREG0.JUMBOEN, CRC included (section 8.2.3.22.13).
constexpr std::size_t kStandardFrame = 1518;

std::uint32_t packet_type(const FrameLayout& layout) {
    std::uint32_t type = 0;
    if (layout.l3 == L3::kIpv4) {
        type =
            layout.ip_options ? rx_desc::kTypeIpv4 | rx_desc::kTypeIpv4Options : rx_desc::kTypeIpv4;
    } else if (layout.l3 == L3::kIpv6) {
        type = layout.ip_options ? rx_desc::kTypeIpv6 | rx_desc::kTypeIpv6Extensions
                                 : rx_desc::kTypeIpv6;
    }
    switch (layout.l4) {
        case L4::kTcp:
            return type | rx_desc::kTypeTcp;
        case L4::kUdp:
            return type | rx_desc::kTypeUdp;
        case L4::kSctp:
            return type | rx_desc::kTypeSctp;
        case L4::kOther:
            break;
    }
    return type;
}

std::uint32_t checksum_status(const ChecksumReport& report) {
    std::uint32_t status = 0;
    if (report.ip_checked) status |= rx_desc::kIpChecked;
    if (report.ip_bad) status |= rx_desc::kIpError;
    if (report.l4_checked) status |= rx_desc::kL4Checked;
    if (report.l4_bad) status |= rx_desc::kL4Error;
    return status;
}

void append_crc(Frame& frame, FrameView as_on_the_wire) {
    const std::uint32_t crc = ethernet_crc(as_on_the_wire);
    for (unsigned shift = 0; shift < 32; shift += 8) {
        frame.push_back(static_cast<std::byte>(crc >> shift & 0xFF));
    }
}

}  // namespace

RxPath::RxPath(RegisterFile registers, DmaEngine& dma, Statistics& statistics,
               PortCounters& counters)
    : regs_(registers), statistics_(&statistics), counters_(&counters), filter_(registers) {
    queues_.reserve(kQueues);
    for (unsigned i = 0; i < kQueues; ++i) queues_.emplace_back(i, registers, dma, counters);
}

RxResult RxPath::receive(FrameView frame, bool link_up) {
    if (!link_up || !receive_enabled() || frame.size() < kEthernetHeader) {
        ++counters_->rx_dropped_disabled;
        return RxResult::kDroppedDisabled;
    }
    Frame padded;
    if (frame.size() < kMinFrame) {
        padded.assign(frame.begin(), frame.end());
        padded.resize(kMinFrame);
        frame = padded;
    }
    statistics_->count_arrival(frame.size());
    const FrameLayout layout = parse_frame(frame, vlan_ethertype());
    if (!fits(layout, frame.size())) {
        statistics_->count_oversize();
        ++counters_->rx_dropped_oversize;
        return RxResult::kDroppedOversize;
    }
    const PoolSet pools = filter_.pools_for(layout);
    if (pools == 0) {
        ++counters_->rx_dropped_filter;
        return RxResult::kDroppedFilter;
    }
    statistics_->count_good_receive(layout.destination, frame.size());
    return accept(frame, layout, pools, kFromWire);
}

// MAXFRS counts the CRC but not a VLAN tag (section 8.2.3.22.13).
bool RxPath::fits(const FrameLayout& layout, std::size_t length) const {
    const bool jumbo = regs_.test(reg::kHlreg0, bits::kHlreg0Jumbo);
    const std::size_t limit = jumbo ? regs_.get(reg::kMaxfrs) >> 16 : kStandardFrame;
    const std::size_t on_wire = length + kCrc;
    return on_wire <= limit + (layout.vlan ? kVlanTag : 0) && on_wire <= kMaxJumboFrame;
}

// One packet buffer feeds all queues in order: behind a frame that waits, everything waits.
RxResult RxPath::accept(FrameView frame, const FrameLayout& layout, PoolSet pools, Origin origin) {
    drain_fifo();
    if (!fifo_.empty()) return hold(frame, pools, origin);
    const Offer result = offer(frame, layout, pools, origin);
    if (result.blocked != 0) return hold(frame, result.blocked, origin);
    if (result.delivered) return RxResult::kDelivered;
    return result.faulted ? RxResult::kDmaFault : RxResult::kDroppedNoDescriptor;
}

RxResult RxPath::hold(FrameView frame, PoolSet pools, Origin origin) {
    if (fifo_bytes_ + frame.size() > kFifoBytes) {
        statistics_->count_missed();
        ++counters_->rx_dropped_fifo;
        return RxResult::kDroppedFifo;
    }
    ++counters_->rx_held;
    fifo_bytes_ += frame.size();
    fifo_.push_back({Frame(frame.begin(), frame.end()), pools, origin});
    return RxResult::kHeld;
}

void RxPath::drain_fifo() {
    while (!fifo_.empty() && receive_enabled()) {
        Waiting& front = fifo_.front();
        const FrameLayout layout = parse_frame(front.frame, vlan_ethertype());
        front.pools = offer(front.frame, layout, front.pools, front.origin).blocked;
        if (front.pools != 0) return;
        fifo_bytes_ -= front.frame.size();
        fifo_.pop_front();
    }
}

void RxPath::loop_back(FrameView frame, PoolSet pools) {
    if (!receive_enabled() || frame.size() < kEthernetHeader) return;
    counters_->tx_looped += static_cast<unsigned>(std::popcount(pools));
    accept(frame, parse_frame(frame, vlan_ethertype()), pools, rx_desc::kLoopback);
}

RxPath::Offer RxPath::offer(FrameView frame, const FrameLayout& layout, PoolSet pools,
                            Origin origin) {
    Offer result;
    const RssResult rss = rss_hash(regs_, frame, layout);
    RxPayload payload;
    payload.bytes = frame;
    payload.packet_type = packet_type(layout) | rss.type;
    payload.rss_hash = rss.hash;
    payload.status = checksum_status(check_received(frame, layout)) | origin;
    payload.tagged = layout.vlan.has_value();
    payload.vlan = layout.vlan.value_or(0);
    for (; pools != 0; pools &= pools - 1) {
        const auto pool = static_cast<unsigned>(std::countr_zero(pools));
        const unsigned queue = queue_of(pool, rss.hash);
        note(deliver(queue, frame, payload), queue, pool, result);
    }
    return result;
}

void RxPath::note(RxQueue::Outcome outcome, unsigned queue, unsigned pool, Offer& offer) {
    switch (outcome) {
        case RxQueue::Outcome::kDelivered:
            ++counters_->rx_delivered;
            offer.delivered = true;
            return;
        case RxQueue::Outcome::kFault:
            offer.faulted = true;
            return;
        case RxQueue::Outcome::kNoDescriptor:
            if (!queues_[queue].drops_when_empty()) {
                offer.blocked |= PoolSet{1} << pool;
                return;
            }
            break;
        case RxQueue::Outcome::kTooLong:
            ++counters_->rx_dropped_too_long;
            break;
        case RxQueue::Outcome::kDisabled:
            break;
    }
    statistics_->count_queue_drop(queue);
    ++counters_->rx_dropped_no_descriptor;
    offer.dropped = true;
}

// Writes to one queue, in the form its settings ask for.
RxQueue::Outcome RxPath::deliver(unsigned queue, FrameView frame, RxPayload payload) {
    Frame rewritten;  // only where what is written differs from what was on the wire
    if (payload.tagged && queues_[queue].strips_vlan()) rewritten = without_vlan_tag(frame);
    if (!regs_.test(reg::kHlreg0, bits::kHlreg0RxCrcStrip)) {
        if (rewritten.empty()) rewritten.assign(frame.begin(), frame.end());
        append_crc(rewritten, frame);
    }
    if (!rewritten.empty()) payload.bytes = rewritten;
    const RxQueue::Outcome outcome = queues_[queue].deliver(payload);
    if (outcome == RxQueue::Outcome::kDelivered) {
        statistics_->count_queue_receive(queue, payload.bytes.size());
    }
    return outcome;
}

// Section 7.1.2: a pool owns 2 queues with 64 pools, 4 with 32; RSS picks one where it is on.
unsigned RxPath::queue_of(unsigned pool, std::uint32_t rss_hash) const {
    const std::uint32_t mode = regs_.get(reg::kMrqc) & bits::kMrqcModeMask;
    const unsigned rss_index = rss_queue(regs_, rss_hash);
    if (filter_.virtualized()) {
        if (mode == bits::kMrqcVmdq32Rss) return (4 * pool + rss_index % 4) % kQueues;
        return 2 * pool + (mode == bits::kMrqcVmdq64Rss ? rss_index % 2 : 0);
    }
    return mode == bits::kMrqcRss ? rss_index : 0;
}

std::uint16_t RxPath::vlan_ethertype() const {
    return static_cast<std::uint16_t>(regs_.get(reg::kVlnctrl) & 0xFFFF);
}

void RxPath::synchronize_queues() {
    for (RxQueue& queue : queues_) queue.synchronize();
}

// PFQDE is written one queue at a time (section 8.2.3.27.9).
void RxPath::write_qde(std::uint32_t value) {
    if ((value & bits::kQdeWrite) == 0) return;
    const unsigned index = value >> bits::kQdeIndexShift & 0x7F;
    queues_[index].set_queue_drop_enable((value & bits::kQdeEnable) != 0);
}

void RxPath::reset() {
    synchronize_queues();
    for (RxQueue& queue : queues_) queue.set_queue_drop_enable(false);
    fifo_.clear();
    fifo_bytes_ = 0;
}

}  // namespace zecorx::soft82599
