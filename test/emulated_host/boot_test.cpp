// What the other tests stand on: the emulated host itself.

#include <catch2/catch_test_macros.hpp>

#include "emulated_host.h"
#include "support/wait.h"

namespace zecorx::test {
namespace {

TEST_CASE("The emulated host confines its NIC, and reports DMA to memory that nobody mapped",
          "[boot]") {
    EmulatedHost host;
    const std::string group = host.iommu_group();
    CHECK_FALSE(group.empty());
    CHECK(host.machine().run("test -c /dev/vfio/" + group).status == 0);
    CHECK(host.machine()
              .must("ls /sys/kernel/iommu_groups/" + group + "/devices")
              .find(EmulatedHost::kNic) != std::string::npos);
    CHECK(host.machine().must("zecorx-vhost --help").find("--vdev") != std::string::npos);

    host.start("stray", std::string("stray-dma --in-memory --no-telemetry -l 0 -m 64 -a ") +
                            EmulatedHost::kNic);
    REQUIRE(host.read_line("stray").find("posted") == 0);
    CHECK(host.dma_faults() == 0);

    host.wire().send(make_frame({.size = 512}));

    CHECK(wait_until([&] { return host.dma_faults() > 0; }, Machine::kCommandTimeout));
    host.write_line("stray", "");
    CHECK(host.wait_for_end("stray") == "0");
}

}  // namespace
}  // namespace zecorx::test
