// VMs of a daemon that may lock less memory than they share.
#include <linux/capability.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <sstream>

#include "test_host.h"

namespace zecorx::test {
namespace {

constexpr std::size_t kLimit = 6 << 20;  // bytes

// Of this thread and those that it starts from now on. EAL's huge pages do not count.
void limit_locked_memory() {
    const rlimit limit{kLimit, kLimit};
    REQUIRE(::setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
    REQUIRE(::syscall(SYS_capget, &header, data.data()) == 0);
    data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &= ~CAP_TO_MASK(CAP_IPC_LOCK);
    REQUIRE(::syscall(SYS_capset, &header, data.data()) == 0);
}

TestHost& limited_host() {
    static const bool once = (limit_locked_memory(), true);
    REQUIRE(once);
    return TestHost::instance();
}

// What the daemon logs while this object lives.
class LogCapture {
  public:
    LogCapture() { spdlog::default_logger()->sinks().push_back(sink_); }
    ~LogCapture() { std::erase(spdlog::default_logger()->sinks(), sink_); }
    LogCapture(const LogCapture&) = delete;
    LogCapture& operator=(const LogCapture&) = delete;

    bool has(const std::string& words) const {
        return text_.str().find(words) != std::string::npos;
    }

  private:
    std::ostringstream text_;
    spdlog::sink_ptr sink_ = std::make_shared<spdlog::sinks::ostream_sink_mt>(text_);
};

// More than the NIC was given buffers for before the driver posted any.
constexpr std::uint32_t kFrames = 2 * Port::kRxDescriptors;

// Returns how many of the frames landed in guest memory: not those whose buffers cross 4 KiB pages.
std::uint64_t exchange(TestHost& host, std::size_t vm, FakeGuest& guest) {
    guest.net.refill();
    const Counter& zero_copied = host.status(vm).counters->zero_copied;
    const std::uint64_t before = zero_copied.get();
    for (std::uint32_t seq = 0; seq < kFrames; ++seq) host.require_delivered(vm, guest, seq);
    return zero_copied.get() - before;
}

}  // namespace

HostSetup host_setup() { return four_vms(); }

TEST_CASE("a VM whose memory is more than may be locked gets copies, and its neighbour none") {
    TestHost& host = limited_host();
    const LogCapture log;
    FakeMemory small(4 << 20), large(64 << 20);
    FakeGuest neighbour = host.connect(1, small);
    FakeGuest guest = host.connect(0, large);
    CHECK(
        log.has("net_vhost0: the NIC cannot reach the guest's memory, so every frame is copied: "
                "cannot pin 64 MiB of guest memory"));
    CHECK(log.has("raise the memory-lock limit (ulimit -l, LimitMEMLOCK=infinity)"));

    CHECK(exchange(host, 0, guest) == 0);
    CHECK(copied(host.status(0), CopyReason::kUnreachable) > 0);
    CHECK(exchange(host, 1, neighbour) > 0);
    CHECK(copied(host.status(1), CopyReason::kUnreachable) == 0);
    for (FakeGuest* each : {&guest, &neighbour}) {
        each->stop_device();
        CHECK(each->net.violations() == std::vector<std::string>{});
    }
    host.require_stopped(0);
    host.require_stopped(1);
}

TEST_CASE("what failed to be mapped holds nothing back from the next VM") {
    TestHost& host = limited_host();
    FakeMemory large(64 << 20);
    { FakeGuest guest = host.connect(0, large); }
    host.require_stopped(0);
    FakeMemory small(5 << 20);
    FakeGuest guest = host.connect(0, small);
    CHECK(exchange(host, 0, guest) > 0);
    guest.stop_device();
    host.require_stopped(0);
}

}  // namespace zecorx::test
