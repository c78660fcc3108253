// Guests in VLANs: one whose frames the NIC tags, and one that tags its own.

#include <sys/socket.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <map>
#include <memory>
#include <utility>

#include "ip_counters.h"
#include "packet_socket.h"
#include "test_bed.h"
#include "verdict.h"
#include "vlan_link.h"
#include "wire_capture.h"

namespace zecorx::test {
namespace {

constexpr std::size_t kTransferBytes = 8 << 20;
constexpr unsigned kPings = 500;
constexpr std::uint16_t kAccessVlan = 30;
constexpr std::uint16_t kTrunkVlan = 105;
constexpr std::uint16_t kForeignVlan = 40;
constexpr std::uint16_t kUntagged = 0;

std::string wire_ip(std::uint16_t vlan) { return "10.82." + std::to_string(vlan) + ".1"; }
std::string vlan_ip(std::uint16_t vlan, unsigned n) {
    return "10.82." + std::to_string(vlan) + "." + std::to_string(2 + n);
}
std::map<std::uint16_t, std::unique_ptr<VlanLink>> links(TestBed& bed) {
    std::map<std::uint16_t, std::unique_ptr<VlanLink>> all;
    for (const std::uint16_t vlan : {kAccessVlan, kTrunkVlan, kForeignVlan}) {
        all[vlan] =
            std::make_unique<VlanLink>(bed.netns(), Daemon::kWire, vlan, wire_ip(vlan) + "/24");
    }
    return all;
}

// Guest 0 is in the access VLAN without knowing, guest 1 has the trunk. The wire is in both VLANs
// and in one that nobody else is in.
struct VlanBed {
    TestBed bed{2, {.vm_options = {",vlan=30", ",trunk=10:30:100-110"}, .wire_ip = ""}};
    std::map<std::uint16_t, std::unique_ptr<VlanLink>> wire = links(bed);
    std::unique_ptr<QemuGuest> access = bed.start_guest(0);
    std::unique_ptr<QemuGuest> trunk = bed.start_guest(1);

    VlanBed() {
        bed.wait_ready(0, *access);
        access->must("ip address add " + vlan_ip(kAccessVlan, 0) + "/24 dev eth0");
        bed.wait_ready(1, *trunk);
        for (const std::uint16_t vlan : {kAccessVlan, kTrunkVlan, kForeignVlan}) add_to_trunk(vlan);
    }

    void add_to_trunk(std::uint16_t vlan) {
        const std::string id = std::to_string(vlan);
        const std::string name = "eth0." + id;
        trunk->must("ip link add link eth0 name " + name + " type vlan id " + id);
        trunk->must("ip address add " + vlan_ip(vlan, 1) + "/24 dev " + name);
        trunk->must("ip link set " + name + " up");
    }

    // Echo requests of all sizes from the wire's end in `vlan`.
    EchoResult ping(unsigned n, std::uint16_t vlan) {
        const std::string name = wire.at(vlan)->interface();
        const IcmpPeer peer(guest_mac(n), vlan_ip(vlan, n), bed.netns().mac(name), wire_ip(vlan));
        return exchange(bed.netns(), name, peer, kPings);
    }
};

void check_transfers(VlanBed& setup, QemuGuest& guest, unsigned n, std::uint16_t vlan) {
    const auto bytes = random_bytes(kTransferBytes);
    const std::string hash = sha256(bytes);
    CHECK(send_to_guest(setup.bed.netns(), guest, vlan_ip(vlan, n), bytes) == hash);
    WireCapture capture(setup.bed.netns(), Daemon::kWire);
    CHECK(receive_from_guest(setup.bed.netns(), guest, wire_ip(vlan)) == hash);
    const std::vector<WireFrame> frames = capture.stop();
    CHECK(longest(frames) == kLongestStandardFrame);
    CHECK(std::ranges::all_of(frames, [&](const WireFrame& frame) {
        return frame.vlan == vlan || frame.source != MacAddress::parse(guest_mac(n));
    }));
}

// Returns the daemon's last statistics.
nlohmann::json check_finished(VlanBed& setup, const std::string& but_for = {}) {
    for (QemuGuest* guest : {setup.access.get(), setup.trunk.get()}) {
        CHECK(checksum_errors(ip_counters(*guest)) == 0);
    }
    CHECK(checksum_errors(ip_counters(setup.bed.netns())) == 0);
    nlohmann::json stats = setup.bed.daemon().terminate();
    check_nothing_wrong(stats, but_for);
    return stats;
}

TEST_CASE("Guests in VLANs exchange traffic with the wire and with each other", "[vlan]") {
    VlanBed setup;
    setup.access->must("ping -c 2 -A -W 5 " + wire_ip(kAccessVlan));
    setup.trunk->must("ping -c 2 -A -W 5 " + wire_ip(kTrunkVlan));
    CHECK(setup.ping(0, kAccessVlan).returned == kPings);
    CHECK(setup.ping(1, kTrunkVlan).returned == kPings);
    CHECK(setup.ping(1, kAccessVlan).returned == kPings);
    check_transfers(setup, *setup.access, 0, kAccessVlan);
    check_transfers(setup, *setup.trunk, 1, kTrunkVlan);

    setup.access->must("ping -c 3 -A -W 5 -s 1472 " + vlan_ip(kAccessVlan, 1));
    setup.trunk->must("ping -c 3 -A -W 5 -s 1473 " + vlan_ip(kAccessVlan, 0));
    const std::string hash = make_transfer_file(*setup.trunk, kTransferBytes);
    CHECK(send_between_guests(*setup.trunk, *setup.access, vlan_ip(kAccessVlan, 0)) == hash);
    CHECK(send_between_guests(*setup.access, *setup.trunk, vlan_ip(kAccessVlan, 1)) == hash);
    check_finished(setup);
}

// Sends broadcasts into a VLAN from the wire.
void send_broadcasts(VlanBed& setup, std::uint16_t vlan, unsigned count) {
    const std::string name = vlan == kUntagged ? Daemon::kWire : setup.wire.at(vlan)->interface();
    const MacSwapPeer everybody("ff:ff:ff:ff:ff:ff", setup.bed.netns().mac(name));
    const UniqueFd fd = packet_socket(setup.bed.netns(), name);
    for (unsigned n = 0; n < count; ++n) {
        const Frame frame = everybody.request(n);
        REQUIRE(::send(fd.get(), frame.data(), frame.size(), 0) > 0);
    }
}

TEST_CASE("A guest receives nothing of VLANs it is not in", "[vlan]") {
    constexpr unsigned kBroadcasts = 50;
    VlanBed setup;
    // Neighbours, and the frames that the NIC had buffers for before the drivers came.
    for (const auto& [n, vlan] : {std::pair{0U, kAccessVlan}, {1U, kTrunkVlan}}) {
        REQUIRE(setup.ping(n, vlan).returned == kPings);
    }
    const std::uint64_t access_before = setup.access->interface_counter("rx_packets");
    for (const std::uint16_t vlan : {kUntagged, kForeignVlan, kTrunkVlan}) {
        send_broadcasts(setup, vlan, kBroadcasts);
    }
    // Behind the broadcasts: once the replies are here, these had every chance to arrive.
    CHECK(setup.ping(0, kAccessVlan).returned == kPings);
    CHECK(setup.access->interface_counter("rx_packets") - access_before == kPings);

    const std::uint64_t trunk_before = setup.trunk->interface_counter("rx_packets");
    for (const std::uint16_t vlan : {kForeignVlan, kTrunkVlan}) {
        send_broadcasts(setup, vlan, kBroadcasts);
    }
    CHECK(setup.ping(1, kTrunkVlan).returned == kPings);
    const std::uint64_t of_trunk = setup.trunk->interface_counter("rx_packets") - trunk_before;
    CHECK(of_trunk == kPings + kBroadcasts);
    CHECK(setup.trunk->run("ping -c 2 -W 1 " + wire_ip(kForeignVlan)).status != 0);
    const nlohmann::json stats = check_finished(setup, "tx-vlan");
    CHECK(stats.at("vms").at(0).at("dropped").at("tx-vlan") == 0);
    CHECK(stats.at("vms").at(1).at("dropped").at("tx-vlan") > 0);
}

}  // namespace
}  // namespace zecorx::test
