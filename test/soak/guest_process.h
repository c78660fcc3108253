// The process of one guest as the checker sees it.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>

#include "guest.h"
#include "zecorx/unique_fd.h"

namespace zecorx::soak {

// Killed and reaped by the destructor. REQUIRES: one thread in the process that forks.
class GuestProcess {
  public:
    GuestProcess(const GuestConfig& config, test::FakeMemory& memory, Shared& shared);
    ~GuestProcess() { kill(); }
    GuestProcess(const GuestProcess&) = delete;
    GuestProcess& operator=(const GuestProcess&) = delete;

    void order(Order order) const;
    // Whether the answer comes in time.
    bool answered(std::chrono::milliseconds timeout) const;

    void kill();
    // Its status as a shell has it, once it has ended.
    std::optional<int> status();

  private:
    pid_t pid_ = -1;
    UniqueFd control_;
    std::optional<int> status_;
};

}  // namespace zecorx::soak
