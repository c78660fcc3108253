// Where messages go: spdlog on standard error, DPDK's own lines included.
#pragma once

#include <string>

namespace zecorx {

// Sets the level and the sink. `level` is one that Options accepts.
void set_up_log(const std::string& level);

// Sends what EAL and the DPDK libraries log through spdlog; call before rte_eal_init. The lines of
// a library that only repeat what the daemon says itself are shown from --log-level debug on.
void forward_dpdk_log();

}  // namespace zecorx
