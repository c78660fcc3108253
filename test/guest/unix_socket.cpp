#include "unix_socket.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstring>
#include <thread>
#include <utility>

#include "vhost_user_protocol.h"

namespace zecorx::test {

namespace {

using Clock = std::chrono::steady_clock;

sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path)) {
        throw SocketError("socket path too long for a unix socket: " + path);
    }
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return address;
}

UniqueFd new_socket() {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) throw_errno("create a unix socket");
    return fd;
}

Timeout until(Clock::time_point deadline) {
    return std::max(Timeout(0), std::chrono::ceil<Timeout>(deadline - Clock::now()));
}

using FdBuffer = std::array<std::byte, CMSG_SPACE(kMaxMessageFds * sizeof(int))>;

void attach_fds(msghdr& message, FdBuffer& buffer, std::span<const int> fds) {
    if (fds.empty()) return;
    if (fds.size() > kMaxMessageFds) throw SocketError("too many fds for one message");
    message.msg_control = buffer.data();
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* control = CMSG_FIRSTHDR(&message);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(control), fds.data(), fds.size_bytes());
}

std::vector<UniqueFd> take_fds(msghdr& message) {
    std::vector<UniqueFd> fds;
    for (cmsghdr* control = CMSG_FIRSTHDR(&message); control != nullptr;
         control = CMSG_NXTHDR(&message, control)) {
        if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) continue;
        const std::size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof(int));
            fds.emplace_back(fd);
        }
    }
    return fds;
}

}  // namespace

UnixSocket UnixSocket::connect(const std::string& path, Timeout timeout) {
    const sockaddr_un address = address_of(path);
    const auto deadline = Clock::now() + timeout;
    for (;;) {
        UniqueFd fd = new_socket();
        if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0)
            return UnixSocket(std::move(fd));
        if (Clock::now() >= deadline) throw SocketTimeout("nobody listens on " + path);
        std::this_thread::sleep_for(Timeout(5));
    }
}

void UnixSocket::send(std::span<const std::byte> bytes, std::span<const int> fds) const {
    while (!bytes.empty()) {
        iovec data{const_cast<std::byte*>(bytes.data()), bytes.size()};
        msghdr message{};
        message.msg_iov = &data;
        message.msg_iovlen = 1;
        alignas(cmsghdr) FdBuffer buffer{};
        attach_fds(message, buffer, std::exchange(fds, {}));
        const ssize_t sent = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && (errno == EPIPE || errno == ECONNRESET || errno == EBADF)) {
            throw SocketClosed("the backend closed the connection before a request");
        }
        if (sent < 0) throw_errno("send to the backend");
        bytes = bytes.subspan(static_cast<std::size_t>(sent));
    }
}

void UnixSocket::receive(std::span<std::byte> bytes, Timeout timeout,
                         std::vector<UniqueFd>* fds) const {
    const auto deadline = Clock::now() + timeout;
    while (!bytes.empty()) {
        if (!poll_fd(fd_.get(), POLLIN, until(deadline))) {
            throw SocketTimeout("no answer from the backend in " + std::to_string(timeout.count()) +
                                " ms");
        }
        iovec data{bytes.data(), bytes.size()};
        msghdr message{};
        message.msg_iov = &data;
        message.msg_iovlen = 1;
        alignas(cmsghdr) FdBuffer buffer{};
        message.msg_control = buffer.data();
        message.msg_controllen = buffer.size();
        const ssize_t got = ::recvmsg(fd_.get(), &message, MSG_CMSG_CLOEXEC);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) throw SocketClosed("the backend closed the connection");
        std::vector<UniqueFd> came = take_fds(message);
        if (fds != nullptr) {
            for (UniqueFd& fd : came) fds->push_back(std::move(fd));
        }
        bytes = bytes.subspan(static_cast<std::size_t>(got));
    }
}

bool UnixSocket::wait_closed(Timeout timeout) const {
    const auto deadline = Clock::now() + timeout;
    try {
        for (;;) {
            std::byte dropped{};
            receive({&dropped, 1}, until(deadline));
        }
    } catch (const SocketClosed&) {
        return true;
    } catch (const SocketTimeout&) {
        return false;
    }
}

UnixListener::UnixListener(std::string path) : path_(std::move(path)), fd_(new_socket()) {
    const sockaddr_un address = address_of(path_);
    if (::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
        ::listen(fd_.get(), 4) != 0) {
        throw_errno(("listen on " + path_).c_str());
    }
}

UnixListener::~UnixListener() { ::unlink(path_.c_str()); }

UnixSocket UnixListener::accept(Timeout timeout) const {
    if (!poll_fd(fd_.get(), POLLIN, timeout)) throw SocketTimeout("nobody connects to " + path_);
    UniqueFd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd) throw_errno("accept a connection");
    return UnixSocket(std::move(fd));
}

}  // namespace zecorx::test
