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

// On a NIC of one queue, on both kinds of pages. `filters`: it keeps tagged frames away.
void check_comings_and_goings(Bed& bed, bool filters) {
    const unsigned comings = rounds() > 1 ? 4 : 2;
    constexpr std::uint32_t kFewFrames = 300;
    for (unsigned coming = 0; coming < comings; ++coming) {
        HostedFrontend guest(bed.host, 0, {.huge_pages = coming % 2 == 0});
        guest.order("echo");
        bed.daemon.wait_for_connection(0, true);
        bed.check_exchange(kFewFrames);
        if (filters) bed.send_tagged();
        for (const std::size_t too_long : {1519, 4000}) bed.send(too_long);
        const auto [before, after] = exchange_figures(bed, kFewFrames);
        INFO(after.dump());
        CHECK(zero_copied_share(before, after, 0) >= kLeastZeroCopied);
        bed.check_exchange(kFewFrames);
        guest.order("leave");
        CHECK(guest.stat().at("frames") == 3 * kFewFrames);
        check_untouched(guest);
        const nlohmann::json left = bed.daemon.wait_for_connection(0, false);
        // Where the NIC does not drop what is too long.
        const auto too_long = left.at("vms").at(0).at("dropped").at("too-big").get<unsigned>();
        CHECK(left.at("ports").at(0).at("rx_packets") == (coming + 1) * 3 * kFewFrames + too_long);
        CHECK(bed.host.dma_faults() == 0);
    }
}

// Whatever the MTU says, such a NIC takes frames as long as a tag makes them, tagged or not.
void check_longest_frame(Bed& bed) {
    constexpr std::size_t kLongest = 1518;
    HostedFrontend guest(bed.host, 0, {.room = kLongest - 1});
    guest.order("echo");
    const nlohmann::json before = bed.daemon.wait_for_connection(0, true);
    bed.send(kLongest);
    bed.check_exchange(kWarmUp);
    guest.order("leave");
    CHECK(guest.stat().at("frames") == 1 + kWarmUp);
    check_untouched(guest);
    CHECK(zero_copied_share(before, bed.daemon.wait_for_connection(0, false), 0) == 0);
}

TEST_CASE("A NIC of one queue serves a guest that leaves and comes back", "[one-queue]") {
    Bed bed(1, {.nic = "e1000e"});
    check_comings_and_goings(bed, true);
    check_longest_frame(bed);
    bed.check_end();
}

TEST_CASE("A virtio-net device as a NIC serves a guest that leaves and comes back",
          "[virtio-nic]") {
    Bed bed(1, {.nic = "virtio-net-pci,disable-legacy=on,iommu_platform=on"});
    const std::string device = std::string("/sys/bus/pci/devices/") + EmulatedHost::kNic;
    Machine& machine = bed.host.machine();
    CHECK(says(machine.must("bind-nic --status"), "vfio-pci"));
    CHECK(says(machine.run("bind-nic --restore --all").output, "in use by process"));

    check_comings_and_goings(bed, false);
    bed.check_end();

    CHECK(says(machine.must("bind-nic --restore --all"), "restored, it has virtio-pci"));
    CHECK(says(machine.must("basename $(readlink " + device + "/driver)"), "virtio-pci"));
    machine.must("ip link set $(ls " + device + "/virtio*/net) up");
}

}  // namespace
}  // namespace zecorx::test
