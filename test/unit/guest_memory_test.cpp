#include "zecorx/guest_memory.h"

#include <array>
#include <catch2/catch_test_macros.hpp>

#include "zecorx/mac_address.h"

namespace zecorx {
namespace {

constexpr std::uint64_t kPage = 4096;

}  // namespace

TEST_CASE("a range is translated up to the end of its region and no further") {
    std::array<std::byte, 64> ram{};
    GuestMemory memory;
    memory.add({0x1000, ram.size(), ram.data(), ram.data(), 12, {}});

    CHECK(memory.translate(0x1000, 64).length == 64);
    CHECK(memory.translate(0x1010, 64).length == 48);
    CHECK(memory.translate(0x1010, 64).hva == ram.data() + 16);
    CHECK_FALSE(memory.translate(0x0fff, 1));
    CHECK_FALSE(memory.translate(0x1040, 1));
    CHECK_FALSE(memory.translate(~0ULL, 16));
}

TEST_CASE("a region at the top of the address space does not wrap") {
    std::array<std::byte, 64> ram{};
    GuestMemory memory;
    memory.add({~0ULL - 63, ram.size(), ram.data(), ram.data(), 12, {}});
    CHECK(memory.translate(~0ULL - 15, 100).length == 16);
    CHECK_FALSE(memory.translate(0, 1));
}

TEST_CASE("an IOVA is given only for what is contiguous for the device") {
    alignas(kPage) static std::array<std::byte, 4 * kPage> ram{};
    const std::array<std::uint64_t, 4> pages{0x10000, 0x11000, 0x40000, 0x41000};
    // The region starts in the middle of its first page, as one behind a hole in RAM may.
    const MemoryRegion region{0, 3 * kPage, ram.data() + 100, ram.data(), 12, pages};

    CHECK(GuestMemory::contiguous_iova(region, ram.data() + 100, 64) == 0x10000 + 100);
    CHECK(GuestMemory::contiguous_iova(region, ram.data() + kPage - 8, 16) == 0x11000 - 8);
    CHECK(GuestMemory::contiguous_iova(region, ram.data() + 2 * kPage - 8, 8) == 0x12000 - 8);
    CHECK(GuestMemory::contiguous_iova(region, ram.data() + 2 * kPage - 8, 9) ==
          GuestMemory::kNoIova);
    CHECK(GuestMemory::contiguous_iova(region, ram.data() + 500, 2 * kPage) ==
          GuestMemory::kNoIova);
}

TEST_CASE("with an IOMMU a whole region is contiguous and IOVA is HVA") {
    std::array<std::byte, 64> ram{};
    const MemoryRegion region{0, ram.size(), ram.data(), ram.data(), 12, {}};
    CHECK(GuestMemory::contiguous_iova(region, ram.data() + 3, 61) ==
          reinterpret_cast<std::uintptr_t>(ram.data()) + 3);
}

TEST_CASE("MAC addresses are read strictly") {
    CHECK(MacAddress::parse("52:54:00:12:34:Ab")->to_string() == "52:54:00:12:34:ab");
    for (const char* text : {"", "52:54:00:12:34", "52:54:00:12:34:5", "52-54-00-12-34-56",
                             "52:54:00:12:34:5g", "52:54:00:12:34:56:78"}) {
        CHECK_FALSE(MacAddress::parse(text).has_value());
    }
    CHECK_FALSE(MacAddress::parse("ff:ff:ff:ff:ff:ff")->is_station());
    CHECK_FALSE(MacAddress::parse("00:00:00:00:00:00")->is_station());
    CHECK(MacAddress::parse("52:54:00:12:34:56")->is_station());
}

}  // namespace zecorx
