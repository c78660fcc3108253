// Frontends that lie. Each case once made the daemon read, write or wait where it must not.

#include "hostile.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <optional>

namespace zecorx::test {
namespace {

constexpr std::uint64_t kDriverOk =
    kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk;

// A frontend that sets up its rings message by message, with the receiveq's addresses as given.
class Liar {
  public:
    Liar(TestHost& host, FakeMemory& memory, const Negotiation& wanted = {})
        : memory_(memory),
          frontend_(Frontend::connect(host.socket(0))),
          driver_(memory, {.features = frontend_.negotiate(wanted)}) {
        REQUIRE(frontend_.set_mem_table(memory.regions()));
    }

    VringAddr honest(std::uint32_t ring) {
        const QueueDriver& queue = ring == 0 ? driver_.rx().queue() : driver_.tx().queue();
        VringAddr address{};
        address.index = ring;
        address.desc = memory_.user_addr(queue.descriptor_area());
        address.avail = memory_.user_addr(queue.driver_area());
        address.used = memory_.user_addr(queue.device_area());
        return address;
    }

    // Of the receiveq, instead of where its driver stands.
    void lie_about_base(std::uint16_t base) { base_ = base; }

    // False: the backend dropped the connection.
    bool start(const VringAddr& receiveq) {
        try {
            set_up(receiveq);
            set_up(honest(1));
            return frontend_.set_status(kDriverOk);
        } catch (const SocketClosed&) {
            return false;
        }
    }

    NetDriver& driver() { return driver_; }

  private:
    void set_up(const VringAddr& address) {
        QueueDriver& queue = address.index == 0 ? driver_.rx().queue() : driver_.tx().queue();
        const auto ring = static_cast<std::uint8_t>(address.index);
        frontend_.set_vring_num(ring, queue.size());
        frontend_.set_vring_addr(address);
        frontend_.set_vring_base(ring, ring == 0 && base_ ? *base_ : queue.used_idx());
        frontend_.set_vring_kick(ring, queue.kick_fd());
        frontend_.set_vring_call(ring, queue.call_fd());
        frontend_.set_vring_enable(ring, true);
    }

    FakeMemory& memory_;
    Frontend frontend_;
    NetDriver driver_;
    std::optional<std::uint16_t> base_;
};

// Frames for a receiveq at `address` start nothing.
void check_refused(TestHost& host, Liar& liar, const VringAddr& address) {
    liar.start(address);
    for (std::uint32_t seq = 0; seq < 64; ++seq) {
        host.arrive(make_frame({.dst = host.mac(0), .seq = seq}));
    }
    settle(host);
    CHECK_FALSE(host.status(0).running);
}

}  // namespace

TEST_CASE("the control: honest rings set up message by message run") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(8_MiB);
    const Negotiation wanted = GENERATE(Negotiation{}, kPacked);
    {
        Liar honest(host, memory, wanted);
        REQUIRE(honest.start(honest.honest(0)));
        CHECK(host.eventually([&] { return host.status(0).running; }));
    }
    require_served(host);
}

TEST_CASE("rings that are misaligned or run over their region's end are refused") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(8_MiB);
    const auto region = memory.regions()[0];
    {
        Liar liar(host, memory);
        VringAddr address = liar.honest(0);
        SECTION("a misaligned descriptor table") { address.desc += 4; }
        SECTION("a used ring of which 16 bytes lie in the region") {
            address.used = region.user_addr + region.size - 16;
        }
        SECTION("an avail ring of which 16 bytes lie in the region") {
            address.avail = region.user_addr + region.size - 16;
        }
        SECTION("a descriptor table of which one descriptor lies in the region") {
            address.desc = region.user_addr + region.size - 16;
        }
        check_refused(host, liar, address);
    }
    require_served(host);
}

TEST_CASE("packed rings that are misaligned, leave their region or start outside are refused") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(8_MiB);
    const auto region = memory.regions()[0];
    {
        Liar liar(host, memory, kPacked);
        VringAddr address = liar.honest(0);
        SECTION("a misaligned descriptor ring") { address.desc += 4; }
        SECTION("a misaligned driver area") { address.avail += 2; }
        SECTION("a device area of which 2 bytes lie in the region") {
            address.used = region.user_addr + region.size - 2;
        }
        SECTION("a descriptor ring of which one descriptor lies in the region") {
            address.desc = region.user_addr + region.size - 16;
        }
        SECTION("a base just outside the ring") {
            liar.lie_about_base(liar.driver().rx().queue().size() | kPackedWrap);
        }
        SECTION("a base far outside the ring") { liar.lie_about_base(0x7fff); }
        check_refused(host, liar, address);
    }
    require_served(host);
}

TEST_CASE("a running ring cannot be stretched over its region's end") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(2_MiB);
    {
        FakeGuest guest = host.connect(0, memory, {}, GENERATE(Negotiation{}, kPacked));
        const auto region = memory.regions()[0];
        // Room for 256 entries, the region's last 8 KiB.
        VringAddr address{};
        address.desc = region.user_addr + region.size - 8192;
        address.avail = address.desc + 4096;
        address.used = address.avail + 1024;
        REQUIRE(guest.frontend.set_vring_addr(address));
        REQUIRE(host.eventually([&] { return host.status(0).running; }));

        guest.frontend.set_vring_num(0, kMaxRingSize);

        settle(host);
        CHECK_FALSE(host.status(0).running);
    }
    require_served(host);
}

TEST_CASE("a memory table that cannot be mapped is refused, and the one before it stays") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(8_MiB);
    FakeGuest guest = host.connect(0, memory);
    guest.net.refill();
    std::array<int, 2> pipe{};
    REQUIRE(::pipe(pipe.data()) == 0);
    const UniqueFd read_end(pipe[0]), write_end(pipe[1]);
    auto regions = memory.regions();
    regions[0].fd = read_end.get();

    CHECK_FALSE(guest.frontend.set_mem_table(regions));

    host.require_delivered(0, guest, 1);
    guest.stop_device();
    host.require_stopped(0);
}

TEST_CASE(
    "kick and call descriptors that are no eventfds are refused, so that none can hold us up") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(8_MiB);
    FakeGuest guest = host.connect(0, memory);
    guest.net.refill();
    std::array<int, 2> ends{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) == 0);
    const UniqueFd ours(ends[0]), theirs(ends[1]);

    CHECK_FALSE(guest.frontend.set_vring_kick(0, ours.get()));
    CHECK_FALSE(guest.frontend.set_vring_call(0, ours.get()));

    host.require_delivered(0, guest, 1);
    guest.stop_device();
    host.require_stopped(0);
}

TEST_CASE("a call descriptor that is full does not hold up the neighbours") {
    TestHost& host = TestHost::instance();
    FakeMemory memory0(8_MiB), memory1(8_MiB);
    FakeGuest neighbour = host.connect(1, memory1);
    FakeGuest guest = host.connect(0, memory0);
    neighbour.net.refill();
    guest.net.refill();
    const UniqueFd call(::eventfd(0, EFD_CLOEXEC));  // a write that does not fit waits
    REQUIRE(guest.frontend.set_vring_call(0, call.get()));
    REQUIRE(host.eventually([&] { return host.status(0).running; }));
    settle(host);
    std::uint64_t value = 1;
    REQUIRE(::write(call.get(), &value, sizeof value) == sizeof value);
    REQUIRE(::read(call.get(), &value, sizeof value) == sizeof value);
    const std::uint64_t full = ~0ULL - 1;
    REQUIRE(::write(call.get(), &full, sizeof full) == sizeof full);

    host.require_delivered(0, guest, 1);
    host.require_delivered(1, neighbour, 2);

    guest.stop_device();
    neighbour.stop_device();
    host.require_stopped(0);
    host.require_stopped(1);
}

TEST_CASE("a frontend that makes a call wait stops its own VM, and the neighbours go on") {
    TestHost& host = TestHost::instance();
    FakeMemory memory0(8_MiB), memory1(8_MiB);
    FakeGuest neighbour = host.connect(1, memory1);
    FakeGuest guest = host.connect(0, memory0);
    neighbour.net.refill();
    guest.net.refill();
    const UniqueFd call(::eventfd(0, EFD_CLOEXEC));
    REQUIRE(guest.frontend.set_vring_call(0, call.get()));
    settle(host);
    // The daemon has made it non-blocking; whoever shares it can undo that.
    REQUIRE(::fcntl(call.get(), F_SETFL, O_RDWR) == 0);
    std::uint64_t value = 1;
    REQUIRE(::write(call.get(), &value, sizeof value) == sizeof value);
    REQUIRE(::read(call.get(), &value, sizeof value) == sizeof value);
    const std::uint64_t full = ~0ULL - 1;
    REQUIRE(::write(call.get(), &full, sizeof full) == sizeof full);

    host.arrive(make_frame({.dst = host.mac(0), .seq = 1}));

    REQUIRE(host.eventually([&] { return !host.status(0).running; }));
    host.require_delivered(1, neighbour, 2);
    guest.frontend.disconnect();
    neighbour.stop_device();
    host.require_stopped(0);
    host.require_stopped(1);
}

TEST_CASE("a learning VM cannot take the configured address of a VM that is down") {
    TestHost& host = TestHost::instance();
    constexpr std::size_t kThief = TestHost::kLearningVm;
    FakeMemory memory0(8_MiB), memory(8_MiB);
    FakeGuest thief = host.connect(kThief, memory);
    thief.net.refill();
    host.sent();
    REQUIRE(thief.net.send(make_frame({.src = host.mac(0), .seq = 2})));
    REQUIRE(host.eventually([&] { return !host.sent().empty(); }));

    FakeGuest owner = host.connect(0, memory0);
    owner.net.refill();
    host.arrive(make_frame({.dst = host.mac(0), .seq = 7}));

    CHECK(host.receive(owner, 1).size() == 1);
    CHECK(thief.net.receive().empty());
    thief.stop_device();
    owner.stop_device();
    host.require_stopped(0);
    host.require_stopped(kThief);
}

TEST_CASE("a RARP for a foreign address does not cost a VM its own") {
    TestHost& host = TestHost::instance();
    constexpr std::size_t kVm = TestHost::kLearningVm;
    FakeMemory memory(8_MiB);
    FakeGuest guest = host.connect(kVm, memory);
    guest.net.refill();
    REQUIRE(guest.frontend.send_rarp(host.mac(kVm)));
    REQUIRE(host.status(kVm).mac == host.mac(kVm));

    CHECK(guest.frontend.send_rarp(host.mac(0)));

    CHECK(host.status(kVm).mac == host.mac(kVm));
    CHECK(host.arrive(make_frame({.dst = host.mac(kVm), .seq = 4})) ==
          soft82599::RxResult::kDelivered);
    CHECK(host.receive(guest, 1).size() == 1);
    guest.stop_device();
    host.require_stopped(kVm);
}

}  // namespace zecorx::test
