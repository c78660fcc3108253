// Keeps the process alive when the frontend takes back memory that it shares: a file can be
// truncated while it is mapped, and the next access to a page beyond its end raises SIGBUS.
#pragma once

#include <atomic>
#include <cstddef>
#include <span>

namespace zecorx::vhost_user {

// While it lives, a page of `memory` that is gone is replaced by one of zeros when any thread
// touches it, and lost() tells. The lost page is nobody's: what is written there reaches no guest.
//
// Thread rule: lost() from any thread, construction and destruction on the control side.
class FaultGuard {
  public:
    // `memory` is a mapping, aligned to `page_size`. Throws std::runtime_error if there are too
    // many.
    FaultGuard(std::span<std::byte> memory, std::size_t page_size);
    ~FaultGuard();
    FaultGuard(const FaultGuard&) = delete;
    FaultGuard& operator=(const FaultGuard&) = delete;

    bool lost() const { return lost_.load(std::memory_order_relaxed); }

    // For the signal handler: replaces the page at `address` if it is of this memory.
    bool replace(void* address) noexcept;

  private:
    const std::span<std::byte> memory_;
    const std::size_t page_size_;
    std::atomic<bool> lost_{false};
};

}  // namespace zecorx::vhost_user
