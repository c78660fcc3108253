// Memory that the frontend shares by a file descriptor: guest memory regions and the dirty log.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "fault_guard.h"
#include "protocol.h"
#include "zecorx/guest_memory.h"
#include "zecorx/unique_fd.h"

namespace zecorx::vhost_user {

// A part of a file, mapped to read and write. Throws Refusal if the file does not hold it, and
// std::runtime_error if the host cannot map it.
class SharedMapping {
  public:
    SharedMapping(const UniqueFd& file, std::uint64_t offset, std::uint64_t size);
    ~SharedMapping();
    SharedMapping(const SharedMapping&) = delete;
    SharedMapping& operator=(const SharedMapping&) = delete;

    // What was asked for.
    std::span<std::byte> bytes() const { return bytes_; }
    // The whole pages around it.
    std::span<std::byte> pages() const { return pages_; }
    // Of the file: 4096 where it does not lie on huge pages.
    std::size_t page_size() const { return page_size_; }
    // The frontend took a page of it back.
    bool lost() const { return guard_->lost(); }

  private:
    std::size_t page_size_ = 0;
    std::span<std::byte> pages_;
    std::span<std::byte> bytes_;
    std::optional<FaultGuard> guard_;
};

// A region of the frontend's memory table.
class GuestRegion {
  public:
    GuestRegion(const RegionDescription& description, UniqueFd file);

    const RegionDescription& description() const { return description_; }
    const SharedMapping& mapping() const { return mapping_; }

    // Where the frontend's own address lies here; null if not in this region.
    std::byte* locate(std::uint64_t user_address) const;
    bool overlaps(const RegionDescription& other) const;
    // Whether `file` at this description is the very same memory.
    bool same_as(const RegionDescription& description, const UniqueFd& file) const;

  private:
    RegionDescription description_;
    UniqueFd file_;
    SharedMapping mapping_;
};

// Shared with whoever made the regions reachable for the NIC: none is unmapped before that ends.
using GuestRegions = std::vector<std::shared_ptr<const GuestRegion>>;

inline constexpr std::size_t kMaxRegions = GuestMemory::kMaxRegions;

// A table of these regions; those that are as before keep their mapping. Throws as GuestRegion
// does, and if regions overlap; `current` is left alone.
GuestRegions make_table(const GuestRegions& current, std::span<const RegionDescription> regions,
                        std::vector<UniqueFd> files);
// `current` and one more.
GuestRegions with_region(const GuestRegions& current, const RegionDescription& region,
                         UniqueFd file);
// `current` without the region at that place; its file offset is not looked at, because frontends
// leave it out.
GuestRegions without_region(const GuestRegions& current, const RegionDescription& region);

}  // namespace zecorx::vhost_user
