#pragma once

#include <string>

#include "net_namespace.h"

namespace zecorx::test {

// A raw socket that sends frames on the interface and receives those that arrive there from the
// other end, but not those that others send on it.
UniqueFd packet_socket(const NetNamespace& netns, const std::string& interface);

}  // namespace zecorx::test
