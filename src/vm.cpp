#include "vm.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <utility>

#include "buffer_advice.h"

namespace zecorx {
namespace {

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

// A split ring says itself where to go on, by its used index; a packed one does not (VIRTIO 2.8).
AnyRing ring_of(const vhost_user::Session& session, std::size_t index, const GuestMemory& memory) {
    const char* name = index == 0 ? "receiveq" : "transmitq";
    const vhost_user::Vring& vring = session.vring(index);
    std::byte* const desc = session.locate(vring.address->desc);
    std::byte* const avail = session.locate(vring.address->avail);
    std::byte* const used = session.locate(vring.address->used);
    const bool event_idx = (session.features() & kFeatureEventIdx) != 0;
    if ((session.features() & kFeatureRingPacked) == 0) {
        return checked<SplitRing>(SplitRingLayout{desc, avail, used, vring.size, event_idx}, memory,
                                  name);
    }
    return checked<PackedRing>(
        PackedRingLayout{desc, avail, used, vring.size, event_idx, vring.base}, memory, name);
}

// A descriptor of our own: the session's one goes whenever the frontend sends another. A write to a
// full eventfd would block the worker, and with it every VM it serves.
UniqueFd call_fd_of(const vhost_user::Vring& vring) {
    if (!vring.call) return {};
    ::fcntl(vring.call.get(), F_SETFL, O_RDWR | O_NONBLOCK);
    return UniqueFd(::fcntl(vring.call.get(), F_DUPFD_CLOEXEC, 0));
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
      geometry_(port.geometry_for(options)),
      datapath_(name_, port, queues, {geometry_, vlan_of(options), options.zerocopy}),
      memory_(port.dma_device()),
      macs_(options.macs) {
    for (const MacAddress& mac : macs_) port_.reserve_mac(queues_, mac);
    port_.admit(queues_, *this);
}

Vm::~Vm() { stop(); }

void Vm::connected(vhost_user::Session& session) { sessions_[&session] = {}; }

void Vm::disconnected(vhost_user::Session& session) {
    sessions_.erase(&session);
    if (&session == session_) end_session();
}

void Vm::quiesce(vhost_user::Session& session) {
    if (&session != session_) return;
    changing_ = true;
    stop();
}

void Vm::settle(vhost_user::Session& session) {
    Seen& seen = sessions_[&session];
    const bool sets_up = !std::exchange(seen.set_up, session.set_up()) && seen.set_up;
    const bool gets_ready = !std::exchange(seen.ready, session.ready()) && seen.ready;
    if (sets_up) take_over(session);
    if (&session != session_) return;
    changing_ = false;
    if (session.stopped()) return end_session();
    memory_.keep_only(session.regions());
    if (gets_ready) failed_ = false;  // set up anew
    reconcile();
}

void Vm::take_over(vhost_user::Session& session) {
    if (session_ == &session) return;
    if (session_ != nullptr) {
        log(spdlog::level::warn, "another frontend takes over");
        end_session();
    }
    log(spdlog::level::info, "session begins");
    session_ = &session;
    changing_ = false;
    failed_ = false;
    advised_ = false;
}

void Vm::end_session() {
    stop();
    memory_.clear();
    if (std::exchange(session_, nullptr) == nullptr) return;
    // Another guest may come back on this socket, so what was learned of this one is forgotten.
    macs_ = options_.macs;
    log(spdlog::level::info, "session ended");
}

void Vm::shut_down() {
    shut_down_ = true;
    end_session();
}

// What the datapath uses of a session without owning it is replaced while nobody polls; the NIC
// goes on meanwhile.
template <class Replace>
void Vm::replace_in_datapath(Replace&& replace) {
    poller_.remove(datapath_);
    replace();
    poller_.add(datapath_);
}

// As QEMU does whenever the guest masks an interrupt.
void Vm::call_changed(vhost_user::Session& session, std::size_t vring) {
    if (&session != session_ || !running_) return;
    replace_in_datapath([&] {
        datapath_.replace_call_fd(static_cast<std::uint32_t>(vring),
                                  call_fd_of(session.vring(vring)));
    });
}

void Vm::log_changed(vhost_user::Session& session) {
    if (&session != session_ || !running_) return;
    replace_in_datapath([&] { datapath_.set_log(DirtyLog(session.log())); });
}

void Vm::address_announced(vhost_user::Session& session, const MacAddress& mac) {
    if (!mac.is_station()) return;
    sessions_[&session].announce = mac;
    if (&session == session_ && running_) announce();
}

void Vm::check_mtu(std::uint64_t mtu) const {
    const std::uint32_t most = port_.geometry().mtu;
    if (mtu <= most) return;
    throw vhost_user::Refusal(
        fmt::format("MTU {} is announced to the guest, but port {} has {}; start the daemon with "
                    "mtu={} on that port or lower the frontend's host_mtu",
                    mtu, port_.name(), most, mtu));
}

std::uint64_t Vm::offered_features() const {
    const Port::TransmitAbilities can = port_.transmit_abilities();
    std::uint64_t features = vhost_user::kOfferedFeatures;
    if (!can.checksums) features &= ~std::uint64_t{kFeatureNetCsum};
    if (!can.segmentation) features &= ~std::uint64_t{kFeatureNetHostTso4 | kFeatureNetHostTso6};
    return features;
}

void Vm::refused(const std::string& sentence) {
    ++refused_;
    log(spdlog::level::err, sentence);
}

// A frontend can cause most of these lines as often as it likes.
void Vm::log(spdlog::level::level_enum level, const std::string& sentence) {
    if (!spdlog::should_log(level) || !log_limit_.admit(RateLimit::Clock::now())) return;
    if (const std::uint64_t lines = log_limit_.take_suppressed(); lines > 0) {
        spdlog::warn("{}: {} lines were not written", name_, lines);
    }
    spdlog::log(level, "{}: {}", name_, sentence);
}

void Vm::tick() {
    if (start_waits_) reconcile();
    if (!running_) return;
    if (datapath_.free_stuck_call()) return stop_broken("the frontend made a call wait");
    if (datapath_.needs_control()) {
        datapath_.control_done();
        learned_waits_ = true;
        if (datapath_.broken()) return stop_broken(datapath_.describe_broken());
    }
    if (session_->lost_memory()) return stop_broken("the frontend took back memory that it shares");
    announce();
    if (learned_waits_ && std::chrono::steady_clock::now() >= next_change_) follow_learned();
    if (!advised_) advise();
}

// Once a session: what the operator could change for frames to land in this guest's buffers.
void Vm::advise() {
    const std::uint32_t room = datapath_.counters().short_room.load(std::memory_order_relaxed);
    if (room == 0) return;
    advised_ = true;
    if (const auto advice = buffer_advice(geometry_, room, mergeable_)) {
        log(spdlog::level::warn, *advice);
    }
}

void Vm::stop_broken(const std::string& reason) {
    failed_ = true;
    reconcile();
    log(spdlog::level::err,
        reason + "; the VM's queues are stopped until its driver sets them up again");
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
    return session_ != nullptr && session_->ready() && !changing_ && !failed_ && !shut_down_;
}

void Vm::reconcile() {
    if (!wanted()) return stop();
    if (running_ || !may_start()) return;
    try {
        start();
    } catch (const std::exception& error) {
        log(spdlog::level::err, fmt::format("cannot start: {}", error.what()));
        failed_ = true;
        stop();
    }
}

// On a port that has to be stopped for it, a VM that came and went all the time would leave the
// others little of it. A stop needs no limit of its own, as there is one for each start.
bool Vm::may_start() {
    start_waits_ = port_.pauses_others() && !start_limit_.admit(RateLimit::Clock::now());
    return !start_waits_;
}

// Steering comes last: until then nothing reaches the queue.
void Vm::start() {
    if (const auto failure = memory_.update(session_->regions())) {
        log(spdlog::level::warn,
            "the NIC cannot reach the guest's memory, so every frame is copied: " + *failure);
    }
    if (session_->lost_memory()) {
        throw std::runtime_error("the frontend took back memory that it shares");
    }
    Datapath::Rings rings = read_rings();
    mergeable_ = (rings.features & kFeatureNetMrgRxbuf) != 0;
    try {
        port_.start_rx(queues_, [&] {
            datapath_.attach(std::move(rings), memory_.guest());
            datapath_.learn_address(
                {.first_frame = macs_.empty(), .announcements = options_.learn});
        });
    } catch (...) {
        datapath_.detach();
        throw;
    }
    poller_.add(datapath_);
    running_ = true;
    learned_waits_ = false;
    port_.open_pool(queues_);
    for (const MacAddress& mac : macs_) steer(mac);
    log(spdlog::level::info, fmt::format("running on port {}, VMDq pool {}, queue {}", port_.name(),
                                         queues_.pool, queues_.queue));
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
        port_.stop_rx(queues_, [this] { give_up_rings(); });
    } catch (const std::exception& error) {
        // Returning would let the frontend take back memory that the NIC still writes to.
        spdlog::critical("{}: {}", name_, error.what());
        std::abort();
    }
    running_ = false;
    if (mbufs_held_ != 0) {
        spdlog::error("{}: {} of {} receive buffers did not come back from the NIC driver", name_,
                      mbufs_held_, datapath_.mbufs());
    }
    count_kicks();
    log(spdlog::level::info, "stopped");
}

// Completion is in order, so avail resumes where used ends.
void Vm::give_up_rings() noexcept {
    const Datapath::Bases bases = datapath_.detach();
    mbufs_held_ = datapath_.mbufs_held();
    session_->stopped_at(0, bases.receive);
    session_->stopped_at(1, bases.transmit);
}

void Vm::pause() noexcept {
    poller_.remove(datapath_);
    datapath_.drain();
}

// The rings were good when the session began to run, and nothing of it has changed since.
void Vm::rewind() noexcept {
    if (!running_) return datapath_.forget();
    give_up_rings();
    datapath_.attach(read_rings(), memory_.guest());
}

void Vm::resume() noexcept { poller_.add(datapath_); }

Datapath::Rings Vm::read_rings() {
    const GuestMemory& memory = memory_.guest();
    Datapath::Rings rings;
    rings.features = session_->features();
    rings.receive = ring_of(*session_, 0, memory);
    rings.transmit = ring_of(*session_, 1, memory);
    rings.log = DirtyLog(session_->log());
    for (std::size_t ring = 0; ring < kRings; ++ring) {
        rings.call_fds[ring] = call_fd_of(session_->vring(ring));
    }
    return rings;
}

bool Vm::steer(const MacAddress& mac) {
    try {
        port_.add_mac(queues_, mac);
        steered_.push_back(mac);
        return true;
    } catch (const std::exception& error) {
        log(spdlog::level::err, error.what());
        return false;
    }
}

void Vm::unsteer(const MacAddress& mac) {
    try {
        port_.remove_mac(mac);
        std::erase(steered_, mac);
    } catch (const std::exception& error) {
        log(spdlog::level::err, error.what());
    }
}

void Vm::unsteer_all() {
    port_.close_pool(queues_);
    for (const MacAddress& mac : std::vector(steered_)) unsteer(mac);
}

// The guest's address is `mac` from here on; those configured beside the first stay.
void Vm::follow(const MacAddress& mac) {
    if (std::ranges::find(macs_, mac) != macs_.end() || !steer(mac)) return;
    log(spdlog::level::info, fmt::format("learned address {}", mac.to_string()));
    if (macs_.empty()) {
        macs_.push_back(mac);
    } else {
        unsteer(std::exchange(macs_.front(), mac));
    }
}

// Spec, "SEND_RARP": for a guest that does not announce itself after a migration. The frontend may
// ask before the guest runs here, and nothing may go out before frames for it arrive. Nor does
// anything go out for an address whose frames would not.
void Vm::announce() {
    std::optional<MacAddress>& wanted = sessions_[session_].announce;
    if (!wanted) return;
    const MacAddress mac = *std::exchange(wanted, std::nullopt);
    if (learns()) follow(mac);
    if (std::ranges::find(steered_, mac) == steered_.end()) return;
    replace_in_datapath([&] {
        if (!datapath_.announce(mac)) wanted = mac;
    });
}

// The rings tell the driver not to kick; what it sends all the same adds up in the eventfds.
void Vm::count_kicks() {
    for (std::size_t ring = 0; ring < kRings; ++ring) {
        std::uint64_t kicks = 0;
        iovec to{&kicks, sizeof kicks};
        // The frontend chose the descriptor: it must not make this thread wait.
        if (::preadv2(session_->vring(ring).kick.get(), &to, 1, -1, RWF_NOWAIT) == sizeof kicks) {
            kicks_ += kicks;
        }
    }
}

Vm::Status Vm::status() {
    if (session_ != nullptr) count_kicks();
    const auto mac = macs_.empty() ? std::nullopt : std::optional(macs_.front());
    return {name_,    session_ != nullptr,       running_, mac, &datapath_.counters(), kicks_,
            refused_, running_ ? 0 : mbufs_held_};
}

}  // namespace zecorx
