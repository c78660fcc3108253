#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "net_namespace.h"
#include "support/process.h"

namespace zecorx::test {

struct VmSpec {
    std::filesystem::path socket;
    std::string mac;
    std::string options;  // further KEY=VALUE pairs of --vdev, each with a comma before it
    bool client = false;  // the daemon connects to the socket, which the frontend listens on
};

struct WireSpec {
    std::string address;         // the host's end gets it, with prefix length; empty: none
    unsigned mtu = 1500;         // of the port and of the host's end
    std::string interface = {};  // its name; empty: kWire
    std::string port = {};       // what --port gets, a wire of its own; empty: a software 82599
    std::vector<std::string> further = {};  // arguments: other ports
};

// zecorx-vhost on a software 82599 whose wire is a TAP interface in a network namespace, or on
// another port there.
//
// Thread rule: all methods on the test's main thread.
class Daemon {
  public:
    static constexpr const char* kWire = "wire0";
    static constexpr std::chrono::seconds kTimeout{60};

    // Returns when the wire is up and every VM's socket listens, but for those in client mode.
    Daemon(const NetNamespace& netns, const std::filesystem::path& directory,
           const std::vector<VmSpec>& vms, const WireSpec& wire);
    ~Daemon();

    bool running() { return process_.running(); }
    pid_t pid() const { return process_.pid(); }

    // Statistics sampled after the call.
    nlohmann::json stats();
    // Waits for statistics that meet the condition and returns them; throws on timeout.
    nlohmann::json wait_for_stats(const std::function<bool(const nlohmann::json&)>& condition,
                                  std::chrono::milliseconds timeout = kTimeout);
    // Waits until the frontend of VM `vm` is (dis)connected; returns its statistics.
    nlohmann::json wait_for_connection(std::size_t vm, bool connected);

    // SIGKILL, and wait for the end.
    void kill() { process_.kill(); }
    // SIGTERM; returns the statistics it printed last. Throws unless it exits with 0.
    nlohmann::json terminate();

    std::size_t open_fds() const;
    std::size_t mappings() const;
    std::size_t guest_mappings() const;  // those of the memory of guests

  private:
    std::vector<nlohmann::json> printed_stats() const;

    std::filesystem::path directory_;
    Process process_;
};

// The share of the frames delivered to `vm` that were not copied; 1 if there was none.
double zero_copy_share(const nlohmann::json& vm);
// The same for the frames delivered from `before` to `after`.
double zero_copy_share(const nlohmann::json& before, const nlohmann::json& after);

}  // namespace zecorx::test
