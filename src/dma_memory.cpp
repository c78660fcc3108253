#include "dma_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_memory.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <cerrno>
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
    // The reason is in what EAL has logged; rte_errno does not have it.
    rte_extmem_unregister(memory_.data(), memory_.size());
    throw std::runtime_error(
        fmt::format("cannot map {} MiB of guest memory into the IOMMU; raise the memory-lock "
                    "limit (LimitMEMLOCK=infinity) or vfio_iommu_type1.dma_entry_limit",
                    memory_.size() >> 20));
}

void DmaMemory::keep_only(const vhost_user::GuestRegions& regions) {
    guest_ = {};
    std::erase_if(entries_, [&](const Entry& entry) {
        return std::ranges::find(regions, entry.region) == regions.end();
    });
}

void DmaMemory::map(Entry& entry) const {
    if (entry.dma || device_ == nullptr) return;
    const vhost_user::SharedMapping& mapping = entry.region->mapping();
    entry.dma = std::make_unique<DmaRegion>(mapping.pages(), mapping.page_size(), device_);
}

MemoryRegion DmaMemory::describe(const Entry& entry) {
    const std::span<std::byte> bytes = entry.region->mapping().bytes();
    MemoryRegion region;
    region.gpa = entry.region->description().gpa;
    region.size = bytes.size();
    region.hva = bytes.data();
    if (entry.dma) {
        region.page_base = entry.dma->memory().data();
        region.page_shift = entry.dma->page_shift();
        region.iova_pages = entry.dma->iova_pages();
    }
    return region;
}

std::optional<std::string> DmaMemory::update(const vhost_user::GuestRegions& regions) {
    keep_only(regions);
    for (const auto& region : regions) {
        if (std::ranges::find(entries_, region, &Entry::region) == entries_.end()) {
            entries_.push_back({region, nullptr});
        }
    }
    std::optional<std::string> failure;
    try {
        for (Entry& entry : entries_) map(entry);
    } catch (const std::exception& error) {
        // What was mapped counts towards limits that others need.
        for (Entry& entry : entries_) entry.dma.reset();
        failure = error.what();
    }
    for (const Entry& entry : entries_) guest_.add(describe(entry));
    guest_.set_device_reaches(!failure);
    return failure;
}

}  // namespace zecorx
