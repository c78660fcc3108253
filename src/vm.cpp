#include "vm.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <rte_vhost.h>
#include <spdlog/spdlog.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <utility>
#include <variant>

#include "buffer_advice.h"

namespace zecorx {
namespace {

// librte_vhost hands out rings that run over their region's end: it looks at a ring's length after
// it has noted the address, and not again when SET_VRING_NUM changes the size.
bool inside(const SplitRingLayout& layout, const GuestMemory& memory) {
    return memory.holds(layout.desc, desc_table_size(layout.size)) &&
           memory.holds(layout.avail, avail_ring_size(layout.size, layout.event_idx)) &&
           memory.holds(layout.used, used_ring_size(layout.size, layout.event_idx));
}

bool inside(const PackedRingLayout& layout, const GuestMemory& memory) {
    return memory.holds(layout.desc, packed_ring_size(layout.size)) &&
           memory.holds(layout.driver_event, sizeof(EventSuppress)) &&
           memory.holds(layout.device_event, sizeof(EventSuppress));
}

template <class Ring, class Layout>
Ring checked(const Layout& layout, const GuestMemory& memory, const char* name) {
    if (!layout.valid()) {
        throw std::runtime_error(fmt::format(
            "the frontend's {} of {} entries is unmapped, misaligned, of a wrong size or base",
            name, layout.size));
    }
    if (!inside(layout, memory)) {
        throw std::runtime_error(
            fmt::format("the frontend's {} of {} entries does not lie in its memory regions", name,
                        layout.size));
    }
    return Ring(layout);
}

std::byte* guest(void* address) { return static_cast<std::byte*>(address); }

// A split ring says itself where to go on, by its used index; a packed one does not (VIRTIO 2.8).
AnyRing ring_of(int vid, std::uint16_t index, const rte_vhost_vring& vring,
                const GuestMemory& memory, std::uint64_t features) {
    const char* name = index == 0 ? "receiveq" : "transmitq";
    const bool event_idx = (features & kFeatureEventIdx) != 0;
    if ((features & kFeatureRingPacked) == 0) {
        const SplitRingLayout layout{guest(vring.desc), guest(vring.avail), guest(vring.used),
                                     vring.size, event_idx};
        return checked<SplitRing>(layout, memory, name);
    }
    std::uint16_t avail = 0, used = 0;
    rte_vhost_get_vring_base(vid, index, &avail, &used);
    const PackedRingLayout layout{guest(vring.desc_packed),
                                  guest(vring.driver_event),
                                  guest(vring.device_event),
                                  vring.size,
                                  event_idx,
                                  used};
    return checked<PackedRing>(layout, memory, name);
}

// A descriptor of our own: the library closes its one whenever the frontend sends another.
UniqueFd duplicate(int fd) { return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

UniqueFd call_fd_of(const rte_vhost_vring& vring) {
    // A write to a full eventfd would block the worker, and with it every VM it serves.
    ::fcntl(vring.callfd, F_SETFL, O_RDWR | O_NONBLOCK);
    return duplicate(vring.callfd);
}

rte_vhost_vring vring_of(int vid, std::uint16_t ring) {
    rte_vhost_vring vring{};
    if (rte_vhost_get_vhost_vring(vid, ring, &vring) != 0) {
        throw std::runtime_error(fmt::format("the frontend did not set virtqueue {} up", ring));
    }
    return vring;
}

// What the NIC may write for this VM: tagged frames reach a VM only with trunk=, because with vlan=
// their tag is taken off.
QueueGeometry geometry_of(const VmOptions& options, const Port& port) {
    const std::uint32_t max_frame = port.geometry().max_frame(!options.trunk.empty());
    if (!options.rxbuf) return QueueGeometry::whole(max_frame);
    return {max_frame, *options.rxbuf};
}

VlanPolicy vlan_of(const VmOptions& options) {
    return options.vlan ? VlanPolicy::access(*options.vlan) : VlanPolicy::trunk(options.trunk);
}

}  // namespace

Vm::Vm(const VmOptions& options, Port& port, const VmQueues& queues, Poller& poller)
    : options_(options),
      port_(port),
      queues_(queues),
      poller_(poller),
      geometry_(geometry_of(options, port)),
      datapath_(name_, port, queues, {geometry_, vlan_of(options), options.zerocopy}),
      macs_(options.macs) {
    for (const MacAddress& mac : macs_) port_.reserve_mac(queues_, mac);
}

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
    advised_ = false;
    reconcile();
}

void Vm::session_stopped(int vid) {
    if (vid != vid_) return;
    end_session();
    spdlog::info("{}: session ended", name_);
}

void Vm::shut_down() {
    shut_down_ = true;
    end_session();
}

void Vm::end_session() {
    stop();
    kick_fds_ = {};
    memory_.reset();
    vid_ = kNone;
    // Another guest may come back on this socket, so what was learned of this one is forgotten.
    macs_ = options_.macs;
}

void Vm::ring_ready(int vid, std::uint32_t ring, bool ready) {
    if (ring >= kRings) return;
    Connection& connection = connections_[vid];
    if (connection.changing_call == ring) return;
    const bool was_ready = std::exchange(connection.ready[ring], ready);
    if (vid != vid_) return;
    if (ready && !was_ready) failed_ = false;  // set up anew
    reconcile();
}

void Vm::before_change(int vid, bool memory) {
    Connection& connection = connections_[vid];
    connection.changing = true;
    if (memory) connection.memory = false;
    if (vid != vid_) return;
    reconcile();
    if (memory) memory_.reset();
}

void Vm::after_change(int vid, bool memory) {
    Connection& connection = connections_[vid];
    connection.changing = false;
    if (memory) connection.memory = true;
    if (vid == vid_) reconcile();
}

void Vm::message_begins(int vid) { connections_[vid].changing_call.reset(); }

void Vm::before_call_change(int vid, std::uint32_t ring) {
    // Only of a ring that is ready: for any other this message may be what makes it so.
    Connection& connection = connections_[vid];
    if (ring < kRings && connection.ready[ring]) connection.changing_call = ring;
}

void Vm::after_call_change(int vid, std::uint32_t ring) {
    if (!std::exchange(connections_[vid].changing_call, std::nullopt)) return;
    if (vid != vid_ || !running_) return;
    UniqueFd fd = call_fd_of(vring_of(vid, static_cast<std::uint16_t>(ring)));
    poller_.remove(datapath_);
    datapath_.replace_call_fd(ring, std::move(fd));
    poller_.add(datapath_);
}

void Vm::address_announced(int vid, const MacAddress& mac) {
    if (vid == vid_ && running_ && learns() && mac.is_station()) follow(mac);
}

void Vm::check_mtu(std::uint64_t mtu) const {
    const std::uint32_t most = port_.geometry().mtu;
    if (mtu <= most) return;
    throw std::runtime_error(
        fmt::format("{}: the frontend announces MTU {} to its guest, but port {} has {}; start the "
                    "daemon with --pci ...,mtu={} or lower the frontend's host_mtu",
                    name_, mtu, port_.name(), most, mtu));
}

void Vm::tick() {
    if (!running_) return;
    if (datapath_.needs_control()) {
        datapath_.control_done();
        learned_waits_ = true;
        if (datapath_.broken()) return stop_broken();
    }
    if (learned_waits_ && std::chrono::steady_clock::now() >= next_change_) follow_learned();
    if (!advised_) advise();
}

// Once a session: what the operator could change for frames to land in this guest's buffers.
void Vm::advise() {
    const std::uint32_t room = datapath_.counters().short_room.load(std::memory_order_relaxed);
    if (room == 0) return;
    advised_ = true;
    if (const auto advice = buffer_advice(geometry_, room, mergeable_)) {
        spdlog::warn("{}: {}", name_, *advice);
    }
}

void Vm::stop_broken() {
    failed_ = true;
    reconcile();
    spdlog::error("{}: {}; the VM's queues are stopped until its driver sets them up again", name_,
                  datapath_.describe_broken());
}

void Vm::follow_learned() {
    learned_waits_ = false;
    if (const auto learned = datapath_.learned(); learned && (macs_.empty() || options_.learn)) {
        next_change_ = std::chrono::steady_clock::now() + kBetweenChanges;
        follow(*learned);
    }
    datapath_.release_transmit();
}

bool Vm::wanted() const {
    if (vid_ == kNone || failed_ || shut_down_) return false;
    const Connection& connection = connections_.at(vid_);
    return connection.ready[0] && connection.ready[1] && connection.memory && !connection.changing;
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

// Steering comes last: until then nothing reaches the queue.
void Vm::start() {
    if (!memory_) memory_ = std::make_unique<DmaMemory>(vid_, port_.device());
    Datapath::Rings rings = read_rings();
    mergeable_ = (rings.features & kFeatureNetMrgRxbuf) != 0;
    datapath_.attach(std::move(rings), memory_->guest());
    datapath_.learn_address({.first_frame = macs_.empty(), .announcements = options_.learn});
    try {
        port_.start_rx(queues_);
    } catch (...) {
        datapath_.detach();
        throw;
    }
    poller_.add(datapath_);
    running_ = true;
    learned_waits_ = false;
    port_.open_pool(queues_);
    for (const MacAddress& mac : macs_) steer(mac);
    spdlog::info("{}: running on VMDq pool {}, queue {}", name_, queues_.pool, queues_.queue);
}

// The reverse order is what keeps the NIC out of memory that is given back: nobody polls, nothing
// new is steered here, what arrived is completed, the queue is off in the device, every buffer is
// back; only then do the rings and the memory go.
void Vm::stop() noexcept {
    if (!running_) return;
    poller_.remove(datapath_);
    unsteer_all();
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
    // Completion is in order, so avail resumes where used ends; a packed ring's base carries its
    // wrap counter, as the library's does.
    rte_vhost_set_vring_base(vid_, 0, bases.receive, bases.receive);
    rte_vhost_set_vring_base(vid_, 1, bases.transmit, bases.transmit);
    count_kicks();
    kick_fds_ = {};
    spdlog::info("{}: stopped", name_);
}

Datapath::Rings Vm::read_rings() {
    const GuestMemory& memory = memory_->guest();
    Datapath::Rings rings;
    rte_vhost_get_negotiated_features(vid_, &rings.features);
    const std::array<rte_vhost_vring, kRings> vrings{vring_of(vid_, 0), vring_of(vid_, 1)};
    rings.receive = ring_of(vid_, 0, vrings[0], memory, rings.features);
    rings.transmit = ring_of(vid_, 1, vrings[1], memory, rings.features);
    for (std::size_t ring = 0; ring < kRings; ++ring) {
        kick_fds_[ring] = duplicate(vrings[ring].kickfd);
        rings.call_fds[ring] = call_fd_of(vrings[ring]);
    }
    return rings;
}

bool Vm::steer(const MacAddress& mac) {
    try {
        port_.add_mac(queues_, mac);
        steered_.push_back(mac);
        return true;
    } catch (const std::exception& error) {
        spdlog::error("{}: {}", name_, error.what());
        return false;
    }
}

void Vm::unsteer(const MacAddress& mac) {
    try {
        port_.remove_mac(mac);
        std::erase(steered_, mac);
    } catch (const std::exception& error) {
        spdlog::error("{}: {}", name_, error.what());
    }
}

void Vm::unsteer_all() {
    port_.close_pool(queues_);
    for (const MacAddress& mac : std::vector(steered_)) unsteer(mac);
}

// The guest's address is `mac` from here on; those configured beside the first stay.
void Vm::follow(const MacAddress& mac) {
    if (std::ranges::find(macs_, mac) != macs_.end() || !steer(mac)) return;
    spdlog::info("{}: learned address {}", name_, mac.to_string());
    if (macs_.empty()) {
        macs_.push_back(mac);
    } else {
        unsteer(std::exchange(macs_.front(), mac));
    }
}

// The rings tell the driver not to kick; what it sends all the same adds up in the eventfds.
void Vm::count_kicks() {
    for (const UniqueFd& fd : kick_fds_) {
        std::uint64_t kicks = 0;
        iovec to{&kicks, sizeof kicks};
        // The frontend chose the descriptor: it must not make this thread wait.
        if (::preadv2(fd.get(), &to, 1, -1, RWF_NOWAIT) == sizeof kicks) kicks_ += kicks;
    }
}

Vm::Status Vm::status() {
    count_kicks();
    const std::uint32_t held = running_ ? 0 : datapath_.mbufs_held();
    const auto mac = macs_.empty() ? std::nullopt : std::optional(macs_.front());
    return {name_, vid_ != kNone, running_, mac, &datapath_.counters(), kicks_, held};
}

}  // namespace zecorx
