#include "zecorx/receive_hook.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <functional>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "receive_bed.h"
#include "zecorx/decapsulation.h"

namespace zecorx::test {
namespace {

constexpr std::uint16_t kVlan = 100;
constexpr std::uint32_t kVni = 0xABCDEF;
constexpr std::uint64_t kMergeable = kFeatureVersion1 | kFeatureNetMrgRxbuf;

// What the path built without a hook is spared: a byte of hook in it would show in its size.
struct LargeHook {
    std::array<std::byte, 64> state;
    Cut operator()(std::span<const FramePiece>) const noexcept { return {}; }
};
static_assert(sizeof(ReceivePath<FakeBuffers, LargeHook>) ==
              sizeof(ReceivePath<FakeBuffers>) + sizeof(LargeHook));

// --- Frames ---

void append(Frame& frame, std::initializer_list<unsigned> bytes) {
    for (const unsigned byte : bytes) frame.push_back(std::byte(byte));
}

void append16(Frame& frame, std::size_t value) {
    append(frame, {static_cast<unsigned>(value >> 8 & 0xFF), static_cast<unsigned>(value & 0xFF)});
}

struct Outer {
    std::uint32_t vni = kVni;
    std::optional<std::uint16_t> vlan{};
    bool ipv6 = false;
    std::uint8_t version = 4;         // IPv4: of the header
    std::size_t option_words = 0;     // IPv4: words of options
    std::uint16_t fragment = 0x4000;  // IPv4: don't fragment
    std::uint8_t protocol = 17;       // UDP
    std::uint16_t port = 4789;
    std::uint8_t vxlan_flags = 0x08;  // I
    std::size_t trailer = 0;          // bytes behind the IP packet
    int length_error = 0;             // of the UDP header's length
};

void append_ip(Frame& frame, const Outer& outer, std::size_t datagram) {
    if (outer.ipv6) {
        append(frame, {0x60, 0, 0, 0});
        append16(frame, datagram);
        append(frame, {outer.protocol, 64});
        frame.resize(frame.size() + 32, std::byte{0xFE});
        return;
    }
    const std::size_t words = 5 + outer.option_words;
    append(frame, {static_cast<unsigned>(outer.version << 4 | words), 0});
    append16(frame, words * 4 + datagram);
    append16(frame, 0);
    append16(frame, outer.fragment);
    append(frame, {64, outer.protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1});
    frame.resize(frame.size() + 4 * outer.option_words, std::byte{1});
}

Frame vxlan(const Frame& inner, const Outer& outer = {}) {
    Frame frame(12, std::byte{0x52});
    if (outer.vlan) {
        append16(frame, 0x8100);
        append16(frame, *outer.vlan);
    }
    append16(frame, outer.ipv6 ? 0x86DD : 0x0800);
    const std::size_t datagram = 16 + inner.size();
    append_ip(frame, outer, datagram);
    append16(frame, 50000);
    append16(frame, outer.port);
    append16(frame, datagram + static_cast<std::size_t>(outer.length_error));
    append16(frame, 0);
    append(frame, {outer.vxlan_flags, 0, 0, 0, outer.vni >> 16, outer.vni >> 8 & 0xFF,
                   outer.vni & 0xFF, 0});
    frame.insert(frame.end(), inner.begin(), inner.end());
    frame.resize(frame.size() + outer.trailer);
    return frame;
}

Frame plain(std::uint32_t seq, std::size_t size) { return make_frame({.seq = seq, .size = size}); }
Frame tagged(std::uint32_t seq, std::size_t size, std::uint16_t vlan = kVlan) {
    return make_frame({.seq = seq, .size = size, .vlan = vlan});
}
Frame without_tag(Frame frame) {
    frame.erase(frame.begin() + 12, frame.begin() + 16);
    return frame;
}

Decapsulation unwrapping(bool drop_unlisted = false) {
    return Decapsulation(
        DecapsulationOptions{.vlans = {kVlan}, .vnis = {kVni, 7}, .drop_unlisted = drop_unlisted});
}

// What a hook leaves of a frame in one piece; nothing if it drops it.
std::optional<Frame> unwrap(const Decapsulation& hook, Frame frame) {
    const std::array pieces{FramePiece(frame)};
    const Cut cut = hook(pieces);
    if (cut.drop) return std::nullopt;
    return Frame(frame.begin() + cut.front, frame.end() - cut.back);
}

Cut cut_of(const Decapsulation& hook, Frame frame) {
    const std::array pieces{FramePiece(frame)};
    return hook(pieces);
}

// --- Hooks that do as the test says ---

struct ScriptedHook {
    std::function<Cut(std::span<const FramePiece>)>* script;
    Cut operator()(std::span<const FramePiece> frame) const noexcept { return (*script)(frame); }
};
using Script = std::function<Cut(std::span<const FramePiece>)>;

template <class Bed>
void require_clean(Bed& bed) {
    CHECK(bed.driver().violations() == std::vector<std::string>{});
    CHECK(bed.driver().receiveq().order_violations() == 0);
    CHECK_FALSE(bed.path().broken());
    bed.stop();
    CHECK(bed.path().idle() == bed.buffer_count());
}

// Bytes that a buffer may hold though no frame the driver sees has them: header and longest frame.
constexpr std::uint32_t kMaxScratch = 12 + 1518;

// A NIC that lets frames span buffers of 1 KiB.
constexpr QueueGeometry kSegmented{1518, 1024};

}  // namespace

TEST_CASE("a listed VLAN's tag comes off and the checksum verdict holds") {
    const Decapsulation hook = unwrapping();
    CHECK(unwrap(hook, tagged(1, 200)) == without_tag(tagged(1, 200)));
    CHECK(unwrap(hook, tagged(1, 200, kVlan | 0xE000)) == without_tag(tagged(1, 200)));
    CHECK(cut_of(hook, tagged(1, 200)).keeps_checksum);
}

TEST_CASE("a listed network's frames come out of VXLAN without the checksum verdict") {
    const Decapsulation hook = unwrapping(GENERATE(false, true));
    const Frame inner = plain(1, GENERATE(22u, 60u, 1400u));
    CHECK(unwrap(hook, vxlan(inner)) == inner);
    CHECK(unwrap(hook, vxlan(inner, {.vni = 7})) == inner);
    CHECK(unwrap(hook, vxlan(inner, {.vlan = kVlan})) == inner);
    CHECK(unwrap(hook, vxlan(inner, {.ipv6 = true})) == inner);
    CHECK(unwrap(hook, vxlan(inner, {.vlan = kVlan, .ipv6 = true})) == inner);
    CHECK(unwrap(hook, vxlan(inner, {.option_words = 10})) == inner);
    CHECK(unwrap(hook, vxlan(inner, {.trailer = 6})) == inner);
    CHECK_FALSE(cut_of(hook, vxlan(inner)).keeps_checksum);
}

TEST_CASE("what is not listed passes untouched, or is dropped if configured so") {
    const bool drop = GENERATE(false, true);
    const Decapsulation hook = unwrapping(drop);
    const Frame inner = plain(1, 60);
    const std::vector<Frame> unlisted{tagged(1, 60, kVlan + 1), vxlan(inner, {.vni = kVni + 1}),
                                      vxlan(inner, {.vxlan_flags = 0}),
                                      vxlan(inner, {.vlan = kVlan + 1})};
    for (std::size_t i = 0; i < unlisted.size(); ++i) {
        CAPTURE(i);
        const bool listed_inside = i == 3;
        if (drop) {
            CHECK(unwrap(hook, unlisted[i]) == std::nullopt);
        } else {
            CHECK(unwrap(hook, unlisted[i]) == (listed_inside ? inner : unlisted[i]));
        }
    }
}

TEST_CASE("frames that are neither tagged nor VXLAN pass untouched") {
    const Decapsulation hook = unwrapping(true);
    const Frame inner = plain(1, 60);
    for (const Frame& frame :
         {plain(1, 60), make_udp_frame({.seq = 1, .size = 300}), vxlan(inner, {.port = 4788}),
          vxlan(inner, {.protocol = 6}), vxlan(inner, {.fragment = 0x2000}),
          vxlan(inner, {.fragment = 1}), vxlan(inner, {.version = 6}),
          vxlan(inner, {.ipv6 = true, .protocol = 44}), Frame(13), Frame(1)}) {
        CHECK(unwrap(hook, frame) == frame);
    }
}

TEST_CASE("a hook without a list of networks leaves VXLAN alone, without one of VLANs tags") {
    const Decapsulation vlan_only(DecapsulationOptions{.vlans = {kVlan}, .drop_unlisted = true});
    const Decapsulation vni_only(DecapsulationOptions{.vnis = {kVni}, .drop_unlisted = true});
    const Frame inner = plain(1, 60);
    CHECK(unwrap(vlan_only, vxlan(inner)) == vxlan(inner));
    CHECK(unwrap(vlan_only, vxlan(inner, {.vlan = kVlan})) == vxlan(inner));
    CHECK(unwrap(vni_only, tagged(1, 60)) == tagged(1, 60));
    CHECK(unwrap({}, tagged(1, 60)) == tagged(1, 60));
    CHECK(unwrap({}, vxlan(inner)) == vxlan(inner));
}

TEST_CASE("a VXLAN packet whose lengths do not hold is dropped") {
    const Decapsulation hook = unwrapping();
    const Frame inner = plain(1, 60);
    CHECK(unwrap(hook, vxlan(inner, {.length_error = 1})) == std::nullopt);
    CHECK(unwrap(hook, vxlan(inner, {.length_error = 60000})) == std::nullopt);
    CHECK(unwrap(hook, vxlan(inner, {.length_error = -47})) == std::nullopt);
    CHECK(unwrap(hook, vxlan(inner, {.length_error = -46})) ==
          Frame(inner.begin(), inner.begin() + 14));
    CHECK(unwrap(hook, vxlan(inner, {.length_error = -76})) == std::nullopt);
    CHECK(unwrap(hook, vxlan(Frame(13))) == std::nullopt);
}

TEST_CASE("identifiers that cannot be are refused") {
    CHECK_THROWS_AS(Decapsulation(DecapsulationOptions{.vlans = {4095}}), std::invalid_argument);
    CHECK_THROWS_AS(Decapsulation(DecapsulationOptions{.vnis = {1U << 24}}), std::invalid_argument);
    CHECK_NOTHROW(Decapsulation(DecapsulationOptions{.vlans = {0, 4094}, .vnis = {0, 0xFFFFFF}}));
}

namespace {

// A frame that ends where its memory does: reading past it faults.
class FrameAtEnd {
  public:
    explicit FrameAtEnd(std::size_t size)
        : memory_(64_KiB), bytes_(memory_.at(kDefaultRamBase + 64_KiB - size, size), size) {}
    FramePiece piece(std::size_t size) { return bytes_.last(size); }
    void fill(const Frame& frame) { std::ranges::copy(frame, piece(frame.size()).begin()); }

  private:
    FakeMemory memory_;
    std::span<std::byte> bytes_;
};

// Whatever a hook decided: the path can do it, and what it unwrapped has an Ethernet header.
bool legal(const Cut& cut, std::size_t size) {
    if (cut.drop || (cut.front == 0 && cut.back == 0)) return true;
    return cut.front < size && cut.back < size && cut.front + cut.back + kEthernetHeader <= size;
}

// Memory that changes after every single access: the worst a driver can do, and the same on every
// run. It cannot be accessed; each instruction that tries is let through alone, by the trap flag,
// and then another frame is put there.
class RestlessFrame {
  public:
    RestlessFrame(std::size_t size, std::vector<Frame> versions)
        : versions_(std::move(versions)), memory_(kPage) {
        piece_ = {memory_.at(kDefaultRamBase + kPage - size, size), size};
        active_ = this;
        struct sigaction action {};
        action.sa_flags = SA_SIGINFO;
        action.sa_sigaction = on_access;
        ::sigaction(SIGSEGV, &action, &old_access_);
        action.sa_sigaction = on_step;
        ::sigaction(SIGTRAP, &action, &old_step_);
        rewrite();
    }
    ~RestlessFrame() {
        protect(PROT_READ | PROT_WRITE);
        ::sigaction(SIGSEGV, &old_access_, nullptr);
        ::sigaction(SIGTRAP, &old_step_, nullptr);
    }
    RestlessFrame(const RestlessFrame&) = delete;
    RestlessFrame& operator=(const RestlessFrame&) = delete;

    FramePiece piece() const { return piece_; }
    int accesses() const { return accesses_; }

  private:
    static constexpr std::size_t kPage = 64_KiB;
    static constexpr greg_t kTrapFlag = 0x100;  // of EFLAGS

    static void on_access(int, siginfo_t* info, void* context) {
        auto* at = static_cast<std::byte*>(info->si_addr);
        const std::byte* first = active_->memory_.at(kDefaultRamBase, kPage);
        if (at < first || at >= first + kPage) {
            ::sigaction(SIGSEGV, &active_->old_access_, nullptr);  // faults again
            return;
        }
        ++active_->accesses_;
        active_->protect(PROT_READ | PROT_WRITE);
        static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] |= kTrapFlag;
    }
    static void on_step(int, siginfo_t*, void* context) {
        active_->rewrite();
        static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] &= ~kTrapFlag;
    }

    void rewrite() {
        protect(PROT_READ | PROT_WRITE);
        const Frame& version = versions_[random_() % versions_.size()];
        std::ranges::copy(version, piece_.begin());
        if (random_() % 4 == 0) piece_[random_() % piece_.size()] = std::byte(random_());
        protect(PROT_NONE);
    }
    void protect(int access) { ::mprotect(memory_.at(kDefaultRamBase, kPage), kPage, access); }

    static inline RestlessFrame* active_ = nullptr;
    const std::vector<Frame> versions_;
    FakeMemory memory_;
    FramePiece piece_;
    std::minstd_rand random_{1};
    int accesses_ = 0;
    struct sigaction old_access_ {
    }, old_step_{};
};

}  // namespace

TEST_CASE("a frame cut short at any byte is read within its bounds") {
    const Decapsulation hook = unwrapping(GENERATE(false, true));
    const Frame inner = plain(1, 22);
    for (const Frame& whole : {tagged(1, 60), vxlan(inner), vxlan(inner, {.vlan = kVlan}),
                               vxlan(inner, {.ipv6 = true}), vxlan(inner, {.option_words = 10})}) {
        for (std::size_t size = 0; size <= whole.size(); ++size) {
            FrameAtEnd memory(whole.size());
            memory.fill({whole.begin(), whole.begin() + static_cast<long>(size)});
            const std::array pieces{memory.piece(size)};
            CAPTURE(size);
            CHECK(legal(hook(pieces), size));
        }
    }
}

TEST_CASE("random headers are read within their bounds") {
    const Decapsulation hook = unwrapping(true);
    std::mt19937 random(1);
    FrameAtEnd memory(200);
    int bad = 0;
    for (int i = 0; i < 200'000; ++i) {
        const Frame start = i % 2 != 0 ? vxlan(plain(1, 60), {.option_words = random() % 11})
                                       : vxlan(plain(1, 60), {.vlan = kVlan, .ipv6 = true});
        memory.fill(start);
        const std::size_t size = start.size() - random() % 80;
        const std::array pieces{memory.piece(size)};
        for (int flips = 0; flips < 3; ++flips) pieces[0][random() % size] = std::byte(random());
        if (!legal(hook(pieces), size)) ++bad;
    }
    CHECK(bad == 0);
}

TEST_CASE("a driver that rewrites the frame between any two reads breaks no bound") {
    const Decapsulation hook = unwrapping();
    const Frame inner = plain(1, 60);
    const std::size_t size = vxlan(inner, {.vlan = kVlan, .option_words = 10}).size();
    RestlessFrame memory(
        size, {vxlan(inner, {.vlan = kVlan, .option_words = 10}), vxlan(inner), vxlan(inner),
               vxlan(inner), tagged(1, 60), plain(1, 60), vxlan(inner, {.length_error = -70}),
               vxlan(inner, {.length_error = 900})});
    const std::array pieces{memory.piece()};
    int bad = 0, dropped = 0, untagged = 0, unwrapped = 0;
    for (int i = 0; i < 5000; ++i) {
        const Cut cut = hook(pieces);
        if (!legal(cut, size)) ++bad;
        if (cut.drop) {
            ++dropped;
        } else if (cut.front == kVlanTag) {
            ++untagged;
        } else if (cut.front > 0) {
            ++unwrapped;
        }
    }

    CHECK(bad == 0);
    CHECK(dropped > 0);
    CHECK(untagged > 0);
    CHECK(unwrapped > 0);
    CHECK(memory.accesses() > 5000);
}

TEST_CASE("unwrapped frames reach the guest whole, by DMA and by copy") {
    const std::uint64_t features =
        GENERATE(kMergeable, std::uint64_t{kFeatureVersion1}, std::uint64_t{0});
    const QueueGeometry geometry = GENERATE(QueueGeometry::whole(1518), kSegmented);
    std::vector<RxLayout> layouts = RxLayout::whole_frame_layouts();
    if (features == kMergeable) layouts.push_back(RxLayout::tiny(300));
    for (const RxLayout& layout : layouts) {
        // Drivers that merge buffers give each a header of its own.
        if (features == kMergeable && layout.name() == RxLayout::ipxe().name()) continue;
        DYNAMIC_SECTION(layout.name()
                        << ", features " << features << ", NIC buffer " << geometry.nic_buffer) {
            FakeMemory memory(FakeMemory::equal_regions(4, 8_MiB, 0));
            HookedReceiveBed<Decapsulation> bed(
                memory, {.driver = {.features = features, .layout = layout}, .geometry = geometry},
                unwrapping(true));
            bed.driver().rx().tolerate_scratch(kMaxScratch);
            bed.driver().refill();
            bed.start();
            std::vector<Frame> expected, received;
            for (std::uint32_t seq = 0; seq < 300; ++seq) {
                const std::size_t size = 70 + seq * 53 % 1380;
                const bool is_tagged = seq % 3 == 0;
                const Frame frame = is_tagged      ? tagged(seq, size)
                                    : seq % 3 == 1 ? vxlan(plain(seq, size))
                                                   : plain(seq, size);
                expected.push_back(is_tagged ? without_tag(frame) : plain(seq, size));
                REQUIRE(bed.arrive(frame));
                bed.poll();
                for (ReceivedFrame& got : bed.driver().receive()) {
                    received.push_back(std::move(got.bytes));
                }
            }
            CHECK((received == expected));
            CHECK(bed.counters().rx_packets.get() == 300);
            require_clean(bed);
        }
    }
}

TEST_CASE("unwrapped frames that waited for a starving driver arrive whole") {
    FakeMemory memory(16_MiB);
    HookedReceiveBed<Decapsulation> bed(
        memory, {.geometry = GENERATE(QueueGeometry::whole(1518), kSegmented)}, unwrapping(true));
    bed.start();
    for (std::uint32_t seq = 0; seq < 10; ++seq) {
        REQUIRE(bed.arrive(vxlan(plain(seq, 1450))));
        REQUIRE(bed.arrive(tagged(seq, 60, kVlan + 1)));
    }
    CHECK(bed.poll() == 0);

    bed.driver().refill();
    bed.poll();

    const auto frames = bed.driver().receive();
    REQUIRE(frames.size() == 10);
    for (std::uint32_t seq = 0; seq < 10; ++seq) CHECK((frames[seq].bytes == plain(seq, 1450)));
    CHECK(bed.copied(CopyReason::kStarved) == 10);
    CHECK(bed.dropped(DropReason::kHook) == 10);
    require_clean(bed);
}

TEST_CASE("the NIC's verdict on the checksum holds for what a hook left only if the hook says so") {
    FakeMemory memory(16_MiB);
    HookedReceiveBed<Decapsulation> bed(
        memory, {.driver = {.features = kMergeable | kFeatureNetGuestCsum}}, unwrapping());
    bed.driver().rx().tolerate_scratch(100);
    bed.driver().refill();
    bed.start();
    bed.verify_checksums(true);
    for (const Frame& frame : {plain(1, 60), tagged(1, 60), vxlan(plain(1, 60))}) {
        REQUIRE(bed.arrive(frame));
    }
    bed.poll();

    const auto frames = bed.driver().receive();
    REQUIRE(frames.size() == 3);
    CHECK(frames[0].header.flags == kNetHeaderDataValid);
    CHECK(frames[1].header.flags == kNetHeaderDataValid);
    CHECK(frames[2].header.flags == 0);
}

TEST_CASE("a hook sees each frame once, in order, in the pieces the NIC wrote") {
    FakeMemory memory(16_MiB);
    std::vector<Frame> seen;
    Script script = [&](std::span<const FramePiece> frame) {
        Frame& copy = seen.emplace_back();
        for (const FramePiece& piece : frame) {
            CHECK((piece.size() == 1024 || &piece == &frame.back()));
            copy.insert(copy.end(), piece.begin(), piece.end());
        }
        return Cut{};
    };
    HookedReceiveBed<ScriptedHook> bed(memory, {.geometry = kSegmented}, {&script});
    bed.driver().rx().tolerate_scratch(12);
    bed.driver().refill();
    bed.start();
    std::vector<Frame> sent;
    for (std::uint32_t seq = 0; seq < 40; ++seq) {
        REQUIRE(bed.arrive(sent.emplace_back(plain(seq, 60 + seq * 37))));
        bed.poll();
        bed.driver().receive();
    }
    CHECK((seen == sent));
    require_clean(bed);
}

TEST_CASE("a dropped frame returns the head it was bound to empty") {
    FakeMemory memory(16_MiB);
    const QueueGeometry geometry = GENERATE(QueueGeometry::whole(1518), kSegmented);
    HookedReceiveBed<Decapsulation> bed(memory, {.geometry = geometry}, unwrapping(true));
    bed.driver().rx().tolerate_scratch(kMaxScratch);
    bed.driver().refill();
    bed.start();
    REQUIRE(bed.arrive(plain(1, 60)));
    REQUIRE(bed.arrive(tagged(2, 1518, kVlan + 1)));
    REQUIRE(bed.arrive(plain(3, 60)));
    CHECK(bed.poll() == 3);

    const std::uint32_t buffers = geometry.segmented() ? 2 : 1;
    CHECK(bed.driver().receiveq().used_idx() == 2 + buffers);
    const auto frames = bed.driver().receive();
    REQUIRE(frames.size() == 2);
    CHECK(check_frame(frames[0].bytes) == 1);
    CHECK(check_frame(frames[1].bytes) == 3);
    CHECK(bed.driver().rx().empty_completions() == buffers);
    CHECK(bed.dropped(DropReason::kHook) == 1);
    CHECK(bed.counters().rx_packets.get() == 2);
    require_clean(bed);
}

TEST_CASE("a frame dropped before it was bound uses no head") {
    FakeMemory memory(16_MiB);
    HookedReceiveBed<Decapsulation> bed(
        memory, {.geometry = GENERATE(QueueGeometry::whole(1518), kSegmented)}, unwrapping(true));
    bed.start();
    for (std::uint32_t seq = 0; seq < 20; ++seq) {
        REQUIRE(bed.arrive(tagged(seq, 1518, kVlan + 1)));
    }
    CHECK(bed.poll() > 0);
    bed.poll();
    CHECK(bed.path().pending() == 0);
    CHECK(bed.driver().receiveq().used_idx() == 0);

    REQUIRE(bed.arrive(plain(20, 60)));
    bed.driver().rx().refill(1);
    bed.poll();
    CHECK(bed.driver().receiveq().used_idx() == 1);
    CHECK(bed.dropped(DropReason::kHook) == 20);
    require_clean(bed);
}

TEST_CASE("a chain gathered for a frame that waits is not lost to a dropped one") {
    FakeMemory memory(16_MiB);
    HookedReceiveBed<Decapsulation> bed(memory, {.driver = {.layout = RxLayout::tiny(512)}},
                                        unwrapping(true));
    bed.start();
    REQUIRE(bed.arrive(tagged(1, 1000, kVlan + 1)));
    REQUIRE(bed.arrive(plain(2, 1000)));
    REQUIRE(bed.arrive(tagged(3, 1000, kVlan + 1)));
    REQUIRE(bed.arrive(plain(4, 60)));
    bed.driver().rx().refill(1);
    CHECK(bed.poll() == 1);
    bed.driver().rx().refill(1);
    CHECK(bed.poll() == 2);
    bed.driver().rx().refill(1);
    CHECK(bed.poll() == 1);

    const auto frames = bed.driver().receive();
    REQUIRE(frames.size() == 2);
    CHECK(check_frame(frames[0].bytes) == 2);
    CHECK(check_frame(frames[1].bytes) == 4);
    CHECK(bed.driver().rx().empty_completions() == 0);
    require_clean(bed);
}

TEST_CASE("a hook may shorten a frame at either end, down to what a piece has to keep") {
    const QueueGeometry geometry = GENERATE(QueueGeometry::whole(1518), kSegmented);
    const Cut cut =
        GENERATE(Cut{.back = 1}, Cut{.back = 475}, Cut{.front = 1000, .back = 23},
                 Cut{.front = 1012}, Cut{.front = 1012, .back = 475}, Cut{.front = 1, .back = 1});
    FakeMemory memory(16_MiB);
    Script script = [&](std::span<const FramePiece>) { return cut; };
    HookedReceiveBed<ScriptedHook> bed(memory, {.geometry = geometry}, {&script});
    bed.driver().rx().tolerate_scratch(kMaxScratch);
    bed.driver().refill();
    bed.start();
    const Frame frame = plain(1, 1500);
    REQUIRE(bed.arrive(frame));
    bed.poll();

    const auto frames = bed.driver().receive();
    REQUIRE(frames.size() == 1);
    CHECK((frames[0].bytes == Frame(frame.begin() + cut.front, frame.end() - cut.back)));
    CHECK(bed.counters().rx_bytes.get() == 1500 - cut.front - cut.back);
    require_clean(bed);
}

TEST_CASE("a cut that leaves nothing of a piece drops the frame and is counted") {
    const Cut cut = GENERATE(Cut{.front = 100}, Cut{.front = 0xFFFFFFFF}, Cut{.back = 100},
                             Cut{.front = 50, .back = 50}, Cut{.front = 1, .back = 0xFFFFFFFF},
                             Cut{.front = 0x80000000, .back = 0x80000000}, Cut{.front = 0x10001},
                             Cut{.back = 0x10001});
    FakeMemory memory(16_MiB);
    Script script = [&](std::span<const FramePiece> frame) {
        return frame.front().size() == 100 ? cut : Cut{};
    };
    HookedReceiveBed<ScriptedHook> bed(memory, {}, {&script});
    bed.driver().rx().tolerate_scratch(kMaxScratch);
    bed.driver().refill();
    bed.start();
    REQUIRE(bed.arrive(plain(1, 100)));
    REQUIRE(bed.arrive(plain(2, 101)));
    CHECK(bed.poll() == 2);

    const auto frames = bed.driver().receive();
    REQUIRE(frames.size() == 1);
    CHECK(check_frame(frames[0].bytes) == 2);
    CHECK(bed.driver().rx().empty_completions() == 1);
    CHECK(bed.dropped(DropReason::kHook) == 1);
    require_clean(bed);
}

TEST_CASE("a cut beyond the first or the last of several pieces drops the frame") {
    const Cut cut = GENERATE(Cut{.front = 1013}, Cut{.front = 1024}, Cut{.front = 0xFFFFFFFF},
                             Cut{.back = 76}, Cut{.front = 1, .back = 76});
    FakeMemory memory(16_MiB);
    Script script = [&](std::span<const FramePiece>) { return cut; };
    HookedReceiveBed<ScriptedHook> bed(memory, {.geometry = kSegmented}, {&script});
    bed.driver().rx().tolerate_scratch(kMaxScratch);
    bed.driver().refill();
    bed.start();
    REQUIRE(bed.arrive(plain(1, 1100)));
    bed.poll();
    CHECK(bed.driver().receive().empty());
    CHECK(bed.driver().rx().empty_completions() == 2);
    CHECK(bed.dropped(DropReason::kHook) == 1);
    require_clean(bed);
}

TEST_CASE("a piece the NIC left empty is no reason to drop a frame the hook passes") {
    FakeMemory memory(16_MiB);
    VmCounters counters;
    std::vector<FakeBuffer> buffers(4);
    Script script = [](std::span<const FramePiece>) { return Cut{}; };
    ReceivePath<FakeBuffers, ScriptedHook> path(4, {.geometry = kSegmented, .pending_cap = 4},
                                                counters, {&script});
    for (FakeBuffer& buffer : buffers) path.give_back(&buffer);
    NetDriver driver(memory);
    driver.refill();
    const DeviceView view(memory);
    path.attach(view.ring(driver.receiveq(), memory), view.guest(), kMergeable);
    std::array<void*, 2> posted{};
    REQUIRE(path.dequeue(posted, Refill::kMustSupply));

    path.returned(posted[0], {.length = 1024, .end_of_frame = false});
    path.returned(posted[1], {.length = 0});
    CHECK(path.complete() == 1);

    CHECK(counters.dropped[static_cast<std::size_t>(DropReason::kHook)].get() == 0);
    CHECK(counters.rx_packets.get() == 1);
}

TEST_CASE("a frame whose end never comes is not delivered and shown to no hook") {
    FakeMemory memory(16_MiB);
    VmCounters counters;
    std::vector<FakeBuffer> buffers(4);
    int asked = 0;
    Script script = [&](std::span<const FramePiece>) {
        ++asked;
        return Cut{};
    };
    ReceivePath<FakeBuffers, ScriptedHook> path(4, {.geometry = kSegmented, .pending_cap = 4},
                                                counters, {&script});
    for (FakeBuffer& buffer : buffers) path.give_back(&buffer);
    NetDriver driver(memory);
    driver.refill();
    const DeviceView view(memory);
    path.attach(view.ring(driver.receiveq(), memory), view.guest(), kMergeable);
    std::array<void*, 3> posted{};
    REQUIRE(path.dequeue(posted, Refill::kMustSupply));

    path.returned(posted[0], {.length = 1024, .end_of_frame = false});
    path.returned(posted[2], {.length = 100});
    path.complete();

    CHECK(path.error() == RingError::kOrder);
    CHECK(asked == 0);
    CHECK(counters.rx_packets.get() == 0);
}

TEST_CASE("a frame is counted as dropped once, whatever becomes of its buffer") {
    FakeMemory memory(16_MiB);
    HookedReceiveBed<Decapsulation> bed(memory, {.nic_ring = 128, .pending_cap = 8},
                                        unwrapping(true));
    bed.start();
    REQUIRE(bed.arrive(plain(0, 60)));
    for (std::uint32_t seq = 1; seq < 30; ++seq) {
        REQUIRE(bed.arrive(seq % 2 != 0 ? tagged(seq, 60, kVlan + 1) : plain(seq, 60)));
        bed.poll();
    }
    bed.stop();

    CHECK(bed.dropped(DropReason::kHook) == 15);
    CHECK(bed.dropped(DropReason::kNoBuffer) + bed.dropped(DropReason::kStopped) == 15);
}

TEST_CASE("random cuts keep order, bytes, buffers and every frame accounted for", "[random]") {
    const PmdMode pmd = GENERATE(PmdMode::kVector, PmdMode::kBulk, PmdMode::kScalar);
    const std::uint32_t seed = GENERATE(range(1u, 17u));
    std::mt19937 random(seed);
    const auto any = [&](std::uint32_t below) { return random() % below; };
    const QueueGeometry geometry = any(2) != 0 ? kSegmented : QueueGeometry::whole(1518);
    const std::uint64_t features = any(3) != 0 ? kMergeable : std::uint64_t{kFeatureVersion1};
    const auto ring = static_cast<std::uint16_t>(16u << any(6));
    FakeMemory memory(FakeMemory::equal_regions(4, 16_MiB, 0));
    auto layouts = RxLayout::whole_frame_layouts();
    if (features == kMergeable) layouts.push_back(RxLayout::tiny(600));
    std::erase_if(layouts, [](RxLayout& l) { return l.name() == RxLayout::ipxe().name(); });
    const RxLayout layout = layouts[any(static_cast<std::uint32_t>(layouts.size()))];
    CAPTURE(seed, ring, features, geometry.nic_buffer, layout.name());

    std::vector<Frame> passed;  // in the order of the hook's calls
    Script script = [&](std::span<const FramePiece> frame) {
        Frame bytes;
        for (const FramePiece& piece : frame) {
            bytes.insert(bytes.end(), piece.begin(), piece.end());
        }
        if (any(4) == 0) return Cut{.drop = true};
        const auto first = static_cast<std::uint32_t>(frame.front().size());
        const auto last = static_cast<std::uint32_t>(frame.back().size());
        Cut cut;
        if (any(2) != 0) cut.front = any(first);
        if (any(2) != 0) cut.back = any(frame.size() == 1 ? last - cut.front : last);
        const bool too_far = frame.size() > 1 && cut.front > 0 && first - cut.front < kHeaderSize;
        if (too_far) return cut;
        passed.emplace_back(bytes.begin() + cut.front, bytes.end() - cut.back);
        return cut;
    };
    HookedReceiveBed<ScriptedHook> bed(
        memory,
        {.driver = {.features = features, .rx_size = ring, .layout = layout},
         .geometry = geometry,
         .pmd = pmd,
         .nic_ring = 64u << any(4),
         .pending_cap = 16u << any(5)},
        {&script});
    bed.driver().rx().tolerate_scratch(kMaxScratch);
    bed.driver().rx().set_refill_threshold(1 + any(ring / 2));
    if (any(3) != 0) bed.driver().refill();
    bed.start();

    std::uint64_t sent = 0, lost = 0;
    std::vector<Frame> received;
    const auto receive = [&] {
        for (ReceivedFrame& frame : bed.driver().receive()) {
            received.push_back(std::move(frame.bytes));
        }
    };
    for (std::uint32_t step = 0; step < 400; ++step) {
        for (std::uint32_t n = any(40); n > 0; --n, ++sent) {
            if (!bed.arrive(plain(static_cast<std::uint32_t>(sent), 60 + any(1455)))) ++lost;
        }
        bed.poll();
        if (any(4) != 0) receive();
        if (any(100) == 0) {
            bed.stop();
            receive();
            bed.start();
        }
    }
    for (int step = 0; step < 200; ++step) {
        bed.poll();
        receive();
        bed.driver().refill();
    }

    // Lost were only whole frames, and what is left has kept its order.
    std::size_t next = 0;
    for (const Frame& frame : received) {
        while (next < passed.size() && passed[next] != frame) ++next;
        REQUIRE(next++ < passed.size());
    }
    CHECK(received.size() == bed.counters().rx_packets.get());
    CHECK(received.size() + lost + bed.dropped(DropReason::kHook) +
              bed.dropped(DropReason::kNoBuffer) + bed.dropped(DropReason::kStopped) ==
          sent);
    require_clean(bed);
}

}  // namespace zecorx::test
