#include "vm.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <rte_vhost.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <utility>

namespace zecorx {
namespace {

SplitRing ring_of(const rte_vhost_vring& vring, const char* name) {
    const SplitRingLayout layout{reinterpret_cast<std::byte*>(vring.desc),
                                 reinterpret_cast<std::byte*>(vring.avail),
                                 reinterpret_cast<std::byte*>(vring.used), vring.size};
    if (!layout.valid()) {
        throw std::runtime_error(fmt::format(
            "the frontend's {} of {} entries is misaligned or no power of two", name, vring.size));
    }
    return SplitRing(layout);
}

rte_vhost_vring vring_of(int vid, std::uint16_t ring) {
    rte_vhost_vring vring{};
    if (rte_vhost_get_vhost_vring(vid, ring, &vring) != 0) {
        throw std::runtime_error(fmt::format("the frontend did not set virtqueue {} up", ring));
    }
    return vring;
}

}  // namespace

Vm::Vm(std::string name, std::optional<MacAddress> mac, Port& port, const VmQueues& queues,
       Worker& worker)
    : name_(std::move(name)),
      configured_mac_(mac),
      port_(port),
      queues_(queues),
      worker_(worker),
      datapath_(name_, port, queues),
      mac_(mac) {}

Vm::~Vm() { stop(); }

void Vm::connected(int vid) { connections_[vid] = {}; }

void Vm::disconnected(int vid) { connections_.erase(vid); }

void Vm::session_started(int vid) {
    if (vid_ != kNone) {
        spdlog::warn("{}: another frontend takes over", name_);
        end_session();
    }
    spdlog::info("{}: session begins", name_);
    vid_ = vid;
    failed_ = false;
    reconcile();
}

void Vm::session_stopped(int vid) {
    if (vid != vid_) return;
    end_session();
    spdlog::info("{}: session ended", name_);
}

void Vm::end_session() {
    stop();
    memory_.reset();
    vid_ = kNone;
    // Another guest may come back on this socket, so what was learned of this one is forgotten.
    mac_ = configured_mac_;
}

void Vm::ring_ready(int vid, std::uint32_t ring, bool ready) {
    if (ring >= kRings) return;
    connections_[vid].ready[ring] = ready;
    if (vid != vid_) return;
    failed_ = false;
    reconcile();
}

void Vm::before_change(int vid, bool memory) {
    connections_[vid].changing = true;
    if (vid != vid_) return;
    reconcile();
    if (memory) memory_.reset();
}

void Vm::after_change(int vid) {
    connections_[vid].changing = false;
    if (vid == vid_) reconcile();
}

void Vm::address_announced(int vid, const MacAddress& mac) {
    if (vid == vid_ && running_ && !configured_mac_ && mac.is_station()) steer(mac);
}

void Vm::tick() {
    if (!running_ || !datapath_.needs_control()) return;
    datapath_.control_done();
    if (datapath_.broken()) {
        spdlog::error("{}: {}; the VM's queues are stopped until its driver sets them up again",
                      name_, datapath_.describe_broken());
        failed_ = true;
        return reconcile();
    }
    if (const auto learned = datapath_.learned(); learned && !steered_) {
        spdlog::info("{}: learned address {}", name_, learned->to_string());
        steer(*learned);
    }
    datapath_.release_transmit();
}

bool Vm::wanted() const {
    if (vid_ == kNone || failed_) return false;
    const Connection& connection = connections_.at(vid_);
    return connection.ready[0] && connection.ready[1] && !connection.changing;
}

void Vm::reconcile() {
    if (!wanted()) return stop();
    if (running_) return;
    try {
        start();
    } catch (const std::exception& error) {
        spdlog::error("{}: cannot start: {}", name_, error.what());
        failed_ = true;
        stop();
    }
}

// Steering comes last: until then nothing but broadcast reaches the queue.
void Vm::start() {
    if (!memory_) memory_ = std::make_unique<DmaMemory>(vid_, port_.device());
    datapath_.attach(read_rings(), memory_->guest());
    datapath_.learn_address(!mac_);
    try {
        port_.start_rx(queues_);
    } catch (...) {
        datapath_.detach();
        throw;
    }
    worker_.add(datapath_);
    running_ = true;
    if (mac_) steer(*mac_);
    spdlog::info("{}: running on VMDq pool {}, queue {}", name_, queues_.pool, queues_.queue);
}

// The reverse order is what keeps the NIC out of memory that is given back: nobody polls, nothing
// new is steered here, what arrived is completed, the queue is off in the device, every buffer is
// back; only then do the rings and the memory go.
void Vm::stop() {
    if (!running_) return;
    worker_.remove(datapath_);
    unsteer();
    datapath_.drain();
    try {
        port_.stop_rx(queues_);
    } catch (const std::exception& error) {
        // Returning would let the frontend take back memory that the NIC still writes to.
        spdlog::critical("{}: {}", name_, error.what());
        std::abort();
    }
    const Datapath::Bases bases = datapath_.detach();
    running_ = false;
    if (datapath_.mbufs_held() != 0) {
        spdlog::error("{}: {} of {} receive buffers did not come back from the NIC driver", name_,
                      datapath_.mbufs_held(), datapath_.mbufs());
    }
    rte_vhost_set_vring_base(vid_, 0, bases.receive, bases.receive);
    rte_vhost_set_vring_base(vid_, 1, bases.transmit, bases.transmit);
    count_kicks();
    kick_fds_ = {};
    spdlog::info("{}: stopped", name_);
}

Datapath::Rings Vm::read_rings() {
    std::uint64_t features = 0;
    rte_vhost_get_negotiated_features(vid_, &features);
    const std::array<rte_vhost_vring, kRings> vrings{vring_of(vid_, 0), vring_of(vid_, 1)};
    for (std::size_t ring = 0; ring < kRings; ++ring) {
        // Of our own: the library closes its descriptor whenever the frontend sends another.
        kick_fds_[ring] = UniqueFd(::fcntl(vrings[ring].kickfd, F_DUPFD_CLOEXEC, 0));
    }
    return {ring_of(vrings[0], "receiveq"), ring_of(vrings[1], "transmitq"), features, vid_};
}

void Vm::steer(const MacAddress& mac) {
    if (steered_ && mac_ == mac) return;
    unsteer();
    try {
        port_.add_mac(queues_, mac);
        mac_ = mac;
        steered_ = true;
    } catch (const std::exception& error) {
        spdlog::error("{}: {}", name_, error.what());
    }
}

void Vm::unsteer() {
    if (!steered_) return;
    steered_ = false;
    try {
        port_.remove_mac(*mac_);
    } catch (const std::exception& error) {
        spdlog::error("{}: {}", name_, error.what());
    }
}

// The rings tell the driver not to kick; what it sends all the same adds up in the eventfds.
void Vm::count_kicks() {
    for (const UniqueFd& fd : kick_fds_) {
        pollfd readable{fd.get(), POLLIN, 0};
        std::uint64_t kicks = 0;
        if (::poll(&readable, 1, 0) == 1 &&
            ::read(fd.get(), &kicks, sizeof kicks) == sizeof kicks) {
            kicks_ += kicks;
        }
    }
}

Vm::Status Vm::status() {
    count_kicks();
    const std::uint32_t held = running_ ? 0 : datapath_.mbufs_held();
    return {name_, vid_ != kNone, running_, mac_, &datapath_.counters(), kicks_, held};
}

}  // namespace zecorx
