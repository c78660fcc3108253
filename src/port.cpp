#include "port.h"

#include <fmt/format.h>
#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ether.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <numeric>
#include <stdexcept>

namespace zecorx {
namespace {

// What VMs may ask for, of the whole port: its queues share one transmit function, which the PMD
// chooses anew with every queue that is set up.
constexpr std::uint64_t kChecksums =
    RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
constexpr std::uint64_t kSegmentation = RTE_ETH_TX_OFFLOAD_TCP_TSO | RTE_ETH_TX_OFFLOAD_MULTI_SEGS;

bool has_all(std::uint64_t offered, std::uint64_t wanted) { return (offered & wanted) == wanted; }

rte_ether_addr to_ether(const MacAddress& mac) {
    rte_ether_addr address{};
    std::ranges::copy(mac.bytes, address.addr_bytes);
    return address;
}

}  // namespace

EthDevice::EthDevice(const std::string& device_name) : name(device_name) {
    if (rte_eth_dev_get_port_by_name(name.c_str(), &id) != 0) {
        throw std::runtime_error(fmt::format(
            "no DPDK driver took the device {}: check that it is one that DPDK knows and that its "
            "PMD is installed (for an 82599 the package librte-net-ixgbe23)",
            name));
    }
    if (const int error = rte_eth_dev_info_get(id, &info); error != 0) {
        throw std::runtime_error(
            fmt::format("cannot read the capabilities of port {}: {}", name, rte_strerror(-error)));
    }
}

// Devices of the bus "vdev" exist in software only.
bool EthDevice::has_dma() const {
    return std::strcmp(rte_bus_name(rte_dev_bus(info.device)), "vdev") != 0;
}

Port::Port(EthDevice device, std::vector<VmOptions> vms, const PortGeometry& geometry)
    : device_(std::move(device)),
      vms_(std::move(vms)),
      geometry_(geometry),
      socket_(std::max(0, rte_eth_dev_socket_id(device_.id))) {}

Port::~Port() {
    rte_eth_dev_stop(device_.id);
    rte_eth_dev_close(device_.id);
}

void Port::check(int result, const std::string& attempted) const {
    if (result >= 0) return;
    throw std::runtime_error(fmt::format("cannot {}: {}", attempted, rte_strerror(-result)));
}

// Tagged frames reach a VM only with trunk=, because with vlan= their tag is taken off.
std::uint32_t Port::max_frame(const VmOptions& vm) const {
    return geometry_.max_frame(!vm.trunk.empty());
}

QueueGeometry Port::geometry_for(const VmOptions& vm) const {
    const std::uint32_t longest = max_frame(vm);
    if (!vm.rxbuf) return QueueGeometry::whole(longest);
    return {longest, *vm.rxbuf};
}

// What a driver would compute by the processor, the guest does as well, and without a frame that
// the driver cannot split holding up the others.
Port::TransmitAbilities Port::transmit_abilities() const {
    if (!device_.has_dma()) return {};
    const bool checksums = has_all(device_.info.tx_offload_capa, kChecksums);
    return {checksums, checksums && has_all(device_.info.tx_offload_capa, kSegmentation)};
}

std::uint64_t Port::transmit_offloads() const {
    if (!device_.has_dma()) return 0;
    return (kChecksums | kSegmentation | RTE_ETH_TX_OFFLOAD_VLAN_INSERT) &
           device_.info.tx_offload_capa;
}

void Port::add_mac(const VmQueues& queues, const MacAddress& mac) {
    const bool reserved = std::ranges::any_of(reserved_, [&](const auto& entry) {
        return entry.first == mac && entry.second != queues.pool;
    });
    if (reserved || std::ranges::find(steered_, mac) != steered_.end()) {
        throw std::runtime_error(
            fmt::format("address {} belongs to another VM or the host of "
                        "port {}; give each VM its own mac=",
                        mac.to_string(), name()));
    }
    rte_ether_addr address = to_ether(mac);
    steer(queues, address);
    steered_.push_back(mac);
}

void Port::steer(const VmQueues& queues, rte_ether_addr& mac) {
    check(rte_eth_dev_mac_addr_add(device_.id, &mac, queues.pool),
          fmt::format("steer an address to VMDq pool {} of port {}", queues.pool, name()));
}

void Port::unsteer(rte_ether_addr& mac) {
    check(rte_eth_dev_mac_addr_remove(device_.id, &mac),
          fmt::format("remove an address from port {}", name()));
}

void Port::reserve_mac(const VmQueues& queues, const MacAddress& mac) {
    reserved_.emplace_back(mac, queues.pool);
}

void Port::remove_mac(const MacAddress& mac) {
    rte_ether_addr address = to_ether(mac);
    unsteer(address);
    std::erase(steered_, mac);
}

// The NIC counts frames dropped at a full queue by queue (82599 datasheet, QPRDC), and those its
// packet buffer could not hold by port (MPC).
FrameCounts Port::counted() const {
    rte_eth_stats stats{};
    rte_eth_stats_get(device_.id, &stats);
    return {.received = stats.ipackets,
            .sent = stats.opackets,
            .missed = std::accumulate(std::begin(stats.q_errors), std::end(stats.q_errors),
                                      stats.imissed),
            .errors = stats.ierrors};
}

bool Port::link_up() const {
    rte_eth_link link{};
    return rte_eth_link_get_nowait(device_.id, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
}

}  // namespace zecorx
