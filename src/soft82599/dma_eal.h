// Bus addresses to memory, as EAL knows it: its own pages and what is registered with
// rte_extmem_register. The only part of the model that uses DPDK.
//
// Thread rule: one object per device, used under the device's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "dma_space.h"

namespace zecorx::soft82599 {

// Finding an address walks every page EAL knows, so pages are cached. Each use of a cached page is
// checked against EAL's tables: memory that was unregistered is a fault from then on, never a stale
// hit.
class EalDmaSpace : public DmaSpace {
  public:
    EalDmaSpace();

    std::span<std::byte> translate(std::uint64_t iova, std::size_t length) override;

  private:
    struct Page {
        std::uint64_t iova = 0;
        std::byte* address = nullptr;
        std::size_t size = 0;  // 0 = an empty slot

        bool holds(std::uint64_t wanted) const { return size != 0 && wanted - iova < size; }
    };
    // Direct-mapped, one table for huge pages and one for small ones.
    static constexpr std::size_t kSlots = 8192;
    using Table = std::vector<Page>;

    // REQUIRES: EAL's tables of memory are held.
    const Page* find(std::uint64_t iova);
    Page look_up(std::uint64_t iova) const;

    Table huge_pages_;
    Table small_pages_;
};

}  // namespace zecorx::soft82599
