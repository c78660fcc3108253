#include "guest_memory.h"

#include <linux/memfd.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace zecorx::test {

namespace {

constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t align) {
    return (value + align - 1) / align * align;
}

std::size_t page_bytes(const RegionSpec& spec) { return static_cast<std::size_t>(spec.page_size); }

UniqueFd create_file(const RegionSpec& spec) {
    const bool huge = spec.page_size == PageSize::k2MiB;
    const unsigned flags = MFD_CLOEXEC | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0U);
    UniqueFd fd(::memfd_create("zecorx-guest", flags));
    if (!fd) throw_errno("create a memfd for guest RAM");
    if (::ftruncate(fd.get(), static_cast<off_t>(spec.mmap_offset + spec.size)) != 0) {
        throw_errno("size the memfd of guest RAM");
    }
    return fd;
}

void check_spec(const RegionSpec& spec) {
    const std::size_t page = page_bytes(spec);
    if (spec.size == 0 || spec.size % page != 0 || spec.mmap_offset % page != 0) {
        throw std::invalid_argument("guest RAM region: size and offset must be whole pages");
    }
}

}  // namespace

FakeMemory::Region::Region(const RegionSpec& spec)
    : spec_(spec), fd_(create_file(spec)), next_free_(spec.gpa + kEdge) {
    map();
}

FakeMemory::Region::Region(Region&& other) noexcept
    : end_taken(other.end_taken),
      spec_(other.spec_),
      fd_(std::move(other.fd_)),
      reservation_(std::exchange(other.reservation_, nullptr)),
      reserved_(other.reserved_),
      mapping_(other.mapping_),
      next_free_(other.next_free_) {}

FakeMemory::Region& FakeMemory::Region::operator=(Region&& other) noexcept {
    if (this == &other) return *this;
    unmap();
    end_taken = other.end_taken;
    spec_ = other.spec_;
    fd_ = std::move(other.fd_);
    reservation_ = std::exchange(other.reservation_, nullptr);
    reserved_ = other.reserved_;
    mapping_ = other.mapping_;
    next_free_ = other.next_free_;
    return *this;
}

FakeMemory::Region::~Region() { unmap(); }

void FakeMemory::Region::unmap() {
    if (reservation_ != nullptr) ::munmap(reservation_, reserved_);
}

// Reserves address space for the region, a guard on each side and the slack to align, then maps
// the file over the middle of it.
void FakeMemory::Region::map() {
    const std::size_t page = page_bytes(spec_);
    reserved_ = spec_.size + 3 * page;
    void* reservation =
        ::mmap(nullptr, reserved_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reservation == MAP_FAILED) throw_errno("reserve addresses for guest RAM");
    reservation_ = static_cast<std::byte*>(reservation);

    const auto base = reinterpret_cast<std::uintptr_t>(reservation_);
    mapping_ = reservation_ + (align_up(base + page, page) - base);
    if (::mmap(mapping_, spec_.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd_.get(),
               static_cast<off_t>(spec_.mmap_offset)) == MAP_FAILED) {
        const int error = errno;
        unmap();
        errno = error;
        throw_errno("map guest RAM (for 2 MiB pages, are enough reserved in vm.nr_hugepages?)");
    }
}

std::optional<Gpa> FakeMemory::Region::allocate(std::size_t bytes, std::size_t align) {
    const Gpa start = align_up(next_free_, align);
    if (start + bytes > end() - kEdge) return std::nullopt;
    next_free_ = start + bytes;
    return start;
}

MemoryRegion FakeMemory::Region::describe() const {
    return {fd_.get(), spec_.gpa, spec_.size, reinterpret_cast<std::uintptr_t>(mapping_),
            spec_.mmap_offset};
}

FakeMemory::FakeMemory(std::size_t size, PageSize page_size) {
    add_region({.size = size, .page_size = page_size});
}

FakeMemory::FakeMemory(std::span<const RegionSpec> specs) {
    for (const RegionSpec& spec : specs) add_region(spec);
}

std::vector<RegionSpec> FakeMemory::equal_regions(std::size_t count, std::size_t size,
                                                  std::size_t gap, PageSize page_size) {
    std::vector<RegionSpec> specs;
    for (std::size_t i = 0; i < count; ++i) {
        specs.push_back(
            {.size = size, .gpa = kDefaultRamBase + i * (size + gap), .page_size = page_size});
    }
    return specs;
}

void FakeMemory::add_region(const RegionSpec& spec) {
    check_spec(spec);
    const bool overlaps = std::any_of(regions_.begin(), regions_.end(), [&](const Region& region) {
        return region.holds(spec.gpa) || region.spec().gpa - spec.gpa < spec.size;
    });
    if (overlaps) throw std::invalid_argument("guest RAM regions overlap");
    regions_.emplace_back(spec);
}

void FakeMemory::remove_region(std::size_t index) {
    if (index >= regions_.size()) throw std::out_of_range("no such guest RAM region");
    regions_.erase(regions_.begin() + static_cast<std::ptrdiff_t>(index));
}

std::vector<MemoryRegion> FakeMemory::regions() const {
    std::vector<MemoryRegion> all;
    for (const Region& region : regions_) all.push_back(region.describe());
    return all;
}

const FakeMemory::Region& FakeMemory::region_of(Gpa gpa) const {
    for (const Region& region : regions_) {
        if (region.holds(gpa)) return region;
    }
    throw std::out_of_range("GPA " + std::to_string(gpa) + " is in no guest RAM region");
}

std::byte* FakeMemory::at(Gpa gpa, std::size_t len) const {
    const Region& region = region_of(gpa);
    if (len > region.end() - gpa) {
        throw std::out_of_range("GPA " + std::to_string(gpa) + " + " + std::to_string(len) +
                                " leaves its guest RAM region");
    }
    return region.host(gpa);
}

// Calls visit(first gpa, host bytes) for each region's share of the range.
template <typename Visit>
void FakeMemory::for_each_piece(GuestRange range, Visit visit) const {
    while (range.len > 0) {
        const Region& region = region_of(range.gpa);
        const std::size_t len = std::min<std::size_t>(range.len, region.end() - range.gpa);
        if (!visit(range.gpa, std::span(region.host(range.gpa), len))) return;
        range = {range.gpa + len, range.len - len};
    }
}

void FakeMemory::write(Gpa gpa, std::span<const std::byte> bytes) {
    for_each_piece({gpa, bytes.size()}, [&](Gpa, std::span<std::byte> piece) {
        std::memcpy(piece.data(), bytes.data(), piece.size());
        bytes = bytes.subspan(piece.size());
        return true;
    });
}

void FakeMemory::read(Gpa gpa, std::span<std::byte> bytes) const {
    for_each_piece({gpa, bytes.size()}, [&](Gpa, std::span<const std::byte> piece) {
        std::memcpy(bytes.data(), piece.data(), piece.size());
        bytes = bytes.subspan(piece.size());
        return true;
    });
}

void FakeMemory::fill_canary(GuestRange range) {
    for_each_piece(range, [](Gpa gpa, std::span<std::byte> piece) {
        for (std::byte& byte : piece) byte = std::byte{canary_byte(gpa++)};
        return true;
    });
}

std::optional<Gpa> FakeMemory::find_damage(GuestRange range) const {
    std::optional<Gpa> damage;
    for_each_piece(range, [&damage](Gpa gpa, std::span<const std::byte> piece) {
        const auto bad = std::find_if(piece.begin(), piece.end(), [&gpa](std::byte byte) {
            return byte != std::byte{canary_byte(gpa++)};
        });
        if (bad != piece.end()) damage = gpa - 1;
        return !damage;
    });
    return damage;
}

Gpa FakeMemory::allocate(std::size_t bytes, std::size_t align) {
    for (Region& region : regions_) {
        if (const auto gpa = region.allocate(bytes, align)) return *gpa;
    }
    throw std::bad_alloc();
}

Gpa FakeMemory::allocate_in(std::size_t region, std::size_t bytes, std::size_t align) {
    const auto gpa = regions_.at(region).allocate(bytes, align);
    if (!gpa) throw std::bad_alloc();
    return *gpa;
}

void FakeMemory::forget_allocations() {
    for (Region& region : regions_) region.forget_allocations();
}

std::optional<Gpa> FakeMemory::allocate_across_boundary(std::size_t bytes) {
    for (Region& region : regions_) {
        const bool has_next =
            std::any_of(regions_.begin(), regions_.end(),
                        [&](const Region& next) { return next.spec().gpa == region.end(); });
        if (!has_next || std::exchange(region.end_taken, true)) continue;
        return region.end() - bytes / 2;
    }
    return std::nullopt;
}

}  // namespace zecorx::test
