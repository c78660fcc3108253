// A daemon that is killed and started again under a running guest, at any moment of the traffic.

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <cstdlib>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "guest_ram.h"
#include "support/wait.h"
#include "test_bed.h"
#include "verdict.h"

namespace zecorx::test {
namespace {

// Fewer than a ring has entries, and more.
constexpr unsigned kFewPings = 100;
constexpr unsigned kManyPings = 600;

// E2E_CYCLES overrides it.
unsigned cycles() {
    const char* value = std::getenv("E2E_CYCLES");
    return value == nullptr ? 4 : static_cast<unsigned>(std::strtoul(value, nullptr, 10));
}

// A split receiveq as the guest's memory has it (VIRTIO 2.7.6, 2.7.8).
class Receiveq {
  public:
    Receiveq(QemuGuest& guest, const GuestRam& ram) : place_(queue_place(guest, 0)), ram_(ram) {}

    std::uint16_t size() const { return place_.size; }
    std::uint16_t available() const { return ram_.read<std::uint16_t>(place_.avail + 2); }
    std::uint16_t used() const { return ram_.read<std::uint16_t>(place_.used + 2); }
    std::uint16_t available_head(std::uint16_t index) const {
        return ram_.read<std::uint16_t>(place_.avail + 4 + 2 * slot(index));
    }
    std::uint32_t used_head(std::uint16_t index) const {
        return ram_.read<std::uint32_t>(place_.used + 4 + 8 * slot(index));
    }

  private:
    std::uint64_t slot(std::uint16_t index) const { return index % place_.size; }

    const QueuePlace place_;
    const GuestRam& ram_;
};

// What a daemon that was killed left undone: the heads that are the device's.
struct Unfinished {
    explicit Unfinished(const Receiveq& queue) : used(queue.used()) {
        for (std::uint16_t index = used; index != queue.available(); ++index) {
            heads.push_back(queue.available_head(index));
        }
    }
    std::uint16_t used;
    std::vector<std::uint16_t> heads;
};

// Completion is in avail order, so who goes on where the used ring ends completes exactly these
// next: nothing is lost, and nothing is given twice. Returns how many were. REQUIRES: no more have
// been completed than the ring has entries.
std::size_t check_continued(const Unfinished& left, const Receiveq& queue) {
    const auto completed = static_cast<std::uint16_t>(queue.used() - left.used);
    REQUIRE(completed <= queue.size());
    const std::size_t count = std::min<std::size_t>(completed, left.heads.size());
    std::vector<std::uint32_t> heads;
    for (std::size_t i = 0; i < count; ++i) {
        heads.push_back(queue.used_head(static_cast<std::uint16_t>(left.used + i)));
    }
    CHECK(std::ranges::equal(heads, std::span(left.heads).first(count)));
    return count;
}

void check_pings(TestBed& bed, unsigned count) {
    const EchoResult pings = bed.ping(0, count);
    CHECK(pings.returned == count);
    CHECK(pings.damaged == 0);
    CHECK(pings.unexpected == 0);
}

TEST_CASE("A daemon is killed and started again under traffic, and the guest goes on",
          "[restart]") {
    TestBed bed(1, {.client = true});
    const auto guest = bed.start_guest(0);
    bed.wait_ready(0, *guest);
    bed.pin_neighbour(0);
    const std::string booted = guest->must("cat /proc/sys/kernel/random/boot_id");
    const GuestRam ram(*guest);
    guest->pause();
    const Receiveq queue(*guest, ram);
    guest->resume();
    bed.daemon().wait_for_connection(0, true);
    std::minstd_rand random(1);
    std::size_t continued = 0;
    for (unsigned cycle = 0; cycle < cycles(); ++cycle) {
        INFO("cycle " << cycle);
        {
            const UdpFlood flood(bed.netns(), guest_ip(0));
            const std::uint16_t before = queue.used();
            REQUIRE(wait_until([&] { return queue.used() != before; }, Daemon::kTimeout));
            std::this_thread::sleep_for(std::chrono::microseconds(random() % 300'000));
            bed.daemon().kill();
        }
        const Unfinished left(queue);
        bed.restart_daemon();
        bed.daemon().wait_for_connection(0, true);
        bed.pin_neighbour(0);
        check_pings(bed, kFewPings);
        continued += check_continued(left, queue);
        check_pings(bed, kManyPings);
        check_nothing_wrong(bed.daemon().stats());
    }
    CHECK(continued > 0);
    CHECK(guest->must("cat /proc/sys/kernel/random/boot_id") == booted);
    check_nothing_wrong(bed.daemon().terminate());
}

}  // namespace
}  // namespace zecorx::test
