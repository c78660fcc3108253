// The fake guest against a backend nobody here wrote: DPDK's testpmd with its vhost driver, which
// sends every frame back with swapped MAC addresses. What the fake guest gets wrong about virtio or
// vhost-user shows here rather than in tests of our own backend.
//
// Needs dpdk-testpmd (package dpdk-dev) in PATH or named by DPDK_TESTPMD, and 2 MiB pages.
#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <memory>
#include <string>

#include "fake_guest.h"
#include "frames.h"
#include "support/process.h"
#include "support/temp_dir.h"

using namespace zecorx;
using namespace zecorx::test;
using namespace std::chrono_literals;

namespace {

constexpr std::uint64_t kBase = kFeatureVhostUserProtocol | kFeatureIndirectDesc;
constexpr std::uint64_t kVersion1 = kBase | kFeatureVersion1;
constexpr std::uint64_t kMergeable = kVersion1 | kFeatureNetMrgRxbuf;
constexpr std::uint64_t kPacked = kMergeable | kFeatureRingPacked;

// Every use of a ring of either kind.
constexpr std::uint64_t kRingKinds[] = {
    kMergeable, kMergeable | kFeatureInOrder, kMergeable | kFeatureEventIdx,
    kPacked,    kPacked | kFeatureInOrder,    kPacked | kFeatureEventIdx};

constexpr std::uint32_t kProbeSeq = 1'000'000;
constexpr std::uint32_t kEchoed = 320;  // frames: more than a ring of 256

// librte_vhost 22.11 assumes that a header lies in at most two descriptors: with more it computes a
// negative room and writes outside the guest's buffer. On a packed ring, where it looks at four
// descriptors at once, it takes an indirect table for a buffer, and a descriptor shorter than the
// header for a huge one. The driver's checks show it; leave those out.
bool testpmd_serves(const RxLayout& layout, std::uint64_t features) {
    if (layout.name() == RxLayout::split_header(1).name()) return false;
    if (layout.name() == RxLayout::split_header(5).name()) return false;
    if ((features & kFeatureRingPacked) == 0) return true;
    return !layout.indirect() && layout.name() != RxLayout::split_header(6).name();
}

std::vector<RxLayout> layouts_testpmd_serves(std::uint64_t features) {
    std::vector<RxLayout> layouts = RxLayout::whole_frame_layouts();
    layouts.push_back(RxLayout::split_header(6));
    std::erase_if(layouts,
                  [features](const RxLayout& layout) { return !testpmd_serves(layout, features); });
    return layouts;
}

std::string testpmd_path() {
    const char* named = std::getenv("DPDK_TESTPMD");
    return named != nullptr ? named : "dpdk-testpmd";
}

bool have_testpmd() {
    const std::string path = testpmd_path();
    return std::system(("command -v " + path + " >/dev/null 2>&1").c_str()) == 0;
}

// testpmd with one vhost port that returns what it receives, and a directory for its socket.
class Testpmd {
  public:
    explicit Testpmd(bool client_mode = false) {
        if (client_mode) listener_ = std::make_unique<UnixListener>(socket());
        start();
    }
    Testpmd(const Testpmd&) = delete;
    Testpmd& operator=(const Testpmd&) = delete;

    std::string socket() const { return dir_.path() / "s0"; }
    Frontend connect() const {
        return listener_ ? Frontend::accept(*listener_) : Frontend::connect(socket());
    }
    void kill_and_restart() {
        process_->kill();
        start();
    }

  private:
    void start() {
        const std::string vdev =
            "net_vhost0,iface=" + socket() + ",queues=1" + (listener_ ? ",client=1" : "");
        process_ = std::make_unique<Process>(
            std::vector<std::string>{testpmd_path(), "-l", "0,1", "--no-pci", "--in-memory", "-m",
                                     "256", "--vdev", vdev, "--", "--forward-mode=macswap",
                                     "--port-topology=loop", "--auto-start",
                                     // or it ends with its standard input
                                     "--stats-period", "60", "--total-num-mbufs=4096"},
            ProcessOptions{.output = dir_.path() / "log", .errors = dir_.path() / "errors"});
    }

    TempDir dir_;
    std::unique_ptr<UnixListener> listener_;
    std::unique_ptr<Process> process_;
};

// The backend drops what arrives before its forwarding sees the new queues, so frames that may be
// lost come first. Some of them may arrive late.
void wait_until_forwarding(FakeGuest& guest) {
    for (int tries = 0; tries < 200; ++tries) {
        guest.net.send(make_frame({.seq = kProbeSeq}));
        if (!guest.net.receive_until(1, 50ms).empty()) return;
    }
}

// Polls until `count` frames came that are not probes, and hands each to `take`.
template <typename Take>
void receive_echoes(FakeGuest& guest, std::uint32_t count, Take take) {
    std::uint32_t taken = 0;
    for (int tries = 0; tries < 2000 && taken < count; ++tries) {
        for (const ReceivedFrame& frame : guest.net.receive_until(1, 5ms)) {
            if (check_frame(frame.bytes) == kProbeSeq) continue;
            take(frame);
            ++taken;
        }
    }
    if (taken < count) UNSCOPED_INFO(taken << " of " << count << " frames came back in time");
}

// Sends frames of all sizes in bursts until one is missing; returns how many came back intact, in
// order and with swapped addresses.
std::uint32_t echo(FakeGuest& guest, const TxLayout& layout) {
    constexpr std::uint32_t kBurst = 16;
    std::uint32_t good = 0;
    for (std::uint32_t sent = 0; sent < kEchoed && good == sent; sent += kBurst) {
        for (std::uint32_t seq = sent; seq < sent + kBurst; ++seq) {
            const std::size_t size = kMinFrame + seq * 37 % (kMaxUntaggedFrame - kMinFrame + 1);
            guest.net.tx().enqueue(make_frame({.seq = seq, .size = size}), layout);
        }
        guest.net.tx().flush();
        receive_echoes(guest, kBurst, [&good](const ReceivedFrame& frame) {
            const bool swapped = MacAddress::from_wire(frame.bytes) == kPeerMac;
            if (swapped && check_frame(frame.bytes) == good) ++good;
        });
    }
    return good;
}

void check_clean(FakeGuest& guest) {
    CHECK(guest.net.violations() == std::vector<std::string>{});
    CHECK(guest.net.order_violations() == 0);
}

// A guest that talks to testpmd with exactly these features.
FakeGuest connect(const Testpmd& testpmd, FakeMemory& memory, std::uint64_t features,
                  NetDriverOptions options = {}) {
    FakeGuest guest =
        connect_device(testpmd.connect(), memory, std::move(options), {.features = features});
    REQUIRE(guest.frontend.features() == features);
    // librte_vhost makes use of IN_ORDER when it returns transmitted buffers.
    guest.net.tx().queue().accept_batches();
    return guest;
}

void check_echo(FakeGuest& guest, const TxLayout& layout = {}) {
    guest.net.refill();
    wait_until_forwarding(guest);
    CHECK(echo(guest, layout) == kEchoed);
    check_clean(guest);
}

}  // namespace

TEST_CASE("testpmd echoes frames into every receive layout") {
    if (!have_testpmd()) SKIP("no dpdk-testpmd on this machine");
    const Testpmd testpmd;
    for (const PageSize page_size : {PageSize::k4KiB, PageSize::k2MiB}) {
        for (const std::uint64_t features :
             {kBase, kVersion1, kMergeable, kVersion1 | kFeatureRingPacked, kPacked}) {
            for (const RxLayout& layout : layouts_testpmd_serves(features)) {
                CAPTURE(page_size, features, layout.name());
                FakeMemory memory(FakeMemory::equal_regions(4, 16_MiB, 0, page_size));
                FakeGuest guest = connect(testpmd, memory, features, {.layout = layout});
                check_echo(guest);
                guest.stop_device();
            }
        }
    }
}

TEST_CASE("testpmd spreads frames over small mergeable buffers") {
    if (!have_testpmd()) SKIP("no dpdk-testpmd on this machine");
    const Testpmd testpmd;
    for (const std::uint64_t features : kRingKinds) {
        CAPTURE(features);
        FakeMemory memory(32_MiB);
        FakeGuest guest = connect(testpmd, memory, features, {.layout = RxLayout::tiny(512)});
        check_echo(guest);
    }
}

TEST_CASE("testpmd reads every transmit layout") {
    if (!have_testpmd()) SKIP("no dpdk-testpmd on this machine");
    const Testpmd testpmd;
    for (const std::uint64_t features : kRingKinds) {
        for (const TxLayout& layout :
             {TxLayout{.header_apart = true}, TxLayout{.header_apart = false, .max_piece = 200},
              TxLayout{.header_apart = true, .max_piece = 100, .form = DescForm::kIndirect}}) {
            CAPTURE(features, layout.header_apart, layout.max_piece);
            FakeMemory memory(32_MiB);
            FakeGuest guest = connect(testpmd, memory, features);
            check_echo(guest, layout);
        }
    }
}

TEST_CASE("a packed ring of any size works with testpmd") {
    if (!have_testpmd()) SKIP("no dpdk-testpmd on this machine");
    const Testpmd testpmd;
    for (const std::uint16_t size : {24, 100, 1000}) {
        CAPTURE(size);
        FakeMemory memory(32_MiB);
        FakeGuest guest = connect(testpmd, memory, kPacked, {.rx_size = size, .tx_size = size});
        check_echo(guest);
    }
}

TEST_CASE("a guest stops, starts and goes on where it was") {
    if (!have_testpmd()) SKIP("no dpdk-testpmd on this machine");
    const Testpmd testpmd;
    for (const std::uint64_t features : kRingKinds) {
        CAPTURE(features);
        FakeMemory memory(32_MiB);
        FakeGuest guest = connect(testpmd, memory, features, {.first_index = 65500});
        check_echo(guest);
        for (int round = 0; round < 5; ++round) {
            const VringBases bases = guest.stop_device();
            CHECK(bases ==
                  VringBases{guest.net.rx().queue().used_idx(), guest.net.tx().queue().used_idx()});
            guest.start_device(bases);
            check_echo(guest);
        }
    }
}

TEST_CASE("a guest survives the death of a backend in client mode") {
    if (!have_testpmd()) SKIP("no dpdk-testpmd on this machine");
    for (const std::uint64_t features : {kMergeable, kPacked}) {
        CAPTURE(features);
        Testpmd testpmd(true);
        FakeMemory memory(32_MiB);
        FakeGuest guest = connect(testpmd, memory, features);
        check_echo(guest);
        testpmd.kill_and_restart();
        CHECK(guest.frontend.wait_closed(5s));
        guest.reconnect(testpmd.connect());
        check_echo(guest);
    }
}

TEST_CASE("testpmd calls a sleeping guest, with flags and with EVENT_IDX") {
    if (!have_testpmd()) SKIP("no dpdk-testpmd on this machine");
    const Testpmd testpmd;
    for (const std::uint64_t features : kRingKinds) {
        CAPTURE(features);
        FakeMemory memory(32_MiB);
        FakeGuest guest = connect(testpmd, memory, features);
        check_echo(guest);
        QueueDriver& receiveq = guest.net.rx().queue();
        for (std::uint32_t seq = 0; seq < 100; ++seq) {
            receiveq.want_calls(true);
            guest.net.receive();
            receiveq.drain_calls();
            guest.net.send(make_frame({.seq = seq}));
            REQUIRE(receiveq.wait_call(5s));
            CHECK(guest.net.receive().size() == 1);
            guest.net.reap_transmitted();
        }
        check_clean(guest);
    }
}

TEST_CASE("librte_vhost answers the rest of the protocol") {
    if (!have_testpmd()) SKIP("no dpdk-testpmd on this machine");
    const Testpmd testpmd;
    Frontend frontend = testpmd.connect();
    frontend.negotiate();
    CHECK((frontend.protocol_features() & kProtocolReplyAck) != 0);
    CHECK(frontend.get_queue_num() >= 1);
    CHECK(frontend.set_mtu(1500));
    CHECK_FALSE(frontend.set_mtu(10));
    CHECK(frontend.set_status(4));
    CHECK(frontend.get_status() == 4);
    CHECK(frontend.send_rarp(kGuestMac));
    const FakeMemory log(64_KiB);
    CHECK(frontend.set_log_base(log.regions().at(0).fd, 64_KiB));
    CHECK_FALSE(frontend.set_log_base(log.regions().at(0).fd, 64_KiB, ~std::uint64_t{0}));
    CHECK_FALSE(frontend.set_vring_num(0, 3));
    CHECK_FALSE(frontend.add_mem_region(log.regions().at(0)));
    CHECK(frontend.reset_owner());

    frontend.send_message(Request::kSetOwner, 0, {}, {}, 0x10'0000);
    CHECK(frontend.wait_closed(5s));
}
