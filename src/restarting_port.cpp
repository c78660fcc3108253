#include "restarting_port.h"

#include <fmt/format.h>
#include <rte_errno.h>
#include <rte_log.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <span>
#include <stdexcept>
#include <utility>

#include "host_checks.h"

namespace zecorx {
namespace {

// Such drivers ask for one buffer at a time, which cannot be refused: what a guest does not post in
// time is host memory, and the frame in it a copy. A guest's ring is twice as long at least.
constexpr std::uint16_t kDescriptors = 128;

// Of a queue that no VM has, and that has to be there.
constexpr std::uint16_t kSpareBuffers = 2 * kDescriptors;

// What the PMD has every pool accept besides frames to its addresses: it has no call for one pool.
constexpr std::uint32_t kPoolsAccept =
    RTE_ETH_VMDQ_ACCEPT_UNTAG | RTE_ETH_VMDQ_ACCEPT_BROADCAST | RTE_ETH_VMDQ_ACCEPT_MULTICAST;

// A driver that names no limits has no descriptor ring: it takes a buffer when there is a frame, or
// keeps one at hand.
bool has_ring(const rte_eth_dev_info& info) {
    return info.rx_desc_lim.nb_max < UINT16_MAX || info.rx_desc_lim.nb_min > 0;
}

// The driver says how many queues there are and how many pools, but not which are whose. An 82576
// has two a pool, numbered apart: pool p receives on queue p.
std::uint16_t queues_per_pool(const EthDevice& device) {
    constexpr std::uint16_t kIntel = 0x8086;
    constexpr std::array<std::uint16_t, 8> k82576{0x10c9, 0x10e6, 0x10e7, 0x10e8,
                                                  0x1518, 0x1526, 0x150a, 0x150d};
    const PciId id = pci_id(device.name);
    if (id.vendor == kIntel && std::ranges::count(k82576, id.device) != 0) return 1;
    return static_cast<std::uint16_t>(device.info.vmdq_queue_num / device.info.max_vmdq_pools);
}

// A virtio-net device writes as much of a frame as a buffer holds, whatever the MTU, and its own
// header in front of it (VIRTIO 5.1.6.4). What it says of a checksum may be that the sender left it
// out, and QEMU's VLAN filter lets everything through that it was not told to keep away.
bool is_virtio(const EthDevice& device) {
    constexpr std::uint16_t kVirtioVendor = 0x1af4;  // VIRTIO 4.1.2
    return pci_id(device.name).vendor == kVirtioVendor;
}

}  // namespace

RestartingPort::RestartingPort(EthDevice device, std::vector<VmOptions> vms,
                               const PortGeometry& geometry, std::uint32_t longest_frame)
    : Port(std::move(device), std::move(vms), geometry),
      is_virtio_(is_virtio(device_)),
      longest_frame_(longest_frame) {
    check_vms();
    choose_descriptors();
    if (vmdq()) queues_per_pool_ = queues_per_pool(device_);
    const std::size_t count = vmdq() ? queue_of(static_cast<std::uint16_t>(vms_.size())) + 1U : 1U;
    queues_.resize(count);
    configure();
    if (fills_buffers()) choose_room();
}

void RestartingPort::check_vms() const {
    const std::size_t most = vmdq() ? device_.info.max_vmdq_pools - 1U : 1U;
    if (vms_.size() > most) {
        throw std::runtime_error(
            fmt::format("{} VMs asked for, but port {} can serve {}; use fewer --vdev, or give "
                        "them other ports with port=",
                        vms_.size(), name(), most));
    }
    for (const VmOptions& vm : vms_) {
        const char* key = vm.vlan ? "vlan" : !vm.trunk.empty() ? "trunk" : nullptr;
        if (vmdq() && vm.promisc) key = "promisc";
        if (vm.rxbuf && fills_buffers()) key = "rxbuf";
        if (key == nullptr) continue;
        throw std::runtime_error(
            fmt::format("--vdev {}: {}= is not possible on port {}; leave it out, or use an 82599",
                        vm.name, key, name()));
    }
    if (vmdq() && geometry_.mtu > kDefaultMtu) {
        throw std::runtime_error(
            fmt::format("port {} takes no frames for VMDq pools beyond an MTU of {}; leave mtu={} "
                        "out, or use an 82599",
                        name(), kDefaultMtu, geometry_.mtu));
    }
}

void RestartingPort::choose_descriptors() {
    rx_descriptors_ = has_ring(device_.info) ? kDescriptors : 1;
    check(rte_eth_dev_adjust_nb_rx_tx_desc(device_.id, &rx_descriptors_, &tx_descriptors_),
          fmt::format("choose the descriptors of port {}", name()));
}

// Most drivers take a buffer of a frame's size, some want room for what they might get.
void RestartingPort::choose_room() {
    room_ = geometry_.max_frame(false);
    const Mempool small =
        make_host_pool(fmt::format("small_{}", device_.id), kSpareBuffers, room_, socket_);
    queues_[0].pool = small.get();
    try {
        set_up_queue(0);
    } catch (const std::exception&) {
        room_ = round_up(room_, kNicBufferStep);
    }
    take_queues();  // and with them the pool's buffers
    queues_[0].pool = nullptr;
    configure();
}

VmQueues RestartingPort::queues_of(std::uint16_t index) const {
    if (!vmdq()) return {device_.id, 0, 0};
    const auto pool = static_cast<std::uint16_t>(index + 1);  // pool 0 belongs to the host
    return {device_.id, static_cast<std::uint16_t>(device_.info.vmdq_pool_base + pool),
            queue_of(pool)};
}

std::uint16_t RestartingPort::queue_of(std::uint16_t pool) const {
    return static_cast<std::uint16_t>(device_.info.vmdq_queue_base + pool * queues_per_pool_);
}

// F of a NIC that does not write as much as a buffer holds. Such NICs take frames as long as the
// MTU and the tags they expect make them, tagged or not; the driver says what that adds to the MTU,
// with the CRC, which is stripped.
std::uint32_t RestartingPort::max_frame(const VmOptions&) const {
    constexpr std::uint32_t kCrc = 4;
    const std::uint32_t with_a_tag = geometry_.max_frame(true);
    const rte_eth_dev_info& info = device_.info;
    const bool says = info.max_rx_pktlen < UINT32_MAX && info.max_mtu < UINT16_MAX &&
                      info.max_rx_pktlen > info.max_mtu + kCrc;
    if (!says) return with_a_tag;
    const std::uint32_t added = info.max_rx_pktlen - info.max_mtu - kCrc;
    return std::max(with_a_tag, std::max(geometry_.mtu, kDefaultMtu) + added);
}

QueueGeometry RestartingPort::geometry_for(const VmOptions& vm) const {
    if (!fills_buffers()) return Port::geometry_for(vm);
    return {longest_frame_ != 0 ? std::min(longest_frame_, room_) : room_, room_,
            is_virtio_ ? kHeaderSize : 0};
}

// No VM is in a VLAN here. VMDq's filters keep tagged frames away, as no pool is in any either; a
// NIC with one queue has its filter for that, which lets the VLANs through that it was told: none.
//
// A driver without DMA may put a tag that the kernel has taken off in front of the frame, where a
// guest's header is, unless it is to strip it. What does not fit a buffer that is filled is
// scattered.
std::uint64_t RestartingPort::receive_offloads() const {
    std::uint64_t wanted = 0;
    if (fills_buffers()) {
        wanted |= RTE_ETH_RX_OFFLOAD_SCATTER;
        if (!device_.has_dma()) wanted |= RTE_ETH_RX_OFFLOAD_VLAN_STRIP;
    } else {
        wanted |= RTE_ETH_RX_OFFLOAD_CHECKSUM;
        if (!vmdq()) wanted |= RTE_ETH_RX_OFFLOAD_VLAN_FILTER;
    }
    return wanted & device_.info.rx_offload_capa;
}

rte_eth_conf RestartingPort::configuration() const {
    rte_eth_conf conf{};
    conf.rxmode.mtu = geometry_.mtu;
    conf.rxmode.offloads = receive_offloads();
    conf.txmode.offloads = transmit_offloads();
    if (!vmdq()) return conf;
    conf.rxmode.mq_mode = RTE_ETH_MQ_RX_VMDQ_ONLY;
    conf.txmode.mq_mode = RTE_ETH_MQ_TX_VMDQ_ONLY;
    rte_eth_vmdq_rx_conf& pools = conf.rx_adv_conf.vmdq_rx_conf;
    pools.nb_queue_pools = static_cast<rte_eth_nb_pools>(device_.info.max_vmdq_pools);
    pools.rx_mode = kPoolsAccept;
    return conf;
}

void RestartingPort::configure() {
    const rte_eth_conf conf = configuration();
    const auto count = static_cast<std::uint16_t>(queues_.size());
    check(rte_eth_dev_configure(device_.id, count, count, &conf),
          fmt::format("configure port {}", name()));
}

void RestartingPort::set_up_vm(const VmQueues& queues, rte_mempool& rx_pool) {
    queues_[queues.queue].pool = &rx_pool;
}

void RestartingPort::admit(const VmQueues& queues, PortTenant& tenant) {
    queues_[queues.queue].tenant = &tenant;
}

void RestartingPort::set_up_queue(std::uint16_t queue) {
    rte_eth_rxconf rx = device_.info.default_rxconf;
    if (device_.has_dma()) {
        rx.rx_drop_en = 1;  // a full queue holds up no other
        rx.rx_free_thresh = kBulkRefill;
    }
    rx.offloads = receive_offloads();
    check(rte_eth_rx_queue_setup(device_.id, queue, rx_descriptors_, static_cast<unsigned>(socket_),
                                 &rx, queues_[queue].pool),
          fmt::format("set up RX queue {} of port {}", queue, name()));
    check(rte_eth_tx_queue_setup(device_.id, queue, tx_descriptors_, static_cast<unsigned>(socket_),
                                 nullptr),
          fmt::format("set up TX queue {} of port {}", queue, name()));
}

void RestartingPort::set_up_queues() {
    for (std::uint16_t queue = 0; queue < queues_.size(); ++queue) set_up_queue(queue);
}

void RestartingPort::start() {
    rte_mempool* spare = nullptr;
    for (Queue& queue : queues_) {
        if (queue.pool != nullptr) continue;
        if (spare == nullptr) {
            spare = &keep(make_host_pool(fmt::format("unowned_{}", device_.id),
                                         kSpareBuffers * static_cast<unsigned>(queues_.size()),
                                         QueueGeometry::whole(max_frame({})).nic_buffer, socket_));
        }
        queue.pool = spare;
    }
    set_up_queues();
    rte_ether_addr own{};
    check(rte_eth_macaddr_get(device_.id, &own),
          fmt::format("read the address of port {}", name()));
    // A VM that has the port may have its address, too.
    if (vmdq()) {
        steered_.push_back(MacAddress::from_wire(std::as_bytes(std::span(own.addr_bytes))));
    }
    if (rte_eth_allmulticast_enable(device_.id) != 0) {
        spdlog::debug("port {} does not say whether it receives multicast", name());
    }
    try_stopping();
}

// Guest memory goes only to a driver that gives it back.
void RestartingPort::try_stopping() {
    check(rte_eth_dev_start(device_.id), fmt::format("start port {}", name()));
    check(rte_eth_dev_stop(device_.id), fmt::format("stop port {}", name()));
    for (const Queue& queue : queues_) {
        if (queue.tenant != nullptr) queue.tenant->rewind();
    }
    if (all_buffers_back()) return;
    queues_given_up_ = true;
    halt();
    if (!all_buffers_back()) {
        throw std::runtime_error(
            fmt::format("the driver {} of port {} keeps its receive buffers when the port is "
                        "stopped, so no guest memory can be given to it; use another NIC",
                        device_.info.driver_name, name()));
    }
}

bool RestartingPort::all_buffers_back() const {
    return std::ranges::all_of(
        queues_, [](const Queue& queue) { return rte_mempool_full(queue.pool) != 0; });
}

void RestartingPort::start_rx(const VmQueues& queues, const std::function<void()>& attach) {
    change(queues.queue, true, attach);
}

void RestartingPort::stop_rx(const VmQueues& queues, const std::function<void()>& detach) {
    change(queues.queue, false, detach);
}

void RestartingPort::change(std::uint16_t queue, bool runs, const std::function<void()>& between) {
    const auto began = std::chrono::steady_clock::now();
    queues_[queue].running = false;
    std::vector<PortTenant*> others;
    for (const Queue& each : queues_) {
        if (each.running) others.push_back(each.tenant);
    }
    for (PortTenant* tenant : others) tenant->pause();
    must([this] { halt(); }, others.size());
    if (runs && queues_[queue].tenant != nullptr) queues_[queue].tenant->rewind();
    between();
    for (const Queue& each : queues_) {
        if (each.tenant != nullptr && &each != &queues_[queue]) each.tenant->rewind();
    }
    if (runs || !others.empty()) must([this] { go(); }, others.size());
    queues_[queue].running = runs;
    for (PortTenant* tenant : others) tenant->resume();
    if (!others.empty()) tell_outage(began, others.size());
}

// Every buffer is back when this returns.
void RestartingPort::halt() {
    if (started_) {
        at_halt_ = frames();
        started_ = false;
        check(rte_eth_dev_stop(device_.id), fmt::format("stop port {}", name()));
    }
    if (queues_given_up_) take_queues();
}

// Some drivers let go of a buffer with its queue only; one that cannot be without a queue complains
// after it has lost it. Others reset their device when they are to agree with it on something else:
// here that it spreads frames over queues, whether or not it can.
void RestartingPort::take_queues() {
    rte_eth_conf conf{};
    if (device_.has_dma()) conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
    const std::uint32_t level = rte_log_get_global_level();
    rte_log_set_global_level(RTE_LOG_CRIT);
    rte_eth_dev_configure(device_.id, 0, 1, &conf);
    rte_log_set_global_level(level);
}

void RestartingPort::go() {
    if (queues_given_up_) {
        configure();
        set_up_queues();
    }
    forgotten_ = at_halt_ - counted();
    check(rte_eth_dev_start(device_.id), fmt::format("start port {}", name()));
    started_ = true;
}

// Drivers count in the NIC, which a stop may reset, or in queues that were taken from them.
FrameCounts RestartingPort::frames() const { return started_ ? forgotten_ + counted() : at_halt_; }

// The others could not even be told that they have lost the port.
void RestartingPort::must(const std::function<void()>& step, std::size_t others) {
    try {
        step();
    } catch (const std::exception& error) {
        if (others == 0) throw;
        spdlog::critical("{}, with {} other VMs on it: the daemon must be started anew",
                         error.what(), others);
        std::abort();
    }
}

void RestartingPort::tell_outage(std::chrono::steady_clock::time_point began, std::size_t others) {
    ++outages_.count;
    outages_.last = std::chrono::duration_cast<std::chrono::microseconds>(
        std::chrono::steady_clock::now() - began);
    spdlog::info("port {} was stopped for {:.1f} ms to change a queue; {} other VMs were paused",
                 name(), static_cast<double>(outages_.last.count()) / 1000, others);
}

// Where the NIC has no filter for an address, the VM that has the port gets every frame.
void RestartingPort::steer(const VmQueues& queues, rte_ether_addr& mac) {
    if (vmdq()) return Port::steer(queues, mac);
    const bool filtered = rte_eth_dev_mac_addr_add(device_.id, &mac, 0) == 0;
    if (filtered && !vms_.front().promisc) return;
    promiscuous_ = true;
    const int result = rte_eth_promiscuous_enable(device_.id);
    if (result != 0 && result != -ENOTSUP) {
        check(result, fmt::format("receive all frames on port {}", name()));
    }
}

// The port's own address stays in its filter, and so does what it had no room for.
void RestartingPort::unsteer(rte_ether_addr& mac) {
    if (vmdq()) return Port::unsteer(mac);
    rte_eth_dev_mac_addr_remove(device_.id, &mac);
    const bool last = steered_.size() == 1;
    if (last && std::exchange(promiscuous_, false)) rte_eth_promiscuous_disable(device_.id);
}

std::vector<std::string> RestartingPort::limits() const {
    std::vector<std::string> words;
    if (vmdq()) {
        words.emplace_back(
            "its driver stops no single queue: when a VM comes, goes or changes its memory, the "
            "port is stopped and the other VMs are paused; the log says for how long");
        words.emplace_back(
            "it has no filters of one pool: every VM gets all multicast, and vlan=, trunk=, "
            "promisc= and an MTU beyond 1500 are not possible");
        words.emplace_back("VMs on it reach each other through the switch outside only");
    } else {
        words.emplace_back("it has one queue: one VM has the port");
    }
    if (!device_.has_dma()) {
        words.emplace_back(fmt::format(
            "it has no DMA: its driver writes frames into the VM's buffers itself, if they hold {} "
            "bytes",
            geometry_for({}).piece()));
    }
    if (fills_buffers()) {
        words.emplace_back("it filters no VLANs: frames of all of them reach the VM");
    }
    if (is_virtio_) {
        words.emplace_back(fmt::format(
            "it knows no longest frame and has a header of its own: what it receives lands in the "
            "VM's buffers if they have a virtio-net header of {} bytes, and {} behind it, in one "
            "piece; longer frames are dropped",
            kHeaderSize, geometry_for({}).piece()));
    }
    const TransmitAbilities can = transmit_abilities();
    if (!can.segmentation) {
        words.emplace_back(can.checksums ? "it segments nothing that VMs send"
                                         : "it computes no checksums and segments nothing that VMs "
                                           "send");
    }
    return words;
}

}  // namespace zecorx
