// Chains over guest memory whose regions, descriptors and indirect tables a driver chooses, and
// what is made of them: gathered and scattered bytes, and buffers found near the last one.
#include "zecorx/chain.h"

#include <array>
#include <vector>

#include "guest_ram.h"
#include "reference_chain.h"
#include "zecorx/extent_finder.h"
#include "zecorx/gather.h"
#include "zecorx/packed_ring.h"
#include "zecorx/scatter.h"
#include "zecorx/split_ring.h"

namespace zecorx::fuzz {
namespace {

class ChainBench {
  public:
    explicit ChainBench(Input& input)
        : input_(input),
          ram_(input, {.page_shift = input.flag() ? 12u : 8u, .odd_addresses = true}) {}

    void run() {
        for (int steps = 0; steps < 200 && !input_.ended(); ++steps) step();
    }

  private:
    void step() {
        switch (input_.below(6)) {
            case 0:
                return add_buffers();
            case 1:
                return walk_split();
            case 2:
                return walk_packed();
            case 3:
                return find_extent();
            case 4:
                return translate();
            default:
                ram_.scribble(input_);
                return;
        }
    }

    Direction any_direction() {
        return input_.flag() ? Direction::kDeviceWritable : Direction::kDeviceReadable;
    }

    void add_buffers() {
        const Direction direction = any_direction();
        const std::uint16_t right = direction == Direction::kDeviceWritable ? kDescWrite : 0;
        ReferenceChain reference(ram_, direction);
        Chain chain;
        chain.begin(ram_.memory(), direction);
        for (unsigned n = input_.below(64); n > 0 && reference.good(); --n) {
            const std::uint64_t gpa = ram_.address(input_);
            const std::uint32_t length = GuestRam::length(input_);
            const std::uint16_t flags = input_.one_in(16) ? input_.word() : right;
            reference.add(gpa, length, flags);
            const RingError error = chain.add(gpa, length, flags);
            expect((error == RingError::kNone) == reference.good(), "bad buffers are refused");
        }
        if (!reference.good()) return;
        reference.check(chain);
        move_bytes(chain);
    }

    // The ring lies in guest memory, too, where a buffer may cover it.
    void walk_split() {
        const std::uint32_t size = 1u << input_.below(6);
        std::byte* const table = table_in_ram(desc_table_size(size));
        if (table == nullptr) return;
        const std::span<const std::byte> bytes(table, desc_table_size(size));
        std::array<std::uint16_t, 67> avail{};
        alignas(4) std::array<std::byte, used_ring_size(64)> used{};
        avail[1] = 1;
        avail[2] = static_cast<std::uint16_t>(input_.below(size + 1));
        SplitRing ring(
            {table, reinterpret_cast<std::byte*>(avail.data()), used.data(), size, false});
        expect(ring.refresh() && ring.available() == 1, "one chain is available");
        const Direction direction = any_direction();
        ReferenceChain reference(ram_, direction);
        reference.walk_split(bytes, avail[2]);
        acquire(ring, direction, reference);
    }

    void walk_packed() {
        const std::uint32_t size = 1 + input_.below(64);
        std::byte* const table = table_in_ram(packed_ring_size(size));
        if (table == nullptr) return;
        alignas(4) std::array<std::byte, sizeof(EventSuppress)> events{};
        PackedRing ring({table, events.data(), events.data(), size, false, kPackedWrap});
        ring.refresh();
        if (ring.available() == 0) return;
        const Direction direction = any_direction();
        ReferenceChain reference(ram_, direction);
        reference.walk_packed({table, packed_ring_size(size)}, 0, size);
        acquire(ring, direction, reference);
    }

    void acquire(DeviceRing auto& ring, Direction direction, const ReferenceChain& reference) {
        Chain chain;
        Head head;
        const RingError error = ring.acquire(ram_.memory(), direction, chain, head);
        expect((error == RingError::kNone) == reference.good(), "bad chains are refused, no other");
        if (error != RingError::kNone) return;
        reference.check(chain);
        move_bytes(chain);
    }

    // A place of a ring's alignment, with descriptors that mean something written there.
    std::byte* table_in_ram(std::size_t size) {
        const MemoryRegion& region = ram_.any(input_);
        const std::uint64_t at = input_.word() % region.size & ~std::uint64_t{15};
        std::byte* const table = region.hva + at;
        if (region.size - at < size || reinterpret_cast<std::uintptr_t>(table) % 16 != 0)
            return nullptr;
        for (std::size_t i = 0; i < input_.below(8); ++i) write_descriptor(table, size, i);
        return table;
    }
    void write_descriptor(std::byte* table, std::size_t size, std::size_t i) {
        if (16 * (i + 1) > size) return;
        const bool packed = input_.flag();
        auto flags =
            static_cast<std::uint16_t>(input_.byte() & (kDescNext | kDescWrite | kDescIndirect));
        if (packed) flags |= kPackedDescAvail;
        const std::uint32_t length =
            (flags & kDescIndirect) != 0 ? 16 * input_.below(64) : GuestRam::length(input_);
        std::uint64_t gpa = ram_.address(input_);
        if ((flags & kDescIndirect) != 0 && !input_.one_in(8)) gpa &= ~std::uint64_t{7};
        const auto next = static_cast<std::uint16_t>(input_.one_in(4) ? input_.byte() : i + 1);
        const Desc split{gpa, length, flags, next};
        const PackedDesc other{gpa, length, static_cast<std::uint16_t>(i), flags};
        if (packed) {
            std::memcpy(table + 16 * i, &other, 16);
        } else {
            std::memcpy(table + 16 * i, &split, 16);
        }
    }

    // Gathering takes what the pieces hold, in order; scattering it back changes nothing.
    void move_bytes(const Chain& chain) {
        std::vector<std::byte> plain;
        for (const Piece& piece : chain.pieces()) {
            plain.insert(plain.end(), piece.hva, piece.hva + piece.length);
        }
        expect(plain.size() == chain.capacity(), "a chain holds as many bytes as it says");
        std::vector<std::byte> taken(plain.size());
        const std::size_t first = taken.empty() ? 0 : input_.word() % taken.size();
        Gather gather(chain.pieces());
        gather.take(std::span(taken).first(first));
        gather.take(std::span(taken).subspan(first));
        expect(taken == plain, "gathered bytes are those of the pieces");
        Scatter scatter(chain.pieces());
        scatter.put(std::span(taken).first(first));
        scatter.put(std::span(taken).subspan(first));
    }

    void find_extent() {
        const MemoryRegion& region = ram_.any(input_);
        const std::uint32_t needed = 1 + input_.below(2048);
        const std::uint64_t gpa = ram_.address(input_);
        const std::uint32_t length = GuestRam::length(input_);
        ExtentFinder::Extent extent;
        if (!ExtentFinder(region, needed).find(gpa, length, extent)) return;
        const GuestRange range = ram_.memory().translate(gpa, length);
        expect(range.region == &region && range.length == length && range.hva == extent.hva,
               "a found buffer lies in its region");
        expect(length >= needed, "a found buffer is long enough");
        expect(GuestMemory::contiguous_iova(region, extent.hva, needed) == extent.iova,
               "a found buffer is contiguous for the device, where its table says");
    }

    void translate() {
        const std::uint64_t gpa = ram_.address(input_);
        const std::uint32_t length = GuestRam::length(input_);
        const GuestRange range = ram_.memory().translate(gpa, length);
        expect(static_cast<bool>(range) == (ram_.at(gpa, 0) != nullptr),
               "what has no region is nobody's");
        if (!range) return;
        expect(range.length <= length, "no more is translated than was asked for");
        expect(ram_.holding(range.hva, range.length) == range.region, "a range lies in its region");
        expect(range.length == 0 || ram_.memory().holds(range.hva, range.length),
               "guest memory holds what it translates to");
        if (range.length > 0) check_iova(range);
    }

    // Byte by byte.
    static void check_iova(const GuestRange& range) {
        const MemoryRegion& region = *range.region;
        const std::uint64_t first = iova_of(region, range.hva);
        bool contiguous = true;
        for (std::uint32_t i = 1; i < range.length; ++i) {
            contiguous = contiguous && iova_of(region, range.hva + i) == first + i;
        }
        expect(GuestMemory::contiguous_iova(region, range.hva, range.length) ==
                   (contiguous ? first : GuestMemory::kNoIova),
               "contiguous for the device is what its table says");
    }
    static std::uint64_t iova_of(const MemoryRegion& region, const std::byte* hva) {
        if (region.iova_pages.empty()) return reinterpret_cast<std::uintptr_t>(hva);
        const auto offset = static_cast<std::uint64_t>(hva - region.page_base);
        const std::uint64_t page = std::uint64_t{1} << region.page_shift;
        return region.iova_pages[offset / page] + offset % page;
    }

    Input& input_;
    GuestRam ram_;
};

}  // namespace
}  // namespace zecorx::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    zecorx::fuzz::Input input(data, size);
    zecorx::fuzz::ChainBench(input).run();
    return 0;
}
