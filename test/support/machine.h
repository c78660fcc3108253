#pragma once

#include <signal.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "support/process.h"

namespace zecorx::test {

struct CommandResult {
    int status;
    std::string output;
};

struct MachineOptions {
    std::filesystem::path directory;  // for its logs; made if missing
    std::string kernel;
    std::string initramfs;
    std::string kernel_words;            // besides kKernelWords
    std::vector<std::string> arguments;  // of QEMU: memory and devices
};

// Linux in QEMU without hardware virtualization. Shell commands go in through a serial port of
// their own, so that kernel messages (in console.log) do not mix with the answers: see
// scripts/lib/machine-init.sh.
//
// Thread rule: all methods on the test's main thread.
class Machine {
  public:
    // Those that every machine has. A tickless kernel can hang under TCG.
    static constexpr const char* kKernelWords =
        "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check "
        "random.trust_cpu=on nohz=off highres=off";
    // Under load a boot that takes 3 s alone may take long.
    static constexpr std::chrono::seconds kBootTimeout{90};
    static constexpr std::chrono::seconds kCommandTimeout{30};

    // Starts QEMU and returns at once.
    explicit Machine(const MachineOptions& options);
    // With the last of its logs on stderr while a test fails.
    ~Machine();

    // Returns when its init serves the control port. Throws if it does not get there.
    void wait_ready(std::chrono::milliseconds timeout = kBootTimeout);

    // Runs a shell command; stdout and stderr come back together.
    CommandResult run(const std::string& command,
                      std::chrono::milliseconds timeout = kCommandTimeout);
    // The same for a command that must succeed: throws if it does not, returns its output.
    std::string must(const std::string& command,
                     std::chrono::milliseconds timeout = kCommandTimeout);

    // Resets the machine from inside, as `reboot -f` does; follow with wait_ready().
    void start_reboot();
    // Stops and resumes QEMU without anybody being told.
    void freeze() { process_.signal(SIGSTOP); }
    void thaw() { process_.signal(SIGCONT); }
    // SIGKILL, and wait for the end.
    void kill() { process_.kill(); }
    pid_t pid() const { return process_.pid(); }

  private:
    std::string read_until(const std::string& marker, std::chrono::milliseconds timeout);
    void send(const std::string& text);

    std::filesystem::path directory_;
    Process process_;
    std::string received_;  // read from the control port, not yet used
    unsigned commands_ = 0;
};

}  // namespace zecorx::test
