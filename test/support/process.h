#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "zecorx/unique_fd.h"

namespace zecorx::test {

struct ProcessOptions {
    int netns = -1;                // network namespace to start in; -1: the test's own
    bool pipes = false;            // stdin and stdout are pipes to the test
    std::filesystem::path output;  // where stdout goes without pipes; empty: /dev/null
    std::filesystem::path errors;  // where stderr goes; empty: the test's stderr
};

// A child process. It is killed and reaped by the destructor, and by the kernel if the test itself
// dies.
//
// Construct it on the main thread: the kernel counts the end of the thread that forked as the death
// of the parent.
class Process {
  public:
    Process(const std::vector<std::string>& command, const ProcessOptions& options);
    ~Process();
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;

    pid_t pid() const { return pid_; }
    bool running() { return !wait(std::chrono::milliseconds(0)); }

    // Its exit status (128 + signal if one ended it), or nothing if it still runs at the timeout.
    std::optional<int> wait(std::chrono::milliseconds timeout);
    // SIGTERM, then the exit status; kills it if it still runs at the timeout and returns nothing.
    std::optional<int> terminate(std::chrono::milliseconds timeout);
    void kill();
    void signal(int number);  // nothing happens if it ended before

    // REQUIRES: ProcessOptions::pipes.
    int input() const { return input_.get(); }
    int output() const { return output_.get(); }
    void close_input() { input_.reset(); }

  private:
    pid_t pid_ = -1;
    UniqueFd pidfd_;
    UniqueFd input_;
    UniqueFd output_;
    std::optional<int> status_;
};

// Runs a short command to its end and returns what it wrote to stdout.
// Throws std::runtime_error if it fails or takes longer than `timeout`.
std::string run_command(const std::vector<std::string>& command, int netns = -1,
                        std::chrono::milliseconds timeout = std::chrono::seconds(20));

}  // namespace zecorx::test
