// One NIC port and what VMs own of it. What a port can do decides how it serves them: see
// open_port.h.
//
// Thread rule: control side only, under the control mutex; the workers use port_id() and the queue
// numbers with rte_eth_rx_burst and rte_eth_tx_burst.
#pragma once

#include <rte_ethdev.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "options.h"
#include "rx_pool.h"
#include "zecorx/geometry.h"
#include "zecorx/mac_address.h"

namespace zecorx {

// What a VM owns of the port.
struct VmQueues {
    std::uint16_t port = 0;
    std::uint16_t pool = 0;   // VMDq pool; 0 of a port without
    std::uint16_t queue = 0;  // RX and TX queue number
};

// A VM with a queue on a port that is stopped as a whole to change any of its queues.
class PortTenant {
  public:
    virtual ~PortTenant() = default;
    // From the return on nobody polls the queue; what had arrived is completed.
    virtual void pause() noexcept = 0;
    // The NIC has given every buffer back and takes new ones after this.
    virtual void rewind() noexcept = 0;
    // The queue receives again and may be polled.
    virtual void resume() noexcept = 0;
};

// A device that a DPDK driver has taken, and what the driver says of it.
struct EthDevice {
    std::string name;  // EAL's
    std::uint16_t id = 0;
    rte_eth_dev_info info{};

    // Throws std::runtime_error with the remedy: no driver took it.
    explicit EthDevice(const std::string& name);

    // Whether it reads and writes memory by DMA. Else its driver copies by the processor.
    bool has_dma() const;
    bool has_vmdq() const { return info.max_vmdq_pools > 1 && info.vmdq_queue_num > 1; }
};

// Frames that a port counted.
struct FrameCounts {
    std::uint64_t received = 0;
    std::uint64_t sent = 0;
    std::uint64_t missed = 0;  // no queue had a buffer for them
    std::uint64_t errors = 0;

    FrameCounts operator+(const FrameCounts& other) const {
        return {received + other.received, sent + other.sent, missed + other.missed,
                errors + other.errors};
    }
    FrameCounts operator-(const FrameCounts& other) const {
        return {received - other.received, sent - other.sent, missed - other.missed,
                errors - other.errors};
    }
};

class Port {
  public:
    // Of a NIC with descriptor rings.
    static constexpr std::uint16_t kRxDescriptors = 512;
    static constexpr std::uint16_t kTxDescriptors = 256;

    virtual ~Port();
    Port(const Port&) = delete;
    Port& operator=(const Port&) = delete;

    // The queues of VM `index` of this port, counted from 0.
    virtual VmQueues queues_of(std::uint16_t index) const = 0;
    // How frames for a VM are cut into buffers.
    virtual QueueGeometry geometry_for(const VmOptions& vm) const;

    // Sets up a VM's queue pair; its RX queue stays stopped until start_rx(), and takes mbufs of
    // `rx_pool` only while it runs. REQUIRES: start() has not been called.
    virtual void set_up_vm(const VmQueues& queues, rte_mempool& rx_pool) = 0;
    // `tenant` has these queues, as long as the port lives.
    virtual void admit(const VmQueues&, PortTenant&) {}
    // Keeps the pool of what a VM sends: the NIC's TX queue holds mbufs of it until the port is
    // closed.
    rte_mempool& keep(Mempool pool) { return *pools_.emplace_back(std::move(pool)); }

    // Sets up the queues nobody owns and gets the port ready. No frame goes to any VM yet.
    virtual void start() = 0;

    // Calls `attach` while the NIC has none of the queue's buffers; then it takes them. Throws
    // std::runtime_error with the queue stopped, after `attach`.
    virtual void start_rx(const VmQueues& queues, const std::function<void()>& attach) = 0;
    // Calls `detach` when the NIC has stopped using the queue and every buffer is back in its pool.
    virtual void stop_rx(const VmQueues& queues, const std::function<void()>& detach) = 0;

    // From here on the VM gets what its settings say of the frames that are not to one station:
    // broadcast, multicast, addresses of nobody.
    virtual void open_pool(const VmQueues&) {}
    virtual void close_pool(const VmQueues&) noexcept {}

    // Throws std::runtime_error also for an address that steers to another pool already: a VM
    // must not take its neighbour's frames, nor the host's.
    void add_mac(const VmQueues& queues, const MacAddress& mac);
    void remove_mac(const MacAddress& mac);
    // From here on add_mac() refuses the address to every other pool, steered or not.
    void reserve_mac(const VmQueues& queues, const MacAddress& mac);

    // Since the port was opened.
    virtual FrameCounts frames() const { return counted(); }
    bool link_up() const;
    const std::string& name() const { return device_.name; }
    const PortGeometry& geometry() const { return geometry_; }
    int socket() const { return socket_; }
    // The device that guest memory is mapped for; null: its driver needs no mapping.
    rte_device* dma_device() const { return device_.has_dma() ? device_.info.device : nullptr; }
    // Descriptors of an RX queue; also how many buffers the driver may hold.
    virtual std::uint16_t rx_descriptors() const { return kRxDescriptors; }
    virtual std::uint16_t tx_descriptors() const { return kTxDescriptors; }

    // What the port does of the checksums and the segmentation that a guest may ask for.
    struct TransmitAbilities {
        bool checksums = false;
        bool segmentation = false;  // TCP's
    };
    TransmitAbilities transmit_abilities() const;

    // Whether a VM's start or stop is an outage to the others on the port.
    virtual bool pauses_others() const { return false; }
    // How often the port was stopped to change a queue of one VM while others had theirs, and for
    // how long the last time.
    struct Outages {
        std::uint64_t count = 0;
        std::chrono::microseconds last{};
    };
    const Outages& outages() const { return outages_; }

    // What it cannot do, in words for the operator; empty: nothing that an 82599 can.
    virtual std::vector<std::string> limits() const { return {}; }

  protected:
    Port(EthDevice device, std::vector<VmOptions> vms, const PortGeometry& geometry);

    // F: the longest frame that the NIC may write for this VM, in bytes.
    virtual std::uint32_t max_frame(const VmOptions& vm) const;
    std::uint64_t transmit_offloads() const;
    // What the driver says.
    FrameCounts counted() const;
    virtual void steer(const VmQueues& queues, rte_ether_addr& mac);
    virtual void unsteer(rte_ether_addr& mac);
    // Throws what the operator needs to know about a failed ethdev call.
    void check(int result, const std::string& attempted) const;

    EthDevice device_;
    const std::vector<VmOptions> vms_;
    PortGeometry geometry_;
    int socket_ = 0;
    Outages outages_;
    std::vector<Mempool> pools_;                                  // freed after the port is closed
    std::vector<MacAddress> steered_;                             // the host's own first
    std::vector<std::pair<MacAddress, std::uint16_t>> reserved_;  // and for which VMDq pool
};

}  // namespace zecorx
