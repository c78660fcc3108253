#include "message.h"

#include <fmt/format.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

namespace zecorx::vhost_user {

MessageReader::Result MessageReader::read(int socket) {
    if (received_ == 0) message_ = {};
    while (!missing().empty()) {
        if (const Result result = fill(socket); result != Result::kMessage) return result;
        if (received_ == sizeof(Header) && message_.header.size > kMaxPayload) {
            throw Refusal(fmt::format("its payload of {} bytes is longer than any message's",
                                      message_.header.size));
        }
    }
    received_ = 0;
    return Result::kMessage;
}

// What is still to come of the header, and then of the payload.
std::span<std::byte> MessageReader::missing() {
    if (received_ < sizeof(Header)) {
        return std::as_writable_bytes(std::span(&message_.header, 1)).subspan(received_);
    }
    const std::size_t have = received_ - sizeof(Header);
    return std::span(message_.payload).subspan(have, message_.header.size - have);
}

// Reads once; kMessage: there was something.
MessageReader::Result MessageReader::fill(int socket) {
    const std::span<std::byte> room = missing();
    iovec piece{room.data(), room.size()};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kMaxFds * sizeof(int))> control;
    msghdr header{};
    header.msg_iov = &piece;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    const ssize_t size = ::recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size < 0) {
        return errno == EAGAIN || errno == EINTR ? Result::kNothing : Result::kClosed;
    }
    take_fds(header);
    if (size == 0) return Result::kClosed;
    received_ += static_cast<std::size_t>(size);
    return Result::kMessage;
}

// Whatever came along is ours to close, also where the message is refused.
void MessageReader::take_fds(msghdr& header) {
    for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr;
         part = CMSG_NXTHDR(&header, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
            message_.fds.emplace_back(fd);
        }
    }
    if ((header.msg_flags & MSG_CTRUNC) != 0 || message_.fds.size() > kMaxFds) {
        throw Refusal(fmt::format("it carries more than {} descriptors", kMaxFds));
    }
}

bool send_reply(int socket, const Reply& reply) {
    const std::span<const std::byte> bytes = reply.bytes();
    return ::send(socket, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
}

}  // namespace zecorx::vhost_user
