// VMs of which the kernel lets the NIC reach one, but not the other.

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "test_bed.h"

namespace zecorx::test {
namespace {

// VM 0 has what the limit is too small for, whoever comes first.
constexpr unsigned kTooLarge = 0, kSmall = 1;

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

// One sentence, for VM 0 and with the remedy.
void check_warning(const std::string& log, const std::string& remedy) {
    INFO(log);
    const auto said = warnings(log);
    REQUIRE(said.size() == 1);
    CHECK(said[0].find("net_vhost0: ") != std::string::npos);
    CHECK(said[0].find("so every frame is copied: cannot map") != std::string::npos);
    CHECK(said[0].find(remedy) != std::string::npos);
}

// Every frame comes and returns, of the one VM by copies, of the other without.
void check_traffic(Bed& bed) {
    bed.check_exchange(kWarmUp);
    const nlohmann::json before = bed.daemon.stats();
    bed.check_exchange(kFrames);
    const nlohmann::json after = bed.daemon.stats();
    INFO(after.dump());
    CHECK(zero_copied_share(before, after, kTooLarge) == 0);
    CHECK(after.at("vms").at(kTooLarge).at("copied_by_reason").at("unreachable") ==
          after.at("vms").at(kTooLarge).at("rx_packets"));
    CHECK(zero_copied_share(before, after, kSmall) >= kLeastZeroCopied);
}

void check_limit(Bed& bed, const FrontendOptions& too_large, const std::string& remedy) {
    HostedFrontend large(bed.host, kTooLarge, too_large);
    HostedFrontend small(bed.host, kSmall, {.huge_pages = false});
    for (HostedFrontend* guest : {&large, &small}) guest->order("echo");
    for (unsigned vm = 0; vm < 2; ++vm) bed.daemon.wait_for_connection(vm, true);
    check_traffic(bed);
    check_warning(bed.daemon.log(), remedy);
    for (HostedFrontend* guest : {&large, &small}) {
        guest->order("leave");
        check_untouched(*guest);
    }
    bed.check_end();
}

TEST_CASE("A guest larger than what the daemon may lock gets copies, its neighbour none",
          "[limits]") {
    // For the daemon's own 128 MiB and one small guest. Busybox has a lesser setpriv.
    Bed bed(2, {},
            {.setup = "ulimit -l $((176 * 1024)); ",
             .wrapper = "/usr/bin/setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock"});
    check_limit(bed, {.huge_pages = false, .memory = 64}, "raise the memory-lock limit");
}

TEST_CASE("A guest of more regions than VFIO maps gets copies, its neighbour none", "[limits]") {
    Bed bed(2, {},
            {.setup = "echo 32 > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit; "});
    check_limit(bed, {.huge_pages = false, .regions = 32}, "vfio_iommu_type1.dma_entry_limit");
}

}  // namespace
}  // namespace zecorx::test
