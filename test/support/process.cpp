#include "support/process.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <stdexcept>
#include <system_error>

#include "guest/event_fd.h"

namespace zecorx::test {
namespace {

struct Pipe {
    UniqueFd reader;
    UniqueFd writer;
};

Pipe make_pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw_errno("pipe2");
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

UniqueFd open_log(const std::filesystem::path& path) {
    UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
    if (!fd) throw_errno(path.c_str());
    return fd;
}

UniqueFd open_null() {
    UniqueFd fd(::open("/dev/null", O_RDWR | O_CLOEXEC));
    if (!fd) throw_errno("/dev/null");
    return fd;
}

std::string join(const std::vector<std::string>& command) {
    std::string text;
    for (const std::string& word : command) text += (text.empty() ? "" : " ") + word;
    return text;
}

struct ChildFds {
    int input, output, errors, netns;
};

// The child's half of fork(): the test has other threads, so async-signal-safe calls only.
[[noreturn]] void become(char* const* argv, const ChildFds& fds, pid_t parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(126);  // it died before the line above
    if (fds.netns >= 0 && ::setns(fds.netns, CLONE_NEWNET) != 0) ::_exit(126);
    ::dup2(fds.input, STDIN_FILENO);
    ::dup2(fds.output, STDOUT_FILENO);
    if (fds.errors >= 0) ::dup2(fds.errors, STDERR_FILENO);
    ::execvp(argv[0], argv);
    ::_exit(127);
}

}  // namespace

Process::Process(const std::vector<std::string>& command, const ProcessOptions& options) {
    std::vector<char*> argv;
    for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);

    UniqueFd child_input, child_output, child_errors;
    if (options.pipes) {
        Pipe to_child = make_pipe();
        Pipe from_child = make_pipe();
        child_input = std::move(to_child.reader);
        input_ = std::move(to_child.writer);
        child_output = std::move(from_child.writer);
        output_ = std::move(from_child.reader);
    } else {
        child_input = open_null();
        child_output = options.output.empty() ? open_null() : open_log(options.output);
    }
    if (!options.errors.empty()) child_errors = open_log(options.errors);

    const pid_t parent = ::getpid();
    pid_ = ::fork();
    if (pid_ < 0) throw_errno("fork");
    if (pid_ == 0) {
        become(argv.data(),
               {child_input.get(), child_output.get(), child_errors.get(), options.netns}, parent);
    }
    // Not by glibc's pidfd_open(): its header lacks extern "C" in Debian 12.
    pidfd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    if (!pidfd_) throw_errno("pidfd_open");
}

Process::~Process() { kill(); }

std::optional<int> Process::wait(std::chrono::milliseconds timeout) {
    if (status_ || !poll_fd(pidfd_.get(), POLLIN, timeout)) return status_;
    int status = 0;
    if (::waitpid(pid_, &status, 0) == pid_) {
        status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    return status_;
}

std::optional<int> Process::terminate(std::chrono::milliseconds timeout) {
    signal(SIGTERM);
    const std::optional<int> status = wait(timeout);
    if (!status) kill();
    return status;
}

void Process::kill() {
    signal(SIGKILL);
    wait(std::chrono::seconds(30));
}

void Process::signal(int number) {
    // Not reaped yet, so the id is still its own.
    if (running()) ::kill(pid_, number);
}

std::string run_command(const std::vector<std::string>& command, int netns,
                        std::chrono::milliseconds timeout) {
    Process process(command, {.netns = netns, .pipes = true, .output = {}, .errors = {}});
    process.close_input();
    std::string output;
    std::array<char, 4096> buffer;
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    while (poll_fd(process.output(), POLLIN,
                   std::chrono::ceil<std::chrono::milliseconds>(
                       deadline - std::chrono::steady_clock::now()))) {
        const ssize_t size = ::read(process.output(), buffer.data(), buffer.size());
        if (size <= 0) break;
        output.append(buffer.data(), static_cast<std::size_t>(size));
    }
    const std::optional<int> status = process.wait(std::chrono::seconds(2));
    if (status != 0) {
        throw std::runtime_error("'" + join(command) + "' " +
                                 (status ? "ended with " + std::to_string(*status) : "hangs") +
                                 ": " + output);
    }
    return output;
}

}  // namespace zecorx::test
