// DPDK's environment abstraction layer as a resource.
#pragma once

#include <string>
#include <vector>

#include "options.h"

namespace zecorx {

struct EalDevices {
    std::vector<std::string> pci{};       // addresses; no other PCI device is probed
    std::vector<std::string> software{};  // devices without PCI, with their arguments
    bool physical_iova = false;           // for a NIC that no IOMMU translates for
};

class Eal {
  public:
    // EAL lcore 0 is the control side and floats over all CPUs; worker i is lcore i + 1, pinned to
    // options.worker_cpus[i]. Throws std::runtime_error with the remedy.
    Eal(const Options& options, const EalDevices& devices);
    ~Eal();
    Eal(const Eal&) = delete;
    Eal& operator=(const Eal&) = delete;

    static unsigned worker_lcore(std::size_t worker) { return static_cast<unsigned>(worker + 1); }
};

// The argument vector given to rte_eal_init.
std::vector<std::string> eal_arguments(const Options& options, const EalDevices& devices);

}  // namespace zecorx
