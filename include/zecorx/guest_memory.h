// The frontend's memory table as the data path sees it: GPA -> HVA, HVA -> IOVA and HVA -> GPA.
//
// Thread rule: built by the control side before a worker sees it, immutable while a worker uses it.
// Every pointer handed out is guest-controlled memory: the driver can change what it points at
// at any time, so read once into a local, check, then use.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace zecorx {

// One entry of the frontend's memory table. `iova_pages` holds one IOVA for each page of
// `1 << page_shift` bytes starting at `page_base`, which is at or below `hva`; an empty table
// means IOVA = HVA (an IOMMU maps the region as one piece).
struct MemoryRegion {
    std::uint64_t gpa = 0;
    std::uint64_t size = 0;  // bytes
    std::byte* hva = nullptr;
    std::byte* page_base = nullptr;
    unsigned page_shift = 0;
    std::span<const std::uint64_t> iova_pages;
    std::uint64_t hva_as_iova = 0;  // set by GuestMemory::add()
};

// Where a run of guest bytes lies in this process.
struct GuestRange {
    std::byte* hva = nullptr;
    std::uint32_t length = 0;              // bytes, at most what was asked for
    const MemoryRegion* region = nullptr;  // nullptr: no region holds the first byte

    explicit operator bool() const { return region != nullptr; }
};

// Where a run of guest bytes lies for the driver; empty: it is not guest memory.
struct GpaRange {
    std::uint64_t gpa = 0;
    std::uint64_t length = 0;  // bytes, at most what was asked for
};

class GuestMemory {
  public:
    static constexpr std::size_t kMaxRegions = 32;  // of a session, memory slots included

    // REQUIRES: count() < kMaxRegions.
    void add(const MemoryRegion& region) {
        regions_[count_] = region;
        regions_[count_++].hva_as_iova = reinterpret_cast<std::uintptr_t>(region.hva);
    }
    std::size_t count() const { return count_; }

    // False: the NIC can write to none of it, for the control side could not arrange that.
    bool device_reaches() const { return device_reaches_; }
    void set_device_reaches(bool reaches) { device_reaches_ = reaches; }
    std::span<const MemoryRegion> regions() const { return {regions_.data(), count_}; }

    // The longest run of [gpa, gpa + length) that one region holds, from its first byte on.
    // Neither sum can wrap: the offset is below the region's size, and the length is cut to what
    // remains (keeps out a descriptor whose addr + len overflows).
    GuestRange translate(std::uint64_t gpa, std::uint32_t length) const {
        for (const MemoryRegion& region : regions()) {
            const std::uint64_t offset = gpa - region.gpa;
            if (offset >= region.size) continue;
            const std::uint64_t rest = region.size - offset;
            return {region.hva + offset, rest < length ? static_cast<std::uint32_t>(rest) : length,
                    &region};
        }
        return {};
    }

    // Whether one region holds all of [hva, hva + size).
    bool holds(const std::byte* hva, std::uint64_t size) const {
        return std::ranges::any_of(regions(), [&](const MemoryRegion& region) {
            const std::uint64_t offset = reinterpret_cast<std::uintptr_t>(hva) -
                                         reinterpret_cast<std::uintptr_t>(region.hva);
            return offset < region.size && region.size - offset >= size;
        });
    }

    // The longest run of [hva, hva + length) that one region holds, from its first byte on. Linear,
    // and not for the hot path, which has no use for it.
    GpaRange gpa_range(const std::byte* hva, std::uint64_t length) const {
        for (const MemoryRegion& region : regions()) {
            const std::uint64_t offset = reinterpret_cast<std::uintptr_t>(hva) -
                                         reinterpret_cast<std::uintptr_t>(region.hva);
            if (offset >= region.size) continue;
            return {region.gpa + offset, std::min(length, region.size - offset)};
        }
        return {};
    }

    static constexpr std::uint64_t kNoIova = ~0ULL;

    // IOVA of `hva` if the `length` bytes from there are contiguous for the device, else kNoIova.
    // REQUIRES: [hva, hva + length) lies in `region`, length > 0.
    static std::uint64_t contiguous_iova(const MemoryRegion& region, const std::byte* hva,
                                         std::uint32_t length) {
        if (region.iova_pages.empty()) return reinterpret_cast<std::uintptr_t>(hva);
        const auto offset = static_cast<std::uint64_t>(hva - region.page_base);
        const std::uint64_t page_size = 1ULL << region.page_shift;
        const std::size_t first = offset >> region.page_shift;
        const std::size_t last = (offset + length - 1) >> region.page_shift;
        const std::uint64_t iova = region.iova_pages[first];
        for (std::size_t page = first + 1; page <= last; ++page) {
            if (region.iova_pages[page] != iova + (page - first) * page_size) return kNoIova;
        }
        return iova + (offset & (page_size - 1));
    }

  private:
    std::array<MemoryRegion, kMaxRegions> regions_{};
    std::size_t count_ = 0;
    bool device_reaches_ = true;
};

}  // namespace zecorx
