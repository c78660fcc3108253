#pragma once

#include <signal.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "support/process.h"

namespace zecorx::test {

// The guest's network device and memory, which decide how it lays its receive buffers out.
struct GuestLayout {
    bool mrg_rxbuf = true;
    unsigned rx_ring = 256;
    bool hugepages = true;    // its memory is on 2 MiB pages; else 4 KiB
    bool packed = false;      // packed virtqueues; else split
    bool offloads = true;     // checksum and segmentation, as far as the backend has them
    bool device_mtu = false;  // the device tells its MTU; else the guest is configured with it
    bool announces = true;    // itself after a migration; else its backend has to
};

struct GuestOptions {
    std::filesystem::path directory;  // for its logs and control sockets; made if missing
    std::filesystem::path socket;     // the vhost-user backend's, unless `listens`
    bool listens = false;             // the backend connects to it
    bool incoming = false;            // waits for a migration instead of booting
    std::string mac;
    std::string address;  // eth0's, with prefix length
    unsigned mtu = 1500;  // eth0's
    GuestLayout layout;
};

struct CommandResult {
    int status;
    std::string output;
};

// A Linux guest in QEMU without hardware virtualization, with one virtio-net device on a vhost-user
// backend. Shell commands go in through a serial port of their own, so that kernel messages (in
// console.log) do not mix with the answers.
//
// Thread rule: all methods on the test's main thread.
class QemuGuest {
  public:
    // Under load a boot that takes 3 s alone may take long.
    static constexpr std::chrono::seconds kBootTimeout{90};
    static constexpr std::chrono::seconds kCommandTimeout{30};

    // Starts QEMU and returns at once.
    explicit QemuGuest(GuestOptions options);
    ~QemuGuest();

    // Returns when the guest is up and eth0 has its address. Throws if it does not get there.
    void wait_ready(std::chrono::milliseconds timeout = kBootTimeout);

    // Runs a shell command in the guest; stdout and stderr come back together.
    CommandResult run(const std::string& command,
                      std::chrono::milliseconds timeout = kCommandTimeout);
    // The same for a command that must succeed: throws if it does not, returns its output.
    std::string must(const std::string& command,
                     std::chrono::milliseconds timeout = kCommandTimeout);

    // Resets the machine from inside, as `reboot -f` does; follow with wait_ready().
    void start_reboot();
    // Stops and resumes the machine as an operator does; QEMU tells the vhost-user backend.
    void pause() { qmp("stop"); }
    void resume() { qmp("cont"); }
    // Any command of QEMU's monitor; what it returns. Throws if it fails.
    nlohmann::json qmp(const std::string& command,
                       const nlohmann::json& arguments = nlohmann::json::object());
    // Stops and resumes QEMU without anybody being told.
    void freeze() { process_->signal(SIGSTOP); }
    void thaw() { process_->signal(SIGCONT); }
    // SIGKILL, and wait for the end.
    void kill() { process_->kill(); }
    pid_t pid() const { return process_->pid(); }

    std::uint64_t interface_counter(const std::string& name);  // of eth0, as sysfs names it
    std::uint64_t features();                                  // that eth0's driver has accepted

  private:
    std::string read_until(const std::string& marker, std::chrono::milliseconds timeout);
    void send(const std::string& text);

    GuestOptions options_;
    std::unique_ptr<Process> process_;
    std::string received_;  // read from the control port, not yet used
    unsigned commands_ = 0;
};

}  // namespace zecorx::test
