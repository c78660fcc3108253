// Two guests on one port that talk to each other: the NIC hands over what one sends to the other.

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include "ip_counters.h"
#include "test_bed.h"
#include "verdict.h"
#include "wire_capture.h"

namespace zecorx::test {
namespace {

constexpr std::size_t kTransferBytes = 16 << 20;
constexpr unsigned kPings = 500;

// Sends a file from guest `from` to guest `to`. Returns the share of zero-copied frames at `to`.
double check_transfer(TestBed& bed, QemuGuest& sender, QemuGuest& receiver, unsigned to) {
    const std::string hash = make_transfer_file(sender, kTransferBytes);
    const nlohmann::json before = bed.daemon().stats();
    CHECK(send_between_guests(sender, receiver, guest_ip(to)) == hash);
    return zero_copy_share(before.at("vms").at(to), bed.daemon().stats().at("vms").at(to));
}

// Whole and in fragments, in both directions each.
void check_pings(QemuGuest& guest, unsigned to, unsigned mtu) {
    constexpr unsigned kHeaders = 28;  // IPv4 and ICMP
    for (const unsigned size : {64U, mtu - kHeaders, mtu - kHeaders + 1}) {
        guest.must("ping -c 3 -A -W 5 -s " + std::to_string(size) + " " + guest_ip(to));
    }
}

TEMPLATE_TEST_CASE_SIG(
    "Two guests on one port reach each other without the wire and without copying", "[vm-to-vm]",
    ((unsigned Mtu, bool Packed), Mtu, Packed), (1500, false), (9000, false), (9000, true)) {
    // Guests post buffers of some 1.5 KiB whatever their MTU.
    const std::string geometry = Mtu == 1500 ? "" : ",rxbuf=1024";
    TestBed bed(2, {.mtu = Mtu, .vm_options = {geometry, geometry}});
    // A jumbo frame takes nine buffers; and what two guests on a busy machine do not post in time
    // is copied, for which a ring of 256 is too short.
    constexpr std::uint16_t kRing = 1024;
    const GuestLayout layout{.rx_ring = kRing, .packed = Packed, .device_mtu = Mtu != 1500};
    const std::unique_ptr<QemuGuest> guests[] = {bed.start_guest(0, layout),
                                                 bed.start_guest(1, layout)};
    for (const unsigned n : {0U, 1U}) bed.wait_ready(n, *guests[n]);
    // What the NIC's ring was filled with before the drivers had posted anything is used up by
    // these.
    for (const unsigned n : {0U, 1U}) CHECK(bed.ping(n, kPings).returned == kPings);

    WireCapture capture(bed.netns(), Daemon::kWire);
    // Neither knows the other's address: a broadcast asks for it.
    check_pings(*guests[0], 1, Mtu);
    check_pings(*guests[1], 0, Mtu);
    CHECK(check_transfer(bed, *guests[0], *guests[1], 1) >= 0.9);
    CHECK(check_transfer(bed, *guests[1], *guests[0], 0) >= 0.9);
    const std::vector<WireFrame> on_wire = capture.stop();

    CHECK(count(on_wire, guest_mac(0), guest_mac(1)) == 0);
    CHECK(count(on_wire, guest_mac(1), guest_mac(0)) == 0);
    CHECK(count(on_wire, guest_mac(0), "ff:ff:ff:ff:ff:ff") >= 1);
    for (const unsigned n : {0U, 1U}) {
        CHECK(bed.ping(n, kPings).returned == kPings);
        CHECK(checksum_errors(ip_counters(*guests[n])) == 0);
    }
    check_nothing_wrong(bed.daemon().terminate());
}

}  // namespace
}  // namespace zecorx::test
