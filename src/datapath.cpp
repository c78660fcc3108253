#include "datapath.h"

#include <fmt/format.h>
#include <rte_ethdev.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "zecorx/announcement.h"

namespace zecorx {
namespace {

constexpr std::uint32_t kReceiveq = 0;  // virtqueue numbers, VIRTIO 5.1.2
constexpr std::uint32_t kTransmitq = 1;

// Frames kept for a driver that posts nothing; beyond it the newest are dropped.
constexpr std::uint32_t kPendingCap = 256;
// The PMD's receive functions hold up to 64 scanned mbufs beside the descriptor ring.
constexpr std::uint32_t kPmdStage = 64;

// A burst more than the cap may be pending before the cap is looked at, and one in the PMD's hands.
std::uint32_t rx_mbufs(const QueueGeometry& geometry) {
    return Port::kRxDescriptors + kPmdStage + kPendingCap +
           Datapath::kBurst * (geometry.descriptors() + 1);
}

constexpr std::uint32_t tx_mbufs() { return Port::kTxDescriptors + 4 * Datapath::kBurst; }

}  // namespace

Datapath::Datapath(const std::string& name, Port& port, const VmQueues& queues,
                   const QueueGeometry& geometry)
    : queues_(queues),
      mbufs_(rx_mbufs(geometry)),
      receive_(mbufs_, {.geometry = geometry, .pending_cap = kPendingCap}, counters_),
      transmit_(port.geometry().max_frame(true), counters_),
      rx_pool_(make_rx_pool(fmt::format("rx_{}", name), mbufs_, geometry.nic_buffer, receive_,
                            port.socket())) {
    Mempool tx = make_host_pool(fmt::format("tx_{}", name), tx_mbufs(),
                                QueueGeometry::whole(port.geometry().max_frame(true)).nic_buffer,
                                port.socket());
    tx_pool_ = tx.get();
    port.set_up_vm(queues_, *rx_pool_, std::move(tx));
}

void Datapath::attach(Rings rings, const GuestMemory& memory) {
    call_fds_ = std::move(rings.call_fds);
    receive_.attach(rings.receive, memory, rings.features);
    transmit_.attach(rings.transmit, memory, rings.features);
    broken_.store(false, std::memory_order_relaxed);
    // What the last session completed may never have been announced: the driver waits for a call
    // that a spurious one replaces.
    for (std::uint32_t ring = 0; ring < kRings; ++ring) call(ring);
}

void Datapath::replace_call_fd(std::uint32_t ring, UniqueFd fd) noexcept {
    call_fds_[ring] = std::move(fd);
    call(ring);
}

Datapath::Bases Datapath::detach() noexcept {
    for (; staged_first_ != staged_end_; ++staged_first_) {
        rte_pktmbuf_free(staged_[staged_first_]);
        counters_.drop(DropReason::kTxStopped);
    }
    call_fds_ = {};
    return {receive_.detach(), transmit_.detach()};
}

bool Datapath::poll() noexcept {
    // Both, always: a busy receiveq must not keep the transmitq waiting.
    const bool received = poll_receive();
    const bool sent = poll_transmit();
    if (receive_.broken() || transmit_.broken()) [[unlikely]]
        report_broken();
    return received || sent;
}

bool Datapath::poll_receive() noexcept {
    std::array<rte_mbuf*, kBurst> frames;
    const std::uint16_t count =
        rte_eth_rx_burst(queues_.port, queues_.queue, frames.data(), kBurst);
    if (count == 0 && receive_.pending() == 0) return false;
    for (std::uint16_t i = 0; i < count; ++i) take_frame(frames[i]);
    if (receive_.complete() > 0 && receive_.call_wanted()) call(kReceiveq);
    return count > 0;
}

void Datapath::take_frame(rte_mbuf* frame) noexcept {
    const bool verified =
        (frame->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_GOOD;
    while (frame->next != nullptr) [[unlikely]] {
            // Posted again, the mbuf stands alone.
            rte_mbuf* piece = std::exchange(frame, frame->next);
            piece->next = nullptr;
            piece->nb_segs = 1;
            receive_.returned(piece, {.length = piece->data_len, .end_of_frame = false});
        }
    receive_.returned(frame, {.length = frame->data_len, .checksum_verified = verified});
}

bool Datapath::poll_transmit() noexcept {
    if (!send_staged()) return false;  // the TX queue is full: let it drain first
    const std::uint32_t waiting = transmit_.waiting(kBurst);
    if (waiting == 0 || !stage_frames(waiting)) return false;
    transmit_.publish();
    if (transmit_.call_wanted()) call(kTransmitq);
    send_staged();
    return true;
}

// False: every mbuf waits in the TX queue, so the chains stay with the driver for now.
bool Datapath::stage_frames(std::uint32_t count) noexcept {
    std::array<rte_mbuf*, kBurst> mbufs;
    staged_first_ = staged_end_ = 0;
    if (rte_pktmbuf_alloc_bulk(tx_pool_, mbufs.data(), count) != 0) return false;
    for (std::uint32_t i = 0; i < count; ++i) {
        rte_mbuf* mbuf = mbufs[i];
        const std::uint32_t length =
            transmit_.next({rte_pktmbuf_mtod(mbuf, std::byte*), rte_pktmbuf_tailroom(mbuf)});
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
bool Datapath::send_staged() noexcept {
    if (staged_first_ == staged_end_) return true;
    if (transmit_held_.load(std::memory_order_acquire)) [[unlikely]]
        return false;
    staged_first_ = static_cast<std::uint16_t>(
        staged_first_ + rte_eth_tx_burst(queues_.port, queues_.queue, &staged_[staged_first_],
                                         staged_end_ - staged_first_));
    return staged_first_ == staged_end_;
}

void Datapath::learn_from(const rte_mbuf* frame) noexcept {
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
    transmit_held_.store(true, std::memory_order_relaxed);
    needs_control_.store(true, std::memory_order_release);
}

std::optional<MacAddress> Datapath::learned() const {
    const std::uint64_t packed = learned_.load(std::memory_order_relaxed);
    if (packed == 0) return std::nullopt;
    MacAddress mac;
    std::memcpy(mac.bytes.data(), &packed, mac.bytes.size());
    return mac;
}

// On a descriptor of our own: the library's call helper takes a lock that its message handler holds
// while it waits for this worker, and decides from a used index that this data path never moves.
void Datapath::call(std::uint32_t ring) noexcept {
    const std::uint64_t one = 1;
    // A full eventfd (EAGAIN) is readable, so the driver hears of this one too.
    [[maybe_unused]] const ssize_t written = ::write(call_fds_[ring].get(), &one, sizeof one);
    counters_.calls.add(1);
}

void Datapath::drain() noexcept {
    for (int burst = 0; burst < Port::kRxDescriptors / kBurst && poll_receive(); ++burst) {
    }
    poll_transmit();
}

void Datapath::report_broken() noexcept {
    if (broken_.load(std::memory_order_relaxed)) return;
    broken_.store(true, std::memory_order_release);
    needs_control_.store(true, std::memory_order_release);
}

std::string Datapath::describe_broken() const {
    const bool receive = receive_.broken();
    const RingError error = receive ? receive_.error() : transmit_.error();
    return fmt::format("{}: {}", receive ? "receiveq" : "transmitq", describe(error));
}

}  // namespace zecorx
