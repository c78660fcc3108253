#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "emulated_host.h"
#include "zecorx/mac_address.h"

namespace zecorx::test {

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

    // Returns when every VM's socket is there. `options` are further KEY=VALUE pairs of each VM,
    // each with a comma before it.
    HostedDaemon(EmulatedHost& host, unsigned vms, const std::string& options = {});

    // Statistics sampled after the call.
    nlohmann::json stats();
    // Waits for statistics that meet the condition and returns them; throws on timeout.
    nlohmann::json wait_for_stats(const std::function<bool(const nlohmann::json&)>& condition);
    // Waits until the frontend of VM `vm` is (dis)connected.
    nlohmann::json wait_for_connection(unsigned vm, bool connected);

    // SIGTERM; throws unless it exits with 0.
    void terminate();

  private:
    std::vector<nlohmann::json> printed_stats(std::size_t skip);

    EmulatedHost& host_;
};

}  // namespace zecorx::test
