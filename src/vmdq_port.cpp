#include "vmdq_port.h"

#include <fmt/format.h>
#include <rte_cycles.h>
#include <rte_errno.h>

#include <algorithm>
#include <map>
#include <span>
#include <stdexcept>
#include <utility>

namespace zecorx {
namespace {

constexpr std::uint16_t kUnownedDescriptors = 64;  // the least the PMD takes

// Registers that the PMD has no call for, at their offsets from BAR 0 (82599 datasheet 8.2.3.8 and
// 8.2.3.27).
constexpr std::uint32_t rxdctl(std::uint16_t queue) {
    return queue < 64 ? 0x01028 + 0x40U * queue : 0x0D028 + 0x40U * (queue - 64U);
}
constexpr std::uint32_t kRxdctlEnable = 1U << 25;

// PFVML2FLT: what a VMDq pool gets besides frames to its addresses.
constexpr std::uint32_t pool_filter(std::uint16_t pool) { return 0x0F000 + 4U * pool; }
constexpr std::uint32_t kAcceptUntagged = 1U << 24;     // AUPE
constexpr std::uint32_t kAcceptUnicastHash = 1U << 26;  // ROPE
constexpr std::uint32_t kAcceptBroadcast = 1U << 27;    // BAM
constexpr std::uint32_t kAcceptMulticast = 1U << 28;    // MPE

// PFVLVF, PFVLVFB: a VLAN, and the 64 bits of the VMDq pools in it.
constexpr std::uint32_t vlan_filter(std::uint32_t index) { return 0x0F100 + 4 * index; }
constexpr std::uint32_t vlan_pools(std::uint32_t index) { return 0x0F200 + 8 * index; }
constexpr std::uint32_t kVlanFilterEnable = 1U << 31;

// PFVMTXSW: which VMDq pools get what they send to their own addresses or groups.
constexpr std::uint32_t own_frames(std::uint32_t word) { return 0x05180 + 4 * word; }

// MCSTCTRL.MFE: the hash tables of addresses are used (8.2.3.7).
constexpr std::uint32_t kHashControl = 0x05090;
constexpr std::uint32_t kHashEnable = 1U << 2;

std::uint32_t filter_bits(const VmOptions& vm) {
    return kAcceptBroadcast | (vm.vlan ? 0 : kAcceptUntagged) |
           (vm.allmulti ? kAcceptMulticast : 0) | (vm.promisc ? kAcceptUnicastHash : 0);
}

// Of a millisecond, until a queue has started or stopped. The datasheet names no bound, and on a
// busy machine the software 82599 may wait for a CPU.
constexpr int kPolls = 1000;

}  // namespace

VmdqPort::VmdqPort(EthDevice device, std::vector<VmOptions> vms, const PortGeometry& geometry)
    : Port(std::move(device), std::move(vms), geometry) {
    check_pools();
    const rte_eth_dev_info& info = device_.info;
    queues_per_pool_ = static_cast<std::uint16_t>(info.vmdq_queue_num / info.max_vmdq_pools);
    queue_count_ =
        static_cast<std::uint16_t>(info.vmdq_queue_base + queues_per_pool_ * vms_.size() + 1);
    owned_.resize(queue_count_);
    configure();
}

void VmdqPort::check_pools() const {
    if (vms_.size() < device_.info.max_vmdq_pools) return;
    throw std::runtime_error(fmt::format(
        "{} VMs asked for, but port {} has {} VMDq pools and one of them belongs to the "
        "host; use fewer --vdev",
        vms_.size(), name(), device_.info.max_vmdq_pools));
}

void VmdqPort::configure() {
    rte_eth_conf conf{};
    conf.rxmode.mtu = geometry_.mtu;
    conf.rxmode.offloads = RTE_ETH_RX_OFFLOAD_CHECKSUM & device_.info.rx_offload_capa;
    conf.rxmode.mq_mode = RTE_ETH_MQ_RX_VMDQ_ONLY;
    conf.txmode.mq_mode = RTE_ETH_MQ_TX_VMDQ_ONLY;
    conf.txmode.offloads = transmit_offloads();
    conf.intr_conf.lsc = (*device_.info.dev_flags & RTE_ETH_DEV_INTR_LSC) != 0;
    rte_eth_vmdq_rx_conf& vmdq = conf.rx_adv_conf.vmdq_rx_conf;
    vmdq.nb_queue_pools = static_cast<rte_eth_nb_pools>(device_.info.max_vmdq_pools);
    vmdq.enable_default_pool = 0;  // nobody reads the host's, so what belongs to no VM is dropped
    vmdq.rx_mode = 0;              // nothing to any pool before open_pool()
    vmdq.enable_loop_back = 1;     // VMs on one port reach each other through it
    check(rte_eth_dev_configure(device_.id, queue_count_, queue_count_, &conf),
          fmt::format("configure VMDq on port {}", name()));
}

VmQueues VmdqPort::queues_of(std::uint16_t index) const {
    const auto pool = static_cast<std::uint16_t>(index + 1);  // pool 0 belongs to the host
    return {device_.id, static_cast<std::uint16_t>(device_.info.vmdq_pool_base + pool),
            static_cast<std::uint16_t>(device_.info.vmdq_queue_base + pool * queues_per_pool_)};
}

void VmdqPort::set_up_queue(std::uint16_t queue, std::uint16_t rx_descriptors,
                            std::uint16_t tx_descriptors, rte_mempool& pool) {
    rte_eth_rxconf rx = device_.info.default_rxconf;
    rx.rx_free_thresh = rx_descriptors > kBulkRefill ? kBulkRefill : kVectorRefill;
    rx.rx_drop_en = 1;  // or one stalled VM fills the packet buffer all pools share
    rx.rx_deferred_start = 1;
    const VmOptions* vm = owner_of(queue);
    if (vm != nullptr && vm->vlan) rx.offloads |= RTE_ETH_RX_OFFLOAD_VLAN_STRIP;
    check(rte_eth_rx_queue_setup(device_.id, queue, rx_descriptors, static_cast<unsigned>(socket_),
                                 &rx, &pool),
          fmt::format("set up RX queue {} of port {}", queue, name()));
    check(rte_eth_tx_queue_setup(device_.id, queue, tx_descriptors, static_cast<unsigned>(socket_),
                                 &device_.info.default_txconf),
          fmt::format("set up TX queue {} of port {}", queue, name()));
}

void VmdqPort::set_up_vm(const VmQueues& queues, rte_mempool& rx_pool) {
    set_up_queue(queues.queue, kRxDescriptors, kTxDescriptors, rx_pool);
    owned_[queues.queue] = true;
}

void VmdqPort::start() {
    rte_mempool& unowned = keep(
        make_host_pool(fmt::format("unowned_{}", device_.id), kUnownedDescriptors + kVectorRefill,
                       QueueGeometry::whole(geometry_.max_frame(true)).nic_buffer, socket_));
    for (std::uint16_t queue = 0; queue < queue_count_; ++queue) {
        if (!owned_[queue]) {
            set_up_queue(queue, kUnownedDescriptors, kUnownedDescriptors, unowned);
        }
    }
    check(rte_eth_dev_start(device_.id), fmt::format("start port {}", name()));
    rte_ether_addr host{};
    check(rte_eth_macaddr_get(device_.id, &host),
          fmt::format("read the address of port {}", name()));
    steered_.push_back(MacAddress::from_wire(std::as_bytes(std::span(host.addr_bytes))));
    registers_ = std::make_unique<NicRegisters>(name(), steered_.front());
    // Which pools see a multicast frame is decided per pool; the port's own hash table must not
    // decide first.
    check(rte_eth_allmulticast_enable(device_.id),
          fmt::format("receive multicast on port {}", name()));
    // Nor its unicast hash table: with every bit set, a pool that accepts hash hits gets all
    // unicast frames to addresses that no pool has (7.10.3.3). There is no other promiscuity of a
    // single pool.
    if (std::ranges::any_of(vms_, &VmOptions::promisc)) {
        check(rte_eth_dev_uc_all_hash_table_set(device_.id, 1),
              fmt::format("receive promiscuously on port {}", name()));
        registers_->write(kHashControl, registers_->read(kHashControl) | kHashEnable);
    }
    // The PMD lets a pool hear its own broadcast back, which a guest takes for a duplicate address.
    for (std::uint32_t word = 0; word < 2; ++word) registers_->write(own_frames(word), 0);
    steer_vlans();
}

const VmOptions* VmdqPort::owner_of(std::uint16_t queue) const {
    for (std::uint16_t index = 0; index < vms_.size(); ++index) {
        if (queues_of(index).queue == queue) return &vms_[index];
    }
    return nullptr;
}

// By the registers, since the PMD writes one half only of the pools a VLAN has.
void VmdqPort::steer_vlans() {
    std::map<std::uint16_t, std::uint64_t> pools;
    for (std::uint16_t index = 0; index < vms_.size(); ++index) {
        const std::uint64_t pool = std::uint64_t{1} << queues_of(index).pool;
        if (vms_[index].vlan) pools[*vms_[index].vlan] |= pool;
        for (const std::uint16_t vlan : vms_[index].trunk) pools[vlan] |= pool;
    }
    std::uint32_t filter = 0;
    for (const auto& [vlan, members] : pools) {
        registers_->write(vlan_pools(filter), static_cast<std::uint32_t>(members));
        registers_->write(vlan_pools(filter) + 4, static_cast<std::uint32_t>(members >> 32));
        registers_->write(vlan_filter(filter++), kVlanFilterEnable | vlan);
    }
}

void VmdqPort::start_rx(const VmQueues& queues, const std::function<void()>& attach) {
    attach();
    check(rte_eth_dev_rx_queue_start(device_.id, queues.queue),
          fmt::format("start RX queue {} of port {}", queues.queue, name()));
    // The PMD gives up waiting after 10 ms and returns success all the same, so ask the NIC.
    if (reaches(queues.queue, true)) return;
    stop_queue(queues.queue);
    throw std::runtime_error(fmt::format(
        "RX queue {} of port {} does not start: the port must be reset", queues.queue, name()));
}

void VmdqPort::stop_rx(const VmQueues& queues, const std::function<void()>& detach) {
    stop_queue(queues.queue);
    detach();
}

// The PMD gives the queue's mbufs back to their pool.
void VmdqPort::stop_queue(std::uint16_t queue) {
    check(rte_eth_dev_rx_queue_stop(device_.id, queue),
          fmt::format("stop RX queue {} of port {}", queue, name()));
    if (reaches(queue, false)) return;
    throw std::runtime_error(
        fmt::format("RX queue {} of port {} does not stop: the NIC still owns guest memory, so the "
                    "port must be reset",
                    queue, name()));
}

bool VmdqPort::reaches(std::uint16_t queue, bool enabled) const {
    for (int poll = 0; poll < kPolls; ++poll) {
        if (rx_enabled(queue) == enabled) return true;
        rte_delay_us_sleep(1000);
    }
    return rx_enabled(queue) == enabled;
}

bool VmdqPort::rx_enabled(std::uint16_t queue) const {
    return (registers_->read(rxdctl(queue)) & kRxdctlEnable) != 0;
}

void VmdqPort::open_pool(const VmQueues& queues) {
    registers_->write(pool_filter(queues.pool), filter_bits(*owner_of(queues.queue)));
}

void VmdqPort::close_pool(const VmQueues& queues) noexcept {
    registers_->write(pool_filter(queues.pool), 0);
}

}  // namespace zecorx
