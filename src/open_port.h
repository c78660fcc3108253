// Which kind of Port a device becomes, by what its hardware and its driver can do:
//   VMDq pools, and an RX queue that can be stopped while the port runs    VmdqPort (82599)
//   VMDq pools, but queues that change only while the port is stopped      RestartingPort
//   one queue                                                              RestartingPort, of one
//   VM
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "options.h"
#include "port.h"

namespace zecorx {

// Configures the device that EAL knows as `name` for `vms`, and says what it cannot do. Throws
// std::runtime_error with the remedy.
std::unique_ptr<Port> open_port(const std::string& name, const NicOptions& nic,
                                std::vector<VmOptions> vms);

}  // namespace zecorx
