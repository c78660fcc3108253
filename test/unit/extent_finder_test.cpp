#include "zecorx/extent_finder.h"

#include <array>
#include <catch2/catch_test_macros.hpp>

namespace zecorx {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint32_t kLength = 1526;

// A region of three pages that begins 100 bytes into the first.
class Region {
  public:
    explicit Region(std::uint64_t gpa) : region_{gpa, kSize, hva(), ram_.data(), 12, pages_} {}

    static constexpr std::uint64_t kLead = 100;
    static constexpr std::uint64_t kSize = 3 * kPage - kLead;

    std::byte* hva() { return ram_.data() + kLead; }
    const MemoryRegion& get() const { return region_; }
    ExtentFinder finder() const { return ExtentFinder(region_, kLength); }

  private:
    alignas(kPage) std::array<std::byte, 3 * kPage> ram_{};
    const std::array<std::uint64_t, 3> pages_{0x10000, 0x40000, 0x20000};
    MemoryRegion region_;
};

}  // namespace

TEST_CASE("a buffer in one page of the region is found, and where it lies for the device") {
    Region region(0x1000);
    ExtentFinder::Extent at;
    REQUIRE(region.finder().find(0x1000, kLength, at));
    CHECK(at.hva == region.hva());
    CHECK(at.iova == 0x10000 + Region::kLead);

    REQUIRE(region.finder().find(0x1000 + kPage, kLength, at));
    CHECK(at.hva == region.hva() + kPage);
    CHECK(at.iova == 0x40000 + Region::kLead);
}

TEST_CASE("a buffer is found up to the last byte of its region, its page and its length") {
    Region region(0x1000);
    const ExtentFinder finder = region.finder();
    const std::uint64_t end = 0x1000 + Region::kSize;
    ExtentFinder::Extent at;
    CHECK(finder.find(end - kLength, kLength, at));
    CHECK_FALSE(finder.find(end - kLength, kLength + 1, at));
    CHECK_FALSE(finder.find(end - kLength, UINT32_MAX, at));
    CHECK_FALSE(finder.find(0x1000, kLength - 1, at));
    CHECK_FALSE(finder.find(0x0FFF, kLength, at));
    CHECK_FALSE(finder.find(end, kLength, at));

    // Only what is needed must be in one page.
    const std::uint64_t page_end = 0x1000 + kPage - Region::kLead;
    CHECK(finder.find(page_end - kLength, kLength, at));
    CHECK(finder.find(page_end - kLength, kLength + 64, at));
    CHECK_FALSE(finder.find(page_end - kLength + 1, kLength, at));
    CHECK(finder.find(page_end, kLength, at));
    CHECK(at.iova == 0x40000);
}

TEST_CASE("addresses at the top of the address space do not wrap into a region") {
    Region high(~0ULL - Region::kSize + 1);
    ExtentFinder::Extent at;
    CHECK(high.finder().find(~0ULL - kLength + 1, kLength, at));
    CHECK_FALSE(high.finder().find(~0ULL - kLength + 1, kLength + 1, at));
    CHECK_FALSE(high.finder().find(0, kLength, at));

    Region low(0x1000);
    CHECK_FALSE(low.finder().find(~0ULL, kLength, at));
    CHECK_FALSE(low.finder().find(~0ULL - 2 * kPage, kLength, at));
}

TEST_CASE("with an IOMMU every buffer in the region is contiguous for the device") {
    alignas(kPage) static std::array<std::byte, 2 * kPage> ram{};
    GuestMemory memory;
    memory.add({0, ram.size(), ram.data(), nullptr, 0, {}});
    const ExtentFinder finder(memory.regions().front(), kLength);
    ExtentFinder::Extent at;
    REQUIRE(finder.find(kPage - 100, kLength, at));
    CHECK(at.iova == reinterpret_cast<std::uintptr_t>(ram.data()) + kPage - 100);
    CHECK_FALSE(finder.find(2 * kPage - kLength + 1, kLength, at));
}

TEST_CASE("what is longer than a page is in no page, and no region holds anything") {
    Region region(0x1000);
    ExtentFinder::Extent at;
    CHECK_FALSE(ExtentFinder(region.get(), kPage + 1).find(0x1000, 2 * kPage, at));
    CHECK_FALSE(ExtentFinder().find(0, kLength, at));
}

}  // namespace zecorx
