// Hosts of other kinds: without an IOMMU, and with other NICs.

#include <string>

#include "test_bed.h"

namespace zecorx::test {
namespace {

bool says(const std::string& text, const std::string& words) {
    return text.find(words) != std::string::npos;
}

struct Figures {
    nlohmann::json before, after;
};

// Statistics around an exchange with every VM.
Figures exchange_figures(Bed& bed, std::uint32_t count) {
    Figures figures{.before = bed.daemon.stats(), .after = {}};
    bed.check_exchange(count);
    figures.after = bed.daemon.stats();
    return figures;
}

TEST_CASE("A NIC that no IOMMU confines is refused, and serves guests where that is accepted",
          "[no-iommu]") {
    Bed bed(2, {.iommu = false}, {.words = " --unsafe-no-iommu"});
    const std::string refusal = HostedDaemon::refusal(bed.host, 1);
    INFO(refusal);
    CHECK(says(refusal, "without an IOMMU, so nothing keeps the NIC from writing anywhere"));
    CHECK(says(refusal, "--unsafe-no-iommu"));

    HostedFrontend guests[] = {{bed.host, 0, {.huge_pages = true}},
                               {bed.host, 1, {.huge_pages = false}}};
    for (HostedFrontend& guest : guests) guest.order("echo");
    for (unsigned vm = 0; vm < 2; ++vm) bed.daemon.wait_for_connection(vm, true);
    bed.check_exchange(kWarmUp);
    const auto [before, after] = exchange_figures(bed, kFrames);
    INFO(after.dump());
    CHECK(zero_copied_share(before, after, 0) >= kLeastZeroCopied);
    // A buffer on two small pages is not contiguous.
    const nlohmann::json& small = after.at("vms").at(1);
    CHECK(small.at("copied") == small.at("copied_by_reason").at("crossing"));
    CHECK(small.at("zero_copied") > small.at("copied"));
    for (HostedFrontend& guest : guests) {
        guest.order("leave");
        check_untouched(guest);
    }
    bed.daemon.terminate();
}

TEST_CASE("A NIC of one queue serves a guest that leaves and comes back", "[one-queue]") {
    const unsigned comings = rounds() > 1 ? 4 : 2;  // on both kinds of pages
    constexpr std::uint32_t kFewFrames = 300;
    Bed bed(1, {.nic = "e1000e"});
    for (unsigned coming = 0; coming < comings; ++coming) {
        HostedFrontend guest(bed.host, 0, {.huge_pages = coming % 2 == 0});
        guest.order("echo");
        bed.daemon.wait_for_connection(0, true);
        bed.check_exchange(kFewFrames);
        bed.send_tagged();
        const auto [before, after] = exchange_figures(bed, kFewFrames);
        INFO(after.dump());
        CHECK(zero_copied_share(before, after, 0) >= kLeastZeroCopied);
        bed.check_exchange(kFewFrames);
        guest.order("leave");
        CHECK(guest.stat().at("frames") == 3 * kFewFrames);
        check_untouched(guest);
        const nlohmann::json left = bed.daemon.wait_for_connection(0, false);
        CHECK(left.at("ports").at(0).at("rx_packets") == (coming + 1) * 3 * kFewFrames);
        CHECK(bed.host.dma_faults() == 0);
    }
    bed.check_end();
}

TEST_CASE("A NIC whose driver keeps its buffers when it is stopped is refused", "[virtio-nic]") {
    EmulatedHost host({.nic = "virtio-net-pci,disable-legacy=on,iommu_platform=on"});
    const std::string refusal = HostedDaemon::refusal(host, 1);
    INFO(refusal);
    CHECK(says(refusal, "the driver net_virtio of port"));
    CHECK(says(refusal, "keeps its receive buffers when the port is stopped"));
}

}  // namespace
}  // namespace zecorx::test
