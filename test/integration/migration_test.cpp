// A frontend that migrates its VM: it copies guest memory once and then by the log that it shares
// with the daemon, over the real socket, while frames arrive and leave.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cstring>
#include <vector>

#include "test_host.h"

namespace zecorx::test {
namespace {

constexpr std::size_t kPage = 4096;  // of the log

// A dirty bitmap in a file of its own, between bytes that nobody may write to.
class LogFile {
  public:
    static constexpr std::size_t kOffset = 5000;

    explicit LogFile(std::size_t bytes)
        : size_(bytes), fd_(::memfd_create("log", MFD_CLOEXEC)), whole_(kOffset + bytes + kOffset) {
        if (::ftruncate(fd_.get(), static_cast<off_t>(whole_)) != 0) throw_errno("ftruncate");
        start_ = static_cast<std::byte*>(
            ::mmap(nullptr, whole_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0));
        if (start_ == MAP_FAILED) throw_errno("map a log");
        std::memset(start_, kSentinel, whole_);
        std::memset(start_ + kOffset, 0, size_);
    }
    ~LogFile() { ::munmap(start_, whole_); }
    LogFile(const LogFile&) = delete;
    LogFile& operator=(const LogFile&) = delete;

    bool set_at(Frontend& frontend) const {
        return frontend.set_log_base(fd_.get(), size_, kOffset);
    }
    std::size_t pages() const { return 8 * size_; }

    // The pages that are marked, which are not any more when this returns.
    std::vector<std::size_t> take() {
        std::vector<std::size_t> pages;
        for (std::size_t i = 0; i < size_; ++i) {
            std::atomic_ref byte(reinterpret_cast<unsigned char&>(start_[kOffset + i]));
            const unsigned bits = byte.exchange(0);
            for (unsigned bit = 0; bit < 8; ++bit)
                if ((bits >> bit & 1) != 0) pages.push_back(8 * i + bit);
        }
        return pages;
    }
    bool sentinels_intact() const {
        const auto intact = [](std::span<const std::byte> bytes) {
            return std::ranges::all_of(bytes,
                                       [](std::byte byte) { return byte == std::byte{kSentinel}; });
        };
        return intact({start_, kOffset}) && intact({start_ + kOffset + size_, kOffset});
    }

  private:
    static constexpr unsigned char kSentinel = 0xC3;

    std::size_t size_;
    UniqueFd fd_;
    std::size_t whole_;
    std::byte* start_ = nullptr;
};

// What the destination of a migration has of guest memory. All changes between two calls of
// copy_all() are the device's: the driver does nothing meanwhile.
class Copy {
  public:
    explicit Copy(FakeMemory& memory) : memory_(memory) { copy_all(); }

    void copy_all() {
        regions_.clear();
        for (const MemoryRegion& region : memory_.regions()) {
            const std::byte* const start = memory_.at(region.gpa, region.size);
            regions_.push_back({region.gpa, {start, start + region.size}});
        }
    }
    void copy(const std::vector<std::size_t>& pages) {
        for (const std::size_t page : pages) {
            const Gpa gpa = page * kPage;
            for (Region& region : regions_) {
                if (gpa - region.gpa >= region.bytes.size()) continue;
                std::memcpy(&region.bytes[gpa - region.gpa], memory_.at(gpa, kPage), kPage);
            }
        }
    }
    // Pages that differ from the memory, those below `end` of them.
    std::size_t differences(std::size_t end = SIZE_MAX) const {
        std::size_t count = 0;
        for (const Region& region : regions_) {
            for (std::size_t at = 0; at < region.bytes.size(); at += kPage) {
                const Gpa gpa = region.gpa + at;
                if (gpa / kPage >= end) continue;
                count += std::memcmp(&region.bytes[at], memory_.at(gpa, kPage), kPage) != 0;
            }
        }
        return count;
    }

  private:
    struct Region {
        Gpa gpa;
        std::vector<std::byte> bytes;
    };
    FakeMemory& memory_;
    std::vector<Region> regions_;
};

// A VM whose device is stopped, with everything that a round of traffic needs in its rings. By
// rounds, since what a driver writes at the same time nobody could tell from what the device does.
class MigratedVm {
  public:
    static constexpr std::size_t kFrames = 100;  // of a burst, two bursts a round
    static constexpr std::size_t kSent = 20;

    MigratedVm(FakeMemory& memory, const Negotiation& wanted, RxLayout layout)
        : host_(TestHost::instance()),
          guest_(host_.connect(0, memory, {.rx_size = 512, .layout = std::move(layout)}, wanted)) {
        guest_.net.rx().tolerate_scratch(2048);
        stop();
    }
    ~MigratedVm() {
        host_.require_stopped(0);
        CHECK(guest_.net.violations() == std::vector<std::string>{});
        CHECK(guest_.net.order_violations() == 0);
        host_.sent();
    }
    MigratedVm(const MigratedVm&) = delete;
    MigratedVm& operator=(const MigratedVm&) = delete;

    Frontend& frontend() { return guest_.frontend; }

    // The driver takes what has come, and posts anew.
    void prepare() {
        guest_.net.receive();
        guest_.net.reap_transmitted();
        guest_.net.refill();
        for (std::size_t i = 0; i < kSent; ++i) {
            REQUIRE(guest_.net.send(make_frame({.src = host_.mac(0), .seq = seq_++})));
        }
    }
    void start() {
        guest_.start_device(bases_);
        REQUIRE(host_.eventually([&] { return host_.status(0).running; }));
    }
    // Frames of all sizes arrive, and the driver could see them all.
    void burst() {
        const std::uint64_t before = host_.status(0).counters->rx_packets.get();
        for (std::size_t i = 0; i < kFrames; ++i, ++seq_) {
            host_.arrive(make_frame({.dst = host_.mac(0), .seq = seq_, .size = 60 + seq_ % 1450}));
        }
        REQUIRE(host_.eventually(
            [&] { return host_.status(0).counters->rx_packets.get() == before + kFrames; }));
    }
    void stop() {
        bases_ = guest_.stop_device();
        host_.sent();
    }

    // As QEMU does it: the features, and the addresses of the rings once more.
    void log(bool on) {
        const std::uint64_t others = frontend().features() & ~std::uint64_t{kFeatureLogAll};
        REQUIRE(frontend().set_features(others | (on ? kFeatureLogAll : 0)));
        REQUIRE(frontend().set_vring_addr(0, guest_.memory, guest_.net.rx().queue(), on));
        REQUIRE(frontend().set_vring_addr(1, guest_.memory, guest_.net.tx().queue(), on));
    }

  private:
    TestHost& host_;
    FakeGuest guest_;
    VringBases bases_;
    std::uint32_t seq_ = 0;
};

Negotiation either_ring() {
    Negotiation wanted;
    wanted.features |=
        kFeatureLogAll | GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureRingPacked});
    return wanted;
}

// One zero-copied, one copied.
RxLayout either_layout() {
    return GENERATE(0, 1) == 0 ? RxLayout::linux_mergeable() : RxLayout::odd_address();
}

constexpr std::size_t kMemory = 8_MiB;
constexpr std::size_t kLogBytes = (kDefaultRamBase + kMemory) / kPage / 8;

}  // namespace

TEST_CASE("a copy by the log has what the memory has, and without the log it would not") {
    FakeMemory memory(kMemory);
    MigratedVm vm(memory, either_ring(), either_layout());
    LogFile log(kLogBytes);
    for (int round = 0; round < 5; ++round) {
        vm.prepare();
        vm.log(true);
        REQUIRE(log.set_at(vm.frontend()));
        log.take();
        Copy copy(memory);
        vm.start();
        vm.burst();
        vm.burst();
        vm.stop();
        CHECK(copy.differences() > 0);
        copy.copy(log.take());
        CHECK(copy.differences() == 0);
    }
    CHECK(log.sentinels_intact());
}

TEST_CASE("logging goes on and off while frames arrive") {
    FakeMemory memory(kMemory);
    MigratedVm vm(memory, either_ring(), either_layout());
    LogFile log(kLogBytes);
    REQUIRE(log.set_at(vm.frontend()));
    for (int round = 0; round < 5; ++round) {
        vm.prepare();
        vm.log(false);
        log.take();
        vm.start();
        vm.burst();
        CHECK(log.take().empty());
        vm.log(true);
        Copy copy(memory);  // as long as the log is in use
        vm.burst();
        vm.stop();
        CHECK(copy.differences() > 0);
        copy.copy(log.take());
        CHECK(copy.differences() == 0);
    }
    CHECK(log.sentinels_intact());
}

// A frontend whose guest gets more memory takes a larger log.
TEST_CASE("a log is replaced while frames arrive, and nothing goes to the old one any more") {
    FakeMemory memory(kMemory);
    MigratedVm vm(memory, either_ring(), either_layout());
    LogFile small(kLogBytes), large(2 * kLogBytes);
    for (int round = 0; round < 5; ++round) {
        vm.prepare();
        vm.log(true);
        REQUIRE(small.set_at(vm.frontend()));
        small.take();
        large.take();
        Copy copy(memory);
        vm.start();
        vm.burst();
        REQUIRE(large.set_at(vm.frontend()));
        const auto before = small.take();
        CHECK_FALSE(before.empty());
        copy.copy(before);
        vm.burst();
        vm.stop();
        CHECK(small.take().empty());
        CHECK(copy.differences() > 0);
        copy.copy(large.take());
        CHECK(copy.differences() == 0);
    }
    CHECK(small.sentinels_intact());
    CHECK(large.sentinels_intact());
}

TEST_CASE("a log shorter than guest memory has the pages it is long enough for, and no others") {
    FakeMemory memory(kMemory);
    MigratedVm vm(memory, either_ring(), RxLayout::linux_mergeable());
    // The driver places rings and buffers from the start of its memory on.
    LogFile log((kDefaultRamBase + 512_KiB) / kPage / 8);
    vm.prepare();
    vm.log(true);
    REQUIRE(log.set_at(vm.frontend()));
    Copy copy(memory);
    vm.start();
    vm.burst();
    vm.burst();
    vm.stop();
    copy.copy(log.take());
    CHECK(copy.differences(log.pages()) == 0);
    CHECK(copy.differences() > 0);
    CHECK(log.sentinels_intact());
}

}  // namespace zecorx::test
