// Sessions that end, change and come back while frames arrive. Whatever happens, the NIC writes to
// no memory that was given back, and everything the session used is there again.

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <fstream>
#include <stop_token>
#include <thread>

#include "test_host.h"

namespace zecorx::test {
namespace {

// Frames to VM 0 without waiting for anybody.
void flood(TestHost& host, std::uint32_t& seq, int count) {
    for (int i = 0; i < count; ++i) {
        host.arrive(make_frame({.dst = TestHost::mac(0), .seq = seq++, .size = 60 + seq % 1400}));
    }
}

// What a session asks for: split rings, then packed ones.
Negotiation either_ring() {
    Negotiation wanted;
    wanted.features |= GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureRingPacked});
    return wanted;
}

// One chain that no driver may post: its head or buffer id lies outside the ring.
void break_receiveq(FakeGuest& guest) {
    if (guest.net.rx().queue().is_packed()) {
        guest.net.packed_receiveq().desc(0) = {kDefaultRamBase, 2048, 0xffff,
                                               kDescWrite | kPackedDescAvail};
        return;
    }
    guest.net.receiveq().write_avail_entry(0, 0xffff);
    guest.net.receiveq().write_avail_idx(1);
}

}  // namespace

TEST_CASE("sessions end in every way under traffic and leave nothing behind") {
    TestHost& host = TestHost::instance();
    enum class End { kStop, kVanish };
    const End end = GENERATE(End::kStop, End::kVanish);
    const PageSize page_size = GENERATE(PageSize::k2MiB, PageSize::k4KiB);
    std::uint32_t seq = 0;
    std::size_t descriptors = 0, mappings = 0;
    for (int cycle = 0; cycle < 22; ++cycle) {
        {
            FakeMemory memory(8_MiB, page_size);
            FakeGuest guest = host.connect(0, memory);
            guest.net.rx().tolerate_scratch(2048);
            guest.net.refill();
            for (int burst = 0; burst < 8; ++burst) {
                flood(host, seq, 40);
                guest.net.receive();
            }
            flood(host, seq, 40);
            if (end == End::kStop) guest.stop_device();
            guest.frontend.disconnect();
            flood(host, seq, 40);
            host.require_stopped(0);
            CHECK(guest.net.violations() == std::vector<std::string>{});
            CHECK(guest.net.receiveq().order_violations() == 0);
        }
        flood(host, seq, 40);
        // The first rounds warm allocators and the library up.
        if (cycle == 1) {
            descriptors = open_descriptors();
            mappings = memory_mappings();
        }
    }
    CHECK(host.eventually([&] { return open_descriptors() <= descriptors; }));
    CHECK(memory_mappings() <= mappings);
    CHECK(host.nic().counters().dma_faults == 0);
}

TEST_CASE("memory keeps still once a session has stopped") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(8_MiB, PageSize::k2MiB);
    FakeGuest guest = host.connect(0, memory, {}, either_ring());
    guest.net.refill();
    std::uint32_t seq = 0;
    flood(host, seq, 100);
    guest.stop_device();

    const std::uint64_t digest = guest.net.rx().memory_digest();
    flood(host, seq, 1000);
    host.pump();

    CHECK(guest.net.rx().memory_digest() == digest);
    host.require_stopped(0);
}

TEST_CASE("a restarted session continues at the used index, without losing or repeating a head") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(16_MiB);
    FakeGuest guest = host.connect(0, memory, {}, either_ring());
    guest.net.rx().tolerate_scratch(2048);
    guest.net.refill();
    std::uint32_t seq = 0;
    for (int cycle = 0; cycle < 20; ++cycle) {
        flood(host, seq, 30);
        guest.net.receive();
        const VringBases bases = guest.stop_device();
        CHECK(bases.at(0) == guest.net.rx().queue().used_idx());
        CHECK(bases.at(1) == guest.net.tx().queue().used_idx());
        guest.start_device(bases);
        REQUIRE(host.eventually([&] { return host.status(0).running; }));
    }
    guest.net.receive();
    host.require_delivered(0, guest, 77);
    CHECK(guest.net.violations() == std::vector<std::string>{});
    CHECK(guest.net.rx().queue().order_violations() == 0);
    guest.stop_device();
    host.require_stopped(0);
}

TEST_CASE("guest memory is found while the kernel looks for pages to move") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(64_MiB, PageSize::k4KiB);
    const std::jthread compaction([](const std::stop_token& stop) {
        while (!stop.stop_requested()) std::ofstream("/proc/sys/vm/compact_memory") << 1;
    });
    for (std::uint32_t seq = 0; seq < 24; ++seq) {
        FakeGuest guest = host.connect(0, memory);
        guest.net.refill();
        host.require_delivered(0, guest, seq);
        guest.stop_device();
        host.require_stopped(0);
    }
}

TEST_CASE("a memory table change under traffic moves the NIC to the new mappings") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(8_MiB);
    FakeGuest guest = host.connect(0, memory, {}, either_ring());
    guest.net.rx().tolerate_scratch(2048);
    guest.net.refill();
    std::uint32_t seq = 0;
    for (int change = 0; change < 10; ++change) {
        flood(host, seq, 50);
        guest.net.receive();
        // Hotplug: the old region stays where it is and a new one appears beside it, or goes.
        if (change % 2 == 0) {
            memory.add_region({.size = 4_MiB, .gpa = 0x8000'0000});
        } else {
            memory.remove_region(1);
        }
        REQUIRE(guest.frontend.set_mem_table(memory.regions()));
        REQUIRE(host.eventually([&] { return host.status(0).running; }));
    }
    guest.net.receive();
    host.require_delivered(0, guest, 5);
    CHECK(host.nic().counters().dma_faults == 0);
    CHECK(guest.net.violations() == std::vector<std::string>{});
    guest.stop_device();
    host.require_stopped(0);
}

TEST_CASE("a disabled ring receives nothing and goes on when it is enabled again") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(8_MiB);
    FakeGuest guest = host.connect(0, memory, {}, either_ring());
    guest.net.rx().tolerate_scratch(2048);
    guest.net.refill();
    for (std::uint32_t round = 0; round < 10; ++round) {
        REQUIRE(guest.frontend.set_vring_enable(0, false));
        CHECK_FALSE(host.status(0).running);
        const std::uint16_t used = guest.net.rx().queue().used_idx();
        std::uint32_t seq = 0;
        flood(host, seq, 20);
        host.pump();
        CHECK(guest.net.rx().queue().used_idx() == used);
        REQUIRE(guest.frontend.set_vring_enable(0, true));
        REQUIRE(host.eventually([&] { return host.status(0).running; }));
        host.require_delivered(0, guest, round);
    }
    guest.stop_device();
    host.require_stopped(0);
}

TEST_CASE("a replaced call descriptor is used from then on and disturbs no traffic") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(8_MiB);
    FakeGuest guest = host.connect(0, memory);
    guest.net.refill();
    const std::uint64_t stopped = dropped(host.status(0), DropReason::kStopped);
    std::uint32_t seq = 0;
    for (int change = 0; change < 5; ++change) {
        const EventFd call;
        REQUIRE(guest.frontend.set_vring_call(0, call.get()));
        CHECK(host.status(0).running);
        CHECK(call.wait(std::chrono::seconds(10)));  // one may have been missed meanwhile
        host.arrive(make_frame({.dst = host.mac(0), .seq = seq}));
        CHECK(call.wait(std::chrono::seconds(10)));
        const auto frames = host.receive(guest, 1);
        REQUIRE(frames.size() == 1);
        CHECK(check_frame(frames[0].bytes) == seq++);
    }
    // A descriptor that says "no calls" leaves polling drivers served.
    REQUIRE(guest.frontend.set_vring_call(0, std::nullopt));
    host.require_delivered(0, guest, seq);
    CHECK(dropped(host.status(0), DropReason::kStopped) == stopped);
    guest.stop_device();
    host.require_stopped(0);
}

TEST_CASE("a broken ring stops its own VM, and the next session runs again") {
    TestHost& host = TestHost::instance();
    FakeMemory memory0(8_MiB), memory1(8_MiB);
    FakeGuest broken = host.connect(0, memory0, {}, either_ring());
    FakeGuest neighbour = host.connect(1, memory1);
    neighbour.net.refill();
    const std::uint64_t before = host.status(0).counters->broken_rings.get();

    break_receiveq(broken);
    std::uint32_t seq = 0;
    flood(host, seq, 40);

    REQUIRE(host.eventually([&] { return !host.status(0).running; }));
    CHECK(host.status(0).counters->broken_rings.get() == before + 1);
    host.require_delivered(1, neighbour, 9);
    broken.frontend.disconnect();
    host.require_stopped(0);

    FakeMemory memory(8_MiB);
    FakeGuest guest = host.connect(0, memory);
    guest.net.refill();
    host.require_delivered(0, guest, 10);
    guest.stop_device();
    neighbour.stop_device();
    host.require_stopped(0);
    host.require_stopped(1);
}

TEST_CASE("a second connection disturbs nobody until its session starts, then it takes over") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(8_MiB), memory2(8_MiB);
    FakeGuest guest = host.connect(0, memory);
    guest.net.refill();

    Frontend idle = Frontend::connect(host.socket(0));
    idle.negotiate();
    REQUIRE(idle.set_mem_table(memory2.regions()));
    host.require_delivered(0, guest, 3);
    idle.disconnect();

    FakeGuest successor = host.connect(0, memory2);
    successor.net.refill();
    REQUIRE(host.eventually([&] {
        host.arrive(make_frame({.dst = host.mac(0), .seq = 4}));
        return !successor.net.receive().empty();
    }));
    const std::uint64_t digest = guest.net.rx().memory_digest();
    guest.stop_device();
    host.arrive(make_frame({.dst = host.mac(0), .seq = 5}));
    CHECK_FALSE(host.receive(successor, 1).empty());
    CHECK(guest.net.rx().memory_digest() == digest);
    successor.stop_device();
    host.require_stopped(0);
}

TEST_CASE("in client mode the daemon connects to every frontend that comes") {
    TestHost& host = TestHost::instance();
    constexpr std::size_t kVm = TestHost::kClientVm;
    for (std::uint32_t cycle = 0; cycle < 3; ++cycle) {
        FakeMemory memory(8_MiB);
        const UnixListener listener(host.socket(kVm));
        FakeGuest guest =
            connect_device(Frontend::accept(listener, std::chrono::seconds(10)), memory);
        guest.net.refill();
        REQUIRE(host.eventually([&] { return host.status(kVm).running; }));
        host.require_delivered(kVm, guest, cycle);
        guest.frontend.disconnect();
        host.require_stopped(kVm);
    }
}

}  // namespace zecorx::test
