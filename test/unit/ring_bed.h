// The device side of a fake guest's virtqueue, for tests of the pure parts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "guest/fake_guest.h"
#include "guest/frames.h"
#include "zecorx/any_ring.h"
#include "zecorx/guest_memory.h"

namespace zecorx::test {

// A FakeMemory as the data path sees it, with IOVAs that differ from HVAs, so that the two cannot
// be mixed up: page i of the whole memory gets IOVA page kFirstIovaPage + i, or, scattered, every
// page lies apart from its neighbours.
class DeviceView {
  public:
    enum class Iova {
        kContiguous,
        kScattered,
        kNone,  // the device reaches nothing
    };

    explicit DeviceView(const FakeMemory& memory, Iova kind = Iova::kContiguous) {
        const std::vector<MemoryRegion> regions = memory.regions();
        tables_.reserve(regions.size());
        for (const MemoryRegion& region : regions) add(memory, region, kind);
        guest_.set_device_reaches(kind != Iova::kNone);
    }

    const GuestMemory& guest() const { return guest_; }

    // Where a device's access to `iova` lands, up to the end of the page; throws
    // std::out_of_range for an address nobody gave it.
    std::span<std::byte> dma_page(std::uint64_t iova) const {
        const std::uint64_t offset = iova & (kPage - 1);
        std::byte* page = pages_.at((iova >> kShift) - kFirstIovaPage);
        if (page == nullptr) throw std::out_of_range("DMA to an IOVA nobody gave the device");
        return {page + offset, kPage - offset};
    }

    SplitRing ring(const SplitQueueDriver& queue, const FakeMemory& memory,
                   bool event_idx = false) const {
        return SplitRing(layout(queue, memory, event_idx));
    }
    static SplitRingLayout layout(const SplitQueueDriver& queue, const FakeMemory& memory,
                                  bool event_idx = false) {
        return {memory.at(queue.desc_table(), 16), memory.at(queue.avail_ring(), 4),
                memory.at(queue.used_ring(), 4), queue.size(), event_idx};
    }

    // It goes on where the driver's used side stands.
    PackedRing ring(const PackedQueueDriver& queue, const FakeMemory& memory,
                    bool event_idx = false) const {
        return PackedRing({memory.at(queue.descriptor_area(), 16),
                           memory.at(queue.driver_area(), 4), memory.at(queue.device_area(), 4),
                           queue.size(), event_idx, queue.used_idx()});
    }
    // Of either kind.
    AnyRing ring(const QueueDriver& queue, const FakeMemory& memory, bool event_idx = false) const {
        if (queue.is_packed()) {
            return ring(dynamic_cast<const PackedQueueDriver&>(queue), memory, event_idx);
        }
        return ring(dynamic_cast<const SplitQueueDriver&>(queue), memory, event_idx);
    }

  private:
    static constexpr unsigned kShift = 12;
    static constexpr std::uint64_t kPage = 1ULL << kShift;
    static constexpr std::uint64_t kFirstIovaPage = 0x7000000;

    void add(const FakeMemory& memory, const MemoryRegion& region, Iova kind) {
        std::byte* hva = memory.at(region.gpa, 1);
        std::vector<std::uint64_t>& table = tables_.emplace_back();
        for (std::size_t offset = 0; offset < region.size; offset += kPage) {
            table.push_back((kFirstIovaPage + pages_.size()) << kShift);
            pages_.push_back(hva + offset);
            if (kind == Iova::kScattered) pages_.push_back(nullptr);
        }
        pages_.push_back(nullptr);  // regions are never contiguous with each other
        if (kind == Iova::kNone) table.clear();
        guest_.add({region.gpa, region.size, hva, hva, kShift, table});
    }

    std::vector<std::vector<std::uint64_t>> tables_;
    std::vector<std::byte*> pages_;  // by IOVA page, from kFirstIovaPage on; null: nobody's
    GuestMemory guest_;
};

}  // namespace zecorx::test
