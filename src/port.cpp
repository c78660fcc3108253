#include "port.h"

#include <fmt/format.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ether.h>
#include <spdlog/spdlog.h>

#include <algorithm>
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
constexpr std::uint16_t kHostPool = 0;

// Index of RXDCTL(0) in the PMD's register dump, which lists queues 0-63; offsets of the dump are
// those of DPDK 22.11's ixgbe. start_rx() sees by the bit it reads whether they apply.
constexpr std::size_t kRxdctlIndex = 418;
constexpr std::size_t kRxdctlCount = 64;
constexpr std::uint32_t kRxdctlEnable = 1U << 25;  // 82599 datasheet 8.2.3.8.9

constexpr int kStopPolls = 100;  // of a millisecond; the datasheet names no bound

}  // namespace

Port::Port(const std::string& bdf, std::uint16_t vms) : bdf_(bdf) {
    if (rte_eth_dev_get_port_by_name(bdf.c_str(), &id_) != 0) {
        throw std::runtime_error(
            fmt::format("no DPDK driver took the device {}: check that it is an 82599 (ixgbe) and "
                        "that the PMD is installed (package librte-net-ixgbe23)",
                        bdf));
    }
    socket_ = std::max(0, rte_eth_dev_socket_id(id_));
    check(rte_eth_dev_info_get(id_, &info_), fmt::format("read the capabilities of port {}", bdf_));
    check_capabilities(vms);
    queues_per_pool_ = static_cast<std::uint16_t>(info_.vmdq_queue_num / info_.max_vmdq_pools);
    queue_count_ = static_cast<std::uint16_t>(info_.vmdq_queue_base + queues_per_pool_ * vms + 1);
    owned_.resize(queue_count_);
    configure();
}

Port::~Port() {
    rte_eth_dev_stop(id_);
    rte_eth_dev_close(id_);
}

void Port::check_capabilities(std::uint16_t vms) const {
    if (info_.max_vmdq_pools < 2 || info_.vmdq_queue_num < info_.max_vmdq_pools) {
        throw std::runtime_error(fmt::format(
            "port {} ({}) has no VMDq pools to give to VMs; use an 82599 without SR-IOV VFs", bdf_,
            info_.driver_name));
    }
    if (vms >= info_.max_vmdq_pools) {
        throw std::runtime_error(fmt::format(
            "{} VMs asked for, but port {} has {} VMDq pools and one of them belongs to "
            "the host; use fewer --vdev",
            vms, bdf_, info_.max_vmdq_pools));
    }
}

void Port::configure() {
    rte_eth_conf conf{};
    conf.rxmode.mtu = geometry_.mtu;
    conf.rxmode.mq_mode = RTE_ETH_MQ_RX_VMDQ_ONLY;
    conf.txmode.mq_mode = RTE_ETH_MQ_TX_VMDQ_ONLY;
    conf.intr_conf.lsc = (*info_.dev_flags & RTE_ETH_DEV_INTR_LSC) != 0;
    rte_eth_vmdq_rx_conf& vmdq = conf.rx_adv_conf.vmdq_rx_conf;
    vmdq.nb_queue_pools = static_cast<rte_eth_nb_pools>(info_.max_vmdq_pools);
    vmdq.enable_default_pool = 1;
    vmdq.default_pool = kHostPool;
    // Broadcast and multicast are replicated to every pool whose queue is enabled.
    vmdq.rx_mode =
        RTE_ETH_VMDQ_ACCEPT_UNTAG | RTE_ETH_VMDQ_ACCEPT_BROADCAST | RTE_ETH_VMDQ_ACCEPT_MULTICAST;
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
    check(rte_eth_rx_queue_setup(id_, queue, rx_descriptors, static_cast<unsigned>(socket_), &rx,
                                 &pool),
          fmt::format("set up RX queue {} of port {}", queue, bdf_));
    check(rte_eth_tx_queue_setup(id_, queue, tx_descriptors, static_cast<unsigned>(socket_),
                                 &info_.default_txconf),
          fmt::format("set up TX queue {} of port {}", queue, bdf_));
}

void Port::set_up_vm(const VmQueues& queues, rte_mempool& rx_pool, Mempool tx_pool) {
    set_up_queue(queues.queue, kRxDescriptors, kTxDescriptors, rx_pool);
    owned_[queues.queue] = true;
    pools_.push_back(std::move(tx_pool));
}

void Port::start() {
    rte_mempool& unowned = *pools_.emplace_back(
        make_host_pool(fmt::format("unowned_{}", id_), kUnownedDescriptors + kVectorRefill,

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
    // Which pools see a multicast frame is decided per pool; the port's own hash table must not
    // decide first.
    check(rte_eth_allmulticast_enable(id_), fmt::format("receive multicast on port {}", bdf_));
    rte_dev_reg_info dump{};
    if (rte_eth_dev_get_reg_info(id_, &dump) == 0 && dump.width == sizeof(std::uint32_t)) {
        registers_.resize(dump.length);
    }
}

void Port::start_rx(const VmQueues& queues) {
    check(rte_eth_dev_rx_queue_start(id_, queues.queue),
          fmt::format("start RX queue {} of port {}", queues.queue, bdf_));
    if (!rx_enabled(queues.queue)) {
        spdlog::debug(
            "port {}: RXDCTL of queue {} cannot be read back; stopping it relies on the "
            "PMD's wait",
            bdf_, queues.queue);
    }
}

void Port::stop_rx(const VmQueues& queues) {
    check(rte_eth_dev_rx_queue_stop(id_, queues.queue),
          fmt::format("stop RX queue {} of port {}", queues.queue, bdf_));
    // The PMD gives up waiting after 10 ms and returns success all the same, so ask the NIC.
    for (int poll = 0; rx_enabled(queues.queue); ++poll) {
        if (poll == kStopPolls) {
            throw std::runtime_error(
                fmt::format("RX queue {} of port {} does not stop: the NIC still owns guest "
                            "memory, so the port must be reset",
                            queues.queue, bdf_));
        }
        rte_delay_ms(1);
    }
}

bool Port::rx_enabled(std::uint16_t queue) const {
    if (queue >= kRxdctlCount || kRxdctlIndex + queue >= registers_.size()) return false;
    rte_dev_reg_info dump{};
    dump.data = registers_.data();
    dump.length = static_cast<std::uint32_t>(registers_.size());
    dump.width = sizeof(std::uint32_t);
    if (rte_eth_dev_get_reg_info(id_, &dump) != 0) return false;
    return (registers_[kRxdctlIndex + queue] & kRxdctlEnable) != 0;
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
