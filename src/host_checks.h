// What must be true of the host before DPDK is started, each with the remedy if it is not.
#pragma once

#include <cstdint>
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

struct PciId {
    std::uint16_t vendor = 0;  // both 0: no such device
    std::uint16_t device = 0;
};
PciId pci_id(const std::string& bdf);

// Throws std::runtime_error for a device that no IOMMU confines: through it the NIC, and whoever
// makes it write where it should not, reaches all memory of the host.
void check_iommu(const std::string& bdf);

// Whether it is bound to a UIO driver.
bool uses_uio(const std::string& bdf);

// Whether no IOMMU translates for the device: UIO, or VFIO's no-IOMMU mode.
bool reached_without_iommu(const std::string& bdf);

}  // namespace zecorx
