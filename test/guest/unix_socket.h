// Unix stream sockets that carry file descriptors, with a timeout on everything that waits.
#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "event_fd.h"

namespace zecorx::test {

struct SocketError : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct SocketTimeout : SocketError {
    using SocketError::SocketError;
};
struct SocketClosed : SocketError {  // by the peer
    using SocketError::SocketError;
};

using Timeout = std::chrono::milliseconds;
inline constexpr Timeout kDefaultTimeout = std::chrono::seconds(10);

class UnixSocket {
  public:
    explicit UnixSocket(UniqueFd fd) : fd_(std::move(fd)) {}

    // Retries until somebody listens there. Throws SocketTimeout.
    static UnixSocket connect(const std::string& path, Timeout timeout = kDefaultTimeout);

    bool is_open() const { return static_cast<bool>(fd_); }
    void close() { fd_.reset(); }

    // The fds travel with the first byte and stay the caller's. Throws SocketClosed.
    void send(std::span<const std::byte> bytes, std::span<const int> fds = {}) const;

    // Fills `bytes`, appending fds that came along to `fds`. Throws SocketTimeout, SocketClosed.
    void receive(std::span<std::byte> bytes, Timeout timeout,
                 std::vector<UniqueFd>* fds = nullptr) const;

    // Whether the peer closes within the timeout; unread bytes are dropped meanwhile.
    bool wait_closed(Timeout timeout) const;

  private:
    UniqueFd fd_;
};

// Removes its path again.
class UnixListener {
  public:
    explicit UnixListener(std::string path);
    UnixListener(const UnixListener&) = delete;
    UnixListener& operator=(const UnixListener&) = delete;
    ~UnixListener();

    UnixSocket accept(Timeout timeout = kDefaultTimeout) const;  // throws SocketTimeout
    const std::string& path() const { return path_; }

  private:
    std::string path_;
    UniqueFd fd_;
};

}  // namespace zecorx::test
