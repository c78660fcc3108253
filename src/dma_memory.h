// Guest memory made reachable for the NIC, for as long as this object lives.
#pragma once

#include <rte_dev.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "page_pin.h"
#include "vhost_user/shared_memory.h"
#include "zecorx/guest_memory.h"

namespace zecorx {

// One mapping of the frontend's memory: registered with EAL, so that rte_mem_iova2virt knows it,
// and, where an IOMMU translates (IOVA = VA), mapped for the device. With physical IOVAs the pages
// are pinned and their addresses read once, here; never on the data path.
class DmaRegion {
  public:
    // `memory` is page-aligned. `page_size` is that of the file behind it. Throws
    // std::runtime_error with the remedy.
    DmaRegion(std::span<std::byte> memory, std::size_t page_size, rte_device* device);
    ~DmaRegion();
    DmaRegion(const DmaRegion&) = delete;
    DmaRegion& operator=(const DmaRegion&) = delete;

    std::span<std::byte> memory() const { return memory_; }
    unsigned page_shift() const { return page_shift_; }
    // One IOVA a page; empty where IOVA = VA.
    std::span<const std::uint64_t> iova_pages() const { return iova_pages_; }

  private:
    void read_iovas();
    void register_with_eal();
    void map_for_device();

    std::span<std::byte> memory_;
    std::size_t page_size_;
    unsigned page_shift_;
    rte_device* device_;
    std::unique_ptr<PagePin> pin_;
    std::vector<std::uint64_t> iova_pages_;
};

// The memory table of one vhost session, all of it in the NIC's reach or nothing.
class DmaMemory {
  public:
    // Null: whoever writes to the memory does so as this process.
    explicit DmaMemory(rte_device* device) : device_(device) {}

    // Takes every other region out of the NIC's reach. guest() is empty until the next update().
    // REQUIRES: as there.
    void keep_only(const vhost_user::GuestRegions& regions);
    // Makes exactly these regions reachable; those that are already stay as they are. REQUIRES:
    // the NIC owns no buffer in any that goes, and nobody uses guest(). If one cannot be made so,
    // none is, guest() says so, and what failed is returned, with the remedy.
    std::optional<std::string> update(const vhost_user::GuestRegions& regions);
    void clear() { keep_only({}); }

    const GuestMemory& guest() const { return guest_; }

  private:
    struct Entry {
        // Unmapped after the NIC has lost it: members go in reverse order.
        std::shared_ptr<const vhost_user::GuestRegion> region;
        std::unique_ptr<DmaRegion> dma;  // null: not mapped
    };

    void map(Entry& entry) const;
    static MemoryRegion describe(const Entry& entry);

    rte_device* device_;
    std::vector<Entry> entries_;
    GuestMemory guest_;
};

}  // namespace zecorx
