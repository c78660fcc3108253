// DPDK's own virtio driver as the guest: other buffer layouts and polling instead of interrupts.

#include <algorithm>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <fstream>
#include <iterator>

#include "support/wait.h"
#include "test_bed.h"
#include "verdict.h"

namespace zecorx::test {
namespace {

constexpr unsigned kWarmUpFrames = 1000;
constexpr unsigned kJumboMtu = 9000;

struct Driver {
    bool packed = false;
    bool mrg_rxbuf = true;
    bool in_order = true;
    bool vectorized = false;
    unsigned longest_frame = kLongestStandardFrame;
    unsigned buffer = 2048;  // bytes of a frame that one of its buffers holds
};

std::string device(const VmSpec& vm, const Driver& driver) {
    const auto flag = [](const char* name, bool value) {
        return std::string(name) + (value ? "=1" : "=0");
    };
    return "net_virtio_user0,path=" + vm.socket.string() + ",mac=" + vm.mac + ",queues=1" +
           flag(",packed_vq", driver.packed) + flag(",mrg_rxbuf", driver.mrg_rxbuf) +
           flag(",in_order", driver.in_order) + flag(",vectorized", driver.vectorized);
}

// testpmd with a virtio_user port that sends every frame back with its MAC addresses swapped. It
// tells which of the driver's receive and transmit functions it has.
std::vector<std::string> testpmd_command(const VmSpec& vm, const Driver& driver) {
    constexpr unsigned kHeadroom = 128;
    constexpr unsigned kCrc = 4;
    std::vector<std::string> command{
        "dpdk-testpmd", "--no-pci", "--in-memory", "--single-file-segments", "--no-telemetry",
        "--log-level=pmd.net.virtio.init:info",
        // The packed ring's vector functions need it.
        "--force-max-simd-bitwidth=512", "-m", "128", "--lcores", "0,1", "--vdev",
        device(vm, driver), "--", "--forward-mode=macswap", "--auto-start", "--no-lsc-interrupt",
        "--total-num-mbufs=4096", "--mbuf-size=" + std::to_string(driver.buffer + kHeadroom)};
    if (driver.longest_frame > kLongestStandardFrame) {
        command.push_back("--max-pkt-len=" + std::to_string(driver.longest_frame + kCrc));
        if (driver.longest_frame > driver.buffer) {
            command.insert(command.end(), {"--enable-scatter", "--tx-offloads=0x8000"});
        }
    }
    return command;
}

bool cpu_has_avx512() {
    std::ifstream cpus("/proc/cpuinfo");
    const std::string text{std::istreambuf_iterator<char>(cpus), {}};
    return text.find(" avx512f ") != std::string::npos;
}

// The words by which the driver names its receive function. What it is depends on the features
// negotiated, so that it tells whether the daemon offers what was asked for.
std::string receive_function(const Driver& driver) {
    if (driver.packed) {
        if (driver.vectorized && driver.in_order && !driver.mrg_rxbuf && cpu_has_avx512()) {
            return "packed ring vectorized Rx path";
        }
        return driver.mrg_rxbuf ? "packed ring mergeable buffer Rx path"
                                : "packed ring standard Rx path";
    }
    if (driver.in_order) return "using inorder Rx path";
    if (driver.mrg_rxbuf) return "using mergeable buffer Rx path";
    return driver.vectorized ? "using vectorized Rx path" : "using standard Rx path";
}

// A running testpmd that has been seen to forward.
class Forwarder {
  public:
    Forwarder(TestBed& bed, const Driver& driver)
        : bed_(bed),
          peer_(guest_mac(0), bed.netns().mac(Daemon::kWire), driver.longest_frame),
          testpmd_(testpmd_command(bed.vm(0), driver),
                   {.pipes = true, .output = {}, .errors = log()}) {
        // Until testpmd forwards, its frames are lost.
        const bool forwards = wait_until(
            [&] {
                constexpr std::chrono::milliseconds kSilence{300};
                return exchange(bed.netns(), Daemon::kWire, peer_, 1, 1, kSilence).returned == 1;
            },
            Daemon::kTimeout);
        if (!forwards) throw std::runtime_error("testpmd does not forward; " + tail(log()));
    }

    EchoResult exchange_frames(unsigned count) {
        return exchange(bed_.netns(), Daemon::kWire, peer_, count);
    }

    bool said(const std::string& words) const {
        std::ifstream file(log());
        const std::string text{std::istreambuf_iterator<char>(file), {}};
        return text.find(words) != std::string::npos;
    }

  private:
    std::filesystem::path log() const { return logs_.path() / "testpmd.log"; }

    TempDir logs_;
    TestBed& bed_;
    MacSwapPeer peer_;
    Process testpmd_;
};

// Has `count` frames forwarded; all of them must come back as they were sent. Returns the share of
// zero-copied ones.
double check_forwarding(TestBed& bed, Forwarder& forwarder, unsigned count) {
    // What the daemon posted before the driver had any buffers is used up by these.
    CHECK(forwarder.exchange_frames(kWarmUpFrames).returned == kWarmUpFrames);
    const nlohmann::json before = bed.daemon().stats().at("vms").at(0);
    const EchoResult echo = forwarder.exchange_frames(count);
    const nlohmann::json stats = bed.daemon().stats();
    const nlohmann::json after = stats.at("vms").at(0);
    const auto counted = [&](const char* name) {
        return after.at(name).get<std::uint64_t>() - before.at(name).get<std::uint64_t>();
    };
    INFO(after.dump());
    CHECK(echo.returned == count);
    CHECK(echo.damaged == 0);
    CHECK(echo.unexpected == 0);
    CHECK(counted("rx_packets") == count);
    CHECK(counted("tx_packets") == count);
    check_nothing_wrong(stats);
    return zero_copy_share(before, after);
}

TEMPLATE_TEST_CASE_SIG("testpmd on virtio_user returns every frame of the wire", "[virtio-user]",
                       ((bool MrgRxbuf), MrgRxbuf), true, false) {
    constexpr unsigned kFrames = 10000;
    TestBed bed;
    Forwarder forwarder(bed, {.mrg_rxbuf = MrgRxbuf});
    CHECK(check_forwarding(bed, forwarder, kFrames) >= 0.95);
}

// One daemon for all of them: each session begins with another ring format and feature set.
TEMPLATE_TEST_CASE_SIG("Each function of DPDK's virtio driver returns every frame of the wire",
                       "[virtio-user-paths]", ((bool Packed), Packed), false, true) {
    constexpr unsigned kFrames = 2000;
    TestBed bed;
    for (unsigned choice = 0; choice < 8; ++choice) {
        const Driver driver{.packed = Packed,
                            .mrg_rxbuf = (choice & 1) != 0,
                            .in_order = (choice & 2) != 0,
                            .vectorized = (choice & 4) != 0};
        INFO(device(bed.vm(0), driver));
        Forwarder forwarder(bed, driver);
        CHECK(forwarder.said(receive_function(driver)));
        CHECK(check_forwarding(bed, forwarder, kFrames) >= 0.95);
    }
}

// Frames as long as they get in buffers of their own size, and spread over many.
TEST_CASE("testpmd on virtio_user returns every frame of the wire at MTU 9000",
          "[virtio-user-jumbo]") {
    constexpr unsigned kFrames = 2000;
    constexpr unsigned kBigBuffer = 10240;
    const struct {
        const char* vm_options;
        bool mrg_rxbuf;
        unsigned buffer;
    } kCases[] = {{",rxbuf=1024", true, 2048},
                  {",rxbuf=2048", true, 2048},
                  {",rxbuf=10240", false, kBigBuffer}};
    for (const auto& [vm_options, mrg_rxbuf, buffer] : kCases) {
        TestBed bed(1, {.mtu = kJumboMtu, .vm_options = {vm_options}});
        for (const bool packed : {false, true}) {
            const Driver driver{.packed = packed,
                                .mrg_rxbuf = mrg_rxbuf,
                                .longest_frame = longest_frame(kJumboMtu),
                                .buffer = buffer};
            INFO(device(bed.vm(0), driver) << vm_options << ", buffers of " << buffer);
            Forwarder forwarder(bed, driver);
            CHECK(check_forwarding(bed, forwarder, kFrames) >= 0.9);
        }
    }
}

}  // namespace
}  // namespace zecorx::test
