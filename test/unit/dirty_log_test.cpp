#include "zecorx/dirty_log.h"

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "receive_bed.h"

namespace zecorx::test {
namespace {

constexpr std::uint64_t kPage = DirtyLog::kPage;
constexpr std::uint64_t kMergeable = kFeatureVersion1 | kFeatureNetMrgRxbuf;

using Pages = std::set<std::uint64_t>;

// A bitmap with other bytes around it.
class Bitmap {
  public:
    explicit Bitmap(std::size_t bytes) : all_(bytes + 2 * kGuard, kOther), bytes_(bytes) {
        std::ranges::fill(bits(), std::byte{0});
    }
    DirtyLog log() { return DirtyLog(bits()); }
    // The marked pages; throws if a byte around the bitmap was touched.
    Pages pages() {
        for (std::size_t i = 0; i < kGuard; ++i) {
            if (all_[i] != kOther || all_[kGuard + bytes_ + i] != kOther)
                throw std::runtime_error("a byte outside the bitmap was written");
        }
        Pages marked;
        for (std::size_t page = 0; page < 8 * bytes_; ++page) {
            if ((bits()[page / 8] >> (page % 8) & std::byte{1}) != std::byte{0})
                marked.insert(page);
        }
        return marked;
    }
    Pages take() {
        Pages marked = pages();
        std::ranges::fill(bits(), std::byte{0});
        return marked;
    }

  private:
    static constexpr std::size_t kGuard = 64;
    static constexpr std::byte kOther{0x3C};

    std::span<std::byte> bits() { return std::span(all_).subspan(kGuard, bytes_); }

    std::vector<std::byte> all_;
    std::size_t bytes_;
};

// Holds a bit for every page of `memory`.
Bitmap bitmap_for(const FakeMemory& memory) {
    const MemoryRegion last = memory.regions().back();
    return Bitmap((last.gpa + last.size) / kPage / 8 + 1);
}

void add_pages(Pages& pages, GuestRange range) {
    for (Gpa at = range.gpa / kPage; at <= (range.end() - 1) / kPage; ++at) pages.insert(at);
}

}  // namespace

TEST_CASE("a mark sets the bits of the pages that have a byte of it, and no other") {
    const auto marked = [](std::uint64_t gpa, std::uint64_t length) {
        Bitmap bitmap(4);
        bitmap.log().mark(gpa, length);
        return bitmap.pages();
    };
    CHECK(marked(0, 1) == Pages{0});
    CHECK(marked(kPage - 1, 1) == Pages{0});
    CHECK(marked(kPage - 1, 2) == Pages{0, 1});
    CHECK(marked(kPage, kPage) == Pages{1});
    CHECK(marked(5 * kPage, kPage + 1) == Pages{5, 6});
    CHECK(marked(7 * kPage + 5, kPage) == Pages{7, 8});
    CHECK(marked(6 * kPage, 12 * kPage) == Pages{6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17});
    CHECK(marked(31 * kPage, 1) == Pages{31});
}

TEST_CASE("nothing is marked of no bytes, wherever they are") {
    Bitmap bitmap(4);
    for (const std::uint64_t gpa : {std::uint64_t{0}, kPage, 32 * kPage, UINT64_MAX})
        bitmap.log().mark(gpa, 0);
    CHECK(bitmap.pages().empty());
}

TEST_CASE("pages beyond the bitmap are not marked, and no sum wraps") {
    Bitmap bitmap(4);
    for (const std::uint64_t gpa : {32 * kPage, 33 * kPage, UINT64_MAX / 2, UINT64_MAX}) {
        for (const std::uint64_t length : {std::uint64_t{1}, kPage, UINT64_MAX})
            bitmap.log().mark(gpa, length);
    }
    CHECK(bitmap.pages().empty());
    bitmap.log().mark(31 * kPage, UINT64_MAX);
    CHECK(bitmap.take() == Pages{31});
    bitmap.log().mark(30 * kPage + 1, kPage);
    CHECK(bitmap.take() == Pages{30, 31});
    bitmap.log().mark(0, UINT64_MAX);
    CHECK(bitmap.pages().size() == 32);
}

TEST_CASE("a log that is off marks nothing") {
    const DirtyLog off;
    CHECK_FALSE(off);
    off.mark(0, UINT64_MAX);
    const GuestLog none;
    CHECK_FALSE(none);
    const std::byte here{};
    none.mark(&here, 1);
}

TEST_CASE("two data paths that mark pages of the same bytes lose none", "[threads]") {
    constexpr std::uint64_t kPages = 100'000;
    Bitmap bitmap(kPages / 8);
    const auto mark = [&](std::uint64_t first) {
        for (std::uint64_t page = first; page < kPages; page += 2)
            bitmap.log().mark(page * kPage, 1);
    };
    // Mostly the two run side by side, one behind the other by less than a byte here and there.
    std::size_t lost = 0;
    for (int repeat = 0; repeat < 20; ++repeat) {
        std::thread other(mark, 1);
        mark(0);
        other.join();
        lost += kPages - bitmap.take().size();
    }
    CHECK(lost == 0);
}

TEST_CASE("guest memory is marked by its address in this process, other memory not at all") {
    alignas(4096) static std::array<std::byte, 8 * kPage> ram{};
    GuestMemory memory;
    memory.add({16 * kPage, 2 * kPage, &ram[0], &ram[0], 12, {}});
    memory.add({2 * kPage, 2 * kPage, &ram[4 * kPage], &ram[4 * kPage], 12, {}});
    Bitmap bitmap(4);
    const GuestLog log(bitmap.log(), memory);
    CHECK(log);

    log.mark(&ram[kPage - 1], 2);
    CHECK(bitmap.take() == Pages{16, 17});
    log.mark(&ram[5 * kPage], 1);
    CHECK(bitmap.take() == Pages{3});
    log.mark(&ram[5 * kPage], 100 * kPage);  // to the region's end
    CHECK(bitmap.take() == Pages{3});
    log.mark(&ram[2 * kPage], 2 * kPage);  // between the regions
    log.mark(&ram[6 * kPage], 1);
    log.mark(nullptr, UINT64_MAX);
    CHECK(bitmap.take().empty());
    CHECK(memory.gpa_range(&ram[kPage + 5], 10).gpa == 17 * kPage + 5);
    CHECK(memory.gpa_range(&ram[kPage + 5], UINT64_MAX).length == kPage - 5);
}

// --- Rings ---

TEST_CASE("a split ring marks the used entries of a step and the words it writes, by their pages") {
    alignas(4096) static std::array<std::byte, 8 * kPage> ram;
    ram.fill(std::byte{0});
    GuestMemory memory;
    memory.add({0, ram.size(), ram.data(), ram.data(), 12, {}});
    Bitmap bitmap(1);
    const GuestLog log(bitmap.log(), memory);
    constexpr std::uint32_t kSize = 512;
    const bool event_idx = GENERATE(false, true);

    SECTION("used.idx in the last bytes of a page, the entries in the next, avail_event behind") {
        SplitRing ring({&ram[0], &ram[7 * kPage], &ram[3 * kPage - 4], kSize, event_idx});
        ring.suppress_kicks(log);
        CHECK(bitmap.take() == (event_idx ? Pages{4} : Pages{2}));
        ring.publish(log);  // nothing new but the index
        CHECK(bitmap.take() == Pages{2});
        ring.complete({0, 1}, 0);
        ring.publish(log);
        CHECK(bitmap.take() == Pages{2, 3});
    }
    SECTION("entries over a page's end and around the ring's") {
        SplitRing ring({&ram[0], &ram[7 * kPage], &ram[3 * kPage + 2048], kSize, event_idx});
        std::uint32_t at = 0;
        const auto complete = [&](std::uint32_t count) {
            at += count;
            for (; count > 0; --count) ring.complete({0, 1}, 0);
        };
        complete(100);
        ring.publish(log);
        CHECK(bitmap.take() == Pages{3});
        complete(156);
        ring.publish(log);  // the index is there, too
        CHECK(bitmap.take() == Pages{3, 4});
        complete(250);
        ring.publish();  // unlogged
        CHECK(bitmap.take().empty());
        complete(5);
        ring.publish(log);
        CHECK(bitmap.take() == Pages{3, 4});
        complete(2 * kSize - at);
        bitmap.take();
        ring.publish(log);
        CHECK(bitmap.take() == Pages{3, 4});
    }
}

TEST_CASE("a packed ring marks the used descriptors of a step, around its end too") {
    alignas(4096) static std::array<std::byte, 8 * kPage> ram;
    ram.fill(std::byte{0});
    GuestMemory memory;
    memory.add({0, ram.size(), ram.data(), ram.data(), 12, {}});
    Bitmap bitmap(1);
    const GuestLog log(bitmap.log(), memory);
    PackedRing ring({.desc = &ram[2 * kPage],
                     .driver_event = &ram[0],
                     .device_event = &ram[5 * kPage],
                     .size = 512,
                     .base = 300 | kPackedWrap});
    ring.suppress_kicks(log);
    CHECK(bitmap.take() == Pages{5});
    ring.publish(log);
    CHECK(bitmap.take().empty());
    ring.complete({0, 200}, 0);
    ring.publish(log);
    CHECK(bitmap.take() == Pages{3});
    ring.complete({0, 10}, 0);
    ring.complete({0, 12}, 0);  // around the end: to position 10
    ring.complete({0, 12}, 0);
    ring.publish(log);
    CHECK(bitmap.take() == Pages{2, 3});
    ring.complete({0, 234}, 0);  // up to 256, where a page begins
    ring.publish(log);
    CHECK(bitmap.take() == Pages{2});
    ring.complete({0, 512}, 0);  // all of it
    ring.publish(log);
    CHECK(bitmap.take() == Pages{2, 3});
}

// --- The receive path ---

TEST_CASE("a frame marks its header's and its bytes' pages and the used ring's") {
    const std::uint64_t packed = GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureRingPacked});
    const bool zero_copy = GENERATE(true, false);
    const std::uint32_t size = GENERATE(60u, 1514u);
    const RxLayout layout = GENERATE(RxLayout::page(), RxLayout::linux_mergeable(),
                                     RxLayout::linux_old(), RxLayout::page_crossing());
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.features = kMergeable | packed, .layout = layout},
                            .zero_copy = zero_copy});
    Bitmap bitmap = bitmap_for(memory);
    bed.driver().refill();
    bed.start();
    bed.set_log(bitmap.log());

    std::size_t most = 0;
    for (std::uint32_t seq = 0; seq < 12; ++seq) {
        REQUIRE(bed.arrive(make_frame({.seq = seq, .size = size})));
        CHECK(bitmap.take().empty());
        bed.poll();
        most = std::max(most, bitmap.take().size());
        bed.driver().receive();
    }
    // A header apart, bytes in two pages, the ring and what begins in the page before.
    CHECK(most >= 2);
    CHECK(most <= (packed != 0 ? 5 : 6));
}

TEST_CASE("a log shorter than the memory loses what is beyond, and nothing is written there") {
    const std::uint64_t packed = GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureRingPacked});
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory,
                   {.driver = {.features = kMergeable | packed, .layout = RxLayout::page()}});
    bed.driver().refill();
    bed.start();
    Bitmap whole = bitmap_for(memory);
    bed.set_log(whole.log());
    bed.stop();
    const Pages posted = whole.pages();
    REQUIRE(posted.size() > 64);
    bed.start();
    const std::size_t middle = *std::next(posted.begin(), 32) / 8;
    Bitmap half(middle);
    bed.set_log(half.log());
    REQUIRE(bed.arrive(make_frame({.size = 1514})));
    bed.stop();

    const Pages marked = half.pages();
    CHECK_FALSE(marked.empty());
    CHECK(std::ranges::all_of(
        posted, [&](std::uint64_t page) { return marked.contains(page) == (page < 8 * middle); }));
}

TEST_CASE("chains of empty descriptors mark nothing but the used ring") {
    const std::uint64_t features =
        GENERATE(kMergeable, std::uint64_t{kFeatureVersion1}, kMergeable | kFeatureRingPacked,
                 kFeatureVersion1 | kFeatureRingPacked) |
        kFeatureIndirectDesc;
    const DescForm form = GENERATE(DescForm::kDirect, DescForm::kIndirect);
    const bool zero_copy = GENERATE(true, false);
    // Wild addresses: what is not looked at needs no memory.
    const RxLayout empty("empty", [form](FakeMemory&, std::uint32_t, std::size_t) {
        RxBuffer buffer;
        for (const Gpa gpa : {Gpa{0}, ~Gpa{0}, kDefaultRamBase + 5 * kPage, ~Gpa{0} - kPage})
            buffer.pieces.push_back({gpa, 0, true});
        buffer.form = form;
        return buffer;
    });
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.features = features, .rx_size = 64, .layout = empty},
                            .zero_copy = zero_copy});
    bed.driver().rx().disable_canaries();
    bed.driver().rx().set_refill_threshold(NetReceiver::kRefillFrozen);
    bed.driver().refill();
    Bitmap bitmap = bitmap_for(memory);
    bed.start();
    bed.set_log(bitmap.log());
    for (std::uint32_t seq = 0; seq < 40; ++seq) bed.arrive(make_frame({.seq = seq, .size = 60}));
    for (int n = 0; n < 10; ++n) bed.poll();
    CHECK(bed.dropped(DropReason::kTooBig) > 0);
    bed.stop();

    Pages ring;
    const QueueDriver& queue = bed.driver().rx().queue();
    if (queue.is_packed()) {
        add_pages(ring, {queue.descriptor_area(), packed_ring_size(64)});
    } else {
        add_pages(ring, {queue.device_area(), used_ring_size(64)});
    }
    const Pages marked = bitmap.pages();
    CHECK_FALSE(marked.empty());
    CHECK(std::ranges::includes(ring, marked));
}

namespace {

// A path that serves pages, whose NIC does what it should not.
struct UnrulyBed {
    explicit UnrulyBed(const QueueGeometry& geometry)
        : path(6, {.geometry = geometry, .pending_cap = 8}, counters) {
        for (std::size_t i = 0; i < buffers.size(); ++i) {
            buffers[i].room = rooms[i];
            path.give_back(&buffers[i]);
        }
        driver.refill();
        path.attach(view.ring(driver.receiveq(), memory), view.guest(), kMergeable, bitmap.log());
        if (!path.dequeue(posted, Refill::kMustSupply)) throw std::runtime_error("no buffers");
        bitmap.take();
    }

    // The page of a buffer aimed at the guest.
    std::uint64_t page_of(void* buffer) const {
        for (const MemoryRegion& region : memory.regions()) {
            const auto at = FakeBuffers::data(buffer) - memory.at(region.gpa, 1);
            if (at >= 0 && static_cast<std::size_t>(at) < region.size)
                return (region.gpa + static_cast<Gpa>(at)) / kPage;
        }
        throw std::runtime_error("not the guest's");
    }

    FakeMemory memory{16_MiB};
    NetDriver driver{memory, {.layout = RxLayout::page()}};
    DeviceView view{memory};
    Bitmap bitmap = bitmap_for(memory);
    VmCounters counters;
    std::array<std::array<std::byte, 2048>, 6> rooms;
    std::array<FakeBuffer, 6> buffers;
    ReceivePath<FakeBuffers> path;
    std::array<void*, 4> posted{};
};

}  // namespace

TEST_CASE("what the NIC wrote out of order is marked, though its buffer went elsewhere since") {
    UnrulyBed bed(QueueGeometry::whole(1518));
    const std::uint64_t written = bed.page_of(bed.posted[2]);

    bed.path.returned(bed.posted[2], {.length = 64});
    std::array<void*, 1> another{};
    REQUIRE(bed.path.dequeue(another, Refill::kMustSupply));
    REQUIRE(another[0] == bed.posted[2]);  // aimed at the host, for the ring is broken
    bed.path.detach();

    CHECK(bed.path.broken());
    CHECK(bed.bitmap.pages().contains(written));
}

TEST_CASE("the pieces of a frame whose rest is lost are marked before their heads return") {
    UnrulyBed bed({4018, 1024});
    const Pages written{bed.page_of(bed.posted[0]), bed.page_of(bed.posted[1])};

    bed.path.returned(bed.posted[0], {.length = 1024, .end_of_frame = false});
    bed.path.returned(bed.posted[1], {.length = 1024, .end_of_frame = false});
    bed.path.returned(bed.posted[3], {.length = 1024, .end_of_frame = false});
    CHECK(bed.path.complete() == 1);

    CHECK(bed.driver.receiveq().used_idx() == 2);
    CHECK(std::ranges::includes(bed.bitmap.pages(), written));
}

TEST_CASE("a frame that waits for the rest of its chains is marked when the queue stops") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.layout = RxLayout::page()}, .geometry = {4018, 1024}});
    bed.driver().rx().refill(2);
    Bitmap bitmap = bitmap_for(memory);
    bed.start();
    bed.set_log(bitmap.log());
    REQUIRE(bed.arrive(make_frame({.size = 3000})));
    bed.poll();
    REQUIRE(bed.path().pending() == 3);
    Pages written;
    for (const std::uint16_t head : {0, 1})
        written.insert(bed.driver().receiveq().desc(head).addr / kPage);

    CHECK(bitmap.pages().empty());
    bed.stop();
    CHECK(bitmap.pages() == written);
}

TEST_CASE("what a hook cuts off a frame is marked too, for the NIC wrote it") {
    struct CutBack {
        Cut operator()(std::span<const FramePiece>) const noexcept { return {.back = 800}; }
    };
    const std::uint32_t size = GENERATE(1024u, 2048u);
    // The last 724 bytes that the NIC writes to it lie in the next page.
    const RxLayout layout("over a page's end", [](FakeMemory& memory, std::uint32_t header, auto) {
        const Gpa page = memory.allocate(2 * kPage, kPage) + kPage;
        return RxBufferBuilder(memory).piece_at(page - 300 - header, header + 1024).build();
    });
    FakeMemory memory(16_MiB);
    HookedReceiveBed<CutBack> bed(
        memory, {.driver = {.rx_size = 64, .layout = layout}, .geometry = {4018, 1024}});
    bed.driver().rx().tolerate_scratch();
    bed.driver().refill();
    Bitmap bitmap = bitmap_for(memory);
    bed.start();
    bed.set_log(bitmap.log());
    REQUIRE(bed.arrive(make_frame({.size = size})));
    REQUIRE(bed.poll() == 1);

    const Pages marked = bitmap.pages();
    const std::uint16_t last = size == 1024 ? 0 : 1;
    const std::uint64_t page = bed.driver().receiveq().desc(last).addr / kPage;
    CHECK(marked.contains(page));
    CHECK(marked.contains(page + 1));
}

TEST_CASE("what is posted is marked when the queue stops, and only where the NIC may write") {
    UnrulyBed bed(QueueGeometry::whole(1518));
    Pages posted;
    for (void* buffer : bed.posted) posted.insert(bed.page_of(buffer));

    bed.path.detach();

    CHECK(bed.bitmap.pages() == posted);
}

}  // namespace zecorx::test
