#include "guest_process.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <exception>

namespace zecorx::soak {
namespace {

[[noreturn]] void be_guest(const GuestConfig& config, test::FakeMemory& memory, Shared& shared,
                           int control) {
    int status = EXIT_SUCCESS;
    try {
        Guest(config, memory, shared, control).run();
    } catch (const std::exception& error) {
        shared.guests[config.index].add_violation(std::string("the guest failed: ") + error.what());
        status = EXIT_FAILURE;
    }
    ::_exit(status);  // the destructors of the checker's objects are the checker's
}

}  // namespace

GuestProcess::GuestProcess(const GuestConfig& config, test::FakeMemory& memory, Shared& shared) {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
        test::throw_errno("make a socket pair");
    }
    control_.reset(ends[0]);
    const UniqueFd guest_end(ends[1]);
    const pid_t parent = ::getpid();
    pid_ = ::fork();
    if (pid_ < 0) test::throw_errno("fork");
    if (pid_ > 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(EXIT_FAILURE);
    control_.reset();
    be_guest(config, memory, shared, guest_end.get());
}

void GuestProcess::order(Order order) const {
    const char byte = static_cast<char>(order);
    if (::send(control_.get(), &byte, 1, MSG_NOSIGNAL) != 1) test::throw_errno("order a guest");
}

bool GuestProcess::answered(std::chrono::milliseconds timeout) const {
    char byte = 0;
    return test::poll_fd(control_.get(), POLLIN, timeout) && ::read(control_.get(), &byte, 1) == 1;
}

void GuestProcess::kill() {
    if (status_) return;
    ::kill(pid_, SIGKILL);  // not reaped yet, so the id is still its own
    int status = 0;
    ::waitpid(pid_, &status, 0);
    status_ = 128 + SIGKILL;
}

std::optional<int> GuestProcess::status() {
    int status = 0;
    if (!status_ && ::waitpid(pid_, &status, WNOHANG) == pid_) {
        status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    return status_;
}

}  // namespace zecorx::soak
