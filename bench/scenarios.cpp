#include "scenarios.h"

#include <array>

namespace zecorx::bench {

std::span<const Scenario> all_scenarios() {
    static constexpr std::array kAll{
        Scenario{"receive", "cycles a frame of every backend, by guest, ring and frame size", 1,
                 run_receive},
        Scenario{"segmented", "the same with frames in several buffers of 1 KiB", 1, run_segmented},
        Scenario{"jumbo", "the same with an MTU of 9000", 3, run_jumbo},
        Scenario{"vms", "cycles a frame by the number of VMs that one worker serves", 2, run_vms},
        Scenario{"idle", "cycles that a worker spends on a VM without traffic", 1, run_idle},
        Scenario{"stalled", "cycles a frame beside a VM whose guest posts nothing", 1, run_stalled},
        Scenario{"latency", "from the NIC's write to the guest's used ring", 1, run_latency},
        Scenario{"attach", "time to start and to stop a session, by the guest's memory", 1,
                 run_attach},
        Scenario{"memory", "the daemon's memory for one more VM", 2, run_memory},
    };
    return kAll;
}

}  // namespace zecorx::bench
