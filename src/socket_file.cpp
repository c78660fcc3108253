#include "socket_file.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <utility>

#include "zecorx/unique_fd.h"

namespace zecorx {
namespace {

std::string command_of(pid_t pid) {
    std::ifstream file(fmt::format("/proc/{}/comm", pid));
    std::string name;
    return std::getline(file, name) ? name : "unknown";
}

// Who listens on the socket, in words; empty: nobody.
std::string listener_of(const std::string& path) {
    const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        return errno == ECONNREFUSED ? "" : "another process";  // EAGAIN: its backlog is full
    }
    ucred owner{};
    socklen_t size = sizeof owner;
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &owner, &size) != 0) return "a process";
    return fmt::format("{} (pid {})", command_of(owner.pid), owner.pid);
}

}  // namespace

void claim_socket_path(const std::string& path) {
    const std::filesystem::path directory = std::filesystem::path(path).parent_path();
    if (!directory.empty() && ::access(directory.c_str(), W_OK | X_OK) != 0) {
        throw std::runtime_error(
            fmt::format("cannot put a socket into {}: {}; create the "
                        "directory or choose another iface=",
                        directory.string(), std::strerror(errno)));
    }
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0) return;
    if (!S_ISSOCK(status.st_mode)) {
        throw std::runtime_error(
            fmt::format("{} exists and is no socket; remove it or choose another iface=", path));
    }
    if (const std::string owner = listener_of(path); !owner.empty()) {
        throw std::runtime_error(fmt::format(
            "socket {} is in use by {}; stop that process or choose another iface=", path, owner));
    }
    if (::unlink(path.c_str()) != 0) {
        throw std::runtime_error(
            fmt::format("cannot remove the stale socket {}: {}", path, std::strerror(errno)));
    }
}

RuntimeDirectory::RuntimeDirectory(std::string directory) : directory_(std::move(directory)) {
    constexpr mode_t kOwnerAndGroup = 0750;
    if (::mkdir(directory_.c_str(), kOwnerAndGroup) == 0) {
        created_ = true;
    } else if (errno != EEXIST) {
        throw std::runtime_error(fmt::format(
            "cannot create the socket directory {}: {}; run as root or give each --vdev an iface=",
            directory_, std::strerror(errno)));
    }
}

RuntimeDirectory::~RuntimeDirectory() {
    if (created_) ::rmdir(directory_.c_str());
}

}  // namespace zecorx
