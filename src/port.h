// One NIC port in VMDq mode: a VMDq pool and an RX/TX queue pair for each VM, pool 0 for the host.
//
// Thread rule: control side only, under the control mutex; the workers use port_id() and the queue
// numbers with rte_eth_rx_burst and rte_eth_tx_burst.
#pragma once

#include <rte_ethdev.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nic_registers.h"
#include "options.h"
#include "rx_pool.h"
#include "zecorx/geometry.h"
#include "zecorx/mac_address.h"

namespace zecorx {

// What a VM owns of the port.
struct VmQueues {
    std::uint16_t port = 0;
    std::uint16_t pool = 0;   // VMDq pool
    std::uint16_t queue = 0;  // RX and TX queue number
};

class Port {
  public:
    static constexpr std::uint16_t kRxDescriptors = 512;
    static constexpr std::uint16_t kTxDescriptors = 256;

    // Finds the port EAL probed at `bdf` and configures it for `vms`, with frames of `mtu` bytes
    // behind their Ethernet header. Throws std::runtime_error with the remedy: not found, no VMDq,
    // too many VMs.
    Port(const std::string& bdf, std::vector<VmOptions> vms, std::uint32_t mtu = kDefaultMtu);
    ~Port();
    Port(const Port&) = delete;
    Port& operator=(const Port&) = delete;

    // The pool and queue pair of VM `index`, counted from 0.
    VmQueues queues_of(std::uint16_t index) const;

    // Sets up a VM's queue pair; its RX queue stays stopped until start_rx(), and takes mbufs of
    // `rx_pool` only while it runs. REQUIRES: start() has not been called.
    void set_up_vm(const VmQueues& queues, rte_mempool& rx_pool);
    // Keeps the pool of what a VM sends: the NIC's TX queue holds mbufs of it until the port is
    // closed.
    rte_mempool& keep(Mempool pool) { return *pools_.emplace_back(std::move(pool)); }

    // Sets up the queues nobody owns and starts the port. No frame goes to any VMDq pool yet.
    void start();

    // Posts a full ring of the queue's mempool and lets the NIC use it. Throws std::runtime_error
    // with the queue stopped.
    void start_rx(const VmQueues& queues);
    // Returns after the NIC has stopped using the queue; the PMD gives its mbufs back to the pool.
    void stop_rx(const VmQueues& queues);

    // From here on the VM gets what its settings say of the frames that are not to one station:
    // broadcast, multicast, addresses of nobody.
    void open_pool(const VmQueues& queues);
    void close_pool(const VmQueues& queues) noexcept;

    // Throws std::runtime_error also for an address that steers to another pool already: a VM
    // must not take its neighbour's frames, nor the host's.
    void add_mac(const VmQueues& queues, const MacAddress& mac);
    void remove_mac(const MacAddress& mac);
    // From here on add_mac() refuses the address to every other pool, steered or not.
    void reserve_mac(const VmQueues& queues, const MacAddress& mac);

    rte_eth_stats stats() const;
    bool link_up() const;
    const std::string& name() const { return bdf_; }
    const PortGeometry& geometry() const { return geometry_; }
    int socket() const { return socket_; }
    rte_device* device() const { return info_.device; }

  private:
    void check_capabilities() const;
    void configure();
    void steer_vlans();
    const VmOptions* owner_of(std::uint16_t queue) const;  // null: the host or nobody
    void set_up_queue(std::uint16_t queue, std::uint16_t rx_descriptors,
                      std::uint16_t tx_descriptors, rte_mempool& pool);
    // RXDCTL.ENABLE of an RX queue as the NIC reports it.
    bool rx_enabled(std::uint16_t queue) const;
    // Waits until that is so. False: it does not become so.
    bool reaches(std::uint16_t queue, bool enabled) const;

    std::string bdf_;
    std::vector<VmOptions> vms_;
    PortGeometry geometry_;
    std::uint16_t id_ = 0;
    int socket_ = 0;
    rte_eth_dev_info info_{};
    std::uint16_t queue_count_ = 0;
    std::uint16_t queues_per_pool_ = 1;
    std::vector<Mempool> pools_;                                  // freed after the port is closed
    std::vector<bool> owned_;                                     // by queue
    std::vector<MacAddress> steered_;                             // the host's own first
    std::vector<std::pair<MacAddress, std::uint16_t>> reserved_;  // and for which VMDq pool
    std::unique_ptr<NicRegisters> registers_;                     // from start() on
};

}  // namespace zecorx
