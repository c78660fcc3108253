// Which pages of guest memory the backend wrote to, for a frontend that migrates the VM
// (VHOST_F_LOG_ALL; vhost-user "Migration").
//
// The frontend transfers all pages while the guest runs, then again and again those whose bit is
// set, clearing the bit first. So a bit is set behind the write it is for: a page transferred too
// early to have the write is transferred once more.
//
// The data path marks a chain when it leaves the path: completed, or given back to the driver when
// the queue stops. The marks cover all that was written to it since it was acquired, by the NIC's
// DMA and by the processor, what is written at posting included. Why nothing is lost that way:
//   on       The frontend begins to transfer when it knows that the log is in use. What was
//            written before is in every page it transfers, and what is written later to a chain
//            posted before is marked when that chain leaves, like any other.
//   between  A page may be transferred between a write and its mark. The chain it belongs to is the
//            device's, so nobody looks at it, and the transfer does not end before the rings are
//            stopped (GET_VRING_BASE), which marks what is still posted.
//   off      Nobody looks at the bits any more; the next migration begins with all pages again.
//   changed  The frontend collects what the old bitmap has once the new one is in use, which gets
//            the marks of all chains that leave from then on.
// A chain is marked before the driver can see it completed, so that a backend that dies at any
// moment leaves no frame with the driver that the next host would not get.
//
// Thread rule: any thread may mark, the frontend clears bits at any time. Set and replaced as the
// data path that has it says.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "zecorx/guest_memory.h"

namespace zecorx {

// A view of the bitmap that the frontend shares, one bit for each page of GPAs.
class DirtyLog {
  public:
    static constexpr std::uint64_t kPage = 4096;  // bytes, whatever the pages of the memory

    // Off.
    DirtyLog() = default;
    // Page n is bit n % 8 of byte n / 8. The bytes outlive all marking.
    explicit DirtyLog(std::span<std::byte> bits) : bits_(bits) {}

    explicit operator bool() const { return !bits_.empty(); }

    // Sets the bits of the pages that [gpa, gpa + length) touches. Those beyond the bitmap have
    // none: its length is the frontend's, and so is what it loses. Without a byte there is no page:
    // for length 0 the last one would come before the first.
    void mark(std::uint64_t gpa, std::uint64_t length) const noexcept {
        const std::uint64_t pages = kBits * bits_.size();
        std::uint64_t page = gpa / kPage;
        if (length == 0 || page >= pages) return;
        const std::uint64_t last_byte = gpa + std::min(length - 1, UINT64_MAX - gpa);
        const std::uint64_t behind = std::min(last_byte / kPage + 1, pages);
        for (std::uint64_t next = 0; page < behind; page = next) {
            next = std::min((page / kBits + 1) * kBits, behind);
            set(page / kBits, ((1U << (next - page)) - 1) << (page % kBits));
        }
    }

  private:
    static constexpr std::uint64_t kBits = 8;

    // Release: the write that the bits are for comes first. Pairs with the frontend's exchange,
    // which clears the bits before it reads the page; were this relaxed, it could take the bits and
    // read the page while the write is still on its way. The release store of the used index, which
    // comes next, would not do: it orders the bits before the index, not the write before the bits.
    // And always a read-modify-write, though mostly the bits are set already: a look at them could
    // pass the write in the same way.
    void set(std::size_t byte, unsigned bits) const noexcept {
        std::atomic_ref(reinterpret_cast<unsigned char&>(bits_[byte]))
            .fetch_or(static_cast<unsigned char>(bits), std::memory_order_release);
    }

    std::span<std::byte> bits_;
};

// A log for those who know what they write to by its address in this process.
class GuestLog {
  public:
    // Off.
    GuestLog() = default;
    // `memory` outlives all marking.
    GuestLog(const DirtyLog& log, const GuestMemory& memory) : log_(log), memory_(&memory) {}

    explicit operator bool() const { return static_cast<bool>(log_); }

    // Marks what lies in guest memory of [hva, hva + length), as far as the region of its first
    // byte goes; of host memory that is nothing.
    [[gnu::noinline, gnu::cold]] void mark(const std::byte* hva,
                                           std::uint64_t length) const noexcept {
        if (!log_) return;
        const GpaRange written = memory_->gpa_range(hva, length);
        log_.mark(written.gpa, written.length);
    }

  private:
    DirtyLog log_;
    const GuestMemory* memory_ = nullptr;
};

}  // namespace zecorx
