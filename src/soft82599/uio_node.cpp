#include "uio_node.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <stdexcept>

namespace zecorx::soft82599 {
namespace {

// Real UIO devices count from 0 up; these numbers are out of their way.
constexpr unsigned kFirstNumber = 240;
constexpr unsigned kLastNumber = 999;

std::runtime_error node_error(const std::string& what) {
    const char* remedy = errno == EPERM || errno == EACCES ? "; run as root" : "";
    return std::runtime_error("cannot create a /dev/uio node for the software NIC: " + what + ": " +
                              std::strerror(errno) + remedy);
}

// What the links point at. Not the terminal by its name: once the process is killed, its
// successor's terminal gets that name, and the link would look alive for ever.
std::string link_target(int fd) {
    return "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(fd);
}

// A link left by a process that was killed before it could remove it.
bool is_dangling(const std::string& path) {
    std::array<char, PATH_MAX> target{};
    const ssize_t length = readlink(path.c_str(), target.data(), target.size() - 1);
    if (length <= 0 || std::strncmp(target.data(), "/proc/", 6) != 0) return false;
    struct stat status {};
    return stat(path.c_str(), &status) != 0 && errno == ENOENT;
}

// False: the name is taken.
bool link_at(const std::string& path, const std::string& target) {
    for (int attempt = 0; attempt < 2; ++attempt) {
        if (symlink(target.c_str(), path.c_str()) == 0) return true;
        if (errno != EEXIST) throw node_error(path);
        if (!is_dangling(path)) return false;
        ::unlink(path.c_str());
    }
    return false;
}

void make_raw(int fd) {
    termios settings{};
    if (tcgetattr(fd, &settings) != 0) throw node_error("tcgetattr");
    cfmakeraw(&settings);
    if (tcsetattr(fd, TCSANOW, &settings) != 0) throw node_error("tcsetattr");
}

// EAL opens the node without O_NOCTTY, so a session leader without a terminal (a service) gets this
// one as its controlling terminal, and would be hung up with it when the model goes. Giving it up
// sends the same signals at once, so they are ignored meanwhile.
void give_up_as_controlling_terminal(int fd) {
    struct sigaction ignore {};
    struct sigaction old_action {};
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGHUP, &ignore, &old_action);
    ioctl(fd, TIOCNOTTY);  // ENOTTY: it is not ours
    sigaction(SIGHUP, &old_action, nullptr);
}

}  // namespace

UioNode::UioNode() {
    master_ = UniqueFd(posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
    std::array<char, 64> name{};
    if (!master_ || grantpt(master_.get()) != 0 || unlockpt(master_.get()) != 0 ||
        ptsname_r(master_.get(), name.data(), name.size()) != 0) {
        throw node_error("pseudo terminal");
    }
    slave_ = UniqueFd(open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!slave_) throw node_error(name.data());
    make_raw(slave_.get());
    for (unsigned number = kFirstNumber; number <= kLastNumber; ++number) {
        const std::string path = "/dev/uio" + std::to_string(number);
        if (link_at(path, link_target(slave_.get()))) {
            number_ = number;
            path_ = path;
            return;
        }
    }
    errno = EBUSY;
    throw node_error("/dev/uio240 to /dev/uio999");
}

UioNode::~UioNode() {
    unlink();
    give_up_as_controlling_terminal(slave_.get());
}

void UioNode::unlink() {
    if (path_.empty()) return;
    give_up_as_controlling_terminal(slave_.get());
    ::unlink(path_.c_str());
    path_.clear();
}

void UioNode::raise() {
    drain();
    ++count_;
    // If the terminal is full, EAL has not taken an earlier interrupt, and will find all causes.
    [[maybe_unused]] const ssize_t written = write(master_.get(), &count_, sizeof(count_));
}

// EAL writes four bytes whenever it enables or disables the interrupt.
void UioNode::drain() {
    std::array<char, 256> discarded;
    while (read(master_.get(), discarded.data(), discarded.size()) > 0) {
    }
}

}  // namespace zecorx::soft82599
