#include "nic_registers.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <rte_io.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <stdexcept>

#include "host_checks.h"
#include "zecorx/unique_fd.h"

namespace zecorx {
namespace {

// Bytes of BAR 0, by the flash behind it.
constexpr std::size_t kMost = 512 * 1024;
constexpr std::size_t kLeast = 128 * 1024;
constexpr std::uint32_t kRal0 = 0x0A200;  // RAL(0), RAH(0): 82599 datasheet 8.2.3.7
constexpr std::uint32_t kRah0 = 0x0A204;

std::uint32_t read_at(const std::byte* bar, std::uint32_t offset) {
    return rte_read32(bar + offset);
}

// The first receive address, which the PMD keeps at the port's own.
bool belongs_to(const std::byte* bar, const MacAddress& mac) {
    const std::uint32_t low = read_at(bar, kRal0);
    const std::uint32_t high = read_at(bar, kRah0);
    MacAddress first;
    std::memcpy(first.bytes.data(), &low, 4);
    std::memcpy(first.bytes.data() + 4, &high, 2);
    return first == mac;
}

// A line of /proc/self/maps that is a BAR 0 which DPDK mapped through VFIO: the region of BAR 0 is
// the device's first. Null: it is something else.
std::byte* vfio_bar(const std::string& line) {
    std::uintptr_t start = 0, end = 0;
    unsigned long long offset = 0;
    if (line.find("[vfio-device]") == line.npos ||
        std::sscanf(line.c_str(), "%lx-%lx rw-s %llx", &start, &end, &offset) != 3) {
        return nullptr;
    }
    return offset == 0 && end - start >= kLeast ? reinterpret_cast<std::byte*>(start) : nullptr;
}

// VFIO gives a device to one opener, so the PMD's mapping is the only one there can be.
std::byte* find_vfio_bar(const std::string& bdf, const MacAddress& mac) {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        std::byte* const bar = vfio_bar(line);
        if (bar != nullptr && belongs_to(bar, mac)) return bar;
    }
    throw std::runtime_error(
        fmt::format("cannot find where DPDK mapped the registers of {}, so VMs cannot be steered; "
                    "bind it to igb_uio or uio_pci_generic instead of vfio-pci",
                    bdf));
}

// All of the BAR: a mapping that goes beyond it is refused.
std::span<std::byte> map_uio_bar(const std::string& bdf, const MacAddress& mac) {
    const std::string path = pci_device_path(bdf) + "/resource0";
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    void* bar = MAP_FAILED;
    std::size_t size = kMost;
    if (fd.get() >= 0) {
        bar = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    }
    if (bar == MAP_FAILED && errno == EINVAL) {
        size = kLeast;
        bar = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    }
    if (bar == MAP_FAILED) {
        throw std::runtime_error(fmt::format(
            "cannot map the NIC's registers from {}: {}; a kernel with strict access to device "
            "memory needs iomem=relaxed, or bind the NIC to vfio-pci",
            path, std::strerror(errno)));
    }
    if (!belongs_to(static_cast<std::byte*>(bar), mac)) {
        ::munmap(bar, size);
        throw std::runtime_error(fmt::format(
            "{} does not hold the registers of an 82599 with the address {}; use an 82599", path,
            mac.to_string()));
    }
    return {static_cast<std::byte*>(bar), size};
}

}  // namespace

NicRegisters::NicRegisters(const std::string& bdf, const MacAddress& mac) {
    if (uses_uio(bdf)) {
        mapped_ = map_uio_bar(bdf, mac);
        bar_ = mapped_.data();
    } else {
        bar_ = find_vfio_bar(bdf, mac);
    }
}

NicRegisters::~NicRegisters() {
    if (!mapped_.empty()) ::munmap(mapped_.data(), mapped_.size());
}

std::uint32_t NicRegisters::read(std::uint32_t offset) const { return read_at(bar_, offset); }

void NicRegisters::write(std::uint32_t offset, std::uint32_t value) {
    rte_write32(value, bar_ + offset);
}

}  // namespace zecorx
