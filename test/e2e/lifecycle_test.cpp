// Guests that come and go in every way, while the wire keeps sending to them.

#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <optional>

#include "support/wait.h"
#include "test_bed.h"

namespace zecorx::test {
namespace {

// How often each test repeats its event; E2E_CYCLES overrides it.
unsigned cycles() {
    const char* value = std::getenv("E2E_CYCLES");
    return value == nullptr ? 20 : static_cast<unsigned>(std::strtoul(value, nullptr, 10));
}

// What a connection may not leave behind.
struct Footprint {
    explicit Footprint(const Daemon& daemon)
        : fds(daemon.open_fds()), mappings(daemon.mappings()) {}
    std::size_t fds;
    std::size_t mappings;
};

// Once a guest is gone, everything it brought is gone too.
void check_nothing_left(TestBed& bed, const Footprint& start) {
    // Heap arenas of library threads come and go; a leaked region per cycle is more than this.
    constexpr std::size_t kMappingSlack = 8;
    const nlohmann::json stats = bed.daemon().wait_for_connection(0, false);
    CHECK(stats.at("vms").at(0).at("mbufs_held") == 0);
    CHECK(stats.at("ports").at(0).at("soft82599").at("dma_faults") == 0);
    CHECK(stats.at("ports").at(0).at("soft82599").at("writes_after_stop") == 0);
    // The session's end is told a moment before the library lets go of the memory.
    wait_until(
        [&] { return bed.daemon().guest_mappings() == 0 && bed.daemon().open_fds() == start.fds; },
        Daemon::kTimeout);
    CHECK(bed.daemon().guest_mappings() == 0);
    CHECK(bed.daemon().open_fds() == start.fds);
    CHECK(bed.daemon().mappings() <= start.mappings + kMappingSlack);
    CHECK(bed.daemon().terminate().at("ports").at(0).at("soft82599").at("dma_faults") == 0);
}

// Waits until frames of the flood reach the guest.
void require_traffic(QemuGuest& guest) {
    const std::uint64_t before = guest.interface_counter("rx_packets");
    REQUIRE(wait_until([&] { return guest.interface_counter("rx_packets") > before + 100; },
                       Daemon::kTimeout));
}

// Does something to a guest again and again, each time with traffic before it.
template <typename Event>
void repeat_under_traffic(Event event) {
    TestBed bed;
    const Footprint start(bed.daemon());
    bed.pin_neighbour(0);
    {
        std::optional<UdpFlood> flood(std::in_place, bed.netns(), guest_ip(0));
        const auto guest = bed.start_guest(0);
        guest->wait_ready();
        for (unsigned cycle = 0; cycle < cycles(); ++cycle) {
            INFO("cycle " << cycle);
            require_traffic(*guest);
            event(*guest);
            REQUIRE(bed.daemon().running());
        }
        require_traffic(*guest);
        // It fills the wire's queue, which drops what does not fit: the reply to a ping, too.
        flood.reset();
        guest->must(std::string("ping -c 1 -W 20 ") + kWireIp);
    }
    check_nothing_left(bed, start);
}

TEST_CASE("A guest reboots again and again under traffic", "[reboot]") {
    repeat_under_traffic([](QemuGuest& guest) {
        guest.start_reboot();
        guest.wait_ready();
    });
}

TEST_CASE("A guest's driver is unbound and bound again and again under traffic", "[rebind]") {
    repeat_under_traffic([](QemuGuest& guest) {
        guest.must("echo virtio0 > /sys/bus/virtio/drivers/virtio_net/unbind");
        guest.must("echo virtio0 > /sys/bus/virtio/drivers/virtio_net/bind");
        guest.must("net-up");
    });
}

TEST_CASE("A guest is paused and resumed again and again under traffic", "[pause]") {
    repeat_under_traffic([](QemuGuest& guest) {
        guest.pause();
        guest.resume();
    });
}

TEST_CASE("A guest is killed and started anew again and again under traffic", "[kill]") {
    TestBed bed;
    const Footprint start(bed.daemon());
    bed.pin_neighbour(0);
    {
        const UdpFlood flood(bed.netns(), guest_ip(0));
        for (unsigned cycle = 0; cycle < cycles(); ++cycle) {
            INFO("cycle " << cycle);
            const auto guest = bed.start_guest(0);
            guest->wait_ready();
            require_traffic(*guest);
            REQUIRE(bed.daemon().guest_mappings() > 0);
            guest->kill();
            REQUIRE(bed.daemon().running());
        }
    }
    check_nothing_left(bed, start);
}

}  // namespace
}  // namespace zecorx::test
