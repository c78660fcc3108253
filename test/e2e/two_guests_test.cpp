// Two guests on one port: steering between them, and what a stalled one does to the other.

#include <catch2/catch_test_macros.hpp>

#include "test_bed.h"

namespace zecorx::test {
namespace {

constexpr unsigned kPings = 3000;

// Both guests up, with all neighbours known, so that only the test's frames are on the wire.
struct TwoGuests {
    TestBed bed{2};
    std::unique_ptr<QemuGuest> guests[2] = {bed.start_guest(0), bed.start_guest(1)};

    TwoGuests() {
        for (unsigned n : {0U, 1U}) {
            bed.wait_ready(n, *guests[n]);
            bed.pin_neighbour(n);
            bed.pin_neighbour(*guests[n]);
        }
    }
};

TEST_CASE("Each of two guests gets its own frames and none of the other's", "[two-guests]") {
    TwoGuests setup;
    const std::uint64_t before[] = {setup.guests[0]->interface_counter("rx_packets"),
                                    setup.guests[1]->interface_counter("rx_packets")};

    const EchoResult first = setup.bed.ping(0, kPings);
    const EchoResult second = setup.bed.ping(1, 2 * kPings);

    CHECK(first.returned == kPings);
    CHECK(second.returned == 2 * kPings);
    CHECK(first.damaged + second.damaged == 0);
    CHECK(setup.guests[0]->interface_counter("rx_packets") - before[0] == kPings);
    CHECK(setup.guests[1]->interface_counter("rx_packets") - before[1] == 2 * kPings);
}

TEST_CASE("A guest that stops refilling costs the other guest nothing", "[two-guests]") {
    TwoGuests setup;
    setup.guests[0]->freeze();
    const nlohmann::json before = setup.bed.daemon().stats();
    const UdpFlood flood(setup.bed.netns(), guest_ip(0));

    const EchoResult pings = setup.bed.ping(1, 3 * kPings);
    const auto bytes = random_bytes(20 << 20);
    CHECK(send_to_guest(setup.bed.netns(), *setup.guests[1], guest_ip(1), bytes) == sha256(bytes));
    const nlohmann::json after = setup.bed.daemon().stats();

    CHECK(pings.returned == 3 * kPings);
    // The frozen guest got what its buffers hold and no more, while far more was sent to it.
    const auto received = [](const nlohmann::json& stats) {
        return stats.at("vms").at(0).at("rx_packets").get<std::uint64_t>();
    };
    constexpr std::uint64_t kFrozenRing = 256;
    CHECK(flood.sent() > 4 * kFrozenRing);
    CHECK(received(after) - received(before) <= kFrozenRing);

    setup.guests[0]->thaw();
    setup.guests[0]->must("true");
    CHECK(setup.bed.daemon().stats().at("ports").at(0).at("soft82599").at("dma_faults") == 0);
}

}  // namespace
}  // namespace zecorx::test
