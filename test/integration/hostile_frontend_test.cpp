// Messages that are known to have broken other backends, sent to a daemon whose VM is running.
// Each is refused, or takes effect without harm, and the VM goes on.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cstring>
#include <span>
#include <vector>

#include "hostile.h"
#include "vhost_user/fault_guard.h"

namespace zecorx::test {
namespace {

// A guest on VM 0 that is served before and after.
class Victim {
  public:
    explicit Victim(const Negotiation& wanted = {}) : guest(host.connect(0, memory, {}, wanted)) {
        guest.net.rx().tolerate_scratch(2048);
        guest.net.refill();
        host.require_delivered(0, guest, 1);
    }
    void require_served() {
        host.require_delivered(0, guest, 2);
        CHECK(guest.net.violations() == std::vector<std::string>{});
        guest.stop_device();
        host.require_stopped(0);
    }
    // Whether the backend did what the message asks for.
    bool accepts(Request request, std::span<const std::byte> payload,
                 std::span<const int> fds = {}) {
        guest.frontend.send_message(request, kMessageNeedReply, payload, fds);
        const auto reply = guest.frontend.receive_reply();
        return reply.payload.empty() || reply.payload[0] == std::byte{0};
    }
    template <class Payload>
    bool accepts_payload(Request request, const Payload& payload, std::span<const int> fds = {}) {
        return accepts(request, std::as_bytes(std::span(&payload, 1)), fds);
    }

    TestHost& host = TestHost::instance();
    FakeMemory memory{8_MiB};
    FakeGuest guest;
};

// Two regions, the rings in the first and the receive buffers in the second.
class SplitGuest {
  public:
    explicit SplitGuest(TestHost& host, const Negotiation& wanted)
        : memory(std::array{RegionSpec{.size = 4_MiB},
                            RegionSpec{.size = 4_MiB, .gpa = kDefaultRamBase + 16_MiB}}),
          guest(host.connect(0, memory, {.layout = in_second_region()}, wanted)) {
        guest.net.rx().tolerate_scratch(2048);
        guest.net.refill();
    }

    std::vector<std::byte> second_region() const {
        const Gpa gpa = kDefaultRamBase + 16_MiB;
        const std::byte* bytes = memory.at(gpa, 4_MiB);
        return {bytes, bytes + 4_MiB};
    }

    FakeMemory memory;
    FakeGuest guest;

  private:
    static RxLayout in_second_region() {
        return {
            "second region", [](FakeMemory& ram, std::uint32_t header, std::size_t) {
                const std::uint32_t length = header + 2048;
                return RxBufferBuilder(ram).piece_at(ram.allocate_in(1, length), length).build();
            }};
    }
};

void flood(TestHost& host, int count) {
    for (int i = 0; i < count; ++i) {
        const auto seq = static_cast<std::uint32_t>(i);
        host.arrive(make_frame({.dst = host.mac(0), .seq = seq, .size = 60 + seq % 1400}));
    }
}

Negotiation with_log() { return {.features = Negotiation{}.features | zecorx::kFeatureLogAll}; }

}  // namespace

TEST_CASE("descriptors beside any message are closed while the VM runs") {
    Victim victim;
    const EventFd event;
    const std::size_t before = open_descriptors();
    for (std::uint32_t request = 0; request <= 41; ++request) {
        for (const std::size_t fds : {2U, 8U}) {
            for (int i = 0; i < 20; ++i) {
                CHECK_FALSE(victim.accepts(Request{request}, std::vector<std::byte>(8),
                                           std::vector<int>(fds, event.get())));
            }
        }
    }
    REQUIRE(victim.guest.frontend.set_owner());
    CHECK(open_descriptors() == before);
    CHECK(victim.host.status(0).running);
    victim.require_served();
}

TEST_CASE("a log whose size and offset wrap around is refused, and the VM goes on") {
    Victim victim(with_log());
    const int fd = victim.memory.regions()[0].fd;
    for (const std::uint64_t size : {0x1000ULL, 0x2000ULL, 0x800000ULL, 1ULL << 63, ~0ULL}) {
        CHECK_FALSE(victim.guest.frontend.set_log_base(fd, size, 0 - size));
        CHECK_FALSE(victim.guest.frontend.set_log_base(fd, size, 0x800 - size));
        CHECK_FALSE(victim.guest.frontend.set_log_base(fd, size, ~0ULL));
        CHECK_FALSE(victim.guest.frontend.set_log_base(fd, size, 8_MiB));
    }
    victim.require_served();
}

TEST_CASE("ring messages for a vring beyond 16 bits change no ring, and the VM goes on") {
    Victim victim;
    const EventFd event;
    const std::array fd{event.get()};
    for (const std::uint32_t index : {2U, 0xffffU, 0x10000U, 0x10001U, 0x80000000U, ~0U}) {
        CHECK_FALSE(victim.guest.frontend.set_vring_num(index, 64));
        CHECK_FALSE(victim.guest.frontend.set_vring_base(index, 7));
        CHECK_FALSE(victim.guest.frontend.set_vring_enable(index, false));
        CHECK_FALSE(victim.guest.frontend.set_vring_addr(
            {.index = index, .flags = 0, .desc = 0, .used = 0, .avail = 0, .log = 0}));
        CHECK_FALSE(victim.accepts_payload(Request::kGetVringBase, VringState{index, 0}));
        for (const auto request :
             {Request::kSetVringKick, Request::kSetVringCall, Request::kSetVringErr}) {
            CHECK_FALSE(victim.accepts_payload(request, std::uint64_t{index}, fd));
            CHECK_FALSE(victim.accepts_payload(request, std::uint64_t{index} << 32, fd));
        }
    }
    CHECK(victim.host.status(0).running);
    victim.require_served();
}

TEST_CASE("inflight descriptors are neither offered nor taken, and the VM goes on") {
    Victim victim;
    CHECK((victim.guest.frontend.get_protocol_features() & kProtocolInflightShmfd) == 0);
    CHECK_FALSE(victim.guest.frontend.set_protocol_features(
        victim.guest.frontend.protocol_features() | kProtocolInflightShmfd));
    const std::size_t before = open_descriptors(), mappings = memory_mappings();
    const std::array fd{victim.memory.regions()[0].fd};
    struct Inflight {
        std::uint64_t size, offset;
        std::uint16_t queues, queue_size;
    };
    for (const std::uint16_t queues : {0, 1, 2, 0x100, 0xffff}) {
        const Inflight inflight{4096, 0, queues, 256};
        CHECK_FALSE(victim.accepts_payload(Request::kGetInflightFd, inflight));
        CHECK_FALSE(victim.accepts_payload(Request::kSetInflightFd, inflight, fd));
        CHECK(victim.guest.frontend.set_owner());
    }
    CHECK(open_descriptors() == before);
    CHECK(memory_mappings() == mappings);
    victim.require_served();
}

TEST_CASE("regions that do not lie in their file are refused, and the table before stays") {
    Victim victim;
    const MemoryRegion good = victim.memory.regions()[0];
    std::vector<MemoryRegion> bad;
    for (const std::uint64_t size : std::vector<std::uint64_t>{8_MiB + 1, 1ULL << 40, 0, ~0ULL}) {
        bad.push_back(good);
        bad.back().size = size;
    }
    for (const std::uint64_t offset : std::vector<std::uint64_t>{1, 1ULL << 40, 0 - 8_MiB, ~0ULL}) {
        bad.push_back(good);
        bad.back().mmap_offset = offset;
    }
    const std::size_t before = open_descriptors(), mappings = memory_mappings();
    for (const MemoryRegion& region : bad) {
        CHECK_FALSE(victim.guest.frontend.set_mem_table(std::array{region}));
        CHECK_FALSE(victim.guest.frontend.add_mem_region(region));
    }
    REQUIRE(victim.guest.frontend.set_owner());
    CHECK(open_descriptors() == before);
    CHECK(memory_mappings() == mappings);
    victim.require_served();
}

TEST_CASE("memory that is cut off under traffic stops its own VM and no other") {
    TestHost& host = TestHost::instance();
    FakeMemory neighbour_memory(8_MiB);
    FakeGuest neighbour = host.connect(1, neighbour_memory);
    neighbour.net.refill();
    const Negotiation wanted = GENERATE(Negotiation{}, kPacked);
    const std::size_t region = GENERATE(0U, 1U);  // the rings', the buffers'
    {
        SplitGuest split(host, wanted);
        // The test maps the same file.
        const auto described = split.memory.regions()[region];
        const vhost_user::FaultGuard ours(
            std::span(split.memory.at(described.gpa, described.size), described.size), 4096);
        flood(host, 20);
        host.pump();

        REQUIRE(::ftruncate(described.fd, 0) == 0);
        CHECK(host.eventually([&] {
            flood(host, 8);
            return !host.status(0).running;
        }));
        host.require_delivered(1, neighbour, 5);
        split.guest.frontend.disconnect();
        host.require_stopped(0);
    }
    require_served(host);
    host.require_delivered(1, neighbour, 6);
    neighbour.stop_device();
    host.require_stopped(1);
}

TEST_CASE("a region that goes with buffers in it posted is written to no more") {
    TestHost& host = TestHost::instance();
    const Negotiation wanted = GENERATE(Negotiation{}, kPacked);
    const bool by_slot = GENERATE(false, true);
    SplitGuest split(host, wanted);
    FakeGuest& guest = split.guest;
    flood(host, 20);
    guest.net.receive();

    const auto regions = split.memory.regions();
    REQUIRE((by_slot ? guest.frontend.remove_mem_region(regions[1])
                     : guest.frontend.set_mem_table(std::array{regions[0]})));
    const std::vector<std::byte> before = split.second_region();
    flood(host, 600);
    settle(host);

    CHECK(split.second_region() == before);
    CHECK_FALSE(host.status(0).running);  // its buffers are nowhere
    CHECK(host.nic().counters().dma_faults == 0);

    // Set up anew, it goes on with the buffers that it had posted.
    const VringBases bases = guest.stop_device();
    guest.start_device(bases);
    REQUIRE(host.eventually([&] { return host.status(0).running; }));
    guest.net.receive();
    host.require_delivered(0, guest, 9);
    guest.stop_device();
    host.require_stopped(0);
}

TEST_CASE("a ring that changes its size with buffers outstanding harms nobody") {
    TestHost& host = TestHost::instance();
    const Negotiation wanted = GENERATE(Negotiation{}, kPacked);
    FakeMemory neighbour_memory(8_MiB);
    FakeGuest neighbour = host.connect(1, neighbour_memory);
    neighbour.net.refill();
    for (const std::uint32_t size : {1U, 2U, 128U, 512U, 32768U}) {
        for (const std::uint32_t ring : {0U, 1U}) {
            FakeMemory memory(8_MiB);
            FakeGuest guest = host.connect(0, memory, {}, wanted);
            guest.net.refill();
            flood(host, 40);
            CHECK(guest.frontend.set_vring_num(ring, size));
            flood(host, 300);
            host.require_delivered(1, neighbour, size);
            CHECK(guest.frontend.set_vring_num(ring, 256));
            flood(host, 40);
            guest.frontend.disconnect();
            host.require_stopped(0);
        }
    }
    CHECK(neighbour.net.violations() == std::vector<std::string>{});
    neighbour.stop_device();
    host.require_stopped(1);
}

TEST_CASE("queues may come back with other sizes after a stop with buffers outstanding") {
    TestHost& host = TestHost::instance();
    Negotiation wanted;
    wanted.features |= GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureRingPacked}) |
                       GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureInOrder});
    FakeMemory memory(64_MiB);
    FakeGuest guest = host.connect(0, memory, {}, wanted);
    guest.net.refill();
    flood(host, 40);
    guest.stop_device();
    for (const std::uint16_t size : {16, 1024, 2, 256}) {
        NetDriver driver(memory,
                         {.features = guest.frontend.features(), .rx_size = size, .tx_size = size});
        const std::array<QueueDriver*, 2> queues{&driver.rx().queue(), &driver.tx().queue()};
        guest.frontend.start_device(memory, queues);
        REQUIRE(host.eventually([&] { return host.status(0).running; }));
        driver.refill();
        for (std::uint32_t seq = 0; seq < 8; ++seq) {
            host.arrive(make_frame({.dst = host.mac(0), .seq = seq}));
            std::vector<ReceivedFrame> frames;
            REQUIRE(host.eventually([&] {
                for (auto& frame : driver.receive()) frames.push_back(std::move(frame));
                return !frames.empty();
            }));
            CHECK(check_frame(frames[0].bytes) == seq);
        }
        driver.rx().tolerate_scratch(2048);
        CHECK(driver.violations() == std::vector<std::string>{});
        guest.stop_device();
    }
    guest.frontend.disconnect();
    host.require_stopped(0);
}

TEST_CASE("a frame of 64 KiB reaches no buffer of 1500 bytes") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(16_MiB);
    FakeGuest guest = host.connect(0, memory, {.layout = RxLayout::single(1500)},
                                   GENERATE(Negotiation{}, kPacked));
    guest.net.refill();
    for (const std::size_t size : {1515U, 9014U, 16383U, 65535U}) {
        CHECK(host.arrive(make_frame({.dst = host.mac(0), .seq = 1, .size = size})) !=
              soft82599::RxResult::kDelivered);
    }
    host.require_delivered(0, guest, 2);
    CHECK(guest.net.violations() == std::vector<std::string>{});
    guest.stop_device();
    host.require_stopped(0);
}

}  // namespace zecorx::test
