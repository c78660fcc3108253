// Where a guest buffer lies for this process and for the device, near where the last one lay.
#pragma once

#include <cstddef>
#include <cstdint>

#include "zecorx/guest_memory.h"

namespace zecorx {

// What a driver posts mostly lies in the region of what it posted before, so that region's bounds
// and page table are kept at hand here, and a look-up is three comparisons and two additions.
//
// A value, to be copied into a loop: it is small, and what the loop stores cannot change it.
class ExtentFinder {
  public:
    struct Extent {
        std::byte* hva = nullptr;  // of the first byte
        std::uint64_t iova = 0;    // likewise
    };

    // Knows no region: finds nothing.
    ExtentFinder() = default;

    // Finds buffers in `region` whose first `needed` bytes are contiguous for the device.
    // REQUIRES: needed > 0. `region` and what it points at outlive this.
    ExtentFinder(const MemoryRegion& region, std::uint32_t needed)
        : gpa_(region.gpa), size_(region.size), needed_(needed), hva_(region.hva) {
        const bool one_page = region.iova_pages.empty();  // IOVA = HVA
        iovas_ = one_page ? &region.hva_as_iova : region.iova_pages.data();
        page_shift_ = one_page ? kAddressBits : region.page_shift;
        to_page_ = one_page ? 0 : static_cast<std::uint64_t>(hva_ - region.page_base);
        page_mask_ = (std::uint64_t{1} << page_shift_) - 1;
        last_in_page_ = page_mask_ + 1 - needed;
        if (needed > page_mask_ + 1) size_ = 0;  // never in one page
    }

    // False: [gpa, gpa + length) is not in the region or too short, or what is needed is not in one
    // page, where it may be contiguous all the same.
    bool find(std::uint64_t gpa, std::uint32_t length, Extent& found) const {
        const std::uint64_t offset = gpa - gpa_;
        // Neither can wrap; see GuestMemory::translate.
        if (length < needed_ || offset >= size_ || size_ - offset < length) [[unlikely]]
            return false;
        const std::uint64_t at = offset + to_page_;
        const std::uint64_t in_page = at & page_mask_;
        if (in_page > last_in_page_) [[unlikely]]
            return false;
        found = {hva_ + offset, iovas_[at >> page_shift_] + in_page};
        return true;
    }

  private:
    static constexpr unsigned kAddressBits = 63;

    std::uint64_t gpa_ = 0;
    std::uint64_t size_ = 0;
    std::uint32_t needed_ = 0;
    unsigned page_shift_ = 0;
    std::byte* hva_ = nullptr;
    std::uint64_t to_page_ = 0;             // from an offset in the region to one in its pages
    const std::uint64_t* iovas_ = nullptr;  // of the pages
    std::uint64_t page_mask_ = 0;
    std::uint64_t last_in_page_ = 0;  // offset at which what is needed still fits
};

}  // namespace zecorx
