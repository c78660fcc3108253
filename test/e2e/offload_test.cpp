// A stock Linux guest with all that its device offers: ring formats, MTUs, checksum and
// segmentation offload.

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include "ip_counters.h"
#include "support/wait.h"
#include "test_bed.h"
#include "verdict.h"
#include "wire_capture.h"
#include "zecorx/virtio.h"

namespace zecorx::test {
namespace {

constexpr std::size_t kTransferBytes = 24 << 20;
constexpr unsigned kPings = 1000;
constexpr unsigned kJumboMtu = 9000;
constexpr std::size_t kIpHeader = 20;
constexpr std::size_t kIcmpOrUdpHeader = 8;

void check_features(QemuGuest& guest, const GuestLayout& layout) {
    const std::uint64_t features = guest.features();
    const auto accepted = [&](std::uint64_t wanted) { return (features & wanted) == wanted; };
    INFO("features " << std::hex << features);
    CHECK(accepted(kFeatureVersion1 | kFeatureIndirectDesc | kFeatureEventIdx));
    CHECK(accepted(kFeatureNetGuestAnnounce));
    CHECK(accepted(kFeatureRingPacked) == layout.packed);
    CHECK(accepted(kFeatureNetMrgRxbuf) == layout.mrg_rxbuf);
    CHECK(accepted(kFeatureNetMtu) == layout.device_mtu);
    CHECK(accepted(kOffloadFeatures) == layout.offloads);
}

// Payloads around the size from which a packet has to be sent in fragments.
std::vector<std::size_t> payloads(std::size_t mtu) {
    const std::size_t longest = mtu - kIpHeader - kIcmpOrUdpHeader;
    return {18, 64, longest - 1, longest, longest + 1, 2 * longest + 3};
}

void check_pings(TestBed& bed, QemuGuest& guest) {
    for (const std::size_t size : payloads(bed.mtu())) {
        guest.must("ping -c 2 -A -W 5 -s " + std::to_string(size) + " " + kWireIp);
    }
    const EchoResult pings = bed.ping(0, kPings);
    CHECK(pings.returned == kPings);
    CHECK(pings.damaged == 0);
    CHECK(pings.unexpected == 0);
}

// Nobody listens, so that each IP stack checks and counts the datagrams and throws them away.
void check_datagrams(TestBed& bed, QemuGuest& guest) {
    const std::vector<std::size_t> sizes = payloads(bed.mtu());
    const auto wanted = static_cast<std::int64_t>(sizes.size());
    const auto arrived = [](const IpCounters& counters) { return counters.at("Udp.NoPorts"); };

    const std::int64_t guest_before = arrived(ip_counters(guest));
    send_datagrams(bed.netns(), guest_ip(0), sizes);
    wait_until([&] { return arrived(ip_counters(guest)) - guest_before == wanted; },
               Daemon::kTimeout);
    CHECK(arrived(ip_counters(guest)) - guest_before == wanted);

    const std::int64_t wire_before = arrived(ip_counters(bed.netns()));
    for (const std::size_t size : sizes) {
        guest.must(std::string("traceroute -n -m 1 -q 1 -w 1 ") + kWireIp + " " +
                   std::to_string(kIpHeader + kIcmpOrUdpHeader + size));
    }
    wait_until([&] { return arrived(ip_counters(bed.netns())) - wire_before == wanted; },
               Daemon::kTimeout);
    CHECK(arrived(ip_counters(bed.netns())) - wire_before == wanted);
}

// Returns the share of zero-copied frames among those of the transfer to the guest.
double check_transfer_to(TestBed& bed, QemuGuest& guest, const std::vector<std::uint8_t>& bytes) {
    const nlohmann::json before = bed.daemon().stats();
    CHECK(send_to_guest(bed.netns(), guest, guest_ip(0), bytes) == sha256(bytes));
    return zero_copy_share(before.at("vms").at(0), bed.daemon().stats().at("vms").at(0));
}

// With segmentation offload the guest hands over fewer packets than there are on the wire, far
// fewer of short frames.
void check_transfer_from(TestBed& bed, QemuGuest& guest, const std::vector<std::uint8_t>& bytes,
                         bool segmentation) {
    WireCapture capture(bed.netns(), Daemon::kWire);
    const std::uint64_t sent_before = guest.interface_counter("tx_packets");
    CHECK(receive_from_guest(bed.netns(), guest, kWireIp) == sha256(bytes));
    const std::uint64_t sent = guest.interface_counter("tx_packets") - sent_before;
    const std::vector<WireFrame> frames = capture.stop();
    CHECK(longest(frames) == longest_frame(bed.mtu()));
    INFO("packets sent " << sent << ", frames " << count(frames, guest_mac(0)));
    const std::uint64_t least_segments = bed.mtu() < kJumboMtu ? 2 : 1;
    CHECK((least_segments * sent < count(frames, guest_mac(0))) == segmentation);
}

// Returns the share of zero-copied frames among those of a bulk transfer.
double use_everything(unsigned mtu, GuestLayout layout, const std::string& vm_options = {}) {
    TestBed bed(1, {.mtu = mtu, .vm_options = {vm_options}});
    const auto guest = bed.start_guest(0, layout);
    bed.wait_ready(0, *guest);
    check_features(*guest, layout);
    CHECK(std::stoul(guest->must("cat /sys/class/net/eth0/mtu")) == mtu);
    check_pings(bed, *guest);
    check_datagrams(bed, *guest);
    const auto bytes = random_bytes(kTransferBytes);
    const double share = check_transfer_to(bed, *guest, bytes);
    check_transfer_from(bed, *guest, bytes, layout.offloads);
    CHECK(checksum_errors(ip_counters(*guest)) == 0);
    CHECK(checksum_errors(ip_counters(bed.netns())) == 0);
    CHECK(guest->interface_counter("rx_errors") == 0);
    check_nothing_wrong(bed.daemon().terminate());
    return share;
}

// What a guest on a busy machine does not post in time is copied, for which 256 are too few.
constexpr std::uint16_t kRing = 1024;

TEMPLATE_TEST_CASE_SIG("A guest exchanges all kinds of traffic with the wire at MTU 1500",
                       "[offload]", ((bool MrgRxbuf, bool Packed), MrgRxbuf, Packed), (true, false),
                       (true, true), (false, false), (false, true)) {
    CHECK(use_everything(1500, {.mrg_rxbuf = MrgRxbuf, .rx_ring = kRing, .packed = Packed}) >=
          0.95);
}

TEST_CASE("A guest without offloads exchanges all kinds of traffic with the wire", "[offload]") {
    CHECK(use_everything(1500, {.rx_ring = kRing, .offloads = false}) >= 0.95);
}

// Its driver's buffers are shorter than a frame; they hold a short NIC buffer each.
TEMPLATE_TEST_CASE_SIG("A guest exchanges all kinds of traffic with the wire at MTU 9000",
                       "[jumbo]", ((bool Packed, bool DeviceMtu), Packed, DeviceMtu),
                       (false, false), (false, true), (true, true)) {
    const GuestLayout layout{.rx_ring = 1024, .packed = Packed, .device_mtu = DeviceMtu};
    CHECK(use_everything(kJumboMtu, layout, ",rxbuf=1024") >= 0.9);
}

// How many frames are copied here depends on how long the driver makes its buffers.
TEMPLATE_TEST_CASE_SIG(
    "A guest exchanges all kinds of traffic with whole frames in NIC buffers at "
    "MTU 9000",
    "[jumbo]", ((bool MrgRxbuf, bool Packed), MrgRxbuf, Packed), (true, false), (false, false),
    (false, true)) {
    // Without mergeable buffers only the device can tell the driver to post long enough chains.
    use_everything(kJumboMtu, {.mrg_rxbuf = MrgRxbuf, .packed = Packed, .device_mtu = true});
}

}  // namespace
}  // namespace zecorx::test
