// VMs of which the kernel lets the NIC reach one, but not the other.

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "test_bed.h"

namespace zecorx::test {
namespace {

enum : unsigned { kTooLarge, kTooManyRegions, kSmall, kVms };

std::vector<std::string> warnings(const std::string& log) {
    std::vector<std::string> found;
    std::istringstream lines(log);
    for (std::string line; std::getline(lines, line);) {
        if (line.find("the NIC cannot reach the guest's memory") != std::string::npos) {
            found.push_back(line);
        }
    }
    return found;
}

// One sentence for each VM that needs it, with the remedy.
void check_warnings(const std::string& log) {
    INFO(log);
    const auto said = warnings(log);
    REQUIRE(said.size() == kSmall);
    for (unsigned vm = 0; vm < kSmall; ++vm) {
        CHECK(said[vm].find("net_vhost" + std::to_string(vm) + ": ") != std::string::npos);
        CHECK(said[vm].find("so every frame is copied: cannot map") != std::string::npos);
        CHECK(said[vm].find("raise the memory-lock limit") != std::string::npos);
        CHECK(said[vm].find("vfio_iommu_type1.dma_entry_limit") != std::string::npos);
    }
}

// Every frame comes and returns, of the one VM without copies.
void check_traffic(Bed& bed) {
    bed.check_exchange(kWarmUp);
    const nlohmann::json before = bed.daemon.stats();
    bed.check_exchange(kFrames);
    const nlohmann::json after = bed.daemon.stats();
    INFO(after.dump());
    for (unsigned vm = 0; vm < kSmall; ++vm) {
        CHECK(zero_copied_share(before, after, vm) == 0);
        CHECK(after.at("vms").at(vm).at("copied_by_reason").at("unreachable") ==
              after.at("vms").at(vm).at("rx_packets"));
    }
    CHECK(zero_copied_share(before, after, kSmall) >= kLeastZeroCopied);
}

// Enough for the daemon's own 128 MiB and for two guests of 32 MiB each. Busybox has a lesser
// setpriv.
const DaemonOptions kLimited{
    .setup =
        "echo 16 > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit; "
        "ulimit -l $((208 * 1024)); ",
    .wrapper = "/usr/bin/setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock"};

TEST_CASE("A guest beyond the kernel's limits gets copies, its neighbour none", "[limits]") {
    Bed bed(kVms, {}, kLimited);
    HostedFrontend guests[] = {{bed.host, kTooLarge, {.huge_pages = false, .memory = 128}},
                               {bed.host, kTooManyRegions, {.huge_pages = false, .regions = 16}},
                               {bed.host, kSmall, {.huge_pages = false}}};
    for (HostedFrontend& guest : guests) guest.order("echo");
    for (unsigned vm = 0; vm < kVms; ++vm) bed.daemon.wait_for_connection(vm, true);
    check_traffic(bed);
    check_warnings(bed.daemon.log());
    for (HostedFrontend& guest : guests) {
        guest.order("leave");
        check_untouched(guest);
    }
    bed.check_end();
}

}  // namespace
}  // namespace zecorx::test
