#include "child_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <thread>

extern char** environ;

namespace zecorx::test {

namespace {

class SpawnActions {
  public:
    SpawnActions() { ::posix_spawn_file_actions_init(&actions_); }
    ~SpawnActions() { ::posix_spawn_file_actions_destroy(&actions_); }
    SpawnActions(const SpawnActions&) = delete;
    SpawnActions& operator=(const SpawnActions&) = delete;

    void dup(int from, int to) { ::posix_spawn_file_actions_adddup2(&actions_, from, to); }
    posix_spawn_file_actions_t* get() { return &actions_; }

  private:
    posix_spawn_file_actions_t actions_;
};

int exit_value(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status); }

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& argv, const std::string& log_path) {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw_errno("create a pipe");
    const UniqueFd child_stdin(ends[0]);
    stdin_.reset(ends[1]);
    const UniqueFd log(::open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
    if (!log) throw_errno("open the log of a program under test");

    SpawnActions actions;
    actions.dup(child_stdin.get(), STDIN_FILENO);
    actions.dup(log.get(), STDOUT_FILENO);
    actions.dup(log.get(), STDERR_FILENO);
    std::vector<char*> arguments;
    for (const std::string& argument : argv) {
        arguments.push_back(const_cast<char*>(argument.c_str()));
    }
    arguments.push_back(nullptr);
    const int error =
        ::posix_spawnp(&pid_, arguments[0], actions.get(), nullptr, arguments.data(), environ);
    if (error != 0) throw std::system_error(error, std::generic_category(), "start " + argv[0]);
}

ChildProcess::~ChildProcess() {
    using namespace std::chrono_literals;
    signal(SIGTERM);
    if (wait_exit(5s)) return;
    signal(SIGKILL);
    wait_exit(5s);
}

bool ChildProcess::is_running() { return !wait_exit(std::chrono::milliseconds(0)); }

void ChildProcess::signal(int number) {
    // Once it is reaped the id may belong to somebody else.
    if (is_running()) ::kill(pid_, number);
}

std::optional<int> ChildProcess::wait_exit(std::chrono::milliseconds timeout) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    while (!exit_) {
        int status = 0;
        if (::waitpid(pid_, &status, WNOHANG) == pid_) exit_ = exit_value(status);
        if (exit_ || std::chrono::steady_clock::now() >= deadline) break;
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return exit_;
}

}  // namespace zecorx::test
