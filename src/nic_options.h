// The options that name ports: --pci and --port, and port= of --vdev.
#pragma once

#include <string>
#include <vector>

#include "options.h"

namespace zecorx {

// Without any: one software 82599. Throws OptionError.
std::vector<NicOptions> parse_nics(const std::vector<std::string>& pci,
                                   const std::vector<std::string>& ports);

// Gives every VM its port. Throws OptionError: there is no such port, or several and none named.
void assign_ports(std::vector<VmOptions>& vms, const std::vector<NicOptions>& nics);

}  // namespace zecorx
