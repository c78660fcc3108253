// The eventfds that virtqueues notify with.
#pragma once

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <system_error>

#include "zecorx/unique_fd.h"

namespace zecorx::test {

[[noreturn]] inline void throw_errno(const char* attempted) {
    throw std::system_error(errno, std::generic_category(), attempted);
}

// True once `events` are ready on `fd`, false when the timeout passes first.
inline bool poll_fd(int fd, short events, std::chrono::milliseconds timeout) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    for (;;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(
            deadline - std::chrono::steady_clock::now());
        pollfd entry{fd, events, 0};
        const int ready = ::poll(&entry, 1, left.count() > 0 ? static_cast<int>(left.count()) : 0);
        if (ready >= 0) return ready > 0;
        if (errno != EINTR) throw_errno("poll");
    }
}

class EventFd {
  public:
    EventFd() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
        if (!fd_) throw_errno("eventfd");
    }

    int get() const { return fd_.get(); }

    void signal() const {
        if (::eventfd_write(fd_.get(), 1) != 0) throw_errno("write to an eventfd");
    }

    // Signals since the last drain(); 0 if there were none.
    std::uint64_t drain() const {
        eventfd_t count = 0;
        if (::eventfd_read(fd_.get(), &count) == 0) return count;
        if (errno != EAGAIN) throw_errno("read of an eventfd");
        return 0;
    }

    // Waits for a signal and drains it; false on timeout.
    bool wait(std::chrono::milliseconds timeout) const {
        return poll_fd(fd_.get(), POLLIN, timeout) && drain() > 0;
    }

  private:
    UniqueFd fd_;
};

}  // namespace zecorx::test
