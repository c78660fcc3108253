// The PCI part of sysfs as EAL sees it: one directory per software port, and nothing else.
//
// EAL scans $SYSFS_PCI_DEVICES and opens /sys/class/uio/uioN/device/config. Both are served from a
// tmpfs over /sys/class in a private mount namespace, so no other process sees them and nothing is
// left behind however this process ends. The host's classes stay reachable under their names.
//
// The namespace belongs to the thread that constructs this and to threads it starts afterwards:
// construct before EAL and before other threads.
#pragma once

#include <string>
#include <vector>

#include "zecorx/unique_fd.h"

namespace zecorx::soft82599 {

class SysfsTree {
  public:
    struct PortEntry {
        std::string bdf;
        unsigned uio_number = 0;
    };

    explicit SysfsTree(const std::vector<PortEntry>& ports);  // throws std::runtime_error
    ~SysfsTree();
    SysfsTree(const SysfsTree&) = delete;
    SysfsTree& operator=(const SysfsTree&) = delete;

    // The empty file that EAL maps as BAR 0 of the port at this index.
    int resource_fd(std::size_t index) const { return resources_.at(index).get(); }

  private:
    void enter_private_namespace();
    void cover_class_directory();
    void add_port(const PortEntry& port);

    std::vector<UniqueFd> resources_;
    std::string previous_pci_path_;
    bool had_pci_path_ = false;
};

}  // namespace zecorx::soft82599
