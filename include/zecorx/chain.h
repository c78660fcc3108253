// The buffers of one descriptor chain the driver controls, whatever ring it comes from.
//
// A ring reads each descriptor once into a local and adds it here, where it is checked before
// anything uses it. Kept are the pieces that a frame can reach; the rest of a chain is checked
// without being kept.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "zecorx/guest_memory.h"
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
    kHead,             // the head, or a packed ring's buffer id, is not below the ring size
    kNext,             // a next index is not a descriptor of the table
    kLoop,             // more descriptors than the ring (or indirect table) has
    kAddress,          // bytes outside every memory region
    kDirection,        // a device-readable buffer on receive, or device-writable on transmit
    kIndirect,         // a nested table, a table with NEXT set, or a length of no whole table
    kIndirectAddress,  // an indirect table outside one memory region
    kAvailIndex,       // the driver's avail index is ahead by more than the ring holds
    kTakenBack,        // packed: what the driver had made available is not available any more
    kOrder,            // the NIC returned a buffer that was not due: ours or its error
};

constexpr const char* describe(RingError error) {
    switch (error) {
        case RingError::kNone:
            return "no error";
        case RingError::kHead:
            return "a head or buffer id lies outside the ring";
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
        case RingError::kTakenBack:
            return "the driver took back descriptors it had made available";
        case RingError::kOrder:
            return "the NIC returned a buffer out of order";
    }
    return "unknown";
}

enum class Direction : std::uint8_t { kDeviceReadable, kDeviceWritable };

constexpr std::uint32_t saturating_sum(std::uint32_t a, std::uint32_t b) {
    return b < UINT32_MAX - a ? a + b : UINT32_MAX;
}

// The pieces of one chain, as many as its storage holds.
class Chain {
  public:
    static constexpr std::size_t kMaxPieces = 40;
    // Descriptors of an indirect table: bounds the time one head can cost the VMs that share its
    // worker, and is far above the 19 the longest receive chain in the field has.
    static constexpr std::size_t kMaxIndirect = 1024;

    std::span<const Piece> pieces() const { return {pieces_.data(), count_}; }
    std::uint32_t capacity() const { return capacity_; }  // bytes of pieces()
    bool whole() const { return whole_; }                 // pieces() is all of the chain

    // Begins a chain whose buffers must all have this direction.
    void begin(const GuestMemory& memory, Direction direction) {
        memory_ = &memory;
        write_flag_ = direction == Direction::kDeviceWritable ? kDescWrite : 0;
        count_ = 0;
        capacity_ = 0;
        whole_ = true;
    }

    // The next buffer of the chain; an empty one adds nothing, one over region ends is split.
    RingError add(std::uint64_t gpa, std::uint32_t length, std::uint16_t flags) {
        if (flags & kDescIndirect) return RingError::kIndirect;
        if ((flags & kDescWrite) != write_flag_) return RingError::kDirection;
        while (length > 0) {
            const GuestRange range = memory_->translate(gpa, length);
            if (!range) return RingError::kAddress;
            keep({range.hva, range.length, range.region});
            gpa += range.length;
            length -= range.length;
        }
        return RingError::kNone;
    }

    // The indirect table that a descriptor points at: a whole number of 16-byte descriptors, at
    // most kMaxIndirect, inside one memory region (VIRTIO 2.7.5.3.1, 2.8.7).
    RingError indirect_table(std::uint64_t gpa, std::uint32_t length, std::uint16_t flags,
                             std::span<const std::byte>& table) const {
        if ((flags & kDescNext) || length == 0 || length % sizeof(Desc) != 0 ||
            length / sizeof(Desc) > kMaxIndirect || gpa % alignof(std::uint64_t) != 0) {
            return RingError::kIndirect;
        }
        const GuestRange range = memory_->translate(gpa, length);
        // An HVA may be less aligned than its GPA only if the region was mapped so.
        if (!range || range.length != length ||
            reinterpret_cast<std::uintptr_t>(range.hva) % alignof(std::uint64_t) != 0) {
            return RingError::kIndirectAddress;
        }
        table = {range.hva, length};
        return RingError::kNone;
    }

  private:
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
    const GuestMemory* memory_ = nullptr;
    std::size_t count_ = 0;
    std::uint32_t capacity_ = 0;
    std::uint16_t write_flag_ = 0;
    bool whole_ = true;
};

// Two 8-byte halves of guest memory, each loaded exactly once: one read of a descriptor the driver
// may be rewriting. REQUIRES: `at` is 8-byte aligned and holds sizeof(Descriptor) = 16 bytes.
template <class Descriptor>
Descriptor snapshot(const std::byte* at) {
    const auto* words = reinterpret_cast<const std::uint64_t*>(at);
    struct Halves {
        std::uint64_t low, high;
    } halves{__atomic_load_n(words, __ATOMIC_RELAXED),
             __atomic_load_n(words + 1, __ATOMIC_RELAXED)};
    return std::bit_cast<Descriptor>(halves);
}

}  // namespace zecorx
