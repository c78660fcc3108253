// Guest memory of a few small regions, each an allocation of its own: a sanitizer sees the first
// byte beyond any of them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "input.h"
#include "zecorx/guest_memory.h"

namespace zecorx::fuzz {

class GuestRam {
  public:
    static constexpr std::size_t kMostRegions = 4;
    static constexpr std::uint64_t kFirstIova = 0x7'0000'0000;

    struct Shape {
        std::uint32_t least = 64;    // bytes of a region
        std::uint32_t most = 4096;   // bytes of a region
        unsigned page_shift = 12;    // of the IOVA table
        bool whole_pages = false;    // the sizes are
        bool odd_addresses = false;  // HVAs may be less aligned than their GPAs
    };

    // One to four regions, with the sizes, places and IOVAs that the input says.
    GuestRam(Input& input, const Shape& shape) {
        const std::size_t count = 1 + input.below(kMostRegions);
        std::uint64_t gpa = input.any_of<std::uint64_t>(
            {0x4000'0000, 0, 0x1000, 0xFFFF'F000, 0xFFFF'FFFF'0000'0000});
        const bool one_to_one = input.one_in(4);  // IOVA = HVA
        for (std::size_t i = 0; i < count; ++i) {
            std::uint32_t size = shape.least + input.below(shape.most - shape.least + 1);
            if (shape.whole_pages) size = round_to_page(size, shape.page_shift);
            const std::size_t skew = shape.odd_addresses && input.one_in(8) ? 4 : 0;
            add(gpa, size, skew, one_to_one ? 0 : shape.page_shift, input);
            gpa += size + input.any_of<std::uint32_t>({0, 0, 16, 0x10000});
        }
    }

    GuestRam(const GuestRam&) = delete;
    GuestRam& operator=(const GuestRam&) = delete;

    const GuestMemory& memory() const { return memory_; }
    std::span<const MemoryRegion> regions() const { return memory_.regions(); }

    // An address a driver may name: mostly in a region, often near an end of one.
    std::uint64_t address(Input& input) const {
        const MemoryRegion& region = any(input);
        switch (input.below(8)) {
            case 0:
                return input.take<std::uint64_t>();
            case 1:
                return region.gpa + region.size - input.byte();
            case 2:
                return region.gpa + input.byte();
            default:
                return region.gpa + input.word() % region.size;
        }
    }

    // Mostly short.
    static std::uint32_t length(Input& input) {
        switch (input.below(8)) {
            case 0:
                return input.take<std::uint32_t>();
            case 1:
            case 2:
            case 3:
                return input.word() % 4096;
            default:
                return input.byte();
        }
    }

    // What another processor of the guest may do at any time. Returns what was written.
    std::span<std::byte> scribble(Input& input) {
        const MemoryRegion& region = any(input);
        const std::uint64_t at = input.word() % region.size;
        std::array<std::byte, 32> bytes;
        const std::size_t size = 1 + input.below(bytes.size());
        input.fill(std::span(bytes).first(size));
        const std::span<std::byte> to(region.hva + at,
                                      std::min<std::uint64_t>(size, region.size - at));
        std::memcpy(to.data(), bytes.data(), to.size());
        return to;
    }

    const MemoryRegion& any(Input& input) const {
        return regions()[input.below(static_cast<std::uint32_t>(regions().size()))];
    }

    // The bytes at `gpa`, as far as one region goes; nullptr: nobody's.
    std::byte* at(std::uint64_t gpa, std::uint32_t length) const {
        for (const MemoryRegion& region : regions()) {
            if (gpa < region.gpa || gpa - region.gpa >= region.size) continue;
            return region.size - (gpa - region.gpa) < length ? nullptr
                                                             : region.hva + (gpa - region.gpa);
        }
        return nullptr;
    }

    // The region that holds all of it; nullptr: none does.
    const MemoryRegion* holding(const std::byte* hva, std::uint64_t length) const {
        for (const MemoryRegion& region : regions()) {
            if (hva >= region.hva && hva < region.hva + region.size &&
                static_cast<std::uint64_t>(region.hva + region.size - hva) >= length) {
                return &region;
            }
        }
        return nullptr;
    }

    // Writes as a device does, by IOVA. What nobody gave it is a finding.
    void dma_write(std::uint64_t iova, std::span<const std::byte> bytes) const {
        while (!bytes.empty()) {
            const std::span<std::byte> page = dma_page(iova);
            expect(!page.empty(), "the device is given IOVAs of guest memory only");
            const std::size_t n = std::min(page.size(), bytes.size());
            std::memcpy(page.data(), bytes.data(), n);
            bytes = bytes.subspan(n);
            iova += n;
        }
    }

  private:
    static std::uint32_t round_to_page(std::uint32_t size, unsigned shift) {
        return ((size - 1) >> shift << shift) + (1u << shift);
    }

    // page_shift 0: without an IOVA table.
    void add(std::uint64_t gpa, std::uint32_t size, std::size_t skew, unsigned page_shift,
             Input& input) {
        const std::size_t i = memory_.count();
        storage_[i] = std::make_unique<std::byte[]>(size + skew);
        std::byte* const hva = storage_[i].get() + skew;
        if (page_shift != 0) fill_table(i, size, page_shift, input.byte());
        memory_.add({gpa, size, hva, hva, page_shift, {iovas_[i].data(), iovas_[i].size()}});
    }

    // Bit j of `jumps`: page j+1 does not follow page j.
    void fill_table(std::size_t i, std::uint32_t size, unsigned shift, unsigned jumps) {
        const std::uint64_t page = std::uint64_t{1} << shift;
        std::uint64_t iova = kFirstIova + (i << 32);
        for (std::uint64_t done = 0; done < size; done += page, jumps >>= 1) {
            iovas_[i].push_back(iova);
            iova += (jumps & 1) != 0 ? 2 * page : page;
        }
    }

    std::span<std::byte> dma_page(std::uint64_t iova) const {
        for (std::size_t i = 0; i < memory_.count(); ++i) {
            const MemoryRegion& region = regions()[i];
            if (region.iova_pages.empty()) {
                const std::uint64_t offset = iova - reinterpret_cast<std::uintptr_t>(region.hva);
                if (offset < region.size) return {region.hva + offset, region.size - offset};
                continue;
            }
            const std::uint64_t page = std::uint64_t{1} << region.page_shift;
            for (std::size_t j = 0; j < iovas_[i].size(); ++j) {
                const std::uint64_t offset = iova - iovas_[i][j];
                if (offset >= page || j * page + offset >= region.size) continue;
                return {region.hva + j * page + offset,
                        std::min(page - offset, region.size - j * page - offset)};
            }
        }
        return {};
    }

    std::array<std::unique_ptr<std::byte[]>, kMostRegions> storage_;
    std::array<std::vector<std::uint64_t>, kMostRegions> iovas_;
    GuestMemory memory_;
};

}  // namespace zecorx::fuzz
