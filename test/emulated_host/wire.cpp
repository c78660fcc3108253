#include "wire.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "guest/event_fd.h"

namespace zecorx::test {
namespace {

constexpr timeval kPatience{.tv_sec = 30, .tv_usec = 0};  // on a busy machine

sockaddr_un address_of(const std::filesystem::path& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.string().copy(address.sun_path, sizeof address.sun_path - 1);
    return address;
}

}  // namespace

Wire::Wire(const std::filesystem::path& directory)
    : ours_(directory / "wire"),
      theirs_(directory / "nic"),
      fd_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    if (!fd_) throw_errno("socket");
    const sockaddr_un address = address_of(ours_);
    if (::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience) != 0) {
        throw_errno(ours_.c_str());
    }
}

std::string Wire::netdev() const {
    return "dgram,local.type=unix,local.path=" + theirs_.string() +
           ",remote.type=unix,remote.path=" + ours_.string();
}

void Wire::send(std::span<const std::byte> frame) {
    const sockaddr_un address = address_of(theirs_);
    if (::sendto(fd_.get(), frame.data(), frame.size(), 0,
                 reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
        throw_errno("send a frame to the NIC");
    }
}

std::optional<Frame> Wire::receive(std::chrono::milliseconds timeout) {
    constexpr std::size_t kLongest = 1 << 16;
    if (!poll_fd(fd_.get(), POLLIN, timeout)) return std::nullopt;
    Frame frame(kLongest);
    const ssize_t size = ::recv(fd_.get(), frame.data(), frame.size(), 0);
    if (size < 0) throw_errno("receive a frame from the NIC");
    frame.resize(static_cast<std::size_t>(size));
    return frame;
}

}  // namespace zecorx::test
