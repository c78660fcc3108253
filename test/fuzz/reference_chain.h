// What the descriptors of a chain come to, worked out without the code under test: plainly, with
// the whole chain at hand and no bound on its pieces.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "guest_ram.h"
#include "zecorx/chain.h"
#include "zecorx/virtio.h"

namespace zecorx::fuzz {

class ReferenceChain {
  public:
    ReferenceChain(const GuestRam& ram, Direction direction)
        : ram_(ram), writable_(direction == Direction::kDeviceWritable) {
        pieces_.clear();
    }

    bool good() const { return good_; }
    unsigned entries() const { return entries_; }
    void refuse() { good_ = false; }

    // A split chain from descriptor `index` of the ring's own table on.
    void walk_split(std::span<const std::byte> table, std::uint16_t index) {
        const std::size_t size = table.size() / sizeof(Desc);
        if (index >= size) return refuse();
        const Desc first = load<Desc>(table, index);
        if ((first.flags & kDescIndirect) == 0) return follow(table, index);
        entries_ = 1;
        const std::span<const std::byte> indirect = table_at(first.addr, first.len, first.flags);
        if (good_) follow(indirect, 0);
        entries_ = 1;
    }

    // A packed chain that begins at `slot`, of at most `most` descriptors.
    void walk_packed(std::span<const std::byte> ring, std::uint32_t slot, std::uint32_t most) {
        const auto size = static_cast<std::uint32_t>(ring.size() / sizeof(PackedDesc));
        PackedDesc desc = load<PackedDesc>(ring, slot);
        entries_ = 1;
        if ((desc.flags & kDescIndirect) != 0) {
            list(table_at(desc.addr, desc.len, desc.flags));
        } else {
            add(desc.addr, desc.len, desc.flags);
            for (; good_ && (desc.flags & kDescNext) != 0; ++entries_) {
                if (entries_ >= most) return refuse();
                desc = load<PackedDesc>(ring, (slot + entries_) % size);
                add(desc.addr, desc.len, desc.flags);
            }
        }
        if (desc.id >= size) refuse();
    }

    // One buffer.
    void add(std::uint64_t gpa, std::uint64_t length, std::uint16_t flags) {
        if ((flags & kDescIndirect) != 0 || ((flags & kDescWrite) != 0) != writable_) refuse();
        while (good_ && length > 0) {
            const MemoryRegion* region = region_of(gpa);
            if (region == nullptr) return refuse();
            const std::uint64_t offset = gpa - region->gpa;
            const std::uint64_t n = std::min(length, region->size - offset);
            pieces_.push_back({region->hva + offset, static_cast<std::uint32_t>(n), region});
            gpa += n;
            length -= n;
        }
    }

    // REQUIRES: good().
    void check(const Chain& chain) const {
        const std::size_t kept = std::min(pieces_.size(), Chain::kMaxPieces);
        expect(chain.pieces().size() == kept, "a chain has the pieces of its descriptors");
        expect(chain.whole() == (kept == pieces_.size()), "a chain says whether it is whole");
        std::uint64_t bytes = 0;
        for (std::size_t i = 0; i < kept; ++i) {
            const Piece& piece = chain.pieces()[i];
            expect(ram_.holding(piece.hva, piece.length) == piece.region && piece.region != nullptr,
                   "a piece lies in its region");
            expect(piece.length > 0, "no piece is empty");
            expect(piece.hva == pieces_[i].hva && piece.length == pieces_[i].length,
                   "pieces are what the descriptors name, in their order");
            bytes += piece.length;
        }
        expect(chain.capacity() == std::min<std::uint64_t>(bytes, UINT32_MAX),
               "capacity is the bytes of the pieces");
    }

    const std::vector<Piece>& pieces() const { return pieces_; }

  private:
    template <class Descriptor>
    static Descriptor load(std::span<const std::byte> table, std::size_t index) {
        Descriptor descriptor;
        std::memcpy(&descriptor, table.data() + sizeof descriptor * index, sizeof descriptor);
        return descriptor;
    }

    const MemoryRegion* region_of(std::uint64_t gpa) const {
        for (const MemoryRegion& region : ram_.regions()) {
            if (gpa >= region.gpa && gpa - region.gpa < region.size) return &region;
        }
        return nullptr;
    }

    // VIRTIO 2.7.5.3.1.
    std::span<const std::byte> table_at(std::uint64_t gpa, std::uint32_t length,
                                        std::uint16_t flags) {
        const std::byte* hva = ram_.at(gpa, length);
        if ((flags & kDescNext) != 0 || length == 0 || length % 16 != 0 ||
            length / 16 > Chain::kMaxIndirect || gpa % 8 != 0 || hva == nullptr ||
            reinterpret_cast<std::uintptr_t>(hva) % 8 != 0) {
            refuse();
            return {};
        }
        return {hva, length};
    }

    void follow(std::span<const std::byte> table, std::size_t index) {
        const std::size_t size = table.size() / sizeof(Desc);
        for (entries_ = 1;; ++entries_) {
            const Desc desc = load<Desc>(table, index);
            add(desc.addr, desc.len, desc.flags);
            if (!good_ || (desc.flags & kDescNext) == 0) return;
            if (desc.next >= size || entries_ == size) return refuse();
            index = desc.next;
        }
    }

    // Of a packed ring's table: every descriptor, of whose flags only WRITE counts, on receive.
    void list(std::span<const std::byte> table) {
        for (std::size_t i = 0; good_ && i < table.size() / sizeof(PackedDesc); ++i) {
            const auto desc = load<PackedDesc>(table, i);
            add(desc.addr, desc.len, writable_ ? desc.flags & kDescWrite : 0);
        }
    }

    const GuestRam& ram_;
    const bool writable_;
    bool good_ = true;
    unsigned entries_ = 0;
    // Kept from one chain to the next, for its memory.
    inline static std::vector<Piece> pieces_;
};

}  // namespace zecorx::fuzz
