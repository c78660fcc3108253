// A stock Linux guest on the daemon: every receive layout its driver uses, all sizes of frames.

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include "test_bed.h"
#include "verdict.h"

namespace zecorx::test {
namespace {

constexpr std::size_t kTransferBytes = 50 << 20;
constexpr unsigned kPings = 3000;

// What both page sizes and all layouts have in common; returns the VM's last statistics.
nlohmann::json exchange_traffic(GuestLayout layout) {
    TestBed bed;
    const auto guest = bed.start_guest(0, layout);
    bed.wait_ready(0, *guest);

    check_traffic(bed, *guest, kPings, kTransferBytes);

    const nlohmann::json stats = bed.daemon().stats();
    CHECK(stats.at("ports").at(0).at("soft82599").at("dma_faults") == 0);
    CHECK(stats.at("ports").at(0).at("soft82599").at("writes_after_stop") == 0);
    CHECK(stats.at("vms").at(0).at("connected") == true);
    const nlohmann::json vm = stats.at("vms").at(0);
    CHECK(bed.daemon().terminate().at("ports").at(0).at("soft82599").at("dma_faults") == 0);
    return vm;
}

TEMPLATE_TEST_CASE_SIG("A guest on huge pages exchanges traffic with the wire without copying",
                       "[guest]", ((bool MrgRxbuf, unsigned RxRing), MrgRxbuf, RxRing), (true, 256),
                       (true, 1024), (false, 256), (false, 1024)) {
    const nlohmann::json vm =
        exchange_traffic({.mrg_rxbuf = MrgRxbuf, .rx_ring = RxRing, .hugepages = true});
    INFO(vm.dump());
    CHECK(zero_copy_share(vm) >= 0.95);
}

// Scattered pages make some buffers copied, as they cross a page: the daemon addresses memory by
// its physical address here.
TEMPLATE_TEST_CASE_SIG("A guest on 4 KiB pages exchanges traffic with the wire", "[guest]",
                       ((bool MrgRxbuf), MrgRxbuf), true, false) {
    const nlohmann::json vm =
        exchange_traffic({.mrg_rxbuf = MrgRxbuf, .rx_ring = 256, .hugepages = false});
    INFO(vm.dump());
    CHECK(vm.at("rx_packets") > kPings);
}

}  // namespace
}  // namespace zecorx::test
