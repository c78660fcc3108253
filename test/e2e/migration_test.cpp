// A guest that moves from one host to another and back under traffic: two daemons, each with its
// own NIC, whose wires are ports of one switch.

#include <sys/socket.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "daemon.h"
#include "echo.h"
#include "guest/event_fd.h"
#include "guest_ram.h"
#include "net_namespace.h"
#include "packet_socket.h"
#include "qemu_guest.h"
#include "support/temp_dir.h"
#include "support/wait.h"
#include "test_bed.h"
#include "traffic.h"
#include "verdict.h"
#include "zecorx/announcement.h"

namespace zecorx::test {
namespace {

constexpr unsigned kPings = 300;
// Few enough to leave a guest without hardware virtualization time for everything else. And long
// ones: into a mergeable buffer that a frame leaves room in, Linux writes itself when it takes the
// frame, which would hide that QEMU was not told of what the NIC wrote there before.
constexpr FloodShape kFlood{.rate = 2, .shortest = 1400};
constexpr std::chrono::seconds kMigrationTimeout{120};
constexpr std::uint16_t kArp = 0x0806;
constexpr std::uint16_t kRarp = 0x8035;

// Migrations of one guest; E2E_MIGRATIONS overrides it and has every kind of ring and buffer do as
// many.
constexpr unsigned kMigrations = 3;
std::optional<unsigned> long_form() {
    const char* value = std::getenv("E2E_MIGRATIONS");
    if (value == nullptr) return std::nullopt;
    return static_cast<unsigned>(std::strtoul(value, nullptr, 10));
}

// Two hosts on one switch, and somebody else on it, who has kWireIp.
class Site {
  public:
    static constexpr const char* kSwitch = "switch0";

    Site() {
        // Without the delay a port forwards from the start.
        netns_.ip({"link", "add", kSwitch, "type", "bridge", "forward_delay", "0", "mcast_snooping",
                   "0"});
        netns_.ip({"link", "set", kSwitch, "up"});
        netns_.ip({"address", "add", std::string(kWireIp) + "/24", "dev", kSwitch});
        for (unsigned host = 0; host < 2; ++host) add_host(host);
        netns_.ip({"neighbour", "replace", guest_ip(0), "lladdr", guest_mac(0), "dev", kSwitch,
                   "nud", "permanent"});
    }

    NetNamespace& netns() { return netns_; }
    Daemon& daemon(unsigned host) { return *hosts_[host].daemon; }
    static std::string wire(unsigned host) { return "wire" + std::to_string(host); }

    std::unique_ptr<QemuGuest> start_guest(unsigned host, GuestLayout layout, bool incoming) {
        return std::make_unique<QemuGuest>(
            GuestOptions{.directory = directory_.path() / ("guest" + std::to_string(guests_++)),
                         .socket = spec(host).socket,
                         .incoming = incoming,
                         .mac = guest_mac(0),
                         .address = guest_ip(0) + "/24",
                         .layout = layout});
    }

    EchoResult ping(unsigned count) {
        const IcmpPeer peer(guest_mac(0), guest_ip(0), netns_.mac(kSwitch), kWireIp);
        return exchange(netns_, kSwitch, peer, count);
    }

    std::string new_path() {
        return (directory_.path() / ("migration" + std::to_string(guests_))).string();
    }

    // Whoever was served there is gone with all that was theirs.
    void check_nothing_left(unsigned host) {
        Daemon& daemon = *hosts_[host].daemon;
        CHECK(wait_until(
            [&] { return daemon.guest_mappings() == 0 && daemon.open_fds() == hosts_[host].fds; },
            Daemon::kTimeout));
        const nlohmann::json stats = daemon.wait_for_connection(0, false);
        CHECK(stats.at("vms").at(0).at("mbufs_held") == 0);
        check_nothing_wrong(stats);
    }

  private:
    struct Host {
        std::unique_ptr<Daemon> daemon;
        std::size_t fds = 0;  // without a guest
    };

    VmSpec spec(unsigned host) const {
        return {directory_.path() / std::to_string(host) / "vhost", guest_mac(0), {}};
    }

    void add_host(unsigned host) {
        const auto directory = directory_.path() / std::to_string(host);
        std::filesystem::create_directories(directory);
        auto daemon = std::make_unique<Daemon>(netns_, directory, std::vector{spec(host)},
                                               WireSpec{.address = {}, .interface = wire(host)});
        netns_.ip({"link", "set", wire(host), "master", kSwitch});
        const std::size_t fds = daemon->open_fds();
        hosts_.push_back({std::move(daemon), fds});
    }

    TempDir directory_;
    NetNamespace netns_;
    std::vector<Host> hosts_;
    unsigned guests_ = 0;
};

// The type of the next frame on a wire by which the guest's address is announced to everybody; 0 if
// none comes. Frames wait in `fd` from before the guest runs there.
std::uint16_t next_announcement(int fd) {
    const MacAddress mac = MacAddress::parse(guest_mac(0)).value();
    std::vector<std::byte> buffer(1 << 16);
    const auto deadline = std::chrono::steady_clock::now() + Daemon::kTimeout;
    while (poll_fd(fd, POLLIN,
                   std::chrono::ceil<std::chrono::milliseconds>(
                       deadline - std::chrono::steady_clock::now()))) {
        const ssize_t size = ::recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (size <= 0) continue;
        const auto frame = std::span(std::as_const(buffer)).first(static_cast<std::size_t>(size));
        if (announces_address(frame) && MacAddress::from_wire(frame.subspan(6)) == mac) {
            return load_be16(frame, 12);
        }
    }
    return 0;
}

struct Migration {
    std::unique_ptr<QemuGuest> guest;  // at the destination, paused
    std::vector<std::byte> earlier;    // the source's memory, when QEMU had begun to copy it
    nlohmann::json report;             // of the source's QEMU
};

// Waits until a migration is there. Throws if it fails.
nlohmann::json wait_for_migration(QemuGuest& source,
                                  const std::function<bool(const nlohmann::json&)>& there) {
    nlohmann::json report;
    const auto arrives = [&] {
        report = source.qmp("query-migrate");
        return report.value("status", "") == "failed" || there(report);
    };
    if (!wait_until(arrives, kMigrationTimeout) || report.at("status") == "failed") {
        throw std::runtime_error("the migration fails: " + report.dump());
    }
    return report;
}

// Moves the guest, which goes on running until QEMU stops it.
Migration migrate(Site& site, QemuGuest& source, unsigned to, GuestLayout layout) {
    auto destination = site.start_guest(to, layout, true);
    const std::string uri = "unix:" + site.new_path();
    destination->qmp("migrate-incoming", {{"uri", uri}});
    // Slow enough to take some thousand frames.
    constexpr unsigned kBandwidth = 32 << 20;  // bytes a second
    source.qmp("migrate-set-parameters", {{"max-bandwidth", kBandwidth}});
    source.qmp("migrate", {{"uri", uri}});
    wait_for_migration(source, [](const nlohmann::json& state) { return state.contains("ram"); });
    std::vector<std::byte> earlier;
    {
        const GuestRam ram(source);
        earlier.assign(ram.bytes().begin(), ram.bytes().end());
    }
    auto report = wait_for_migration(
        source, [](const nlohmann::json& state) { return state.at("status") == "completed"; });
    REQUIRE(wait_until([&] { return destination->qmp("query-status").at("status") == "paused"; },
                       kMigrationTimeout));
    CHECK(source.qmp("query-status").at("status") == "postmigrate");
    return {std::move(destination), std::move(earlier), std::move(report)};
}

// Neither side runs: the source has stopped for good, the destination has not started. So nothing
// may differ: the guest's processors and devices are still, the source's daemon has given its rings
// back and writes no more, and the destination's has none yet.
void check_same_memory(QemuGuest& source, const Migration& migration) {
    const GuestRam here(source), there(*migration.guest);
    const PageUses uses(source, here);
    const auto missed = differing_pages(here.bytes(), there.bytes());
    INFO(uses.describe(missed));
    CHECK(missed.empty());
    // Of what the log is for there was something, and a comparison can fail.
    const auto changed = differing_pages(here.bytes(), migration.earlier);
    CHECK(std::ranges::any_of(changed,
                              [&](std::size_t page) { return uses.is_receive_buffer(page); }));
}

void report(unsigned number, const nlohmann::json& migration) {
    std::printf("migration %u: total %d ms, downtime %d ms, %d passes over the RAM\n", number,
                migration.at("total-time").get<int>(), migration.at("downtime").get<int>(),
                migration.at("ram").at("dirty-sync-count").get<int>());
    std::fflush(stdout);
}

// Moves a guest to and fro, with a TCP connection that lasts through one move after the other, and
// datagrams that come whether it is there or not.
void move_under_traffic(GuestLayout layout, unsigned migrations) {
    Site site;
    auto guest = site.start_guest(0, layout, false);
    guest->wait_ready();
    site.daemon(0).wait_for_connection(0, true);
    const std::string booted = guest->must("cat /proc/sys/kernel/random/boot_id");
    const UdpFlood flood(site.netns(), guest_ip(0), kFlood);
    for (unsigned number = 0; number < migrations; ++number) {
        const unsigned from = number % 2, to = 1 - from;
        INFO("migration " << number << " from host " << from);
        TcpStream stream(site.netns(), *guest, guest_ip(0));
        Migration migration = migrate(site, *guest, to, layout);
        report(number, migration.report);
        check_same_memory(*guest, migration);

        const UniqueFd wire = packet_socket(site.netns(), Site::wire(to));
        migration.guest->resume();
        guest = std::move(migration.guest);
        site.check_nothing_left(from);
        site.daemon(to).wait_for_connection(0, true);
        CHECK(next_announcement(wire.get()) == (layout.announces ? kArp : kRarp));
        const std::string hash = stream.finish();
        CHECK(TcpStream::received(*guest) == hash);
        const EchoResult pings = site.ping(kPings);
        CHECK(pings.returned == kPings);
        CHECK(pings.damaged == 0);
        CHECK(pings.unexpected == 0);
    }
    CHECK(guest->must("cat /proc/sys/kernel/random/boot_id") == booted);
    guest.reset();
    for (const unsigned host : {0U, 1U}) {
        site.check_nothing_left(host);
        check_nothing_wrong(site.daemon(host).terminate());
    }
}

TEST_CASE("A guest moves to another host and back under traffic, and its memory is the same there",
          "[migration]") {
    if (const auto migrations = long_form()) {
        const bool packed = GENERATE(false, true);
        const bool mrg_rxbuf = GENERATE(true, false);
        std::printf("packed %d, mergeable buffers %d\n", packed, mrg_rxbuf);
        return move_under_traffic({.mrg_rxbuf = mrg_rxbuf, .packed = packed}, *migrations);
    }
    move_under_traffic({}, kMigrations);
}

TEST_CASE("A guest that does not announce itself is announced by its new host", "[migration]") {
    move_under_traffic({.mrg_rxbuf = false, .packed = true, .announces = false}, 1);
}

}  // namespace
}  // namespace zecorx::test
