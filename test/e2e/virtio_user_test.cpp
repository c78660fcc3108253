// DPDK's own virtio driver as the guest: other buffer layouts and polling instead of interrupts.

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include "support/wait.h"
#include "test_bed.h"

namespace zecorx::test {
namespace {

// testpmd with a virtio_user port that sends every frame back with its MAC addresses swapped.
std::vector<std::string> testpmd_command(const VmSpec& vm, bool mrg_rxbuf) {
    return {"dpdk-testpmd",
            "--no-pci",
            "--in-memory",
            "--single-file-segments",
            "--no-telemetry",
            "-m",
            "128",
            "--lcores",
            "0,1",
            "--vdev",
            "net_virtio_user0,path=" + vm.socket.string() + ",mac=" + vm.mac +
                ",queues=1,packed_vq=0,mrg_rxbuf=" + (mrg_rxbuf ? "1" : "0"),
            "--",
            "--forward-mode=macswap",
            "--auto-start",
            "--no-lsc-interrupt",
            "--total-num-mbufs=4096"};
}

TEMPLATE_TEST_CASE_SIG("testpmd on virtio_user returns every frame of the wire", "[virtio-user]",
                       ((bool MrgRxbuf), MrgRxbuf), true, false) {
    constexpr unsigned kFrames = 10000;
    constexpr unsigned kWarmUpFrames = 1000;
    TestBed bed;
    const TempDir logs;
    Process testpmd(testpmd_command(bed.vm(0), MrgRxbuf),
                    {.pipes = true, .output = {}, .errors = logs.path() / "testpmd.log"});
    bed.daemon().wait_for_connection(0, true);
    const MacSwapPeer peer(guest_mac(0), bed.netns().mac(Daemon::kWire));
    // Until testpmd forwards, its frames are lost.
    REQUIRE(wait_until(
        [&] {
            constexpr std::chrono::milliseconds kSilence{300};
            return exchange(bed.netns(), Daemon::kWire, peer, 1, 1, kSilence).returned == 1;
        },
        Daemon::kTimeout));
    // What the daemon posted before the driver had any buffers is used up by these.
    REQUIRE(exchange(bed.netns(), Daemon::kWire, peer, kWarmUpFrames).returned == kWarmUpFrames);
    const nlohmann::json before = bed.daemon().stats();

    const EchoResult echo = exchange(bed.netns(), Daemon::kWire, peer, kFrames);
    const nlohmann::json after = bed.daemon().stats();

    INFO(after.dump());
    CHECK(echo.returned == kFrames);
    CHECK(echo.damaged == 0);
    CHECK(echo.unexpected == 0);
    const auto counted = [&](const char* name) {
        return after.at("vms").at(0).at(name).get<std::uint64_t>() -
               before.at("vms").at(0).at(name).get<std::uint64_t>();
    };
    CHECK(counted("rx_packets") == kFrames);
    CHECK(counted("tx_packets") == kFrames);
    CHECK(counted("zero_copied") >= kFrames * 0.95);
    CHECK(after.at("soft82599").at("dma_faults") == 0);
}

}  // namespace
}  // namespace zecorx::test
