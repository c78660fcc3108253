#pragma once

#include <unistd.h>

#include <array>
#include <chrono>
#include <string>

#include "guest/event_fd.h"

namespace zecorx::test {

// Appends what can be read to `text`; false at the end of the stream or when `deadline` passes.
inline bool read_some(int fd, std::string& text, std::chrono::steady_clock::time_point deadline) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (!poll_fd(fd, POLLIN, left)) return false;
    std::array<char, 4096> buffer;
    const ssize_t size = ::read(fd, buffer.data(), buffer.size());
    if (size <= 0) return false;
    text.append(buffer.data(), static_cast<std::size_t>(size));
    return true;
}

}  // namespace zecorx::test
