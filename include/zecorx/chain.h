// Walking a descriptor chain the driver controls (VIRTIO 2.7.5, 2.7.5.3).
//
// Each descriptor is read once into a local and checked before anything uses it. The walk touches
// at most as many descriptors as their table has, so a loop ends; it keeps the pieces that the
// frame can reach and checks the rest of the chain without keeping it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "zecorx/guest_memory.h"
#include "zecorx/split_ring.h"
#include "zecorx/virtio.h"

namespace zecorx {

// A run of guest memory inside one region.
struct Piece {
    std::byte* hva = nullptr;
    std::uint32_t length = 0;  // bytes
    const MemoryRegion* region = nullptr;
};

// Why a ring cannot be used any more.
enum class RingError : std::uint8_t {
    kNone,
    kHead,             // the head is not a descriptor of the table
    kNext,             // a next index is not a descriptor of the table
    kLoop,             // more descriptors than the ring (or indirect table) has
    kAddress,          // bytes outside every memory region
    kDirection,        // a device-readable buffer on receive, or device-writable on transmit
    kIndirect,         // a nested table, a table with NEXT set, or a length of no whole table
    kIndirectAddress,  // an indirect table outside one memory region
    kAvailIndex,       // the driver's avail index is ahead by more than the ring holds
    kOrder,            // the NIC returned a buffer that was not due: ours or its error
};

constexpr const char* describe(RingError error) {
    switch (error) {
        case RingError::kNone:
            return "no error";
        case RingError::kHead:
            return "an avail entry names a head outside the descriptor table";
        case RingError::kNext:
            return "a descriptor's next index lies outside its table";
        case RingError::kLoop:
            return "a descriptor chain is longer than its table (a loop)";
        case RingError::kAddress:
            return "a buffer lies outside the memory regions";
        case RingError::kDirection:
            return "a buffer has the wrong direction for its queue";
        case RingError::kIndirect:
            return "an indirect table is nested, chained or of odd length";
        case RingError::kIndirectAddress:
            return "an indirect table lies outside one memory region";
        case RingError::kAvailIndex:
            return "the avail index is ahead by more than the ring holds";
        case RingError::kOrder:
            return "the NIC returned a buffer out of order";
    }
    return "unknown";
}

enum class Direction : std::uint8_t { kDeviceReadable, kDeviceWritable };

constexpr std::uint32_t saturating_sum(std::uint32_t a, std::uint32_t b) {
    return b < UINT32_MAX - a ? a + b : UINT32_MAX;
}

// The pieces of one chain, as many as the caller's storage holds.
class Chain {
  public:
    static constexpr std::size_t kMaxPieces = 32;
    // Descriptors of an indirect table: bounds the time one head can cost the VMs that share its
    // worker, and is far above the 19 the longest receive chain in the field has.
    static constexpr std::size_t kMaxIndirect = 1024;

    std::span<const Piece> pieces() const { return {pieces_.data(), count_}; }
    std::uint32_t capacity() const { return capacity_; }  // bytes of pieces()
    std::uint32_t descriptors() const { return descriptors_; }
    bool whole() const { return whole_; }  // pieces() is all of the chain

    // Reads the chain at `head`. REQUIRES: the ring outlives the call, not the chain.
    RingError walk(const SplitRing& ring, const GuestMemory& memory, std::uint16_t head,
                   Direction direction) {
        count_ = 0;
        capacity_ = 0;
        descriptors_ = 0;
        whole_ = true;
        if (head >= ring.size()) return RingError::kHead;
        const Desc first = snapshot(ring.desc_table() + sizeof(Desc) * head);
        if (first.flags & kDescIndirect) [[unlikely]] {
            return walk_indirect(first, memory, direction);
        }
        return walk_table(ring.desc_table(), ring.size(), first, memory, direction);
    }

  private:
    RingError walk_table(const std::byte* table, std::uint32_t size, Desc desc,
                         const GuestMemory& memory, Direction direction) {
        for (;;) {
            if (++descriptors_ > size) return RingError::kLoop;
            if (desc.flags & kDescIndirect) return RingError::kIndirect;
            const bool writable = (desc.flags & kDescWrite) != 0;
            if (writable != (direction == Direction::kDeviceWritable)) return RingError::kDirection;
            if (!add(memory, desc.addr, desc.len)) return RingError::kAddress;
            if ((desc.flags & kDescNext) == 0) return RingError::kNone;
            if (desc.next >= size) return RingError::kNext;
            desc = snapshot(table + sizeof(Desc) * desc.next);
        }
    }

    RingError walk_indirect(const Desc& desc, const GuestMemory& memory, Direction direction) {
        if ((desc.flags & kDescNext) || desc.len == 0 || desc.len % sizeof(Desc) != 0 ||
            desc.len / sizeof(Desc) > kMaxIndirect || desc.addr % alignof(std::uint64_t) != 0) {
            return RingError::kIndirect;
        }
        const GuestRange table = memory.translate(desc.addr, desc.len);
        if (!table || table.length != desc.len) return RingError::kIndirectAddress;
        // An HVA may be less aligned than its GPA only if the region was mapped so.
        if (reinterpret_cast<std::uintptr_t>(table.hva) % alignof(std::uint64_t) != 0) {
            return RingError::kIndirectAddress;
        }
        return walk_table(table.hva, desc.len / sizeof(Desc), snapshot(table.hva), memory,
                          direction);
    }

    // Splits [gpa, gpa + length) at region ends; empty buffers add nothing.
    bool add(const GuestMemory& memory, std::uint64_t gpa, std::uint32_t length) {
        while (length > 0) {
            const GuestRange range = memory.translate(gpa, length);
            if (!range) return false;
            keep({range.hva, range.length, range.region});
            gpa += range.length;
            length -= range.length;
        }
        return true;
    }

    void keep(const Piece& piece) {
        if (count_ == kMaxPieces) {
            whole_ = false;
            return;
        }
        pieces_[count_++] = piece;
        // Saturates: a chain of many 4 GiB descriptors must not look small.
        capacity_ = saturating_sum(capacity_, piece.length);
    }

    std::array<Piece, kMaxPieces> pieces_;
    std::size_t count_ = 0;
    std::uint32_t capacity_ = 0;
    std::uint32_t descriptors_ = 0;
    bool whole_ = true;
};

}  // namespace zecorx
