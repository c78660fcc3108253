#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "support/machine.h"

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

// A Linux guest with one virtio-net device on a vhost-user backend. It is ready when eth0 has its
// address.
//
// Thread rule: all methods on the test's main thread.
class QemuGuest : public Machine {
  public:
    // Starts QEMU and returns at once.
    explicit QemuGuest(const GuestOptions& options);

    // Stops and resumes the machine as an operator does; QEMU tells the vhost-user backend.
    void pause() { qmp("stop"); }
    void resume() { qmp("cont"); }
    // Any command of QEMU's monitor; what it returns. Throws if it fails.
    nlohmann::json qmp(const std::string& command,
                       const nlohmann::json& arguments = nlohmann::json::object());

    std::uint64_t interface_counter(const std::string& name);  // of eth0, as sysfs names it
    std::uint64_t features();                                  // that eth0's driver has accepted

  private:
    std::filesystem::path monitor_;
};

}  // namespace zecorx::test
