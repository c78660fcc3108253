#include "datapath.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <rte_ethdev.h>
#include <sys/uio.h>
#include <unistd.h>

#include <utility>

namespace zecorx {
namespace {

constexpr std::uint32_t kReceiveq = 0;  // virtqueue numbers, VIRTIO 5.1.2
constexpr std::uint32_t kTransmitq = 1;

// Frames kept for a driver that posts nothing; beyond it the newest are dropped.
constexpr std::uint32_t kPendingCap = 256;
// The PMD's receive functions hold up to 64 scanned mbufs beside the descriptor ring.
constexpr std::uint32_t kPmdStage = 64;

// A burst more than the cap may be pending before the cap is looked at, and one in the PMD's hands.
std::uint32_t rx_mbufs(const Port& port, const QueueGeometry& geometry) {
    return port.rx_descriptors() + kPmdStage + kPendingCap +
           Datapath::kBurst * (geometry.descriptors() + 1);
}

}  // namespace

Datapath::Datapath(const std::string& name, Port& port, const VmQueues& queues,
                   const Settings& settings)
    : queues_(queues),
      mbufs_(rx_mbufs(port, settings.geometry)),
      receive_(mbufs_,
               {.geometry = settings.geometry,
                .pending_cap = kPendingCap,
                .zero_copy = settings.zero_copy},
               counters_),
      transmit_(name, port, queues, settings.vlan, counters_, needs_control_),
      rx_pool_(make_rx_pool(fmt::format("rx_{}", name), mbufs_, settings.geometry.nic_buffer,
                            receive_, port.socket())) {
    port.set_up_vm(queues_, *rx_pool_);
}

void Datapath::attach(Rings rings, const GuestMemory& memory) {
    call_fds_ = std::move(rings.call_fds);
    receive_.attach(rings.receive, memory, rings.features, rings.log);
    transmit_.attach(rings.transmit, memory, rings.features, rings.log);
    broken_.store(false, std::memory_order_relaxed);
    idle_ = false;
    // What the last session completed may never have been announced, nor what drain() did: the
    // driver waits for a call that a spurious one replaces.
    call_due_.fill(true);
}

void Datapath::set_log(const DirtyLog& log) noexcept {
    receive_.set_log(log);
    transmit_.set_log(log);
}

void Datapath::replace_call_fd(std::uint32_t ring, UniqueFd fd) noexcept {
    call_fds_[ring] = std::move(fd);
    call_due_[ring] = true;
    idle_ = false;
}

bool Datapath::announce(const MacAddress& mac) noexcept {
    idle_ = false;
    return transmit_.announce(mac);
}

Datapath::Bases Datapath::detach() noexcept {
    call_fds_ = {};
    return {receive_.detach(), transmit_.detach()};
}

bool Datapath::poll() noexcept {
    if (idle_ && !has_news()) return false;
    const std::uint32_t posted = receive_.posted();
    const bool worked = poll_all();
    // A poll of the PMD posts a part of what could be posted.
    idle_ =
        !worked && receive_.posted() == posted && receive_.pending() == 0 && !transmit_.has_work();
    if (idle_) {
        receive_watch_ = receive_.watch();
        transmit_watch_ = transmit_.watch();
    }
    return worked;
}

bool Datapath::has_news() const noexcept {
    if (receive_watch_.has_news() || transmit_watch_.has_news()) return true;
    const int status = rte_eth_rx_descriptor_status(queues_.port, queues_.queue, 0);
    return status == RTE_ETH_RX_DESC_DONE || status < 0;  // a driver without descriptors cannot say
}

bool Datapath::poll_all() noexcept {
    // Both, always: a busy receiveq must not keep the transmitq waiting.
    const bool received = poll_receive();
    const bool sent = poll_transmit();
    if (call_due_[kReceiveq] || call_due_[kTransmitq]) send_calls();
    if (receive_.broken() || transmit_.broken()) [[unlikely]]
        report_broken();
    return received || sent;
}

bool Datapath::poll_receive() noexcept {
    std::array<rte_mbuf*, kBurst> frames;
    const std::uint16_t count =
        rte_eth_rx_burst(queues_.port, queues_.queue, frames.data(), kBurst);
    if (count == 0 && receive_.pending() == 0) return false;
    const std::span<void* const> burst(reinterpret_cast<void**>(frames.data()), count);
    const std::uint32_t completed =
        receive_.receive(burst, [this](void* frame) { take_frame(static_cast<rte_mbuf*>(frame)); });
    if (completed > 0 && receive_.call_wanted()) call_due_[kReceiveq] = true;
    return count > 0;
}

void Datapath::take_frame(rte_mbuf* frame) noexcept {
    rte_mbuf* last = frame;
    // Not by next, which lies in a cache line that a frame in one buffer does not need.
    for (std::uint16_t left = std::exchange(frame->nb_segs, 1); left > 1; --left) {
        rte_mbuf* piece = std::exchange(last, last->next);
        piece->next = nullptr;  // posted again, the mbuf stands alone
        receive_.returned(piece, {.length = piece->data_len, .end_of_frame = false});
    }
    receive_.returned(last, {.length = last->data_len,
                             .checksum_verified = MbufBuffers::take_verdict(*frame, *last)});
}

bool Datapath::poll_transmit() noexcept {
    if (!transmit_.has_work() || !transmit_.poll()) return false;
    if (transmit_.call_wanted()) call_due_[kTransmitq] = true;
    return true;
}

void Datapath::send_calls() noexcept {
    for (std::uint32_t ring = 0; ring < kRings; ++ring) {
        if (std::exchange(call_due_[ring], false)) call(ring);
    }
}

// On the worker only: the control side must not wait here with everybody behind it.
void Datapath::call(std::uint32_t ring) noexcept {
    const int fd = call_fds_[ring].get();
    const std::uint64_t one = 1;
    calling_.store(fd, std::memory_order_relaxed);
    // A full eventfd (EAGAIN) is readable, so the driver hears of this one too.
    [[maybe_unused]] const ssize_t written = ::write(fd, &one, sizeof one);
    calling_.store(-1, std::memory_order_relaxed);
    counters_.calls.add(1);
}

// Reading empties an eventfd, whoever reads it. A counter is full after 2^64 calls, so this one was
// filled on purpose.
bool Datapath::free_stuck_call() noexcept {
    const int fd = calling_.load(std::memory_order_relaxed);
    if (fd < 0 || (::fcntl(fd, F_GETFL) & O_NONBLOCK) != 0) return false;
    pollfd writable{fd, POLLOUT, 0};
    if (::poll(&writable, 1, 0) != 0) return false;
    std::uint64_t calls = 0;
    iovec to{&calls, sizeof calls};
    return ::preadv2(fd, &to, 1, -1, RWF_NOWAIT) == sizeof calls;
}

void Datapath::drain() noexcept {
    for (int burst = 0; burst < Port::kRxDescriptors / kBurst && poll_receive(); ++burst) {
    }
    poll_transmit();
}

void Datapath::report_broken() noexcept {
    if (broken_.load(std::memory_order_relaxed)) return;
    broken_ring_ = receive_.broken() ? kReceiveq : kTransmitq;
    broken_error_ = receive_.broken() ? receive_.error() : transmit_.error();
    broken_.store(true, std::memory_order_release);
    needs_control_.store(true, std::memory_order_release);
}

std::string Datapath::describe_broken() const {
    return fmt::format("{}: {}", broken_ring_ == kReceiveq ? "receiveq" : "transmitq",
                       describe(broken_error_));
}

}  // namespace zecorx
