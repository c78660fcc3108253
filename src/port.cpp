#include "port.h"

#include <fmt/format.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ether.h>

#include <algorithm>
#include <map>
#include <span>
#include <stdexcept>
#include <utility>

namespace zecorx {
namespace {

// Throws what the operator needs to know about a failed ethdev call.
void check(int result, const std::string& attempted) {
    if (result < 0) {
        throw std::runtime_error(fmt::format("cannot {}: {}", attempted, rte_strerror(-result)));
    }
}

rte_ether_addr to_ether(const MacAddress& mac) {
    rte_ether_addr address{};
    std::ranges::copy(mac.bytes, address.addr_bytes);
    return address;
}

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

// What VMs may ask for, of the whole port: its queues share one transmit function, which the PMD
// chooses anew with every queue that is set up.
constexpr std::uint64_t kTxOffloads =
    RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM |
    RTE_ETH_TX_OFFLOAD_TCP_TSO | RTE_ETH_TX_OFFLOAD_VLAN_INSERT | RTE_ETH_TX_OFFLOAD_MULTI_SEGS;

// Of a millisecond, until a queue has started or stopped. The datasheet names no bound, and on a
// busy machine the software 82599 may wait for a CPU.
constexpr int kPolls = 1000;

}  // namespace

Port::Port(const std::string& bdf, std::vector<VmOptions> vms, std::uint32_t mtu)
    : bdf_(bdf), vms_(std::move(vms)), geometry_{.mtu = mtu} {
    if (rte_eth_dev_get_port_by_name(bdf.c_str(), &id_) != 0) {
        throw std::runtime_error(
            fmt::format("no DPDK driver took the device {}: check that it is an 82599 (ixgbe) and "
                        "that the PMD is installed (package librte-net-ixgbe23)",
                        bdf));
    }
    socket_ = std::max(0, rte_eth_dev_socket_id(id_));
    check(rte_eth_dev_info_get(id_, &info_), fmt::format("read the capabilities of port {}", bdf_));
    check_capabilities();
    queues_per_pool_ = static_cast<std::uint16_t>(info_.vmdq_queue_num / info_.max_vmdq_pools);
    queue_count_ =
        static_cast<std::uint16_t>(info_.vmdq_queue_base + queues_per_pool_ * vms_.size() + 1);
    owned_.resize(queue_count_);
    configure();
}

Port::~Port() {
    rte_eth_dev_stop(id_);
    rte_eth_dev_close(id_);
}

void Port::check_capabilities() const {
    if (info_.max_vmdq_pools < 2 || info_.vmdq_queue_num < info_.max_vmdq_pools) {
        throw std::runtime_error(fmt::format(
            "port {} ({}) has no VMDq pools to give to VMs; use an 82599 without SR-IOV VFs", bdf_,
            info_.driver_name));
    }
    if (vms_.size() >= info_.max_vmdq_pools) {
        throw std::runtime_error(fmt::format(
            "{} VMs asked for, but port {} has {} VMDq pools and one of them belongs to "
            "the host; use fewer --vdev",
            vms_.size(), bdf_, info_.max_vmdq_pools));
    }
}

void Port::configure() {
    rte_eth_conf conf{};
    conf.rxmode.mtu = geometry_.mtu;
    conf.rxmode.offloads = RTE_ETH_RX_OFFLOAD_CHECKSUM & info_.rx_offload_capa;
    conf.rxmode.mq_mode = RTE_ETH_MQ_RX_VMDQ_ONLY;
    conf.txmode.mq_mode = RTE_ETH_MQ_TX_VMDQ_ONLY;
    conf.txmode.offloads = kTxOffloads;
    conf.intr_conf.lsc = (*info_.dev_flags & RTE_ETH_DEV_INTR_LSC) != 0;
    rte_eth_vmdq_rx_conf& vmdq = conf.rx_adv_conf.vmdq_rx_conf;
    vmdq.nb_queue_pools = static_cast<rte_eth_nb_pools>(info_.max_vmdq_pools);
    vmdq.enable_default_pool = 0;  // nobody reads the host's, so what belongs to no VM is dropped
    vmdq.rx_mode = 0;              // nothing to any pool before open_pool()
    vmdq.enable_loop_back = 1;     // VMs on one port reach each other through it
    check(rte_eth_dev_configure(id_, queue_count_, queue_count_, &conf),
          fmt::format("configure VMDq on port {}", bdf_));
}

VmQueues Port::queues_of(std::uint16_t index) const {
    const auto pool = static_cast<std::uint16_t>(index + 1);  // pool 0 belongs to the host
    return {id_, static_cast<std::uint16_t>(info_.vmdq_pool_base + pool),
            static_cast<std::uint16_t>(info_.vmdq_queue_base + pool * queues_per_pool_)};
}

void Port::set_up_queue(std::uint16_t queue, std::uint16_t rx_descriptors,
                        std::uint16_t tx_descriptors, rte_mempool& pool) {
    rte_eth_rxconf rx = info_.default_rxconf;
    rx.rx_free_thresh = rx_descriptors > kBulkRefill ? kBulkRefill : kVectorRefill;
    rx.rx_drop_en = 1;  // or one stalled VM fills the packet buffer all pools share
    rx.rx_deferred_start = 1;
    const VmOptions* vm = owner_of(queue);
    if (vm != nullptr && vm->vlan) rx.offloads |= RTE_ETH_RX_OFFLOAD_VLAN_STRIP;
    check(rte_eth_rx_queue_setup(id_, queue, rx_descriptors, static_cast<unsigned>(socket_), &rx,
                                 &pool),
          fmt::format("set up RX queue {} of port {}", queue, bdf_));
    check(rte_eth_tx_queue_setup(id_, queue, tx_descriptors, static_cast<unsigned>(socket_),
                                 &info_.default_txconf),
          fmt::format("set up TX queue {} of port {}", queue, bdf_));
}

void Port::set_up_vm(const VmQueues& queues, rte_mempool& rx_pool) {
    set_up_queue(queues.queue, kRxDescriptors, kTxDescriptors, rx_pool);
    owned_[queues.queue] = true;
}

void Port::start() {
    rte_mempool& unowned =
        keep(make_host_pool(fmt::format("unowned_{}", id_), kUnownedDescriptors + kVectorRefill,
                            QueueGeometry::whole(geometry_.max_frame(true)).nic_buffer, socket_));
    for (std::uint16_t queue = 0; queue < queue_count_; ++queue) {
        if (!owned_[queue]) {
            set_up_queue(queue, kUnownedDescriptors, kUnownedDescriptors, unowned);
        }
    }
    check(rte_eth_dev_start(id_), fmt::format("start port {}", bdf_));
    rte_ether_addr host{};
    check(rte_eth_macaddr_get(id_, &host), fmt::format("read the address of port {}", bdf_));
    steered_.push_back(MacAddress::from_wire(std::as_bytes(std::span(host.addr_bytes))));
    registers_ = std::make_unique<NicRegisters>(bdf_, steered_.front());
    // Which pools see a multicast frame is decided per pool; the port's own hash table must not
    // decide first.
    check(rte_eth_allmulticast_enable(id_), fmt::format("receive multicast on port {}", bdf_));
    // Nor its unicast hash table: with every bit set, a pool that accepts hash hits gets all
    // unicast frames to addresses that no pool has (7.10.3.3). There is no other promiscuity of a
    // single pool.
    if (std::ranges::any_of(vms_, &VmOptions::promisc)) {
        check(rte_eth_dev_uc_all_hash_table_set(id_, 1),
              fmt::format("receive promiscuously on port {}", bdf_));
        registers_->write(kHashControl, registers_->read(kHashControl) | kHashEnable);
    }
    // The PMD lets a pool hear its own broadcast back, which a guest takes for a duplicate address.
    for (std::uint32_t word = 0; word < 2; ++word) registers_->write(own_frames(word), 0);
    steer_vlans();
}

const VmOptions* Port::owner_of(std::uint16_t queue) const {
    for (std::uint16_t index = 0; index < vms_.size(); ++index) {
        if (queues_of(index).queue == queue) return &vms_[index];
    }
    return nullptr;
}

// By the registers, since the PMD writes one half only of the pools a VLAN has.
void Port::steer_vlans() {
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

void Port::start_rx(const VmQueues& queues) {
    check(rte_eth_dev_rx_queue_start(id_, queues.queue),
          fmt::format("start RX queue {} of port {}", queues.queue, bdf_));
    // The PMD gives up waiting after 10 ms and returns success all the same, so ask the NIC.
    if (reaches(queues.queue, true)) return;
    stop_rx(queues);
    throw std::runtime_error(fmt::format(
        "RX queue {} of port {} does not start: the port must be reset", queues.queue, bdf_));
}

void Port::stop_rx(const VmQueues& queues) {
    check(rte_eth_dev_rx_queue_stop(id_, queues.queue),
          fmt::format("stop RX queue {} of port {}", queues.queue, bdf_));
    if (reaches(queues.queue, false)) return;
    throw std::runtime_error(
        fmt::format("RX queue {} of port {} does not stop: the NIC still owns guest memory, so the "
                    "port must be reset",
                    queues.queue, bdf_));
}

bool Port::reaches(std::uint16_t queue, bool enabled) const {
    for (int poll = 0; poll < kPolls; ++poll) {
        if (rx_enabled(queue) == enabled) return true;
        rte_delay_us_sleep(1000);
    }
    return rx_enabled(queue) == enabled;
}

bool Port::rx_enabled(std::uint16_t queue) const {
    return (registers_->read(rxdctl(queue)) & kRxdctlEnable) != 0;
}

void Port::open_pool(const VmQueues& queues) {
    registers_->write(pool_filter(queues.pool), filter_bits(*owner_of(queues.queue)));
}

void Port::close_pool(const VmQueues& queues) noexcept {
    registers_->write(pool_filter(queues.pool), 0);
}

void Port::add_mac(const VmQueues& queues, const MacAddress& mac) {
    const bool reserved = std::ranges::any_of(reserved_, [&](const auto& entry) {
        return entry.first == mac && entry.second != queues.pool;
    });
    if (reserved || std::ranges::find(steered_, mac) != steered_.end()) {
        throw std::runtime_error(
            fmt::format("address {} belongs to another VM or the host of "
                        "port {}; give each VM its own mac=",
                        mac.to_string(), bdf_));
    }
    rte_ether_addr address = to_ether(mac);
    check(rte_eth_dev_mac_addr_add(id_, &address, queues.pool),
          fmt::format("steer {} to VMDq pool {} of port {}", mac.to_string(), queues.pool, bdf_));
    steered_.push_back(mac);
}

void Port::reserve_mac(const VmQueues& queues, const MacAddress& mac) {
    reserved_.emplace_back(mac, queues.pool);
}

void Port::remove_mac(const MacAddress& mac) {
    rte_ether_addr address = to_ether(mac);
    check(rte_eth_dev_mac_addr_remove(id_, &address),
          fmt::format("remove {} from port {}", mac.to_string(), bdf_));
    std::erase(steered_, mac);
}

rte_eth_stats Port::stats() const {
    rte_eth_stats stats{};
    rte_eth_stats_get(id_, &stats);
    return stats;
}

bool Port::link_up() const {
    rte_eth_link link{};
    return rte_eth_link_get_nowait(id_, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
}

}  // namespace zecorx
