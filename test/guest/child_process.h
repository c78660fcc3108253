// A program under test, ended when the test is.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "unique_fd.h"

namespace zecorx::test {

// Only ever signals the process it started.
class ChildProcess {
  public:
    // Runs argv[0], found through PATH, with stdout and stderr in `log_path`. Its stdin stays open
    // and silent, since some programs exit at the end of it. Throws std::system_error.
    ChildProcess(const std::vector<std::string>& argv, const std::string& log_path);
    ChildProcess(const ChildProcess&) = delete;
    ChildProcess& operator=(const ChildProcess&) = delete;
    ~ChildProcess();  // SIGTERM, then SIGKILL if that does not help

    pid_t pid() const { return pid_; }
    bool is_running();
    void signal(int number);
    // Its exit code, or minus the signal that ended it; nothing while it runs on.
    std::optional<int> wait_exit(std::chrono::milliseconds timeout);

  private:
    pid_t pid_ = -1;
    std::optional<int> exit_;
    UniqueFd stdin_;
};

}  // namespace zecorx::test
