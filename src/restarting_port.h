// A port whose RX queues change only while all of it is stopped: its driver cannot stop one queue
// at run time, or has one only. Whoever else has a queue there is paused meanwhile, and resumed in
// order; nothing that the NIC had delivered is lost, what arrives during the outage is.
//
// With VMDq (an 82576, say) each VM has a pool and a queue; without, one VM has the port.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "port.h"

namespace zecorx {

class RestartingPort final : public Port {
  public:
    // `longest_frame`: what the operator knows that a driver without DMA writes at most for a
    // frame, in bytes; 0: as much as its buffers hold. Throws std::runtime_error with the remedy.
    RestartingPort(EthDevice device, std::vector<VmOptions> vms, const PortGeometry& geometry,
                   std::uint32_t longest_frame = 0);

    VmQueues queues_of(std::uint16_t index) const override;
    QueueGeometry geometry_for(const VmOptions& vm) const override;
    void set_up_vm(const VmQueues& queues, rte_mempool& rx_pool) override;
    void admit(const VmQueues& queues, PortTenant& tenant) override;
    void start() override;
    void start_rx(const VmQueues& queues, const std::function<void()>& attach) override;
    void stop_rx(const VmQueues& queues, const std::function<void()>& detach) override;
    std::uint16_t rx_descriptors() const override { return rx_descriptors_; }
    std::uint16_t tx_descriptors() const override { return tx_descriptors_; }
    bool pauses_others() const override { return vms_.size() > 1; }
    FrameCounts frames() const override;
    std::vector<std::string> limits() const override;

  private:
    // By queue. The host's has no tenant.
    struct Queue {
        rte_mempool* pool = nullptr;
        PortTenant* tenant = nullptr;
        bool running = false;  // its VM is served
    };

    bool vmdq() const { return device_.has_vmdq(); }
    bool fills_buffers() const { return !device_.has_dma() || is_virtio_; }
    std::uint16_t queue_of(std::uint16_t pool) const;
    std::uint32_t max_frame(const VmOptions& vm) const override;
    void check_vms() const;
    void choose_descriptors();
    void choose_room();
    std::uint64_t receive_offloads() const;
    rte_eth_conf configuration() const;
    void configure();
    void set_up_queues();
    void set_up_queue(std::uint16_t queue);
    void try_stopping();
    bool all_buffers_back() const;

    void change(std::uint16_t queue, bool runs, const std::function<void()>& between);
    void halt();
    void take_queues();
    void go();
    void must(const std::function<void()>& step, std::size_t others);
    void tell_outage(std::chrono::steady_clock::time_point began, std::size_t others);
    void steer(const VmQueues& queues, rte_ether_addr& mac) override;
    void unsteer(rte_ether_addr& mac) override;

    std::uint16_t queues_per_pool_ = 1;
    std::uint16_t rx_descriptors_ = 0;
    std::uint16_t tx_descriptors_ = kTxDescriptors;
    bool is_virtio_ = false;
    std::uint32_t longest_frame_ = 0;  // bytes, of a driver without DMA
    std::uint32_t room_ = 0;           // bytes of buffers that are filled as far as they go
    std::vector<Queue> queues_;
    bool started_ = false;
    FrameCounts at_halt_;           // what frames() was when the port was stopped
    FrameCounts forgotten_;         // what the driver does not count any more since then
    bool queues_given_up_ = false;  // a stop takes its queues from the driver
    bool promiscuous_ = false;      // its filter does not hold every address
};

}  // namespace zecorx
