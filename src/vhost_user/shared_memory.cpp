#include "shared_memory.h"

#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "message.h"

namespace zecorx::vhost_user {
namespace {

constexpr std::size_t kSmallPage = 4096;

// A tmpfs file may be made of larger pages, but only the small ones are sure to be contiguous.
std::size_t page_size_of(const UniqueFd& file) {
    struct statfs fs {};
    if (::fstatfs(file.get(), &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC) {
        return static_cast<std::size_t>(fs.f_bsize);
    }
    return kSmallPage;
}

bool wraps(std::uint64_t start, std::uint64_t size) {
    return start > std::numeric_limits<std::uint64_t>::max() - size;
}

struct stat status_of(const UniqueFd& file) {
    struct stat status {};
    if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
        throw Refusal("the memory is not shared by a file");
    }
    return status;
}

// A mapping beyond the end of its file would fault on access (CVE-2026-86561).
void check_file(const UniqueFd& file, std::uint64_t offset, std::uint64_t size) {
    if (size == 0) throw Refusal("the memory has no bytes");
    if (wraps(offset, size)) {
        throw Refusal(fmt::format("{} bytes from offset {} wrap around", size, offset));
    }
    const auto length = static_cast<std::uint64_t>(status_of(file).st_size);
    if (offset + size <= length) return;
    throw Refusal(
        fmt::format("the file of the memory has {} bytes, and {} from offset {} are shared", length,
                    size, offset));
}

bool intersect(std::uint64_t a, std::uint64_t a_size, std::uint64_t b, std::uint64_t b_size) {
    return a < b + b_size && b < a + a_size;
}

const RegionDescription& checked(const RegionDescription& region) {
    if (wraps(region.gpa, region.size) || wraps(region.user_address, region.size)) {
        throw Refusal(fmt::format("a memory region of {} bytes at {:#x} wraps around", region.size,
                                  region.gpa));
    }
    return region;
}

void check_overlap(const GuestRegions& regions, const RegionDescription& region) {
    const auto found =
        std::ranges::find_if(regions, [&](const auto& other) { return other->overlaps(region); });
    if (found == regions.end()) return;
    throw Refusal(fmt::format("the memory region of {} bytes at {:#x} overlaps that at {:#x}",
                              region.size, region.gpa, (*found)->description().gpa));
}

}  // namespace

SharedMapping::SharedMapping(const UniqueFd& file, std::uint64_t offset, std::uint64_t size) {
    check_file(file, offset, size);
    page_size_ = page_size_of(file);
    const std::uint64_t inside = offset % page_size_;
    const std::uint64_t length = (inside + size + page_size_ - 1) / page_size_ * page_size_;
    void* const start = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(),
                               static_cast<off_t>(offset - inside));
    if (start == MAP_FAILED) {
        throw std::runtime_error(fmt::format("cannot map {} MiB of the frontend's memory: {}",
                                             length >> 20, std::strerror(errno)));
    }
    pages_ = {static_cast<std::byte*>(start), length};
    bytes_ = pages_.subspan(inside, size);
    ::madvise(start, length, MADV_DONTDUMP);
    try {
        guard_.emplace(pages_, page_size_);
    } catch (...) {
        ::munmap(start, length);
        throw;
    }
}

SharedMapping::~SharedMapping() {
    guard_.reset();
    ::munmap(pages_.data(), pages_.size());
}

GuestRegion::GuestRegion(const RegionDescription& description, UniqueFd file)
    : description_(checked(description)),
      file_(std::move(file)),
      mapping_(file_, description.file_offset, description.size) {}

std::byte* GuestRegion::locate(std::uint64_t user_address) const {
    const std::uint64_t offset = user_address - description_.user_address;
    return offset < description_.size ? mapping_.bytes().data() + offset : nullptr;
}

bool GuestRegion::overlaps(const RegionDescription& other) const {
    return intersect(description_.gpa, description_.size, other.gpa, other.size) ||
           intersect(description_.user_address, description_.size, other.user_address, other.size);
}

bool GuestRegion::same_as(const RegionDescription& description, const UniqueFd& file) const {
    if (description != description_ || mapping_.lost()) return false;
    const struct stat ours = status_of(file_), theirs = status_of(file);
    return ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

GuestRegions make_table(const GuestRegions& current, std::span<const RegionDescription> regions,
                        std::vector<UniqueFd> files) {
    GuestRegions table;
    for (std::size_t i = 0; i < regions.size(); ++i) {
        check_overlap(table, checked(regions[i]));
        const auto same = std::ranges::find_if(
            current, [&](const auto& region) { return region->same_as(regions[i], files.at(i)); });
        table.push_back(same != current.end() ? *same
                                              : std::make_shared<const GuestRegion>(
                                                    regions[i], std::move(files.at(i))));
    }
    return table;
}

GuestRegions with_region(const GuestRegions& current, const RegionDescription& region,
                         UniqueFd file) {
    if (current.size() == kMaxRegions) {
        throw Refusal(fmt::format("there are {} memory regions already", kMaxRegions));
    }
    check_overlap(current, checked(region));
    GuestRegions table = current;
    table.push_back(std::make_shared<const GuestRegion>(region, std::move(file)));
    return table;
}

GuestRegions without_region(const GuestRegions& current, const RegionDescription& region) {
    GuestRegions table = current;
    const auto at_place = [&](const auto& other) {
        const RegionDescription& known = other->description();
        return known.gpa == region.gpa && known.size == region.size &&
               known.user_address == region.user_address;
    };
    if (std::erase_if(table, at_place) == 0) {
        throw Refusal(
            fmt::format("there is no memory region of {} bytes at {:#x}", region.size, region.gpa));
    }
    return table;
}

}  // namespace zecorx::vhost_user
