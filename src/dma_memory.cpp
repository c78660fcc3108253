#include "dma_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_memory.h>
#include <rte_vhost.h>
#include <spdlog/spdlog.h>
#include <sys/vfs.h>

#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "zecorx/unique_fd.h"

namespace zecorx {
namespace {

constexpr std::size_t kSmallPage = 4096;

// Linux, Documentation/admin-guide/mm/pagemap.rst: one 64-bit entry a page, bits 0-54 the frame
// number, bit 63 present. The frame number reads as 0 without CAP_SYS_ADMIN.
constexpr std::uint64_t kPagemapFrame = (1ULL << 55) - 1;
constexpr std::uint64_t kPagemapPresent = 1ULL << 63;

// Page size of the file behind a region. A tmpfs file may be made of larger pages, but only the
// small ones are sure to be contiguous.
std::size_t page_size_of(int fd) {
    struct statfs fs {};
    if (::fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC) {
        return static_cast<std::size_t>(fs.f_bsize);
    }
    return kSmallPage;
}

std::uint64_t read_entry(int pagemap, const std::byte* address) {
    std::uint64_t entry = 0;
    const auto offset =
        static_cast<off_t>(reinterpret_cast<std::uintptr_t>(address) / kSmallPage * sizeof entry);
    return ::pread(pagemap, &entry, sizeof entry, offset) == sizeof entry ? entry : 0;
}

// A pinned page keeps its frame, but the kernel may take it out of the page table for a moment to
// see whether it can be moved. Touching it waits until it is back.
std::uint64_t read_frame(int pagemap, const std::byte* address) {
    constexpr int kTries = 100;
    for (int i = 0; i < kTries; ++i) {
        const std::uint64_t entry = read_entry(pagemap, address);
        if ((entry & kPagemapPresent) && (entry & kPagemapFrame)) {
            return (entry & kPagemapFrame) * kSmallPage;
        }
        [[maybe_unused]] const std::byte touched = *static_cast<const volatile std::byte*>(address);
    }
    throw std::runtime_error(
        "cannot read the IOVA of guest memory from /proc/self/pagemap: run as root "
        "(CAP_SYS_ADMIN), or use vfio-pci with an IOMMU");
}

}  // namespace

DmaRegion::DmaRegion(std::span<std::byte> memory, std::size_t page_size, rte_device* device)
    : memory_(memory),
      page_size_(page_size),
      page_shift_(static_cast<unsigned>(std::countr_zero(page_size))),
      device_(device) {
    if (rte_eal_iova_mode() == RTE_IOVA_PA) {
        pin_ = std::make_unique<PagePin>(memory_);
        read_iovas();
        register_with_eal();
        return;
    }
    register_with_eal();
    map_for_device();
}

DmaRegion::~DmaRegion() {
    if (iova_pages_.empty() &&
        rte_dev_dma_unmap(device_, memory_.data(), reinterpret_cast<std::uintptr_t>(memory_.data()),
                          memory_.size()) != 0) {
        spdlog::error("cannot take {} MiB of guest memory out of the IOMMU: {}",
                      memory_.size() >> 20, rte_strerror(rte_errno));
    }
    rte_extmem_unregister(memory_.data(), memory_.size());
}

void DmaRegion::read_iovas() {
    const UniqueFd pagemap(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
    iova_pages_.reserve(memory_.size() / page_size_);
    for (std::size_t offset = 0; offset < memory_.size(); offset += page_size_) {
        iova_pages_.push_back(read_frame(pagemap.get(), memory_.data() + offset));
    }
}

void DmaRegion::register_with_eal() {
    rte_iova_t* iovas = iova_pages_.empty() ? nullptr : iova_pages_.data();
    const auto pages = static_cast<unsigned>(iova_pages_.size());
    if (rte_extmem_register(memory_.data(), memory_.size(), iovas, pages, page_size_) != 0) {
        throw std::runtime_error(
            fmt::format("cannot register {} MiB of guest memory with EAL: {}; EAL takes about 120 "
                        "memory regions of all VMs together",
                        memory_.size() >> 20, rte_strerror(rte_errno)));
    }
}

void DmaRegion::map_for_device() {
    if (rte_dev_dma_map(device_, memory_.data(), reinterpret_cast<std::uintptr_t>(memory_.data()),
                        memory_.size()) == 0) {
        return;
    }
    const int error = rte_errno;
    rte_extmem_unregister(memory_.data(), memory_.size());
    throw std::runtime_error(
        fmt::format("cannot map {} MiB of guest memory into the IOMMU: {}; raise the memory-lock "
                    "limit (LimitMEMLOCK=infinity) or vfio_iommu_type1.dma_entry_limit",
                    memory_.size() >> 20, rte_strerror(error)));
}

DmaMemory::DmaMemory(int vid, rte_device* device) {
    rte_vhost_memory* raw = nullptr;
    if (rte_vhost_get_mem_table(vid, &raw) != 0) {
        throw std::runtime_error("the frontend gave no memory table");
    }
    const std::unique_ptr<rte_vhost_memory, decltype(&std::free)> table(raw, &std::free);
    if (table->nregions > GuestMemory::kMaxRegions) {
        throw std::runtime_error(
            fmt::format("the frontend's memory table has {} regions, more "
                        "than {}",
                        table->nregions, GuestMemory::kMaxRegions));
    }
    for (const rte_vhost_mem_region& region : std::span(table->regions, table->nregions)) {
        const std::span<std::byte> mapping(static_cast<std::byte*>(region.mmap_addr),
                                           region.mmap_size);
        const auto& dma = regions_.emplace_back(
            std::make_unique<DmaRegion>(mapping, page_size_of(region.fd), device));
        guest_.add({region.guest_phys_addr, region.size,
                    reinterpret_cast<std::byte*>(region.host_user_addr), mapping.data(),
                    dma->page_shift(), dma->iova_pages()});
    }
}

}  // namespace zecorx
