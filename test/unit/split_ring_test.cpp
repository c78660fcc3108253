#include "zecorx/split_ring.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "ring_bed.h"

namespace zecorx::test {
namespace {

// The next head; its chain must be a good one.
Head take(SplitRing& ring, const DeviceView& view) {
    Chain chain;
    Head head;
    REQUIRE(ring.acquire(view.guest(), Direction::kDeviceWritable, chain, head) ==
            RingError::kNone);
    return head;
}

}  // namespace

TEST_CASE("ring indices wrap from 65535 to 0 without losing a head") {
    FakeMemory memory(4_MiB);
    SplitQueueDriver queue(memory, 8, 65533);
    const DeviceView view(memory);
    SplitRing ring = view.ring(queue, memory);
    const Piece piece{memory.allocate(64), 64, true};
    for (int round = 0; round < 20; ++round) {
        const auto head = queue.add({&piece, 1});
        REQUIRE(head.has_value());
        queue.publish();
        REQUIRE(ring.refresh());
        REQUIRE(ring.available() == 1);
        const Head taken = take(ring, view);
        CHECK(taken.id == *head);
        ring.complete(taken, 10);
        ring.publish();
        const auto used = queue.reap();
        REQUIRE(used.size() == 1);
        CHECK(used[0].len == 10);
    }
    CHECK(queue.violations().count() == 0);
}

TEST_CASE("completions are invisible to the driver until they are published") {
    FakeMemory memory(4_MiB);
    SplitQueueDriver queue(memory, 8);
    const DeviceView view(memory);
    SplitRing ring = view.ring(queue, memory);
    const Piece piece{memory.allocate(64), 64, true};
    queue.add({&piece, 1});
    queue.add({&piece, 1});
    queue.publish();
    REQUIRE(ring.refresh());
    ring.complete(take(ring, view), 1);
    ring.complete(take(ring, view), 2);
    CHECK(queue.used_idx() == 0);
    ring.publish();
    CHECK(queue.used_idx() == 2);
}

TEST_CASE("a rewound ring hands out the held heads again in the same order") {
    FakeMemory memory(4_MiB);
    SplitQueueDriver queue(memory, 8);
    const DeviceView view(memory);
    SplitRing ring = view.ring(queue, memory);
    const Piece piece{memory.allocate(64), 64, true};
    for (int i = 0; i < 3; ++i) queue.add({&piece, 1});
    queue.publish();
    REQUIRE(ring.refresh());
    const Head first = take(ring, view);
    take(ring, view);
    CHECK(ring.held() == 2);
    ring.rewind();
    CHECK(ring.held() == 0);
    CHECK(ring.available() == 3);
    CHECK(take(ring, view).id == first.id);
}

TEST_CASE("news are chains that were made available since the last look") {
    FakeMemory memory(4_MiB);
    SplitQueueDriver queue(memory, 8, 65534);
    const DeviceView view(memory);
    SplitRing ring = view.ring(queue, memory);
    const Piece piece{memory.allocate(64), 64, true};
    for (int i = 0; i < 4; ++i) {
        CHECK_FALSE(ring.watch().has_news());
        queue.add({&piece, 1});
        CHECK_FALSE(ring.watch().has_news());
        queue.publish();
        CHECK(ring.watch().has_news());
        REQUIRE(ring.refresh());
    }
    CHECK_FALSE(ring.watch().has_news());
}

TEST_CASE("calls follow the driver's NO_INTERRUPT flag, kicks follow ours") {
    FakeMemory memory(4_MiB);
    SplitQueueDriver queue(memory, 8);
    const DeviceView view(memory);
    SplitRing ring = view.ring(queue, memory);
    CHECK(ring.call_wanted());
    queue.want_calls(false);
    CHECK_FALSE(ring.call_wanted());
    ring.suppress_kicks();
    CHECK((queue.used_flags() & kUsedNoNotify) != 0);
}

TEST_CASE("with EVENT_IDX a call is wanted exactly when the used index passes the event") {
    const std::uint16_t start = GENERATE(std::uint16_t{0}, std::uint16_t{65530});
    FakeMemory memory(4_MiB);
    SplitQueueDriver queue(memory, 64, start);
    const DeviceView view(memory);
    SplitRing ring = view.ring(queue, memory, true);
    auto* used_event = memory.as<std::uint16_t>(queue.avail_ring() + kRingEntriesOffset + 2 * 64);
    const Piece piece{memory.allocate(64), 64, true};
    const auto complete = [&](int count) {
        for (int i = 0; i < count; ++i) queue.add({&piece, 1});
        queue.publish();
        REQUIRE(ring.refresh());
        for (int i = 0; i < count; ++i) ring.complete(take(ring, view), 1);
        ring.publish();
        queue.reap();
    };

    *used_event = static_cast<std::uint16_t>(start + 5);
    complete(5);
    CHECK_FALSE(ring.call_wanted());
    complete(1);
    CHECK(ring.call_wanted());
    complete(10);
    CHECK_FALSE(ring.call_wanted());
    // A burst that passes the event in its middle.
    *used_event = static_cast<std::uint16_t>(start + 20);
    complete(10);
    CHECK(ring.call_wanted());
    CHECK_FALSE(ring.call_wanted());
}

TEST_CASE("with EVENT_IDX a driver is asked for one kick in a whole turn of the index") {
    FakeMemory memory(4_MiB);
    SplitQueueDriver queue(memory, 64);
    queue.use_event_idx();
    const DeviceView view(memory);
    SplitRing ring = view.ring(queue, memory, true);
    ring.suppress_kicks();
    const Piece piece{memory.allocate(64), 64, true};
    for (int i = 0; i < 2 * 65536; ++i) {
        queue.add({&piece, 1});
        queue.publish();
        queue.kick();
        REQUIRE(ring.refresh());
        ring.complete(take(ring, view), 1);
        ring.publish();
        queue.reap();
    }
    CHECK(queue.kicks_sent() <= 2);
    CHECK(queue.violations().count() == 0);
}

TEST_CASE("rings of odd size or alignment are refused") {
    FakeMemory memory(4_MiB);
    SplitQueueDriver queue(memory, 8);
    const SplitRingLayout good = DeviceView::layout(queue, memory);
    CHECK(good.valid());
    for (const std::uint32_t size : {0u, 3u, 65536u}) {
        SplitRingLayout bad = good;
        bad.size = size;
        CHECK_FALSE(bad.valid());
    }
    SplitRingLayout bad = good;
    bad.desc += 8;
    CHECK_FALSE(bad.valid());
    bad = good;
    bad.used += 2;
    CHECK_FALSE(bad.valid());
    bad = good;
    bad.avail = nullptr;
    CHECK_FALSE(bad.valid());
}

}  // namespace zecorx::test
