#include <algorithm>
#include <array>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <optional>
#include <string>
#include <vector>

#include "support/open_descriptors.h"
#include "support/watching_host.h"
#include "vhost_user/session.h"
#include "vhost_user_bed.h"

namespace zecorx::test {
namespace {

using Calls = std::vector<std::string>;
const Calls kChange{"quiesce", "settle"};

constexpr std::uint64_t kRam = 0x10000;            // bytes
constexpr std::uint64_t kUser = 0x7f00'0000'0000;  // the frontend's own address of it

constexpr std::uint64_t kFeatures = kFeatureVersion1 | kFeatureVhostUserProtocol;
constexpr std::uint64_t kWithLog = kFeatures | kFeatureLogAll;
constexpr std::uint64_t kWithoutStatus = vu::kOfferedProtocolFeatures & ~vu::kProtocolStatus;

// A session that asks for what it is told; every message is followed by a look at what it changed.
class SessionBed {
  public:
    SessionBed() : ram(make_file(kRam)), session(std::in_place, host) {
        set(vu::Request::kSetProtocolFeatures, kWithoutStatus);
        set(vu::Request::kSetFeatures, kFeatures);
        host.take_calls();
    }
    ~SessionBed() {
        session.reset();
        CHECK(host.violations == Calls{});
    }

    // False: it was refused, and nothing has changed.
    bool take(vu::Message message) {
        try {
            reply = session->handle(message);
        } catch (const std::runtime_error&) {
            host.check(*session, "a refused message");
            return false;
        }
        host.check(*session, "a message");
        return true;
    }
    bool set(vu::Request request, std::uint64_t word) { return take(message_with(request, word)); }
    bool ring(vu::Request request, std::uint32_t index, std::uint32_t value) {
        return take(message_with(request, vu::VringState{index, value}));
    }
    bool fd(vu::Request request, std::uint64_t index, UniqueFd descriptor) {
        return take(message_with(request, index, fds_of(std::move(descriptor))));
    }
    bool table(std::initializer_list<vu::RegionDescription> regions) {
        std::vector<UniqueFd> fds;
        for (std::size_t i = 0; i < regions.size(); ++i) fds.push_back(same_file(ram));
        return take(mem_table(regions, std::move(fds)));
    }
    bool log(std::uint64_t size, std::uint64_t offset, const UniqueFd& file) {
        return take(message_with(vu::Request::kSetLogBase, vu::LogDescription{size, offset},
                                 fds_of(same_file(file))));
    }
    std::uint64_t reply_word() const {
        std::uint64_t word = 0;
        const auto bytes = reply.value().bytes().subspan(sizeof(vu::Header));
        std::memcpy(&word, bytes.data(), std::min(bytes.size(), sizeof word));
        return word;
    }

    vu::VringAddress address(std::uint32_t index) const {
        const std::uint64_t at = kUser + 0x4000 * index;
        return {index, 0, at, at + 0x2000, at + 0x1000, 0};
    }
    // Memory and both rings, in QEMU's order, up to what the test leaves to do.
    void set_up_rings() {
        REQUIRE(table({{0, kRam, kUser, 0}}));
        for (const std::uint32_t index : {0U, 1U}) {
            REQUIRE(ring(vu::Request::kSetVringNum, index, 256));
            REQUIRE(ring(vu::Request::kSetVringBase, index, 0));
            REQUIRE(take(message_with(vu::Request::kSetVringAddr, address(index))));
            REQUIRE(fd(vu::Request::kSetVringKick, index, make_eventfd()));
            REQUIRE(fd(vu::Request::kSetVringCall, index, make_eventfd()));
        }
    }
    void start() {
        set_up_rings();
        REQUIRE(ring(vu::Request::kSetVringEnable, 0, 1));
        REQUIRE(ring(vu::Request::kSetVringEnable, 1, 1));
        host.take_calls();
    }

    WatchingHost host;
    UniqueFd ram;
    std::optional<vu::Session> session;
    std::optional<vu::Reply> reply;
};

// Everything that a message could have changed.
void require_untouched(SessionBed& bed) {
    CHECK(bed.host.take_calls() == Calls{});
    CHECK(bed.session->ready());
}

}  // namespace

TEST_CASE("a session is ready when memory and both rings are set up, started and enabled") {
    SessionBed bed;
    bed.set_up_rings();
    CHECK(bed.session->set_up());
    CHECK_FALSE(bed.session->ready());
    CHECK(bed.ring(vu::Request::kSetVringEnable, 0, 1));
    CHECK_FALSE(bed.session->ready());
    CHECK(bed.ring(vu::Request::kSetVringEnable, 1, 1));
    CHECK(bed.session->ready());
    CHECK_FALSE(bed.session->stopped());
}

TEST_CASE("with STATUS a session waits for DRIVER_OK and ends with a reset") {
    SessionBed bed;
    REQUIRE(bed.set(vu::Request::kSetProtocolFeatures, vu::kOfferedProtocolFeatures));
    bed.set_up_rings();
    bed.ring(vu::Request::kSetVringEnable, 0, 1);
    bed.ring(vu::Request::kSetVringEnable, 1, 1);
    CHECK_FALSE(bed.session->ready());
    REQUIRE(bed.set(vu::Request::kSetStatus, 0xf));
    CHECK(bed.session->ready());
    REQUIRE(bed.take(message(vu::Request::kGetStatus)));
    CHECK(bed.reply_word() == 0xf);
    REQUIRE(bed.set(vu::Request::kSetStatus, 0));
    CHECK(bed.session->stopped());
}

TEST_CASE("without the protocol's feature bit rings are enabled from the start") {
    SessionBed bed;
    REQUIRE(bed.set(vu::Request::kSetFeatures, kFeatureVersion1));
    bed.set_up_rings();
    CHECK(bed.session->ready());
}

TEST_CASE("rings are enabled between quiesce and settle also where logging alone changes") {
    SessionBed bed;
    REQUIRE(bed.set(vu::Request::kSetFeatures, kFeatureVersion1));
    REQUIRE(bed.take(message(vu::Request::kResetOwner)));
    CHECK_FALSE(bed.session->vring(0).enabled);
    bed.host.take_calls();
    REQUIRE(bed.set(vu::Request::kSetFeatures, kFeatureVersion1 | kFeatureLogAll));
    CHECK(bed.host.take_calls() == kChange);
    CHECK(bed.session->vring(0).enabled);
    CHECK(bed.session->vring(1).enabled);
    REQUIRE(bed.set(vu::Request::kSetFeatures, kFeatureVersion1));
    CHECK(bed.host.take_calls() == Calls{"log"});
}

TEST_CASE("everything under a running data path changes between quiesce and settle") {
    SessionBed bed;
    bed.start();
    const auto changes = [&](bool taken) {
        CHECK(taken);
        CHECK(bed.host.take_calls() == kChange);
    };
    changes(bed.table({{0, 0x8000, kUser, 0}, {0x8000, 0x8000, kUser + 0x8000, 0x8000}}));
    changes(bed.ring(vu::Request::kSetVringNum, 0, 128));
    changes(bed.ring(vu::Request::kSetVringBase, 0, 7));
    vu::VringAddress moved = bed.address(0);
    moved.used += 0x800;
    changes(bed.take(message_with(vu::Request::kSetVringAddr, moved)));
    changes(bed.ring(vu::Request::kSetVringEnable, 1, 0));
    changes(bed.ring(vu::Request::kSetVringEnable, 1, 1));
    changes(bed.set(vu::Request::kSetFeatures, kFeatures | kFeatureNetMrgRxbuf));
    changes(bed.set(vu::Request::kSetProtocolFeatures, kWithoutStatus & ~vu::kProtocolMtu));
    changes(bed.ring(vu::Request::kGetVringBase, 0, 0));
    changes(bed.fd(vu::Request::kSetVringKick, 0, make_eventfd()));
    changes(bed.take(message(vu::Request::kResetOwner)));
    CHECK(bed.session->stopped());
}

TEST_CASE("what changes nothing, or nothing of the data path, stops nothing") {
    SessionBed bed;
    bed.start();
    CHECK(bed.ring(vu::Request::kSetVringNum, 0, 256));
    CHECK(bed.take(message_with(vu::Request::kSetVringAddr, bed.address(0))));
    CHECK(bed.ring(vu::Request::kSetVringEnable, 0, 1));
    CHECK(bed.fd(vu::Request::kSetVringKick, 0, make_eventfd()));
    CHECK(bed.fd(vu::Request::kSetVringErr, 1, make_eventfd()));
    CHECK(bed.set(vu::Request::kSetFeatures, kFeatures));
    CHECK(bed.take(message(vu::Request::kSetOwner)));
    CHECK(bed.take(message(vu::Request::kSetLogFd)));
    CHECK(bed.set(vu::Request::kNetSetMtu, 1500));
    require_untouched(bed);

    CHECK(bed.fd(vu::Request::kSetVringCall, 1, make_eventfd()));
    CHECK(bed.host.take_calls() == Calls{"call 1"});
}

TEST_CASE("a refused message changes nothing under a running session") {
    SessionBed bed;
    bed.start();
    const std::size_t before = open_descriptors();
    CHECK_FALSE(bed.set(vu::Request::kSetFeatures, kFeatures | kFeatureNetMq));
    CHECK_FALSE(bed.set(vu::Request::kSetProtocolFeatures, 1ULL << 12));
    CHECK_FALSE(bed.table({{0, kRam + 1, kUser, 0}}));
    CHECK_FALSE(bed.ring(vu::Request::kSetVringNum, 0, 0));
    CHECK_FALSE(bed.ring(vu::Request::kSetVringBase, 0, 0x10000));
    CHECK_FALSE(bed.fd(vu::Request::kSetVringKick, 0, make_file(0)));
    CHECK_FALSE(bed.fd(vu::Request::kSetVringCall, 0, make_file(0)));
    CHECK_FALSE(bed.set(vu::Request::kNetSetMtu, 9000));
    CHECK_FALSE(bed.log(4096, ~0ULL - 4095, bed.ram));
    CHECK_FALSE(bed.take(message(static_cast<vu::Request>(32))));
    require_untouched(bed);
    CHECK(open_descriptors() == before);
}

TEST_CASE("no bit is acknowledged that was not offered") {
    SessionBed bed;
    for (unsigned bit = 0; bit < 64; ++bit) {
        INFO(bit);
        const std::uint64_t feature = 1ULL << bit;
        CHECK(bed.set(vu::Request::kSetFeatures, feature) ==
              ((feature & vu::kOfferedFeatures) != 0));
    }
    for (unsigned bit = 0; bit < 64; ++bit) {
        INFO(bit);
        const std::uint64_t feature = 1ULL << bit;
        CHECK(bed.set(vu::Request::kSetProtocolFeatures, feature) ==
              ((feature & vu::kOfferedProtocolFeatures) != 0));
    }
}

// What the frontend could only use against us, or what nobody here implements (VIRTIO 5.1.3, 6).
TEST_CASE("neither hash reports, RSS, merged segments, several queues nor an IOMMU are offered") {
    constexpr std::uint64_t kHashReport = 1ULL << 57;
    constexpr std::uint64_t kRss = 1ULL << 60;
    constexpr std::uint64_t kRscExt = 1ULL << 61;
    CHECK((vu::kOfferedFeatures & (kHashReport | kRss | kRscExt)) == 0);
    CHECK((vu::kOfferedFeatures & (kFeatureNetGuestOffloads | kFeatureNetMq)) == 0);
    CHECK((vu::kOfferedFeatures & kFeatureAccessPlatform) == 0);
}

// Spec, "Protocol features": bits 7, 8, 12 and 9 of the same list.
TEST_CASE(
    "neither inflight descriptors, crypto sessions, postcopy nor a configuration are offered") {
    constexpr std::uint64_t kCryptoSession = 1ULL << 7, kPagefault = 1ULL << 8;
    constexpr std::uint64_t kConfig = 1ULL << 9, kInflight = 1ULL << 12;
    CHECK((vu::kOfferedProtocolFeatures & (kCryptoSession | kPagefault | kConfig | kInflight)) ==
          0);
}

TEST_CASE("a stopped ring's base is where the host says that it stands") {
    SessionBed bed;
    const bool packed = GENERATE(false, true);
    if (packed) REQUIRE(bed.set(vu::Request::kSetFeatures, kFeatures | kFeatureRingPacked));
    bed.start();
    bed.host.stops_at(0, 0x8123);
    REQUIRE(bed.ring(vu::Request::kGetVringBase, 0, 0));
    vu::VringState state{};
    std::memcpy(&state, bed.reply.value().bytes().data() + sizeof(vu::Header), sizeof state);
    CHECK(state.index == 0);
    CHECK(state.value == (packed ? 0x8123'8123U : 0x8123U));
    CHECK_FALSE(bed.session->set_up());
}

TEST_CASE("a ring's size may change while it runs, and what lies over it is told before") {
    SessionBed bed;
    bed.start();
    for (const std::uint32_t size : {32768U, 1U, 256U}) {
        REQUIRE(bed.ring(vu::Request::kSetVringNum, 1, size));
        CHECK(bed.host.take_calls() == kChange);
        CHECK(bed.session->vring(1).size == size);
    }
}

TEST_CASE("a kick or call descriptor that is no eventfd is refused and closed") {
    SessionBed bed;
    bed.start();
    SocketPair sockets;
    std::array<int, 2> ends{};
    REQUIRE(::pipe(ends.data()) == 0);
    const UniqueFd read_end(ends[0]), write_end(ends[1]);
    const std::size_t before = open_descriptors();
    for (const auto request : {vu::Request::kSetVringKick, vu::Request::kSetVringCall}) {
        for (const UniqueFd* fd :
             std::array<const UniqueFd*, 4>{&sockets.ours, &read_end, &write_end, &bed.ram}) {
            CHECK_FALSE(bed.fd(request, 0, same_file(*fd)));
        }
    }
    CHECK(open_descriptors() == before);
    require_untouched(bed);
}

TEST_CASE("descriptors may be replaced and taken away for ever without a leak") {
    SessionBed bed;
    bed.start();
    const std::size_t before = open_descriptors();
    for (int round = 0; round < 1000; ++round) {
        for (const std::uint64_t ring : {0U, 1U}) {
            REQUIRE(bed.fd(vu::Request::kSetVringKick, ring, make_eventfd()));
            REQUIRE(bed.fd(vu::Request::kSetVringCall, ring, make_eventfd()));
            REQUIRE(bed.fd(vu::Request::kSetVringErr, ring, make_file(1)));
        }
        REQUIRE(bed.take(message(vu::Request::kSetLogFd, {}, fds_of(make_file(1)))));
        REQUIRE(bed.log(4096, 0, bed.ram));
        REQUIRE(bed.table({{0, kRam, kUser, 0}}));
    }
    CHECK(open_descriptors() == before);
    REQUIRE(bed.set(vu::Request::kSetVringCall, vu::kVringNoFd | 1));
    CHECK(open_descriptors() == before - 1);
}

TEST_CASE("all that a session holds goes with it") {
    const std::size_t before = open_descriptors();
    {
        SessionBed bed;
        bed.start();
        REQUIRE(bed.set(vu::Request::kSetFeatures, kWithLog));
        REQUIRE(bed.log(4096, 0, bed.ram));
    }
    CHECK(open_descriptors() == before);
}

TEST_CASE("a RARP announces the address in its first six bytes") {
    SessionBed bed;
    CHECK(bed.set(vu::Request::kSendRarp, 0x7766'5544'3322'1102));
    CHECK(bed.host.take_calls() == Calls{"announced 02:11:22:33:44:55"});
}

// --- The memory table ---

TEST_CASE("regions that do not lie in their file, wrap around or have no bytes are refused") {
    SessionBed bed;
    bed.start();
    const std::uint64_t top = ~0ULL;
    const auto refused = [&](const vu::RegionDescription& region) {
        CHECK_FALSE(bed.table({region}));
        CHECK_FALSE(bed.table({{1ULL << 40, 0x1000, 1ULL << 40, 0}, region}));
        CHECK_FALSE(bed.take(message_with(vu::Request::kAddMemReg, vu::SingleRegion{0, region},
                                          fds_of(same_file(bed.ram)))));
    };
    refused({1 << 20, kRam + 1, 1 << 20, 0});             // longer than the file
    refused({1 << 20, 0x1001, 1 << 20, kRam - 0x1000});   // by a byte, with an offset
    refused({1 << 20, 0x1000, 1 << 20, kRam});            // behind the file
    refused({1 << 20, 0, 1 << 20, 0});                    // no bytes
    refused({1 << 20, 0x1000, 1 << 20, top - 0xfff});     // offset + size is 2^64
    refused({1 << 20, 0x2000, 1 << 20, top - 0xfff});     // offset + size wraps to 0x1000
    refused({1 << 20, top, 1 << 20, 0x1000});             // so does this
    refused({1 << 20, 1ULL << 63, 1 << 20, 1ULL << 63});  // and this, to 0
    refused({1 << 20, 1ULL << 40, 1 << 20, 0});           // as large as no file here
    refused({top - 0xfff, 0x2000, 1 << 20, 0});           // wraps around in guest memory
    refused({1 << 20, 0x2000, top - 0xfff, 0});           // and in the frontend's addresses
    require_untouched(bed);
}

TEST_CASE("a region may end where its file, guest memory and the frontend's addresses end") {
    SessionBed bed;
    constexpr std::uint64_t kLast = ~0ULL - 0xfff;  // the last byte of all is left out
    REQUIRE(bed.table({{kLast, 0xfff, kLast, kRam - 0xfff}}));
    CHECK(bed.session->locate(kLast) != nullptr);
    CHECK(bed.session->locate(kLast + 0xffe) != nullptr);
    CHECK(bed.session->locate(kLast + 0xfff) == nullptr);
    CHECK(bed.session->locate(kLast - 1) == nullptr);
}

TEST_CASE("regions that overlap are refused, in guest memory and in the frontend's addresses") {
    SessionBed bed;
    bed.start();
    const vu::RegionDescription first{0x10000, 0x2000, kUser + 0x10000, 0};
    const auto pair = [&](std::uint64_t gpa, std::uint64_t user_address) {
        return bed.table({first, {gpa, 0x2000, user_address, 0x2000}});
    };
    CHECK_FALSE(pair(0x10000, kUser));
    CHECK_FALSE(pair(0x11fff, kUser));
    CHECK_FALSE(pair(0x0e001, kUser));
    CHECK_FALSE(pair(0x20000, kUser + 0x10000));
    CHECK_FALSE(pair(0x20000, kUser + 0x11fff));
    CHECK_FALSE(pair(0x20000, kUser + 0x0e001));
    CHECK_FALSE(bed.table({{0, 0x8000, kUser, 0}, {0x1000, 0x1000, kUser + 0x9000, 0}}));
    require_untouched(bed);
    CHECK(pair(0x12000, kUser + 0x0e000));
    CHECK(pair(0x0e000, kUser + 0x12000));
}

TEST_CASE("what shares memory that is no regular file is refused") {
    SessionBed bed;
    bed.start();
    SocketPair sockets;
    CHECK_FALSE(bed.take(mem_table({{0, 0x1000, 0, 0}}, fds_of(std::move(sockets.ours)))));
    CHECK_FALSE(bed.take(mem_table({{0, 0x1000, 0, 0}}, fds_of(make_eventfd()))));
    require_untouched(bed);
}

TEST_CASE("a region with another size but the same place is another region, and maps anew") {
    SessionBed bed;
    REQUIRE(bed.table({{0, 0x4000, kUser, 0}}));
    const auto* before = bed.session->regions()[0].get();
    REQUIRE(bed.table({{0, 0x4000, kUser, 0}, {0x8000, 0x1000, kUser + 0x8000, 0x8000}}));
    CHECK(bed.session->regions()[0].get() == before);
    REQUIRE(bed.table({{0, 0x4000, kUser, 0x1000}}));
    CHECK(bed.session->regions()[0].get() != before);
}

TEST_CASE("the same description of another file is another region") {
    SessionBed bed;
    REQUIRE(bed.table({{0, 0x4000, kUser, 0}}));
    const auto* before = bed.session->regions()[0].get();
    REQUIRE(bed.take(mem_table({{0, 0x4000, kUser, 0}}, fds_of(make_file(kRam)))));
    CHECK(bed.session->regions()[0].get() != before);
}

TEST_CASE("a region is found at its place in the file, whether or not that is a whole page") {
    SessionBed bed;
    const std::uint64_t offset = GENERATE(0U, 1U, 0x123U, 0xfffU, 0x1000U, 0x2468U);
    std::vector<std::byte> content(kRam);
    for (std::size_t i = 0; i < content.size(); ++i) content[i] = static_cast<std::byte>(i * 7);
    REQUIRE(::pwrite(bed.ram.get(), content.data(), content.size(), 0) == kRam);

    REQUIRE(bed.table({{0x1000, 0x3001, kUser, offset}}));

    const vu::SharedMapping& mapping = bed.session->regions()[0]->mapping();
    CHECK(std::ranges::equal(mapping.bytes(), std::span(content).subspan(offset, 0x3001)));
    CHECK(mapping.pages().size() % mapping.page_size() == 0);
    CHECK(bed.session->locate(kUser + 0x3000) == mapping.bytes().data() + 0x3000);
    CHECK(bed.session->locate(kUser + 0x3001) == nullptr);
}

TEST_CASE("a region on huge pages is mapped by them") {
    constexpr std::uint64_t kHuge = 2 << 20;
    SessionBed bed;
    UniqueFd file;
    try {
        file = make_file(2 * kHuge, MFD_HUGETLB);
    } catch (const std::system_error&) {
        SKIP("no huge pages on this machine");
    }
    std::vector<UniqueFd> fds = fds_of(same_file(file));
    bool mapped = false;
    mapped = bed.take(mem_table({{0, kHuge, kUser, 0x1000}}, std::move(fds)));
    if (!mapped) SKIP("no huge page is free");
    const vu::SharedMapping& mapping = bed.session->regions()[0]->mapping();
    CHECK(mapping.page_size() == kHuge);
    CHECK(mapping.pages().size() == 2 * kHuge);
    CHECK(mapping.bytes().data() == mapping.pages().data() + 0x1000);
    CHECK_FALSE(bed.take(mem_table({{0, kHuge, kUser, kHuge + 1}}, fds_of(same_file(file)))));
}

TEST_CASE("memory slots are added one by one up to their limit, and removed by their place") {
    SessionBed bed;
    const auto slot = [](std::uint64_t i) {
        return vu::RegionDescription{i * 0x1000, 0x1000, kUser + i * 0x1000, i % 16 * 0x1000};
    };
    const auto add = [&](const vu::RegionDescription& region) {
        return bed.take(message_with(vu::Request::kAddMemReg, vu::SingleRegion{0, region},
                                     fds_of(same_file(bed.ram))));
    };
    const auto remove = [&](const vu::RegionDescription& region) {
        return bed.take(message_with(vu::Request::kRemMemReg, vu::SingleRegion{0, region}));
    };
    REQUIRE(bed.take(message(vu::Request::kGetMaxMemSlots)));
    const std::uint64_t most = bed.reply_word();
    CHECK(most == vu::kMaxRegions);
    const std::size_t before = open_descriptors();
    for (std::uint64_t i = 0; i < most; ++i) REQUIRE(add(slot(i)));
    CHECK_FALSE(add(slot(most)));
    CHECK_FALSE(add(slot(0)));

    CHECK_FALSE(remove(slot(most)));
    vu::RegionDescription other = slot(3);
    other.size += 1;
    CHECK_FALSE(remove(other));
    other = slot(3);
    other.user_address += 0x1000;
    CHECK_FALSE(remove(other));
    other = slot(3);
    other.file_offset = 0;  // as QEMU sends it
    CHECK(remove(other));
    CHECK_FALSE(remove(other));
    CHECK(bed.session->locate(kUser + 0x3000) == nullptr);
    CHECK(add(slot(3)));

    for (std::uint64_t i = 0; i < most; ++i) CHECK(remove(slot(i)));
    CHECK(bed.session->regions().empty());
    CHECK(open_descriptors() == before);
}

TEST_CASE("a removed region's descriptor may come along, and is closed") {
    SessionBed bed;
    const vu::RegionDescription region{0, 0x1000, kUser, 0};
    REQUIRE(bed.table({region}));
    const std::size_t before = open_descriptors();
    REQUIRE(bed.take(message_with(vu::Request::kRemMemReg, vu::SingleRegion{0, region},
                                  fds_of(same_file(bed.ram)))));
    CHECK(open_descriptors() == before - 1);
}

TEST_CASE("a table without regions leaves nothing mapped") {
    SessionBed bed;
    bed.start();
    REQUIRE(bed.table({}));
    CHECK(bed.session->regions().empty());
    CHECK_FALSE(bed.session->ready());
    CHECK(bed.session->locate(kUser) == nullptr);
}

TEST_CASE("memory that is taken back after it was mapped is noticed when it is touched") {
    SessionBed bed;
    bed.start();
    CHECK_FALSE(bed.session->lost_memory());
    REQUIRE(::ftruncate(bed.ram.get(), 0x1000) == 0);
    std::byte* const gone = bed.session->locate(kUser + 0x8000);
    CHECK(*static_cast<volatile std::byte*>(gone) == std::byte{0});
    CHECK(bed.session->lost_memory());
    // The same table again maps what is there now, and finds it too short.
    CHECK_FALSE(bed.table({{0, kRam, kUser, 0}}));
    REQUIRE(::ftruncate(bed.ram.get(), kRam) == 0);
    CHECK(bed.table({{0, kRam, kUser, 0}}));
    CHECK_FALSE(bed.session->lost_memory());
}

// --- The dirty log ---

TEST_CASE("a log that does not lie in its file is refused, and the one before it stays") {
    SessionBed bed;
    REQUIRE(bed.set(vu::Request::kSetFeatures, kWithLog));
    const UniqueFd file = make_file(0x4000);
    REQUIRE(bed.log(0x1000, 0, file));
    bed.host.take_calls();
    const auto before = bed.session->log();
    const auto [size, offset] = GENERATE(table<std::uint64_t, std::uint64_t>({
        {0x1000, ~0ULL - 0xfff},   // the sum is 2^64
        {0x2000, ~0ULL - 0xfff},   // wraps to 0x1000
        {~0ULL, 0x1000},           // to 0xfff
        {1ULL << 63, 1ULL << 63},  // to 0
        {0x4001, 0},               // a byte too long
        {0x1000, 0x3001},          // and so
        {0x1000, 0x4000},          // behind the file
        {0, 0},                    // no bytes
        {1ULL << 50, 0},           // as large as no file here
    }));
    CHECK_FALSE(bed.log(size, offset, file));
    CHECK_FALSE(bed.log(0x1000, 0, make_eventfd()));
    CHECK(bed.host.take_calls() == Calls{});
    CHECK(bed.session->log().data() == before.data());
    CHECK(bed.session->log().size() == before.size());
}

TEST_CASE("a log lies at its offset of the file, once, and its neighbours are not in it") {
    SessionBed bed;
    REQUIRE(bed.set(vu::Request::kSetFeatures, kWithLog));
    const std::uint64_t offset = GENERATE(0U, 0x1000U, 0x1008U, 0x2fffU);
    constexpr std::size_t kSize = 0x1000;
    const UniqueFd file = make_file(0x8000);
    const std::vector<std::byte> sentinel(0x8000, std::byte{0x77});
    REQUIRE(::pwrite(file.get(), sentinel.data(), sentinel.size(), 0) == 0x8000);

    REQUIRE(bed.log(kSize, offset, file));
    REQUIRE(bed.session->log().size() == kSize);
    std::ranges::fill(bed.session->log(), std::byte{0xff});

    std::vector<std::byte> expected = sentinel;
    std::ranges::fill(std::span(expected).subspan(offset, kSize), std::byte{0xff});
    std::vector<std::byte> content(0x8000);
    REQUIRE(::pread(file.get(), content.data(), content.size(), 0) == 0x8000);
    CHECK(content == expected);
}

TEST_CASE("logging goes on and off while the rings run, and the old log stays until that is told") {
    SessionBed bed;
    bed.start();
    const UniqueFd file = make_file(0x4000);
    REQUIRE(bed.log(0x1000, 0, file));
    CHECK(bed.host.take_calls() == Calls{"log"});
    CHECK(bed.session->log().empty());
    REQUIRE(bed.set(vu::Request::kSetFeatures, kWithLog));
    CHECK(bed.host.take_calls() == Calls{"log"});
    CHECK(bed.session->log().size() == 0x1000);
    REQUIRE(bed.log(0x2000, 0x1000, file));
    CHECK(bed.host.take_calls() == Calls{"log"});
    CHECK(bed.session->log().size() == 0x2000);
    REQUIRE(bed.set(vu::Request::kSetFeatures, kFeatures));
    CHECK(bed.host.take_calls() == Calls{"log"});
    CHECK(bed.session->log().empty());
    CHECK(bed.session->ready());
}

TEST_CASE("a log whose file is cut off is noticed when it is written to, and the process lives") {
    SessionBed bed;
    REQUIRE(bed.set(vu::Request::kSetFeatures, kWithLog));
    const UniqueFd file = make_file(0x4000);
    REQUIRE(bed.log(0x4000, 0, file));
    REQUIRE(::ftruncate(file.get(), 0x1000) == 0);
    CHECK_FALSE(bed.session->lost_memory());
    *static_cast<volatile std::byte*>(bed.session->log().data() + 0x3000) = std::byte{1};
    CHECK(bed.session->lost_memory());
}

}  // namespace zecorx::test
