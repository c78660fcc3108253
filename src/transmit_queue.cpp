#include "transmit_queue.h"

#include <fmt/format.h>
#include <rte_ethdev.h>

#include <algorithm>
#include <cstring>

#include "zecorx/announcement.h"

namespace zecorx {
namespace {

// The PMD's transmit function for offloads frees an mbuf only when its descriptor is used again, so
// a whole ring of them can be away; as many more let a frame of any length be taken, and several
// wait.
constexpr std::uint32_t tx_mbufs() { return 2 * Port::kTxDescriptors; }
static_assert(Port::kTxDescriptors > 2 * kMaxTransmitRooms);

// What the PMD is to ask the NIC for.
void set_offloads(rte_mbuf& mbuf, const TransmitRequest& request) noexcept {
    using Offload = TransmitRequest::Offload;
    mbuf.l2_len = request.link_length;
    mbuf.l3_len = request.network_length;
    std::uint64_t flags = request.ipv6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4;
    switch (request.offload) {
        case Offload::kNone:
            flags = 0;
            break;
        case Offload::kTcpChecksum:
            flags |= RTE_MBUF_F_TX_TCP_CKSUM;
            break;
        case Offload::kUdpChecksum:
            flags |= RTE_MBUF_F_TX_UDP_CKSUM;
            break;
        case Offload::kTcpSegmentation:
            mbuf.l4_len = request.transport_length;
            mbuf.tso_segsz = request.segment_size;
            // The length in every IPv4 header changes, and with it the checksum.
            flags |= RTE_MBUF_F_TX_TCP_SEG | (request.ipv6 ? 0 : RTE_MBUF_F_TX_IP_CKSUM);
            break;
    }
    if (request.vlan) {
        mbuf.vlan_tci = *request.vlan;
        flags |= RTE_MBUF_F_TX_VLAN;
    }
    mbuf.ol_flags |= flags;
}

}  // namespace

void TransmitStage::send(const TransmitRequest& request) noexcept {
    rte_mbuf* const first = take_spare();
    first->pkt_len = request.length;
    std::uint32_t left = request.length;
    for (rte_mbuf* mbuf = first;; mbuf = mbuf->next = take_spare(), ++first->nb_segs) {
        const std::uint32_t room = std::min<std::uint32_t>(left, kTransmitRoom);
        mbuf->data_len = static_cast<std::uint16_t>(room);
        left -= room;
        if (left == 0) break;
    }
    set_offloads(*first, request);
    staged_[end_++] = first;
}

bool TransmitStage::flush(const VmQueues& queues) noexcept {
    if (first_ == end_) return true;
    first_ = static_cast<std::uint16_t>(
        first_ + rte_eth_tx_burst(queues.port, queues.queue, &staged_[first_], end_ - first_));
    if (first_ != end_) return false;
    first_ = end_ = 0;
    return true;
}

std::uint16_t TransmitStage::drop() noexcept {
    const auto count = static_cast<std::uint16_t>(end_ - first_);
    for (rte_mbuf* frame : frames()) rte_pktmbuf_free(frame);
    first_ = end_ = 0;
    return count;
}

// False: every mbuf waits in the TX queue.
bool TransmitStage::refill() noexcept {
    const auto missing = static_cast<unsigned>(spare_.size() - spare_count_);
    if (rte_pktmbuf_alloc_bulk(&pool_, &spare_[spare_count_], missing) != 0) return false;
    spare_count_ = spare_.size();
    return true;
}

TransmitQueue::TransmitQueue(const std::string& name, Port& port, const VmQueues& queues,
                             const VlanPolicy& vlan, VmCounters& counters,
                             std::atomic<bool>& needs_control)
    : queues_(queues),
      tag_(vlan.inserted()),
      counters_(counters),
      needs_control_(needs_control),
      path_(port.geometry().mtu, vlan, counters),
      stage_(port.keep(
          make_host_pool(fmt::format("tx_{}", name), tx_mbufs(), kTransmitRoom, port.socket()))) {}

std::uint16_t TransmitQueue::detach() noexcept {
    if (const auto count = stage_.drop(); count > 0) {
        counters_.drop(DropReason::kTxStopped, count);
    }
    return path_.detach();
}

bool TransmitQueue::poll() noexcept {
    if (!send_staged()) return false;  // the TX queue is full: let it drain first
    if (path_.burst(TransmitStage::kFrames, stage_) == 0) return false;
    if (learn_.first_frame || learn_.announcements) [[unlikely]] {
        for (const rte_mbuf* frame : stage_.frames()) learn_from(frame);
    }
    send_staged();
    return true;
}

bool TransmitQueue::announce(const MacAddress& mac) noexcept {
    if (!stage_.accepts()) return false;
    const Announcement frame = rarp_announcement(mac);
    std::ranges::copy(frame, stage_.room(0).begin());
    stage_.send({.length = frame.size(), .vlan = tag_});
    return true;
}

// True: nothing is left staged.
bool TransmitQueue::send_staged() noexcept {
    if (held_.load(std::memory_order_acquire)) [[unlikely]]
        return false;
    return stage_.flush(queues_);
}

void TransmitQueue::learn_address(LearnFrom learn) {
    learn_ = learn;
    learned_.store(0, std::memory_order_relaxed);
    held_.store(false, std::memory_order_relaxed);
}

void TransmitQueue::learn_from(const rte_mbuf* frame) noexcept {
    constexpr std::size_t kSourceOffset = 6;  // destination address first, IEEE 802.3 3.1.1
    const auto source =
        MacAddress::from_wire({rte_pktmbuf_mtod_offset(frame, const std::byte*, kSourceOffset), 6});
    std::uint64_t packed = 0;
    std::memcpy(&packed, source.bytes.data(), source.bytes.size());
    if (packed == learned_.load(std::memory_order_relaxed) || !source.is_station()) return;
    const auto announces = [&] {
        return announces_address({rte_pktmbuf_mtod(frame, const std::byte*), frame->data_len});
    };
    if (!learn_.first_frame && !(learn_.announcements && announces())) return;
    learned_.store(packed, std::memory_order_relaxed);
    learn_.first_frame = false;
    held_.store(true, std::memory_order_relaxed);
    needs_control_.store(true, std::memory_order_release);
}

std::optional<MacAddress> TransmitQueue::learned() const {
    const std::uint64_t packed = learned_.load(std::memory_order_relaxed);
    if (packed == 0) return std::nullopt;
    MacAddress mac;
    std::memcpy(mac.bytes.data(), &packed, mac.bytes.size());
    return mac;
}

}  // namespace zecorx
