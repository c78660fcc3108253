#include "test_bed.h"

#include <algorithm>

namespace zecorx::test {

TestBed::TestBed(unsigned vm_count, BedOptions options,
                 const std::function<void(NetNamespace&)>& prepare)
    : vm_count_(vm_count), options_(std::move(options)) {
    prepare(netns_);
    start_daemon();
    wire_mac_ = netns_.mac(Daemon::kWire);
}

void TestBed::start_daemon() {
    std::vector<VmSpec> vms;
    for (unsigned n = 0; n < vm_count_; ++n) vms.push_back(vm(n));
    const std::string address = options_.wire_ip.empty() ? "" : options_.wire_ip + "/24";
    daemon_ = std::make_unique<Daemon>(
        netns_, directory_.path(), vms,
        WireSpec{.address = address, .mtu = options_.mtu, .port = options_.port});
}

void TestBed::restart_daemon() {
    daemon_.reset();
    start_daemon();
    netns_.ip({"link", "set", Daemon::kWire, "address", wire_mac_});
}

VmSpec TestBed::vm(unsigned n) const {
    return {directory_.path() / ("vhost" + std::to_string(n)), guest_mac(n),
            n < options_.vm_options.size() ? options_.vm_options[n] : "", options_.client};
}

std::unique_ptr<QemuGuest> TestBed::start_guest(unsigned n, GuestLayout layout) {
    return std::make_unique<QemuGuest>(
        GuestOptions{.directory = directory_.path() / ("guest" + std::to_string(n)),
                     .socket = vm(n).socket,
                     .listens = options_.client,
                     .mac = vm(n).mac,
                     .address = guest_ip(n) + "/24",
                     .mtu = options_.mtu,
                     .layout = layout});
}

void TestBed::wait_ready(unsigned n, QemuGuest& guest) {
    guest.wait_ready();
    daemon_->wait_for_connection(n, true);
}

void TestBed::pin_neighbour(unsigned n) {
    netns_.ip({"neighbour", "replace", guest_ip(n), "lladdr", guest_mac(n), "dev", Daemon::kWire,
               "nud", "permanent"});
}

void TestBed::pin_neighbour(QemuGuest& guest) {
    guest.must(std::string("arp -s ") + kWireIp + " " + netns_.mac(Daemon::kWire));
}

EchoResult TestBed::ping(unsigned n, unsigned count) {
    const IcmpPeer peer(guest_mac(n), guest_ip(n), netns_.mac(Daemon::kWire), kWireIp,
                        longest_frame(options_.mtu));
    // Linux keeps no more than two 64 KiB packets of echo replies, and loses the others.
    constexpr unsigned kReplyBytes = 128 << 10;
    constexpr unsigned kMostWindow = 32;
    const unsigned window = std::min(kMostWindow, kReplyBytes / (2 * options_.mtu));
    return exchange(netns_, Daemon::kWire, peer, count, window);
}

}  // namespace zecorx::test
