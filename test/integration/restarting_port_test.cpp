// VMs on a port whose queues change only while all of it is stopped: what one does costs the others
// a pause, and no buffer.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "test_host.h"

namespace zecorx::test {

HostSetup host_setup() {
    HostSetup setup = four_vms();
    setup.restarting = true;
    return setup;
}

namespace {

constexpr std::size_t kServed = 0;
constexpr std::size_t kComing = 1;

Negotiation either_ring() {
    Negotiation wanted;
    wanted.features |= GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureRingPacked});
    return wanted;
}

void exchange(TestHost& host, std::size_t vm, FakeGuest& guest, std::uint32_t& seq) {
    for (int i = 0; i < 20; ++i) host.require_delivered(vm, guest, seq++);
}

void check_stopped(TestHost& host, std::size_t vm) {
    REQUIRE(host.eventually([&] { return !host.status(vm).running; }));
    CHECK(host.status(vm).mbufs_held == 0);
    CHECK(host.nic().counters().dma_faults == 0);
    CHECK(host.nic().counters().writes_after_stop == 0);
}

}  // namespace

TEST_CASE("a VM that comes and goes pauses the others, who lose no buffer and get none twice") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(16_MiB, PageSize::k2MiB), other_memory(16_MiB, PageSize::k2MiB);
    FakeGuest served = host.connect(kServed, memory, {}, either_ring());
    served.net.rx().tolerate_scratch(2048);
    served.net.refill();
    const std::uint64_t outages = host.port().outages().count;
    std::uint32_t seq = 0;
    constexpr int kCycles = 10;
    for (int cycle = 0; cycle < kCycles; ++cycle) {
        exchange(host, kServed, served, seq);
        FakeGuest coming = host.connect(kComing, other_memory, {}, either_ring());
        coming.net.rx().tolerate_scratch(2048);
        coming.net.refill();
        exchange(host, kServed, served, seq);
        exchange(host, kComing, coming, seq);
        if (cycle % 2 == 0) coming.stop_device();
        CHECK(coming.net.violations() == std::vector<std::string>{});
        coming.frontend.disconnect();
        check_stopped(host, kComing);
    }
    exchange(host, kServed, served, seq);
    CHECK(host.port().outages().count == outages + 2 * kCycles);
    CHECK(host.port().outages().last.count() > 0);
    CHECK(host.status(kServed).counters->zero_copied.get() > 0);
    CHECK(served.net.violations() == std::vector<std::string>{});
    const VringBases bases = served.stop_device();
    CHECK(bases.at(0) == served.net.rx().queue().used_idx());
    check_stopped(host, kServed);
}

TEST_CASE("frames that were there before a pause are not lost") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(16_MiB, PageSize::k2MiB), other_memory(8_MiB);
    FakeGuest served = host.connect(kServed, memory);
    served.net.refill();
    std::uint32_t seq = 0;
    exchange(host, kServed, served, seq);
    constexpr std::uint32_t kFrames = 100;
    for (std::uint32_t i = 0; i < kFrames; ++i) {
        host.arrive(make_frame({.dst = host.mac(kServed), .seq = seq + i}));
    }
    const FakeGuest coming = host.connect(kComing, other_memory);
    const auto frames = host.receive(served, kFrames);
    REQUIRE(frames.size() == kFrames);
    for (std::uint32_t i = 0; i < kFrames; ++i) CHECK(check_frame(frames[i].bytes) == seq + i);
}

TEST_CASE("memory that goes while the port is in use is let go of first") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(16_MiB, PageSize::k2MiB), other_memory(16_MiB, PageSize::k2MiB);
    FakeGuest served = host.connect(kServed, memory);
    FakeGuest changing = host.connect(kComing, other_memory);
    for (FakeGuest* guest : {&served, &changing}) guest->net.refill();
    std::uint32_t seq = 0;
    for (int cycle = 0; cycle < 5; ++cycle) {
        exchange(host, kServed, served, seq);
        exchange(host, kComing, changing, seq);
        const VringBases bases = changing.stop_device();
        check_stopped(host, kComing);
        changing.start_device(bases);
        REQUIRE(host.eventually([&] { return host.status(kComing).running; }));
    }
    for (FakeGuest* guest : {&served, &changing}) {
        guest->stop_device();
        CHECK(guest->net.violations() == std::vector<std::string>{});
    }
    check_stopped(host, kServed);
    check_stopped(host, kComing);
}

TEST_CASE("a VM that comes and goes without end cannot keep the port from the others") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(16_MiB, PageSize::k2MiB), other_memory(8_MiB);
    FakeGuest served = host.connect(kServed, memory);
    served.net.refill();
    const std::uint64_t before = host.port().outages().count;
    FakeGuest restless = connect_device(host.socket(kComing), other_memory, {}, {});
    constexpr std::uint64_t kTurns = 300;
    for (std::uint64_t turn = 0; turn < kTurns; ++turn) {
        restless.start_device(restless.stop_device());
        host.pump();
    }
    // Each start and each stop is one, but most starts had to wait, and were over by then.
    CHECK(host.port().outages().count - before < kTurns / 2);
    std::uint32_t seq = 0;
    exchange(host, kServed, served, seq);
    REQUIRE(host.eventually([&] { return host.status(kComing).running; }));
    for (FakeGuest* guest : {&served, &restless}) {
        guest->stop_device();
        CHECK(guest->net.violations() == std::vector<std::string>{});
    }
    check_stopped(host, kServed);
    check_stopped(host, kComing);
}

}  // namespace zecorx::test
