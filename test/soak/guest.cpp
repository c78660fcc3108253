#include "guest.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>
#include <thread>

#include "guest/frames.h"

namespace zecorx::soak {
namespace {

using namespace std::chrono_literals;
using test::operator""_KiB;
using test::operator""_MiB;

constexpr auto kPatience = 60s;  // with a daemon on a busy machine
constexpr std::size_t kMainBytes = 16_MiB;
constexpr std::size_t kSpareBytes = 4_MiB;
constexpr test::Gpa kSpareBase = 0x8000'0000;
constexpr std::uint16_t kLargestRing = 512;
// A driver's buffers are laid out anew so often that the main region has room: the first time they
// take up to 12 KiB each, later 4.
constexpr unsigned kMostLayouts = 4;

// Each holds a whole frame.
std::vector<test::RxLayout> layouts_for(std::uint64_t features) {
    using test::RxLayout;
    std::vector<RxLayout> all{RxLayout::linux_mergeable(),
                              RxLayout::linux_xdp(),
                              RxLayout::linux_small(),
                              RxLayout::linux_old(),
                              RxLayout::dpdk(),
                              RxLayout::page(),
                              RxLayout::edk2(),
                              RxLayout::ipxe(),
                              RxLayout::page_crossing(),
                              RxLayout::odd_address()};
    if ((features & kFeatureNetMrgRxbuf) != 0) all.push_back(RxLayout::tiny());
    std::erase_if(all, [&](const RxLayout& layout) { return !layout.suits(features); });
    return all;
}

test::RxLayout spare_layout() {
    return {"spare region",
            [](test::FakeMemory& memory, std::uint32_t header, std::size_t ordinal) {
                constexpr std::uint32_t kRoom = 2048;
                const test::Gpa gpa = kSpareBase + (1 + ordinal) * 4_KiB;
                return test::RxBufferBuilder(memory).piece_at(gpa, header + kRoom).build();
            }};
}

test::GuestRange range_of(const test::MemoryRegion& region) { return {region.gpa, region.size}; }

}  // namespace

std::vector<test::RegionSpec> guest_regions(test::PageSize page_size) {
    return {{.size = kMainBytes, .page_size = page_size},
            {.size = kSpareBytes, .gpa = kSpareBase, .page_size = page_size}};
}

Guest::Guest(const GuestConfig& config, test::FakeMemory& memory, Shared& shared, int control)
    : config_(config),
      memory_(memory),
      shared_(shared),
      report_(shared.guests.at(config.index)),
      control_(control),
      dice_(config.seed),
      traffic_dice_(config.seed + 1),
      check_(vm_address(config.index)) {
    if (!config_.daemon_connects) return;
    ::unlink(config_.socket.c_str());  // of a guest that was killed
    listener_.emplace(config_.socket);
}

void Guest::run() {
    if (config_.cycles != 0) return run_cycles();
    run_events();
}

// The checker hangs up by killing this process.
void Guest::run_events() {
    for (;;) {
        guarded([this] {
            if (ordered()) obey();
            if (resting_) return;
            if (!frontend_) attach();
            serve(std::chrono::microseconds(dice_.between(500, 20'000)));
            happen(static_cast<Event>(dice_.below(kEvents)));
            collect_violations();
        });
    }
}

void Guest::run_cycles() {
    for (std::uint64_t cycle = 0; cycle < config_.cycles; ++cycle) {
        guarded([this] {
            attach();
            if (!serve_frames(dice_.between(1, 64))) violation("no frame arrived in a session");
            if (dice_.percent(50)) frontend_->stop_device();
            leave();
            drop_driver();
        });
    }
}

void Guest::guarded(auto&& step) {
    try {
        step();
    } catch (const test::SocketClosed&) {
        lost();
    } catch (const test::SocketError& error) {
        failed(error.what());
    } catch (const test::FrontendError& error) {
        failed(error.what());
    }
}

bool Guest::ordered() const { return test::poll_fd(control_, POLLIN, resting_ ? 100ms : 0ms); }

void Guest::obey() {
    char order = 0;
    if (::read(control_, &order, 1) != 1) ::_exit(EXIT_SUCCESS);  // the checker is gone
    resting_ = static_cast<Order>(order) == Order::kRest;
    if (!resting_) {
        if (net_) net().rx().check_poison("while the VM was disconnected");
        return collect_violations();
    }
    if (frontend_) {
        if (dice_.percent(50)) frontend_->stop_device();
        leave();
    }
    if (net_) net().rx().poison();
    if (::write(control_, &order, 1) != 1) ::_exit(EXIT_SUCCESS);
}

void Guest::attach() {
    generation_ = shared_.daemon.generation.load();
    established_ = false;
    frontend_.emplace(connect());
    negotiate();
    // A connection may have waited for a daemon that was replaced meanwhile; one that has answered
    // since without a change is the present one's.
    if (shared_.daemon.generation.load() != generation_) {
        throw test::SocketClosed("the daemon changed");
    }
    established_ = true;
    share_memory();
    start();
    ++report_.sessions;
}

test::Frontend Guest::connect() {
    if (listener_) return test::Frontend::accept(*listener_, kPatience);
    return test::Frontend::connect(config_.socket, kPatience);
}

void Guest::negotiate() {
    test::Negotiation wanted;
    wanted.features = (net_ ? features_ : random_features()) | kFeatureVhostUserProtocol;
    if (dice_.percent(50)) wanted.protocol_features &= ~test::kProtocolConfigureMemSlots;
    const std::uint64_t features = frontend_->negotiate(wanted);
    if (!net_) make_driver(features);
    if (features != features_) {
        throw test::FrontendError(
            fmt::format("features {:#x} were accepted where the driver goes on with {:#x}",
                        features, features_));
    }
}

bool Guest::slots() const {
    return (frontend_->protocol_features() & test::kProtocolConfigureMemSlots) != 0;
}

std::vector<test::MemoryRegion> Guest::table() const {
    const auto regions = memory_.regions();
    std::vector<test::MemoryRegion> all{regions[kMainRegion]};
    if (split_table_) {
        test::MemoryRegion upper = all[0];
        const std::size_t half = upper.size / 2;
        all[0].size = half;
        upper.size -= half;
        upper.gpa += half;
        upper.user_addr += half;
        upper.mmap_offset += half;
        all.insert(all.begin(), upper);
    }
    if (spare_ == Spare::kPlugged) all.push_back(regions[kSpareRegion]);
    return all;
}

void Guest::share_memory() {
    if (!slots()) {
        if (!frontend_->set_mem_table(table()))
            throw test::FrontendError("a memory table was refused");
        return;
    }
    for (const test::MemoryRegion& region : table()) {
        if (!frontend_->add_mem_region(region)) throw test::FrontendError("a region was refused");
    }
}

void Guest::start(const test::VringBases& bases) {
    frontend_->start_vrings(memory_, queues(), bases);
    report_.serving = true;
}

// The socket closes as that of a process that ended.
void Guest::leave() {
    report_.serving = false;
    frontend_->disconnect();
    await_release();
    frontend_.reset();
    receive();
    report_.tx_done += net().reap_transmitted();
    keep_still("after the disconnect");
    if (packed()) drop_driver();
}

bool Guest::daemon_killed() const { return shared_.daemon.killed.load() >= generation_; }

// Until the daemon has let go of the guest's memory, or is no more.
void Guest::await_release() {
    const auto deadline = Clock::now() + kPatience;
    while (Clock::now() < deadline) {
        if (shared_.daemon.buried.load() >= generation_) return;
        const bool settled = shared_.daemon.killed.load() < shared_.daemon.generation.load();
        if (settled && !holds_any(shared_.daemon.pid.load(), memory_.regions())) return;
        std::this_thread::sleep_for(1ms);
    }
    violation("the daemon still maps guest memory a minute after the session");
}

// The other end went away.
void Guest::lost() {
    report_.serving = false;
    if (frontend_) frontend_->disconnect();
    for (int wait = 0; wait < 1000 && established_ && !daemon_killed(); ++wait) {
        std::this_thread::sleep_for(1ms);
    }
    if (established_ && !daemon_killed()) violation("the daemon closed the connection");
    generation_ = shared_.daemon.generation.load();
    await_release();
    frontend_.reset();
    established_ = false;
    if (!net_) return;
    receive();
    report_.tx_done += net().reap_transmitted();
    keep_still("after the daemon was killed");
    check_.forget_vms();
    if (packed()) drop_driver();
}

void Guest::failed(const std::string& what) {
    if (!daemon_killed()) violation(what);
    lost();
}

std::uint64_t Guest::random_features() {
    std::uint64_t features = kFeatureVersion1;
    if (dice_.percent(60)) features |= kFeatureNetMrgRxbuf;
    if (dice_.percent(30)) features |= kFeatureRingPacked;
    if (dice_.percent(30)) features |= kFeatureInOrder;
    if (dice_.percent(50)) features |= kFeatureEventIdx;
    if (dice_.percent(70)) features |= kFeatureIndirectDesc;
    return features;
}

void Guest::make_driver(std::uint64_t features) {
    drop_driver();
    memory_.forget_allocations();
    // Only what is plugged may lie there.
    memory_.allocate_in(kSpareRegion, kSpareBytes - 2 * test::FakeMemory::kEdge);
    features_ = features;
    const auto layouts = layouts_for(features);
    const std::array<std::uint16_t, 4> sizes{64, 128, 256, kLargestRing};
    rx_size_ = dice_.pick(std::span<const std::uint16_t>(sizes));
    tx_size_ = dice_.pick(std::span<const std::uint16_t>(sizes));
    net_.emplace(memory_, test::NetDriverOptions{
                              .features = features,
                              .rx_size = rx_size_,
                              .tx_size = tx_size_,
                              .first_index = static_cast<std::uint16_t>(dice_.below(0x10000)),
                              .layout = dice_.pick(std::span<const test::RxLayout>(layouts))});
    net().rx().tolerate_scratch();
    const std::array<std::size_t, 3> thresholds{1, 32, rx_size_ / 2U};
    net().rx().set_refill_threshold(dice_.pick(std::span<const std::size_t>(thresholds)));
    net().refill();
    const test::QueueDriver& receiveq = net().rx().queue();
    report_.receiveq = packed()
                           ? RingPlace{}
                           : RingPlace{receiveq.driver_area(), receiveq.device_area(), rx_size_};
    spare_ = Spare::kNever;
    layouts_ = 1;
    reaped_ = 0;
}

void Guest::drop_driver() {
    if (!net_) return;
    collect_violations();
    check_spare_region();
    net_.reset();
    known_violations_ = 0;
}

void Guest::serve(std::chrono::microseconds duration) {
    const auto end = Clock::now() + duration;
    while (Clock::now() < end && !ordered()) pass();
}

// False: not so many in a minute.
bool Guest::serve_frames(std::size_t frames) {
    const std::uint64_t due = report_.rx_frames + frames;
    const auto deadline = Clock::now() + kPatience;
    while (report_.rx_frames < due && Clock::now() < deadline) pass();
    return report_.rx_frames >= due;
}

void Guest::pass() {
    const std::size_t received = receive();
    report_.tx_done += net().reap_transmitted();
    send_some();
    if (++passes_ % 64 == 0 || received == 0) watch_connection();
    if (received == 0) net().rx().queue().wait_call(1ms);
}

void Guest::watch_connection() {
    if (frontend_->wait_closed(0ms)) throw test::SocketClosed("the daemon closed the connection");
}

std::size_t Guest::receive() {
    const auto frames = net().receive();
    for (const test::ReceivedFrame& frame : frames) {
        reaped_ += frame.heads.size();
        if (const auto wrong = check_.check(frame.bytes)) violation(*wrong);
        ++report_.rx_frames;
        report_.rx_bytes += frame.bytes.size();
    }
    report_.rx_lost = check_.lost();
    return frames.size();
}

test::TxLayout Guest::random_tx_layout() {
    const bool indirect = (features_ & kFeatureIndirectDesc) != 0 && traffic_dice_.percent(30);
    return {.header_apart = traffic_dice_.percent(30),
            .max_piece = traffic_dice_.percent(30) ? 700U : 65536U,
            .form = indirect ? test::DescForm::kIndirect : test::DescForm::kDirect};
}

void Guest::send_some() {
    if (!traffic_dice_.percent(30)) return;
    for (std::uint64_t left = traffic_dice_.between(1, 4); left > 0; --left) {
        MacAddress to = vm_address(traffic_dice_.below(config_.vms));
        if (traffic_dice_.percent(20)) to = test::kPeerMac;  // on the wire
        if (traffic_dice_.percent(3)) to = test::kBroadcast;
        const test::Frame frame = test::make_frame({.dst = to,
                                                    .src = vm_address(config_.index),
                                                    .seq = report_.next_seq++,
                                                    .size = traffic_dice_.between(60, 1514)});
        if (!net().send(frame, random_tx_layout())) return;
        ++report_.tx_frames;
    }
}

void Guest::violation(const std::string& what) {
    report_.add_violation(
        fmt::format("VM {} (guest seed {}): {}", config_.index, config_.seed, what));
}

void Guest::collect_violations() {
    if (!net_) return;
    const auto all = net().violations();
    for (std::size_t i = known_violations_; i < all.size(); ++i) violation(all[i]);
    known_violations_ = all.size();
    if (const auto count = net().order_violations(); count != 0) {
        violation(fmt::format("{} buffers came back before older ones", count));
    }
}

void Guest::keep_still(const std::string& when) {
    const std::uint16_t used = net().rx().queue().used_idx();
    net().rx().poison();
    std::this_thread::sleep_for(std::chrono::microseconds(dice_.below(3000)));
    net().rx().check_poison(when);
    if (net().rx().queue().used_idx() != used) violation("the used ring moved " + when);
    collect_violations();
}

void Guest::check_spare_region() {
    if (spare_ != Spare::kUnplugged) return;
    const auto damage = memory_.find_damage(range_of(memory_.regions()[kSpareRegion]));
    if (damage) violation(fmt::format("write into a removed region, at GPA {:#x}", *damage));
}

void Guest::happen(Event event) {
    const auto always = [&](auto&& action) {
        report_.count(event);
        action();
    };
    switch (event) {
        case Event::kDisconnect:
            return always([this] { disconnect(); });
        case Event::kStop:
            return always([this] { stop_and_start(); });
        case Event::kReset:
        case Event::kResize:
            return always([this] { reset(); });
        case Event::kDisable:
            return always([this] { disable(); });
        case Event::kTable:
            if (!slots()) always([this] { change_table(); });
            return;
        case Event::kPlug:
            if (spare_ == Spare::kNever) always([this] { plug(); });
            return;
        case Event::kUnplug:
            if (spare_ == Spare::kPlugged && layouts_ < kMostLayouts) always([this] { unplug(); });
            return;
        case Event::kKickFd:
        case Event::kCallFd:
            return always([&] { replace_fd(event == Event::kCallFd); });
        case Event::kStarve:
            return always([this] { starve(); });
    }
}

void Guest::disconnect() { leave(); }

void Guest::stop_and_start() {
    report_.serving = false;
    const test::VringBases bases = frontend_->stop_device();
    receive();
    report_.tx_done += net().reap_transmitted();
    const auto all = queues();
    for (std::size_t i = 0; i < all.size(); ++i) {
        if (bases[i] != all[i]->used_idx()) {
            violation(fmt::format("the base of vring {} is {:#x} where its used side is at {:#x}",
                                  i, bases[i], all[i]->used_idx()));
        }
    }
    keep_still("after GET_VRING_BASE");
    start(bases);
}

// As when the guest reboots, or loads its driver anew.
void Guest::reset() {
    report_.serving = false;
    frontend_->stop_device();
    receive();
    report_.tx_done += net().reap_transmitted();
    keep_still("after GET_VRING_BASE");
    const std::uint64_t features =
        frontend_->get_features() & (random_features() | kFeatureVhostUserProtocol);
    if (!frontend_->set_features(features)) throw test::FrontendError("SET_FEATURES was refused");
    if ((frontend_->protocol_features() & test::kProtocolStatus) != 0) {
        frontend_->set_status(test::kStatusAcknowledge | test::kStatusDriver |
                              test::kStatusFeaturesOk);
    }
    const bool plugged = spare_ == Spare::kPlugged;
    make_driver(features);
    if (plugged) spare_ = Spare::kPlugged;  // the table still has it
    if (!slots()) share_memory();
    start();
}

void Guest::disable() {
    const auto which = static_cast<std::uint32_t>(dice_.below(3));  // both, the first, the second
    const bool receiveq = which != 2;
    const bool transmitq = which != 1;
    const auto enable = [&](bool on) {
        for (const auto& [chosen, index] : {std::pair{receiveq, 0U}, {transmitq, 1U}}) {
            if (chosen && !frontend_->set_vring_enable(index, on)) {
                throw test::FrontendError("SET_VRING_ENABLE was refused");
            }
        }
    };
    enable(false);
    receive();
    report_.tx_done += net().reap_transmitted();
    if (receiveq) keep_still("while its vring was disabled");
    enable(true);
}

void Guest::change_table() {
    split_table_ = !split_table_;
    share_memory();
}

void Guest::plug() {
    spare_ = Spare::kPlugged;
    const auto region = memory_.regions()[kSpareRegion];
    const bool taken =
        slots() ? frontend_->add_mem_region(region) : frontend_->set_mem_table(table());
    if (!taken) throw test::FrontendError("an added memory region was refused");
    net().rx().set_layout(spare_layout());
}

// First the driver gets back every buffer that lies there.
void Guest::unplug() {
    ++layouts_;
    net().rx().set_layout(test::RxLayout::dpdk());
    const std::uint64_t due = reaped_ + net().rx().queue().outstanding();
    const auto deadline = Clock::now() + kPatience;
    while (reaped_ < due && Clock::now() < deadline) pass();
    if (reaped_ < due) return violation("posted buffers did not come back for a minute");
    spare_ = Spare::kUnplugged;
    const auto region = memory_.regions()[kSpareRegion];
    const bool taken =
        slots() ? frontend_->remove_mem_region(region) : frontend_->set_mem_table(table());
    if (!taken) throw test::FrontendError("a removed memory region was refused");
    memory_.fill_canary(range_of(region));
}

// Another one for a moment, since the driver signals and awaits its own.
void Guest::replace_fd(bool call) {
    const auto index = static_cast<std::uint8_t>(dice_.below(2));
    const test::QueueDriver& queue = *queues()[index];
    const auto set = [&](int fd) {
        const bool taken =
            call ? frontend_->set_vring_call(index, fd) : frontend_->set_vring_kick(index, fd);
        if (!taken) throw test::FrontendError("a new notification descriptor was refused");
    };
    set(call ? other_call_.get() : other_kick_.get());
    serve(std::chrono::microseconds(dice_.below(2000)));
    set(call ? queue.call_fd() : queue.kick_fd());
}

void Guest::starve() {
    net().rx().set_refill_threshold(test::NetReceiver::kRefillFrozen);
    serve(std::chrono::microseconds(dice_.between(500, 30'000)));
    net().rx().set_refill_threshold(test::NetReceiver::kRefillAtOnce);
    net().refill();
}

}  // namespace zecorx::soak
