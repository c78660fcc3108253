#pragma once

#include <functional>
#include <memory>
#include <string>

#include "daemon.h"
#include "echo.h"
#include "net_namespace.h"
#include "qemu_guest.h"
#include "support/temp_dir.h"
#include "traffic.h"

namespace zecorx::test {

// Addresses on the wire: the host's end is .1, guest n has .2 + n.
inline constexpr const char* kWireIp = "10.82.99.1";
inline std::string guest_ip(unsigned n) { return "10.82.99." + std::to_string(2 + n); }
inline std::string guest_mac(unsigned n) { return "52:54:00:82:99:0" + std::to_string(2 + n); }

struct BedOptions {
    unsigned mtu = 1500;                       // of the port, the wire and the guests
    std::vector<std::string> vm_options = {};  // VmSpec::options of the VMs that have any
    std::string wire_ip = kWireIp;             // empty: none
    bool client = false;                       // the daemon connects to the VMs' sockets
    std::string port = {};                     // WireSpec::port
};

// A daemon with `vm_count` VMs, and a network namespace with the other end of the wire in it.
class TestBed {
  public:
    // `prepare` makes what the daemon's port needs in the namespace.
    explicit TestBed(
        unsigned vm_count = 1, BedOptions options = {},
        const std::function<void(NetNamespace&)>& prepare = [](NetNamespace&) {});

    NetNamespace& netns() { return netns_; }
    Daemon& daemon() { return *daemon_; }
    VmSpec vm(unsigned n) const;

    // Starts another daemon in the place of one that ended. The host's end of the wire is a new
    // interface, which gets the address of the one before, since the guests know that.
    void restart_daemon();

    // Starts guest n; follow with wait_ready().
    std::unique_ptr<QemuGuest> start_guest(unsigned n, GuestLayout layout = {});

    // Waits until guest n has booted and frames reach it: it may be up before the daemon has acted
    // on what its frontend sent last, and until then the NIC drops its frames.
    void wait_ready(unsigned n, QemuGuest& guest);

    // Gives the host a static neighbour entry for guest n, so that frames go out even while the
    // guest is down and no ARP is among those counted.
    void pin_neighbour(unsigned n);
    // The same in the guest, for the host.
    void pin_neighbour(QemuGuest& guest);

    // `count` echo requests of all sizes that the MTU allows to guest n.
    EchoResult ping(unsigned n, unsigned count);

    unsigned mtu() const { return options_.mtu; }

  private:
    void start_daemon();

    const unsigned vm_count_;
    BedOptions options_;
    TempDir directory_;
    NetNamespace netns_;
    std::unique_ptr<Daemon> daemon_;
    std::string wire_mac_;
};

}  // namespace zecorx::test
