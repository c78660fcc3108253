// What one VM's driver does or leaves undone must not cost another VM its frames. Counted in turns
// instead of seconds: NIC, daemon and guests take theirs one after the other.

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "test_host.h"

namespace zecorx::test {

HostSetup host_setup() {
    HostSetup setup = four_vms();
    setup.lockstep = true;
    return setup;
}

namespace {

constexpr std::size_t kStalled = 0;
constexpr std::size_t kBusy = 1;
constexpr std::uint32_t kTurns = 2000;
constexpr std::uint32_t kPerTurn = 32;  // frames to each VM: what one poll takes

struct Rate {
    std::uint64_t received = 0;  // by the guest of the busy VM
    std::uint64_t copied = 0;
};

// The NIC gets a burst for each of `vms`, the worker polls once, the busy VM's guest takes what is
// there and posts again.
Rate run_turns(TestHost& host, std::span<const std::size_t> vms, FakeGuest& guest,
               std::size_t size) {
    static std::uint32_t seq = 0;
    const std::uint64_t copied_before = copied(host.status(kBusy), CopyReason::kStarved);
    Rate rate;
    for (std::uint32_t turn = 0; turn < kTurns; ++turn) {
        for (std::uint32_t i = 0; i < kPerTurn; ++i, ++seq) {
            for (const std::size_t vm : vms) {
                host.arrive(make_frame({.dst = TestHost::mac(vm), .seq = seq, .size = size}));
            }
        }
        host.poll_all();
        rate.received += guest.net.receive().size();
    }
    rate.copied = copied(host.status(kBusy), CopyReason::kStarved) - copied_before;
    return rate;
}

// What the NIC was given before the guest had posted anything is behind us.
void warm_up(TestHost& host, FakeGuest& guest) {
    const std::array busy{kBusy};
    run_turns(host, busy, guest, kMinFrame);
}

}  // namespace

TEST_CASE("a VM that posts no buffers leaves the VM beside it its rate") {
    TestHost& host = TestHost::instance();
    const std::size_t size = GENERATE(kMinFrame, kMaxUntaggedFrame);
    FakeMemory memory(8_MiB), stalled_memory(8_MiB);
    FakeGuest busy = host.connect(kBusy, memory);
    busy.net.rx().disable_canaries();
    busy.net.refill();
    warm_up(host, busy);

    const std::array one{kBusy};
    const Rate alone = run_turns(host, one, busy, size);
    FakeGuest stalled = host.connect(kStalled, stalled_memory);
    const std::array both{kStalled, kBusy};
    const Rate beside = run_turns(host, both, busy, size);

    CHECK(alone.received == std::uint64_t{kTurns} * kPerTurn);
    CHECK(beside.received * 100 >= alone.received * 98);
    CHECK(beside.copied <= alone.copied);
    CHECK(stalled.net.receive().empty());
    const Vm::Status status = host.status(kStalled);
    CHECK(dropped(status, DropReason::kNoBuffer) > 0);
    SUCCEED(size << " bytes: " << alone.received << " frames in " << kTurns << " turns alone, "
                 << beside.received << " beside a stalled VM");

    stalled.stop_device();
    busy.stop_device();
    host.require_stopped(kStalled);
    host.require_stopped(kBusy);
}

TEST_CASE("a VM whose ring broke leaves the VM beside it its rate") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(8_MiB), broken_memory(8_MiB);
    FakeGuest busy = host.connect(kBusy, memory);
    busy.net.rx().disable_canaries();
    busy.net.refill();
    warm_up(host, busy);
    FakeGuest broken = host.connect(kStalled, broken_memory);

    broken.net.receiveq().write_avail_entry(0, 0xffff);
    broken.net.receiveq().write_avail_idx(1);
    const std::array both{kStalled, kBusy};
    const Rate beside = run_turns(host, both, busy, kMinFrame);

    CHECK(beside.received * 100 >= std::uint64_t{kTurns} * kPerTurn * 98);
    broken.frontend.disconnect();
    busy.stop_device();
    host.require_stopped(kStalled);
    host.require_stopped(kBusy);
}

}  // namespace zecorx::test
