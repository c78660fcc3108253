#include "host_checks.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string_view>

namespace zecorx {
namespace {

namespace fs = std::filesystem;

constexpr const char* kHugePages = "/sys/kernel/mm/hugepages";
constexpr std::array<std::string_view, 2> kUioDrivers{"igb_uio", "uio_pci_generic"};

std::uint64_t read_number(const fs::path& path) {
    std::ifstream file(path);
    std::uint64_t number = 0;
    file >> number;
    return number;
}

// Free huge pages of all sizes, in KiB. Directories are named hugepages-<size>kB.
std::uint64_t free_huge_kib() {
    constexpr std::string_view kPrefix = "hugepages-";
    std::uint64_t total = 0;
    std::error_code error;
    for (const auto& size : fs::directory_iterator(kHugePages, error)) {
        const std::string name = size.path().filename().string();
        if (!name.starts_with(kPrefix)) continue;
        total +=
            std::stoull(name.substr(kPrefix.size())) * read_number(size.path() / "free_hugepages");
    }
    return total;
}

// The driver's name; empty: none.
std::string driver_of(const std::string& bdf) {
    std::error_code error;
    const fs::path link = fs::read_symlink(pci_device_path(bdf) + "/driver", error);
    return error ? "" : link.filename().string();
}

// VFIO's no-IOMMU mode makes groups of its own for devices that the kernel has in none.
bool without_iommu(const std::string& bdf) {
    const fs::path group = fs::path(pci_device_path(bdf)) / "iommu_group";
    if (!fs::is_symlink(group)) return true;
    std::ifstream file(group / "name");
    std::string name;
    file >> name;
    return name == "vfio-noiommu";
}

}  // namespace

void check_permission() {
    if (::geteuid() != 0) {
        throw std::runtime_error(
            "the daemon needs root to reach huge pages, page addresses and the NIC; run it as "
            "root");
    }
}

void check_huge_pages(unsigned mebibytes) {
    const std::uint64_t free = free_huge_kib() / 1024;
    if (free >= mebibytes) return;
    constexpr unsigned kPage = 2;  // MiB
    throw std::runtime_error(
        fmt::format("{} MiB of huge pages needed, {} MiB free; reserve more, as in 'sysctl "
                    "vm.nr_hugepages={}', or ask for less with --huge-mem",
                    mebibytes, free, (mebibytes + kPage - 1) / kPage));
}

void check_pci_device(const std::string& bdf) {
    if (!fs::exists(pci_device_path(bdf))) {
        throw std::runtime_error(fmt::format(
            "there is no PCI device {}; 'lspci -D -d 8086:' lists Intel's, --pci soft needs none",
            bdf));
    }
    const std::string driver = driver_of(bdf);
    if (driver == "vfio-pci" || std::ranges::count(kUioDrivers, driver) != 0) return;
    throw std::runtime_error(
        fmt::format("PCI device {} is bound to {}; bind it to vfio-pci with 'scripts/bind-nic "
                    "{}' (the kernel loses the interface)",
                    bdf, driver.empty() ? "no driver" : "the kernel driver " + driver, bdf));
}

std::string pci_device_path(const std::string& bdf) {
    const char* directory = std::getenv("SYSFS_PCI_DEVICES");
    return fmt::format("{}/{}", directory != nullptr ? directory : "/sys/bus/pci/devices", bdf);
}

PciId pci_id(const std::string& bdf) {
    const auto read = [&](const char* file) {
        std::ifstream text(fs::path(pci_device_path(bdf)) / file);
        unsigned id = 0;
        text >> std::hex >> id;
        return static_cast<std::uint16_t>(id);
    };
    return {read("vendor"), read("device")};
}

void check_iommu(const std::string& bdf) {
    if (!reached_without_iommu(bdf)) return;
    throw std::runtime_error(fmt::format(
        "PCI device {} is bound to {} without an IOMMU, so nothing keeps the NIC from writing "
        "anywhere in the host's memory; "
        "enable the IOMMU (VT-d in the BIOS, intel_iommu=on for the kernel) and bind the device to "
        "vfio-pci, or accept that with --unsafe-no-iommu",
        bdf, driver_of(bdf)));
}

bool uses_uio(const std::string& bdf) {
    return std::ranges::count(kUioDrivers, driver_of(bdf)) != 0;
}

bool reached_without_iommu(const std::string& bdf) { return uses_uio(bdf) || without_iommu(bdf); }

}  // namespace zecorx
