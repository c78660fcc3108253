// Guest RAM as a frontend shares it with a backend: memfd regions at chosen guest addresses.
//
// Every address a guest hands out is a GPA. A range of GPAs may cross from one region into the
// next when the two are adjacent; their host mappings never are, because every mapping sits
// between guard pages. Ring code under test that runs off a region therefore faults at once.
//
// Canary: a byte pattern computed from the GPA. Memory that must not be written is filled with it
// and compared later, so a misplaced copy of canary bytes is noticed as well.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "event_fd.h"

namespace zecorx::test {

using Gpa = std::uint64_t;

constexpr std::size_t operator""_KiB(unsigned long long n) { return n << 10; }
constexpr std::size_t operator""_MiB(unsigned long long n) { return n << 20; }

enum class PageSize : std::size_t { k4KiB = 4_KiB, k2MiB = 2_MiB };

// Where RAM starts unless a test says otherwise. Not 0: a GPA mistaken for an offset must fail.
inline constexpr Gpa kDefaultRamBase = 0x4000'0000;

struct RegionSpec {
    std::size_t size = 0;  // bytes, a multiple of the page size
    Gpa gpa = kDefaultRamBase;
    PageSize page_size = PageSize::k4KiB;
    std::size_t mmap_offset = 0;  // bytes of the file ahead of the region, whole pages
};

// A region as the frontend describes it to a backend.
struct MemoryRegion {
    int fd;  // owned by the FakeMemory
    Gpa gpa;
    std::size_t size;
    std::uint64_t user_addr;  // the frontend's own address of the first byte
    std::size_t mmap_offset;
};

// A range of guest memory.
struct GuestRange {
    Gpa gpa = 0;
    std::size_t len = 0;
    Gpa end() const { return gpa + len; }
};

// Not thread-safe while regions or allocations change; the bytes are shared with the device and
// follow the rules of the virtqueues that live in them.
class FakeMemory {
  public:
    // One region. Throws std::system_error if the memory cannot be had.
    explicit FakeMemory(std::size_t size, PageSize page_size = PageSize::k4KiB);
    explicit FakeMemory(std::span<const RegionSpec> specs);

    // `count` equal regions, each `gap` bytes of GPA after the one before; 0 makes them adjacent.
    static std::vector<RegionSpec> equal_regions(std::size_t count, std::size_t size,
                                                 std::size_t gap,
                                                 PageSize page_size = PageSize::k4KiB);

    // Memory hotplug. Throws std::invalid_argument for an overlap or a size that is not whole
    // pages. Removing keeps the order of the others and invalidates addresses in the removed one.
    void add_region(const RegionSpec& spec);
    void remove_region(std::size_t index);

    std::vector<MemoryRegion> regions() const;

    // Host address of [gpa, gpa + len). Throws std::out_of_range unless one region holds it all.
    std::byte* at(Gpa gpa, std::size_t len) const;
    template <typename T>
    T* as(Gpa gpa) const {
        return reinterpret_cast<T*>(at(gpa, sizeof(T)));
    }
    std::uint64_t user_addr(Gpa gpa) const { return reinterpret_cast<std::uintptr_t>(at(gpa, 1)); }

    // These cross between adjacent regions, and throw std::out_of_range at a hole.
    void write(Gpa gpa, std::span<const std::byte> bytes);
    void read(Gpa gpa, std::span<std::byte> bytes) const;
    void fill_canary(GuestRange range);
    std::optional<Gpa> find_damage(GuestRange range) const;  // first byte that is not canary

    // Bump allocation without freeing, from the first region with room or from a given one.
    // Throws std::bad_alloc. The first and last kEdge bytes of each region are never handed out:
    // they are for tests that want addresses at an edge.
    static constexpr std::size_t kEdge = 4_KiB;
    Gpa allocate(std::size_t bytes, std::size_t align = 64);
    Gpa allocate_in(std::size_t region, std::size_t bytes, std::size_t align = 64);
    // As if nothing had been allocated yet: a guest that is reset lays its memory out anew.
    void forget_allocations();

    // A range whose middle is where one region ends and the next begins; each such boundary is
    // handed out once. REQUIRES: bytes / 2 < kEdge.
    std::optional<Gpa> allocate_across_boundary(std::size_t bytes);

  private:
    // A memfd mapped between guard pages.
    class Region {
      public:
        explicit Region(const RegionSpec& spec);
        Region(Region&& other) noexcept;
        Region& operator=(Region&& other) noexcept;
        ~Region();

        bool holds(Gpa gpa) const { return gpa - spec_.gpa < spec_.size; }
        Gpa end() const { return spec_.gpa + spec_.size; }
        std::byte* host(Gpa gpa) const { return mapping_ + (gpa - spec_.gpa); }
        std::optional<Gpa> allocate(std::size_t bytes, std::size_t align);
        MemoryRegion describe() const;
        void forget_allocations() {
            next_free_ = spec_.gpa + kEdge;
            end_taken = false;
        }
        const RegionSpec& spec() const { return spec_; }

        bool end_taken = false;  // by allocate_across_boundary()

      private:
        void map();
        void unmap();

        RegionSpec spec_;
        UniqueFd fd_;
        std::byte* reservation_ = nullptr;  // guards included
        std::size_t reserved_ = 0;          // bytes
        std::byte* mapping_ = nullptr;
        Gpa next_free_;
    };

    const Region& region_of(Gpa gpa) const;
    template <typename Visit>
    void for_each_piece(GuestRange range, Visit visit) const;

    std::vector<Region> regions_;
};

constexpr std::uint8_t canary_byte(Gpa gpa) {
    return static_cast<std::uint8_t>(0xA5 ^ (gpa * 29 + (gpa >> 8) * 7));
}

}  // namespace zecorx::test
