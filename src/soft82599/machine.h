// A machine with software 82599 ports that DPDK's stock ixgbe driver finds, maps and drives.
//
// Construct before rte_eal_init, in the thread that calls it and before other threads are started
// (see SysfsTree); destroy after rte_eal_cleanup. EAL must run with --iova-mode=pa, because the
// ports look like devices bound to igb_uio. While a machine exists, EAL sees no other PCI device.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "config.h"
#include "port.h"
#include "sysfs_tree.h"

namespace zecorx::soft82599 {

class Machine {
  public:
    // Throws std::runtime_error with one sentence for the operator.
    explicit Machine(Config config);
    ~Machine();
    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;

    std::size_t port_count() const { return ports_.size(); }
    // In the order of the configuration. REQUIRES: index < port_count().
    Port& port(std::size_t index) { return *ports_.at(index); }

  private:
    std::vector<std::unique_ptr<Port>> ports_;
    std::unique_ptr<SysfsTree> tree_;
};

}  // namespace zecorx::soft82599
