#include "dma_eal.h"

#include <rte_eal_memconfig.h>
#include <rte_memory.h>

#include <algorithm>

namespace zecorx::soft82599 {
namespace {

constexpr unsigned kHugeShift = 21;
constexpr unsigned kSmallShift = 12;

std::size_t slot_of(std::uint64_t iova, unsigned shift, std::size_t slots) {
    return (iova >> shift) % slots;
}

// EAL's tables of memory do not change meanwhile: another thread may be taking a guest's out, and
// the table that says so goes with it.
class TablesHeld {
  public:
    TablesHeld() { rte_mcfg_mem_read_lock(); }
    ~TablesHeld() { rte_mcfg_mem_read_unlock(); }
    TablesHeld(const TablesHeld&) = delete;
    TablesHeld& operator=(const TablesHeld&) = delete;
};

struct Search {
    std::uint64_t iova;
    const rte_memseg* found;
};

int find_segment(const rte_memseg_list*, const rte_memseg* segment, void* search) {
    auto& wanted = *static_cast<Search*>(search);
    if (wanted.iova - segment->iova >= segment->len) return 0;
    wanted.found = segment;
    return 1;
}

// Whether EAL maps this page, at this address and with this IOVA, at this moment.
// REQUIRES: the tables are held.
bool is_current(const std::byte* address, std::uint64_t iova) {
    const rte_memseg_list* const list = rte_mem_virt2memseg_list(address);
    if (list == nullptr) return false;
    const rte_memseg* const segment = rte_mem_virt2memseg(address, list);
    return segment != nullptr && segment->addr != nullptr && segment->iova == iova;
}

}  // namespace

EalDmaSpace::EalDmaSpace() : huge_pages_(kSlots), small_pages_(kSlots) {}

std::span<std::byte> EalDmaSpace::translate(std::uint64_t iova, std::size_t length) {
    const TablesHeld held;
    const Page* const page = find(iova);
    if (page == nullptr) return {};
    const std::uint64_t offset = iova - page->iova;
    return {page->address + offset, std::min<std::size_t>(length, page->size - offset)};
}

const EalDmaSpace::Page* EalDmaSpace::find(std::uint64_t iova) {
    Page& huge = huge_pages_[slot_of(iova, kHugeShift, kSlots)];
    if (huge.holds(iova) && is_current(huge.address, huge.iova)) return &huge;
    Page& small = small_pages_[slot_of(iova, kSmallShift, kSlots)];
    if (small.holds(iova) && is_current(small.address, small.iova)) return &small;
    const Page found = look_up(iova);
    if (found.size == 0) return nullptr;
    Page& slot = found.size >> kHugeShift != 0 ? huge : small;
    slot = found;
    return &slot;
}

EalDmaSpace::Page EalDmaSpace::look_up(std::uint64_t iova) const {
    Search search{iova, nullptr};
    rte_memseg_walk_thread_unsafe(find_segment, &search);
    const rte_memseg* const segment = search.found;
    if (segment == nullptr) return {};
    return {segment->iova, static_cast<std::byte*>(segment->addr), segment->len};
}

}  // namespace zecorx::soft82599
