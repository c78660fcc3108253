#include "rig.h"

#include <fmt/format.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_vhost.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <map>
#include <stdexcept>

#include "open_port.h"

namespace zecorx::bench {
namespace {

constexpr std::uint16_t kBurst = Datapath::kBurst;

std::string bdf_of(std::size_t port) { return fmt::format("0000:{:02x}:00.0", 3 + port); }

soft82599::Config nics(std::size_t count) {
    soft82599::Config config;
    config.mode = soft82599::Mode::kStep;
    for (std::size_t i = 0; i < count; ++i) {
        config.ports.emplace_back();
        config.ports.back().bdf = bdf_of(i);
    }
    return config;
}

Options eal_options(const RigOptions& options) {
    Options eal;
    eal.huge_memory = options.huge_memory;
    // One file for all memory is one region for a guest in this process.
    eal.eal_args = {"--single-file-segments"};
    eal.eal_args.insert(eal.eal_args.end(), options.eal_args.begin(), options.eal_args.end());
    return eal;
}

EalDevices eal_devices(std::size_t ports) {
    EalDevices devices{.physical_iova = true};
    for (std::size_t i = 0; i < ports; ++i) devices.pci.push_back(bdf_of(i));
    return devices;
}

MacAddress mac_of(std::size_t port, std::size_t lane) {
    return {{0x52, 0x54, 0, 0, static_cast<std::uint8_t>(port), static_cast<std::uint8_t>(lane)}};
}

// --- Ours ---

class OurLane final : public Lane {
  public:
    OurLane(Rig& rig, const VmOptions& options, zecorx::Port& port, const VmQueues& queues)
        : Lane(options.zerocopy ? Backend::kZeroCopy : Backend::kCopy, options.macs.front()),
          mutex_(rig.mutex()),
          server_(rig.server()),
          vm_(options, port, queues, poller_) {
        const std::lock_guard lock(mutex_);
        counters_ = vm_.status().counters;
    }
    void start(const std::string& path) override {
        socket_ = std::make_unique<vhost_user::Socket>(server_, path, false, vm_);
    }

    void poll() override { held_.datapath->poll(); }
    std::uint64_t completed() const override { return counters_->rx_packets.get(); }
    std::uint64_t zero_copied() const override { return counters_->zero_copied.get(); }
    bool running() override {
        const std::lock_guard lock(mutex_);
        return vm_.status().running;
    }
    bool vacant() override {
        const std::lock_guard lock(mutex_);
        return !vm_.status().connected;
    }
    void hold() override {
        held_ = poller_.hold();
        if (held_.datapath != nullptr) return;
        held_ = {};
        throw std::runtime_error("a VM's session ended while it was measured");
    }
    void release() override { held_ = {}; }
    Datapath* datapath() override { return held_.datapath; }
    std::string socket() const override { return socket_->path(); }

  private:
    vhost_user::ControlMutex& mutex_;
    vhost_user::Server& server_;
    LockstepPoller poller_;
    Vm vm_;
    const VmCounters* counters_ = nullptr;
    std::unique_ptr<vhost_user::Socket> socket_;
    LockstepPoller::Held held_{};
};

// --- The others ---

// A queue with an ordinary pool, as every other backend sets it up.
class PlainQueue {
  public:
    PlainQueue(const std::string& name, zecorx::Port& port, const VmQueues& queues)
        : port_(port), queues_(queues) {
        const QueueGeometry geometry = QueueGeometry::whole(port.geometry().max_frame(true));
        // As many as our own queue has, and what the cache may hold back.
        constexpr unsigned kMbufs = 1023;
        constexpr unsigned kCache = 256;
        pool_.reset(rte_pktmbuf_pool_create(
            name.c_str(), kMbufs, kCache, 0,
            static_cast<std::uint16_t>(RTE_PKTMBUF_HEADROOM + geometry.nic_buffer), port.socket()));
        if (!pool_) {
            throw std::runtime_error(fmt::format(
                "cannot create mempool {}: too little huge-page memory; see --huge-mem", name));
        }
        port.set_up_vm(queues, *pool_);
    }
    ~PlainQueue() {
        if (!running_) return;
        port_.close_pool(queues_);
        port_.stop_rx(queues_, [] {});  // gives the pool its mbufs back
    }
    PlainQueue(const PlainQueue&) = delete;
    PlainQueue& operator=(const PlainQueue&) = delete;

    void start(const MacAddress& mac) {
        port_.start_rx(queues_, [] {});
        running_ = true;
        port_.open_pool(queues_);
        port_.add_mac(queues_, mac);
    }
    std::uint16_t receive(std::array<rte_mbuf*, kBurst>& frames) const {
        return rte_eth_rx_burst(queues_.port, queues_.queue, frames.data(), kBurst);
    }

  private:
    zecorx::Port& port_;
    const VmQueues queues_;
    Mempool pool_;
    bool running_ = false;
};

// No backend on this PMD can do less.
class FloorLane final : public Lane {
  public:
    FloorLane(const MacAddress& mac, zecorx::Port& port, const VmQueues& queues)
        : Lane(Backend::kFloor, mac),
          queue_(fmt::format("floor_{}_{}", queues.port, queues.queue), port, queues) {}

    void start(const std::string&) override { queue_.start(mac()); }
    void poll() override {
        std::array<rte_mbuf*, kBurst> frames;
        const std::uint16_t count = queue_.receive(frames);
        rte_pktmbuf_free_bulk(frames.data(), count);
        completed_ += count;
    }
    std::uint64_t completed() const override { return completed_; }
    bool running() override { return true; }

  private:
    PlainQueue queue_;
    std::uint64_t completed_ = 0;
};

// rte_vhost_enqueue_burst, as testpmd's vhost port, OVS-DPDK and dpdk-vhost use it.
class RteVhostLane final : public Lane {
  public:
    RteVhostLane(const MacAddress& mac, zecorx::Port& port, const VmQueues& queues)
        : Lane(Backend::kRteVhost, mac),
          queue_(fmt::format("plain_{}_{}", queues.port, queues.queue), port, queues) {}
    ~RteVhostLane() override {
        if (path_.empty()) return;
        rte_vhost_driver_unregister(path_.c_str());
        lanes().erase(path_);
    }
    void start(const std::string& path) override {
        queue_.start(mac());
        path_ = path;
        lanes()[path] = this;
        if (rte_vhost_driver_register(path.c_str(), RTE_VHOST_USER_NET_COMPLIANT_OL_FLAGS) != 0 ||
            rte_vhost_driver_callback_register(path.c_str(), &kEvents) != 0 ||
            rte_vhost_driver_start(path.c_str()) != 0) {
            throw std::runtime_error(fmt::format("cannot listen on {}", path));
        }
    }

    void poll() override {
        std::array<rte_mbuf*, kBurst> frames;
        const std::uint16_t count = queue_.receive(frames);
        if (count == 0) return;
        completed_ += rte_vhost_enqueue_burst(vid_, kReceiveq, frames.data(), count);
        rte_pktmbuf_free_bulk(frames.data(), count);
    }
    std::uint64_t completed() const override { return completed_; }
    bool running() override { return ready_.load(std::memory_order_acquire) && !vacant(); }
    bool vacant() override { return session_.load(std::memory_order_acquire) < 0; }
    void hold() override {
        vid_ = session_.load(std::memory_order_acquire);
        if (vid_ < 0) throw std::runtime_error("rte_vhost's session ended while it was measured");
    }
    std::string socket() const override { return path_; }

  private:
    static constexpr std::uint16_t kReceiveq = 0;

    // Filled before a socket listens.
    static std::map<std::string, RteVhostLane*>& lanes() {
        static std::map<std::string, RteVhostLane*> all;
        return all;
    }
    static RteVhostLane* lane_of(int vid) {
        char path[PATH_MAX] = {};
        if (rte_vhost_get_ifname(vid, path, sizeof path) != 0) return nullptr;
        const auto found = lanes().find(path);
        return found == lanes().end() ? nullptr : found->second;
    }
    static int started(int vid) {
        RteVhostLane* lane = lane_of(vid);
        if (lane == nullptr) return -1;
        // It polls: drivers need not kick.
        rte_vhost_enable_guest_notification(vid, 0, 0);
        rte_vhost_enable_guest_notification(vid, 1, 0);
        lane->session_.store(vid, std::memory_order_release);
        return 0;
    }
    static void stopped(int vid) {
        if (RteVhostLane* lane = lane_of(vid)) {
            lane->ready_.store(false, std::memory_order_release);
            lane->session_.store(-1, std::memory_order_release);
        }
    }
    static int ring_changed(int vid, std::uint16_t ring, int enabled) {
        RteVhostLane* lane = lane_of(vid);
        if (lane != nullptr && ring == kReceiveq) {
            lane->ready_.store(enabled != 0, std::memory_order_release);
        }
        return 0;
    }
    static const rte_vhost_device_ops kEvents;

    PlainQueue queue_;
    std::string path_;
    std::atomic<int> session_{-1};
    std::atomic<bool> ready_{false};
    int vid_ = -1;
    std::uint64_t completed_ = 0;
};

const rte_vhost_device_ops RteVhostLane::kEvents = [] {
    rte_vhost_device_ops ops{};
    ops.new_device = started;
    ops.destroy_device = stopped;
    ops.vring_state_changed = ring_changed;
    return ops;
}();

std::unique_ptr<Lane> make_lane(Rig& rig, Backend backend, const VmOptions& vm, zecorx::Port& port,
                                const VmQueues& queues) {
    switch (backend) {
        case Backend::kFloor:
            return std::make_unique<FloorLane>(vm.macs.front(), port, queues);
        case Backend::kRteVhost:
            return std::make_unique<RteVhostLane>(vm.macs.front(), port, queues);
        case Backend::kZeroCopy:
        case Backend::kCopy:
            break;
    }
    return std::make_unique<OurLane>(rig, vm, port, queues);
}

VmOptions vm_options(std::size_t port, std::size_t lane, const LaneOptions& options) {
    VmOptions vm{.name = fmt::format("bench{}_{}", port, lane)};
    vm.macs = {mac_of(port, lane)};
    vm.rxbuf = options.rxbuf;
    vm.zerocopy = options.backend == Backend::kZeroCopy;
    return vm;
}

}  // namespace

const char* name_of(Backend backend) {
    switch (backend) {
        case Backend::kFloor:
            return "floor";
        case Backend::kZeroCopy:
            return "zero-copy";
        case Backend::kCopy:
            return "copy";
        case Backend::kRteVhost:
            return "rte_vhost";
    }
    return "";
}

SocketDirectory::SocketDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "zecorx-bench.XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
        throw std::runtime_error(fmt::format("cannot make a directory {} for sockets", name));
    }
    path_ = name;
}

SocketDirectory::~SocketDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

Rig::Rig(const RigOptions& options)
    : machine_(std::make_unique<soft82599::Machine>(nics(options.ports))),
      eal_(std::make_unique<Eal>(eal_options(options), eal_devices(options.ports))) {}

void LockstepPoller::add(Datapath& datapath) {
    const std::lock_guard lock(mutex_);
    datapath_ = &datapath;
}

void LockstepPoller::remove(Datapath&) {
    const std::lock_guard lock(mutex_);
    datapath_ = nullptr;
}

Bed::Bed(Rig& rig, std::size_t port, std::uint32_t mtu, const std::vector<LaneOptions>& lanes)
    : nic_(rig.nic(port)) {
    std::vector<VmOptions> vms;
    for (const LaneOptions& lane : lanes) vms.push_back(vm_options(port, vms.size(), lane));
    port_ = open_port(nic_.bdf(), {.mtu = mtu}, vms);
    for (std::size_t i = 0; i < lanes.size(); ++i) {
        lanes_.push_back(make_lane(rig, lanes[i].backend, vms[i], *port_,
                                   port_->queues_of(static_cast<std::uint16_t>(i))));
    }
    port_->start();
    for (std::size_t i = 0; i < lanes.size(); ++i) lanes_[i]->start(rig.socket(vms[i].name));
}

}  // namespace zecorx::bench
