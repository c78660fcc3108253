#include "transmit_queue.h"

#include <fmt/format.h>
#include <rte_ethdev.h>

#include <cstring>

#include "zecorx/announcement.h"

namespace zecorx {
namespace {

constexpr std::uint32_t tx_mbufs() { return Port::kTxDescriptors + 4 * TransmitQueue::kBurst; }

}  // namespace

TransmitQueue::TransmitQueue(const std::string& name, Port& port, const VmQueues& queues,
                             VmCounters& counters, std::atomic<bool>& needs_control)
    : queues_(queues),
      counters_(counters),
      needs_control_(needs_control),
      path_(port.geometry().max_frame(true), counters),
      pool_(port.keep(make_host_pool(
          fmt::format("tx_{}", name), tx_mbufs(),
          QueueGeometry::whole(port.geometry().max_frame(true)).nic_buffer, port.socket()))) {}

std::uint16_t TransmitQueue::detach() noexcept {
    for (; staged_first_ != staged_end_; ++staged_first_) {
        rte_pktmbuf_free(staged_[staged_first_]);
        counters_.drop(DropReason::kTxStopped);
    }
    return path_.detach();
}

bool TransmitQueue::poll() noexcept {
    if (!send_staged()) return false;  // the TX queue is full: let it drain first
    const std::uint32_t waiting = path_.waiting(kBurst);
    if (waiting == 0 || !stage_frames(waiting)) return false;
    path_.publish();
    send_staged();
    return true;
}

// False: every mbuf waits in the TX queue, so the chains stay with the driver for now.
bool TransmitQueue::stage_frames(std::uint32_t count) noexcept {
    std::array<rte_mbuf*, kBurst> mbufs;
    staged_first_ = staged_end_ = 0;
    if (rte_pktmbuf_alloc_bulk(&pool_, mbufs.data(), count) != 0) return false;
    for (std::uint32_t i = 0; i < count; ++i) {
        rte_mbuf* mbuf = mbufs[i];
        const std::uint32_t length =
            path_.next({rte_pktmbuf_mtod(mbuf, std::byte*), rte_pktmbuf_tailroom(mbuf)});
        if (length == 0) {
            rte_pktmbuf_free(mbuf);
            continue;
        }
        mbuf->data_len = static_cast<std::uint16_t>(length);
        mbuf->pkt_len = length;
        if (learn_.first_frame || learn_.announcements) [[unlikely]]
            learn_from(mbuf);
        staged_[staged_end_++] = mbuf;
    }
    return true;
}

// True: nothing is left staged.
bool TransmitQueue::send_staged() noexcept {
    if (staged_first_ == staged_end_) return true;
    if (held_.load(std::memory_order_acquire)) [[unlikely]]
        return false;
    staged_first_ = static_cast<std::uint16_t>(
        staged_first_ + rte_eth_tx_burst(queues_.port, queues_.queue, &staged_[staged_first_],
                                         staged_end_ - staged_first_));
    return staged_first_ == staged_end_;
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
    if (!learn_.first_frame &&
        !announces_address({rte_pktmbuf_mtod(frame, const std::byte*), frame->data_len})) {
        return;
    }
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
