#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "emulated_host.h"
#include "zecorx/mac_address.h"

namespace zecorx::test {

struct DaemonOptions {
    std::string vm{};       // more KEY=VALUE pairs of each VM, each with a comma before it
    std::string words{};    // more of the command line
    std::string setup{};    // shell commands that come first
    std::string wrapper{};  // a program that runs the daemon
};

// zecorx-vhost on the NIC of an emulated host.
//
// Thread rule: all methods on the test's main thread.
class HostedDaemon {
  public:
    static constexpr std::chrono::seconds kTimeout{60};

    static MacAddress mac(unsigned vm);
    static std::string socket(unsigned vm) { return "/run/vm" + std::to_string(vm) + ".sock"; }
    // Of the first `count` VMs.
    static std::vector<MacAddress> macs(unsigned count);

    // Returns when every VM's socket is there.
    HostedDaemon(EmulatedHost& host, unsigned vms, const DaemonOptions& options = {});
    // What a daemon, another one, says that does not come up. Throws if it does.
    static std::string refusal(EmulatedHost& host, unsigned vms, const DaemonOptions& options = {});

    // Statistics sampled after the call.
    nlohmann::json stats();
    // Waits for statistics that meet the condition and returns them; throws on timeout.
    nlohmann::json wait_for_stats(const std::function<bool(const nlohmann::json&)>& condition);
    // Waits until the frontend of VM `vm` is (dis)connected.
    nlohmann::json wait_for_connection(unsigned vm, bool connected);

    // What it has logged.
    std::string log() const;

    // SIGTERM; throws unless it exits with 0.
    void terminate();

  private:
    std::vector<nlohmann::json> printed_stats(std::size_t skip);

    EmulatedHost& host_;
};

}  // namespace zecorx::test
