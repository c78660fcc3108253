#include <sys/mman.h>

#include <catch2/catch_test_macros.hpp>
#include <cstring>

#include "guest_memory.h"

using namespace zecorx::test;

TEST_CASE("an address outside every region is refused") {
    const FakeMemory memory(1_MiB);
    CHECK_NOTHROW(memory.at(kDefaultRamBase, 1_MiB));
    CHECK_THROWS_AS(memory.at(kDefaultRamBase - 1, 1), std::out_of_range);
    CHECK_THROWS_AS(memory.at(kDefaultRamBase + 1_MiB, 1), std::out_of_range);
    CHECK_THROWS_AS(memory.at(kDefaultRamBase + 1, 1_MiB), std::out_of_range);
    CHECK_THROWS_AS(memory.at(kDefaultRamBase, ~std::size_t{0}), std::out_of_range);
}

TEST_CASE("a range may cross adjacent regions but not a hole") {
    FakeMemory adjacent(FakeMemory::equal_regions(2, 64_KiB, 0));
    const Gpa boundary = kDefaultRamBase + 64_KiB;
    adjacent.fill_canary({boundary - 10, 20});
    CHECK_FALSE(adjacent.find_damage({boundary - 10, 20}));
    CHECK_THROWS_AS(adjacent.at(boundary - 10, 20), std::out_of_range);

    FakeMemory apart(FakeMemory::equal_regions(2, 64_KiB, 4_KiB));
    CHECK_THROWS_AS(apart.fill_canary({boundary - 10, 20}), std::out_of_range);
    CHECK_FALSE(apart.allocate_across_boundary(100));
}

TEST_CASE("one changed byte anywhere in a canary is found") {
    FakeMemory memory(FakeMemory::equal_regions(2, 64_KiB, 0));
    const GuestRange range{kDefaultRamBase + 64_KiB - 50, 100};
    for (Gpa gpa = range.gpa; gpa < range.end(); ++gpa) {
        memory.fill_canary(range);
        *memory.at(gpa, 1) ^= std::byte{1};
        CHECK(memory.find_damage(range) == gpa);
    }
}

TEST_CASE("canary bytes copied to another place are damage") {
    FakeMemory memory(64_KiB);
    const Gpa gpa = memory.allocate(200);
    memory.fill_canary({gpa, 200});
    std::memmove(memory.at(gpa + 12, 100), memory.at(gpa, 100), 100);
    CHECK(memory.find_damage({gpa, 200}));
}

TEST_CASE("allocations are aligned, disjoint and stay off the edges") {
    FakeMemory memory(FakeMemory::equal_regions(2, 64_KiB, 0));
    Gpa last_end = 0;
    for (const std::size_t align : {1, 2, 64, 4096}) {
        const Gpa gpa = memory.allocate(100, align);
        CHECK(gpa % align == 0);
        CHECK(gpa >= last_end);
        CHECK(gpa >= kDefaultRamBase + FakeMemory::kEdge);
        last_end = gpa + 100;
    }
    CHECK(memory.allocate_in(1, 100) >= kDefaultRamBase + 64_KiB + FakeMemory::kEdge);
    CHECK_THROWS_AS(memory.allocate(1_MiB), std::bad_alloc);
}

TEST_CASE("allocation moves on to the next region when one is full") {
    FakeMemory memory(FakeMemory::equal_regions(2, 64_KiB, 1_MiB));
    const Gpa first = memory.allocate(50_KiB);
    const Gpa second = memory.allocate(50_KiB);
    CHECK(first < kDefaultRamBase + 64_KiB);
    CHECK(second > kDefaultRamBase + 1_MiB);
}

TEST_CASE("each boundary between adjacent regions is handed out once") {
    FakeMemory memory(FakeMemory::equal_regions(3, 64_KiB, 0));
    const auto first = memory.allocate_across_boundary(2000);
    const auto second = memory.allocate_across_boundary(2000);
    REQUIRE(first);
    REQUIRE(second);
    CHECK(*first == kDefaultRamBase + 64_KiB - 1000);
    CHECK(*second == kDefaultRamBase + 128_KiB - 1000);
    CHECK_FALSE(memory.allocate_across_boundary(2000));
}

TEST_CASE("a region's file holds its bytes at the described offset") {
    const RegionSpec spec{.size = 64_KiB, .mmap_offset = 8_KiB};
    FakeMemory memory(std::span(&spec, 1));
    const Gpa gpa = memory.allocate(16);
    *memory.as<std::uint64_t>(gpa) = 0x1234'5678'9abc'def0;

    const MemoryRegion region = memory.regions().at(0);
    CHECK(region.mmap_offset == 8_KiB);
    CHECK(region.user_addr == memory.user_addr(kDefaultRamBase));
    void* other = ::mmap(nullptr, 72_KiB, PROT_READ, MAP_SHARED, region.fd, 0);
    REQUIRE(other != MAP_FAILED);
    std::uint64_t seen = 0;
    std::memcpy(&seen, static_cast<std::byte*>(other) + 8_KiB + (gpa - region.gpa), sizeof(seen));
    ::munmap(other, 72_KiB);
    CHECK(seen == 0x1234'5678'9abc'def0);
}

TEST_CASE("regions come and go") {
    FakeMemory memory(1_MiB);
    const RegionSpec hotplugged{.size = 64_KiB, .gpa = kDefaultRamBase + 16_MiB};
    memory.add_region(hotplugged);
    CHECK_THROWS_AS(memory.add_region(hotplugged), std::invalid_argument);
    CHECK_THROWS_AS(memory.add_region({.size = 64_MiB, .gpa = kDefaultRamBase - 1_MiB}),
                    std::invalid_argument);
    CHECK_THROWS_AS(memory.add_region({.size = 100, .gpa = 0}), std::invalid_argument);

    const Gpa gpa = memory.allocate_in(1, 64);
    CHECK_NOTHROW(memory.at(gpa, 64));
    memory.remove_region(1);
    CHECK_THROWS_AS(memory.at(gpa, 64), std::out_of_range);
    CHECK(memory.regions().size() == 1);
}

TEST_CASE("guest RAM can lie in 2 MiB pages") {
    std::optional<FakeMemory> memory;
    try {
        memory.emplace(4_MiB, PageSize::k2MiB);
    } catch (const std::system_error&) {
        SKIP("no 2 MiB pages are free on this machine");
    }
    const MemoryRegion region = memory->regions().at(0);
    CHECK(region.user_addr % 2_MiB == 0);
    memory->fill_canary({region.gpa, region.size});
    CHECK_FALSE(memory->find_damage({region.gpa, region.size}));
}
