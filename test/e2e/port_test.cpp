// A guest on ports that are no 82599: one queue, no DMA, and still the driver's write the only
// copy.
#include <sys/socket.h>

#include <catch2/catch_test_macros.hpp>

#include "packet_socket.h"
#include "support/wait.h"
#include "test_bed.h"
#include "verdict.h"

namespace zecorx::test {
namespace {

constexpr std::size_t kTransferBytes = 20 << 20;
constexpr unsigned kPings = 1000;
constexpr unsigned kReboots = 3;

void check_intact(const nlohmann::json& stats) {
    INFO(stats.dump());
    CHECK(stats.at("ports").at(0).at("rx_errors") == 0);
    CHECK(stats.at("vms").at(0).at("mbufs_held") == 0);
    for (const char* reason : {"too-big", "broken-ring", "tx-header", "tx-length"}) {
        CHECK(stats.at("vms").at(0).at("dropped").at(reason) == 0);
    }
}

void serve_and_reboot(TestBed& bed) {
    const std::size_t fds = bed.daemon().open_fds();
    {
        const auto guest = bed.start_guest(0);
        bed.wait_ready(0, *guest);
        check_traffic(bed, *guest, kPings, kTransferBytes);
        const nlohmann::json vm = bed.daemon().stats().at("vms").at(0);
        INFO(vm.dump());
        CHECK(zero_copy_share(vm) >= 0.95);
        for (unsigned reboot = 0; reboot < kReboots; ++reboot) {
            INFO("reboot " << reboot);
            guest->start_reboot();
            bed.wait_ready(0, *guest);
            bed.netns().ip({"neighbour", "flush", "dev", Daemon::kWire});
            guest->must(std::string("ping -c 3 -W 5 ") + kWireIp);
        }
        check_traffic(bed, *guest, kPings, kTransferBytes);
        check_intact(bed.daemon().stats());
    }
    bed.daemon().wait_for_connection(0, false);
    CHECK(wait_until(
        [&] { return bed.daemon().guest_mappings() == 0 && bed.daemon().open_fds() <= fds; },
        Daemon::kTimeout));
    check_intact(bed.daemon().terminate());
}

TEST_CASE("A guest has a TAP interface to itself, and reboots", "[port-tap]") {
    TestBed bed(1, {.port = std::string("net_tap0,persist,iface=") + Daemon::kWire});
    serve_and_reboot(bed);
}

// The ring's slots hold a frame of 1518 bytes with what the kernel puts in front of it, so the
// driver never writes more.
TEST_CASE("A guest has a packet socket to itself, and reboots", "[port-af-packet]") {
    TestBed bed(
        1, {.port = "net_af_packet0,iface=nic0,framesz=1584,blocksz=811008,longest=1518"},
        [](NetNamespace& netns) {
            netns.ip({"link", "add", Daemon::kWire, "type", "veth", "peer", "name", "nic0"});
            netns.ip({"link", "set", "nic0", "up", "promisc", "on"});
            netns.switch_off_offloads(Daemon::kWire);
            netns.switch_off_offloads("nic0");
        });
    serve_and_reboot(bed);
}

TEST_CASE("Guests on two ports of one daemon are apart, with statistics of their own", "[ports]") {
    const TempDir directory;
    const NetNamespace netns;
    const std::string second = "wire1";
    std::vector<VmSpec> vms;
    for (unsigned n : {0U, 1U}) {
        vms.push_back({directory.path() / ("vhost" + std::to_string(n)), guest_mac(n),
                       n == 0 ? ",port=soft" : ",port=soft2"});
    }
    Daemon daemon(netns, directory.path(), vms,
                  {.address = {}, .further = {"--pci", "soft,wire=tap:" + second}});
    netns.ip({"link", "set", second, "up"});
    netns.ip({"address", "add", std::string(kWireIp) + "/24", "dev", second});
    QemuGuest guest({.directory = directory.path() / "guest",
                     .socket = vms[1].socket,
                     .mac = guest_mac(1),
                     .address = guest_ip(1) + "/24",
                     .layout = {}});
    guest.wait_ready();
    daemon.wait_for_connection(1, true);

    const IcmpPeer on_second(guest_mac(1), guest_ip(1), netns.mac(second), kWireIp);
    CHECK(exchange(netns, second, on_second, kPings).returned == kPings);
    // Its address means nothing on the other port.
    const UniqueFd first = packet_socket(netns, Daemon::kWire);
    for (unsigned number = 0; number < kPings; ++number) {
        const Frame frame = on_second.request(number);
        REQUIRE(::send(first.get(), frame.data(), frame.size(), 0) >= 0);
    }
    const nlohmann::json ports =
        daemon
            .wait_for_stats([](const nlohmann::json& stats) {
                return stats.at("ports").at(0).at("soft82599").at("rx_dropped_filter") >= kPings;
            })
            .at("ports");
    CHECK(ports.at(1).at("rx_packets") >= kPings);
    CHECK(ports.at(1).at("soft82599").at("rx_dropped_filter") == 0);
    CHECK(ports.at(0).at("rx_packets") == 0);
    daemon.terminate();
}

}  // namespace
}  // namespace zecorx::test
