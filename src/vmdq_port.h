// An 82599 in VMDq mode: a VMDq pool and an RX/TX queue pair for each VM, pool 0 for the host. RX
// queues are started and stopped one by one while the port runs; what the PMD has no call for is
// done by registers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "nic_registers.h"
#include "port.h"

namespace zecorx {

class VmdqPort final : public Port {
  public:
    // Configures it for `vms`. Throws std::runtime_error with the remedy: no VMDq, too many VMs.
    VmdqPort(EthDevice device, std::vector<VmOptions> vms, const PortGeometry& geometry);

    VmQueues queues_of(std::uint16_t index) const override;
    void set_up_vm(const VmQueues& queues, rte_mempool& rx_pool) override;
    void start() override;
    void start_rx(const VmQueues& queues, const std::function<void()>& attach) override;
    void stop_rx(const VmQueues& queues, const std::function<void()>& detach) override;
    void open_pool(const VmQueues& queues) override;
    void close_pool(const VmQueues& queues) noexcept override;

  private:
    void check_pools() const;
    void configure();
    void steer_vlans();
    const VmOptions* owner_of(std::uint16_t queue) const;  // null: the host or nobody
    void set_up_queue(std::uint16_t queue, std::uint16_t rx_descriptors,
                      std::uint16_t tx_descriptors, rte_mempool& pool);
    void stop_queue(std::uint16_t queue);
    // RXDCTL.ENABLE of an RX queue as the NIC reports it.
    bool rx_enabled(std::uint16_t queue) const;
    // Waits until that is so. False: it does not become so.
    bool reaches(std::uint16_t queue, bool enabled) const;

    std::uint16_t queue_count_ = 0;
    std::uint16_t queues_per_pool_ = 1;
    std::vector<bool> owned_;                  // by queue
    std::unique_ptr<NicRegisters> registers_;  // from start() on
};

}  // namespace zecorx
