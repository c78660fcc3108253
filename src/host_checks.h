// What must be true of the host before DPDK is started, each with the remedy if it is not.
#pragma once

#include <string>

namespace zecorx {

// The daemon needs root: pagemap, hugetlb pages, the NIC. Throws std::runtime_error.
void check_permission();

// `mebibytes` of huge pages are free. Throws std::runtime_error.
void check_huge_pages(unsigned mebibytes);

// The PCI device exists and is bound to a driver that lets a process drive it.
// Throws std::runtime_error.
void check_pci_device(const std::string& bdf);

// The device's directory in sysfs, where EAL looks for it too.
std::string pci_device_path(const std::string& bdf);

// Whether the device is reached without an IOMMU's translation (a UIO driver).
bool uses_physical_iova(const std::string& bdf);

}  // namespace zecorx
