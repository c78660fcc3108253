// The host that most suites share.

#include "test_host.h"

namespace zecorx::test {

HostSetup host_setup() { return four_vms(); }

}  // namespace zecorx::test
