// Messages, files and sockets for the tests of the vhost-user backend.
#pragma once

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "vhost_user/message.h"
#include "zecorx/unique_fd.h"

namespace zecorx::test {

namespace vu = vhost_user;

inline UniqueFd checked_fd(int fd) {
    if (fd < 0) throw std::system_error(errno, std::generic_category());
    return UniqueFd(fd);
}

// A file in memory, of `size` bytes.
inline UniqueFd make_file(std::uint64_t size, unsigned flags = 0) {
    UniqueFd fd = checked_fd(::memfd_create("vhost-user-test", MFD_CLOEXEC | flags));
    if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
        throw std::system_error(errno, std::generic_category());
    }
    return fd;
}

inline UniqueFd make_eventfd() { return checked_fd(::eventfd(0, EFD_CLOEXEC)); }

inline UniqueFd same_file(const UniqueFd& fd) { return checked_fd(::dup(fd.get())); }

struct SocketPair {
    SocketPair() {
        std::array<int, 2> ends{};
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
            throw std::system_error(errno, std::generic_category());
        }
        ours.reset(ends[0]);
        theirs.reset(ends[1]);
    }
    UniqueFd ours;
    UniqueFd theirs;
};

template <class Payload>
std::span<const std::byte> bytes_of(const Payload& payload) {
    return std::as_bytes(std::span(&payload, 1));
}

// A message as a frontend means it; whoever wants it wrong changes it.
inline vu::Message message(vu::Request request, std::span<const std::byte> payload = {},
                           std::vector<UniqueFd> fds = {}) {
    vu::Message made;
    made.header = {static_cast<std::uint32_t>(request), vu::kVersion,
                   static_cast<std::uint32_t>(payload.size())};
    std::ranges::copy(payload, made.payload.begin());
    made.fds = std::move(fds);
    return made;
}
template <class Payload>
vu::Message message_with(vu::Request request, const Payload& payload,
                         std::vector<UniqueFd> fds = {}) {
    return message(request, bytes_of(payload), std::move(fds));
}
template <class... Fd>
std::vector<UniqueFd> fds_of(Fd... fd) {
    std::vector<UniqueFd> fds;
    (fds.push_back(std::move(fd)), ...);
    return fds;
}

inline vu::Message mem_table(std::initializer_list<vu::RegionDescription> regions,
                             std::vector<UniqueFd> fds) {
    vu::MemTable table{};
    table.count = static_cast<std::uint32_t>(regions.size());
    std::copy(regions.begin(), regions.end(), table.regions.begin());
    const std::size_t size = 8 + regions.size() * sizeof(vu::RegionDescription);
    return message(vu::Request::kSetMemTable, bytes_of(table).first(size), std::move(fds));
}

}  // namespace zecorx::test
