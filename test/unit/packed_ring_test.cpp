#include "zecorx/packed_ring.h"

#include <algorithm>
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <chrono>
#include <cstdint>
#include <deque>
#include <initializer_list>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "ring_bed.h"

namespace zecorx::test {
namespace {

constexpr std::uint16_t kStateBits = kPackedDescAvail | kPackedDescUsed;

// The driver side written down without any check, so that a test can also do what no driver may.
class RawQueue {
  public:
    explicit RawQueue(std::uint16_t size, std::uint16_t base = kPackedWrap)
        : memory_(4_MiB),
          view_(memory_),
          size_(size),
          desc_(memory_.allocate(packed_ring_size(size), 16)),
          driver_event_(memory_.allocate(sizeof(EventSuppress), 4)),
          device_event_(memory_.allocate(sizeof(EventSuppress), 4)),
          buffer_(memory_.allocate(64_KiB)),
          next_(base & ~kPackedWrap),
          wrap_((base & kPackedWrap) != 0),
          base_(base) {
        // What the turn before left behind: used with the wrap counter of that turn.
        for (std::uint16_t slot = 0; slot < size; ++slot) {
            desc(slot).flags = wrap_of(slot) ? 0 : kStateBits;
        }
    }

    PackedRingLayout layout(bool event_idx = false) const {
        return {memory_.at(desc_, 16),
                memory_.at(driver_event_, 4),
                memory_.at(device_event_, 4),
                size_,
                event_idx,
                base_};
    }
    PackedRing ring(bool event_idx = false) const { return PackedRing(layout(event_idx)); }
    const GuestMemory& guest() const { return view_.guest(); }
    FakeMemory& memory() { return memory_; }

    PackedDesc& desc(std::uint16_t slot) const {
        return *memory_.as<PackedDesc>(desc_ + sizeof(PackedDesc) * slot);
    }
    EventSuppress& driver_event() const { return *memory_.as<EventSuppress>(driver_event_); }
    EventSuppress& device_event() const { return *memory_.as<EventSuppress>(device_event_); }

    // A device-writable buffer.
    PackedDesc buffer(std::uint16_t id, std::uint32_t length = 64, std::uint16_t flags = 0) const {
        return {buffer_, length, id, static_cast<std::uint16_t>(flags | kDescWrite)};
    }
    std::byte* bytes() const { return memory_.at(buffer_, 64_KiB); }

    // Makes a chain available: NEXT on all but the last, the first one's flags last.
    void post(std::span<const PackedDesc> chain) {
        const std::uint16_t first = next_;
        std::uint16_t first_flags = 0;
        for (std::size_t i = 0; i < chain.size(); ++i) {
            PackedDesc entry = chain[i];
            entry.flags |= wrap_ ? kPackedDescAvail : kPackedDescUsed;
            if (i + 1 < chain.size()) entry.flags |= kDescNext;
            if (i == 0) first_flags = std::exchange(entry.flags, desc(next_).flags);
            desc(next_) = entry;
            if (++next_ == size_) {
                next_ = 0;
                wrap_ = !wrap_;
            }
        }
        desc(first).flags = first_flags;
    }
    void post(std::initializer_list<PackedDesc> chain) { post({chain.begin(), chain.size()}); }
    // A chain of `count` buffers.
    void post_chain(std::uint16_t id, std::size_t count) {
        post(std::vector<PackedDesc>(count, buffer(id)));
    }

    // The descriptor of an indirect table that holds these.
    PackedDesc indirect(std::uint16_t id, std::initializer_list<PackedDesc> table) {
        const Gpa at = memory_.allocate(packed_ring_size(static_cast<std::uint32_t>(table.size())));
        std::ranges::copy(table, memory_.as<PackedDesc>(at));
        return {at, static_cast<std::uint32_t>(sizeof(PackedDesc) * table.size()), id,
                kDescIndirect};
    }

    // Where the driver posts next, in the form of a vring base.
    std::uint16_t next() const { return next_ | (wrap_ ? kPackedWrap : 0); }

  private:
    // The wrap counter with which the driver will next post at `slot`.
    bool wrap_of(std::uint16_t slot) const { return (slot >= next_) == wrap_; }

    FakeMemory memory_;
    DeviceView view_;
    std::uint16_t size_;
    Gpa desc_;
    Gpa driver_event_;
    Gpa device_event_;
    Gpa buffer_;
    std::uint16_t next_;
    bool wrap_;
    std::uint16_t base_;
};

RingError try_take(PackedRing& ring, const RawQueue& queue, Chain& chain, Head& head,
                   Direction direction = Direction::kDeviceWritable) {
    return ring.acquire(queue.guest(), direction, chain, head);
}

// The next head; its chain must be a good one.
Head take(PackedRing& ring, const RawQueue& queue) {
    Chain chain;
    Head head;
    REQUIRE(try_take(ring, queue, chain, head) == RingError::kNone);
    return head;
}

// What is found in the next chain; there must be one.
RingError next_error(PackedRing& ring, const RawQueue& queue,
                     Direction direction = Direction::kDeviceWritable) {
    Chain chain;
    Head head;
    REQUIRE(ring.refresh());
    REQUIRE(ring.available() > 0);
    return try_take(ring, queue, chain, head, direction);
}

bool is_used(const PackedDesc& desc, bool wrap) {
    return (desc.flags & kStateBits) == (wrap ? kStateBits : 0);
}

}  // namespace

TEST_CASE("a packed ring goes round at any size") {
    const std::uint16_t size = GENERATE(std::uint16_t{1}, std::uint16_t{2}, std::uint16_t{3},
                                        std::uint16_t{7}, std::uint16_t{100}, std::uint16_t{32768});
    const std::uint16_t start = GENERATE(std::uint16_t{0}, kPackedWrap);
    CAPTURE(size, start);
    RawQueue queue(size, start);
    PackedRing ring = queue.ring();
    CHECK_FALSE(ring.exhausted({0, 1}));
    bool wrap = start != 0;
    for (std::uint32_t i = 0; i < 3U * size + 5; ++i) {
        const auto slot = static_cast<std::uint16_t>(i % size);
        const auto id = static_cast<std::uint16_t>((i * 5) % size);
        REQUIRE(ring.base() == (slot | (wrap ? kPackedWrap : 0)));
        queue.post_chain(id, 1);
        REQUIRE(ring.refresh());
        REQUIRE(ring.available() == 1);
        const Head head = take(ring, queue);
        REQUIRE(head.id == id);
        ring.complete(head, i + 1);
        ring.publish();
        REQUIRE(is_used(queue.desc(slot), wrap));
        REQUIRE(queue.desc(slot).id == id);
        REQUIRE(queue.desc(slot).len == i + 1);
        if (slot + 1 == size) wrap = !wrap;
        REQUIRE(ring.refresh());
        REQUIRE(ring.available() == 0);
    }
}

TEST_CASE("a full packed ring is exhausted, and its chains are read once around") {
    const std::uint16_t size = GENERATE(std::uint16_t{1}, std::uint16_t{5}, std::uint16_t{32768});
    RawQueue queue(size);
    PackedRing ring = queue.ring();
    for (std::uint16_t i = 0; i < size; ++i) queue.post_chain(i, 1);
    std::vector<Head> heads;
    REQUIRE(ring.refresh());
    while (ring.available() > 0) {
        CHECK_FALSE(ring.exhausted({0, 1}));
        heads.push_back(take(ring, queue));
        REQUIRE(ring.refresh());
    }
    REQUIRE(heads.size() == size);
    CHECK(ring.exhausted({0, 1}));
    for (const Head head : heads) ring.complete(head, 1);
    ring.publish();
    CHECK_FALSE(ring.exhausted({0, 1}));
    CHECK(ring.base() == 0);  // the same slot, the other wrap counter
}

TEST_CASE("a batch of used descriptors appears in one step, the first one's") {
    RawQueue queue(8, 6 | kPackedWrap);
    PackedRing ring = queue.ring();
    queue.post_chain(0, 1);
    queue.post_chain(1, 3);  // around the end of the ring
    queue.post_chain(2, 1);
    REQUIRE(ring.refresh());
    REQUIRE(ring.available() == 3);
    const PackedDesc before = queue.desc(6);
    for (std::uint32_t length : {10, 20, 0}) ring.complete(take(ring, queue), length);

    const PackedDesc held_back = queue.desc(6);
    CHECK(held_back.flags == before.flags);
    CHECK(held_back.len == before.len);
    ring.publish();
    const auto check = [&](std::uint16_t slot, std::uint16_t id, std::uint32_t length, bool wrap) {
        const PackedDesc used = queue.desc(slot);
        CHECK(is_used(used, wrap));
        CHECK(used.id == id);
        CHECK(used.len == length);
        CHECK(((used.flags & kDescWrite) != 0) == (length > 0));
    };
    check(6, 0, 10, true);
    check(7, 1, 20, true);
    check(2, 2, 0, false);

    // Nothing new: nothing is written.
    queue.desc(6).flags = 0;
    ring.publish();
    CHECK(queue.desc(6).flags == 0);
}

TEST_CASE("a chain of a packed ring has its buffers in order and the id of the last") {
    RawQueue queue(4);
    PackedRing ring = queue.ring();
    PackedDesc second = queue.buffer(3, 20);
    second.addr += 1000;
    queue.post({queue.buffer(1, 10), second});
    REQUIRE(ring.refresh());
    Chain chain;
    Head head;
    REQUIRE(try_take(ring, queue, chain, head) == RingError::kNone);
    CHECK(head.id == 3);
    CHECK(head.entries == 2);
    REQUIRE(chain.pieces().size() == 2);
    CHECK(chain.pieces()[0].hva == queue.bytes());
    CHECK(chain.pieces()[0].length == 10);
    CHECK(chain.pieces()[1].hva == queue.bytes() + 1000);
    CHECK(chain.pieces()[1].length == 20);
}

TEST_CASE("an indirect table of a packed ring is read in order, and only its WRITE flags count") {
    RawQueue queue(4);
    PackedRing ring = queue.ring();
    const std::uint16_t ignored = kDescNext | kDescIndirect | kPackedDescAvail | kPackedDescUsed;
    queue.post({queue.indirect(
        2, {queue.buffer(9999, 10, ignored), queue.buffer(0, 20), queue.buffer(0, 30, ignored)})});
    queue.post_chain(1, 1);
    REQUIRE(ring.refresh());
    CHECK(ring.available() == 2);
    Chain chain;
    Head head;
    REQUIRE(try_take(ring, queue, chain, head) == RingError::kNone);
    CHECK(head.id == 2);
    CHECK(head.entries == 1);
    CHECK(chain.pieces().size() == 3);
    CHECK(chain.capacity() == 60);
    CHECK(take(ring, queue).id == 1);
}

TEST_CASE("what a driver sends by a packed indirect table may be flagged writable") {
    RawQueue queue(4);
    PackedRing ring = queue.ring();
    queue.post({queue.indirect(0, {queue.buffer(0, 12), queue.buffer(0, 20)})});
    REQUIRE(ring.refresh());
    Chain chain;
    Head head;
    REQUIRE(ring.acquire(queue.guest(), Direction::kDeviceReadable, chain, head) ==
            RingError::kNone);
    CHECK(chain.capacity() == 32);
}

TEST_CASE("calls follow the packed driver's event flags, kicks are disabled") {
    RawQueue queue(8);
    const bool event_idx = GENERATE(false, true);
    PackedRing ring = queue.ring(event_idx);
    queue.driver_event() = {0, kEventEnable};
    CHECK(ring.call_wanted());
    queue.driver_event() = {0, kEventDisable};
    CHECK_FALSE(ring.call_wanted());
    // Without EVENT_IDX a driver cannot name a descriptor: rather one call too many.
    queue.driver_event() = {0, kEventDesc};
    CHECK(ring.call_wanted() == !event_idx);
    queue.device_event() = {0x1234, kEventEnable};
    ring.suppress_kicks();
    CHECK(queue.device_event().flags == kEventDisable);
}

TEST_CASE("a packed driver that names a descriptor is called exactly when it is passed") {
    const std::uint16_t size = GENERATE(std::uint16_t{1}, std::uint16_t{5}, std::uint16_t{64});
    RawQueue queue(size);
    PackedRing ring = queue.ring(true);
    const unsigned seed = std::random_device{}();
    INFO("seed " << seed << ", ring size " << size);
    std::mt19937 random(seed);
    const auto upto = [&](std::uint32_t most) {
        return std::uniform_int_distribution<std::uint32_t>(0, most)(random);
    };
    std::uint64_t used = 0;  // slots since the beginning
    for (int step = 0; step < 3000; ++step) {
        // Named: a descriptor from the next one to be used to almost a turn later.
        const std::uint64_t event = used + upto(size - 1U);
        queue.driver_event() = {
            static_cast<std::uint16_t>(event % size | (event / size % 2 == 0 ? kPackedWrap : 0)),
            kEventDesc};
        std::uint32_t advance = upto(size);
        const bool expected = event < used + advance;
        used += advance;
        while (advance > 0) {
            const std::uint32_t entries = 1 + upto(std::min(advance - 1, 3U));
            queue.post_chain(0, entries);
            REQUIRE(ring.refresh());
            ring.complete(take(ring, queue), 1);
            advance -= entries;
        }
        ring.publish();
        REQUIRE(ring.call_wanted() == expected);
        REQUIRE_FALSE(ring.call_wanted());
    }
}

TEST_CASE("a named descriptor outside the packed ring is harmless") {
    RawQueue queue(5);
    PackedRing ring = queue.ring(true);
    for (std::uint32_t event = 0; event <= 0xffff; ++event) {
        queue.driver_event() = {static_cast<std::uint16_t>(event), kEventDesc};
        CHECK_FALSE(ring.call_wanted());
    }
}

TEST_CASE("a rewound packed ring hands out the held chains again, as the driver wrote them") {
    RawQueue queue(7, 5 | kPackedWrap);
    PackedRing ring = queue.ring();
    for (const std::uint16_t id : {0, 1, 2}) queue.post_chain(id, 2);
    REQUIRE(ring.refresh());
    ring.complete(take(ring, queue), 1);
    ring.publish();
    take(ring, queue);
    take(ring, queue);
    ring.rewind();
    CHECK(ring.base() == 0);  // two slots on: around the end

    REQUIRE(ring.refresh());
    CHECK(ring.available() == 2);
    CHECK(take(ring, queue).id == 1);
    // A ring built from the base stands at the same place.
    PackedRingLayout layout = queue.layout();
    layout.base = ring.base();
    PackedRing restarted(layout);
    REQUIRE(restarted.refresh());
    CHECK(restarted.available() == 2);
    const Head head = take(restarted, queue);
    CHECK(head.id == 1);
    restarted.complete(head, 3);
    restarted.publish();
    CHECK(is_used(queue.desc(0), false));
}

TEST_CASE("news of a packed ring are chains that were made available since the last look") {
    RawQueue queue(8);
    PackedRing ring = queue.ring();
    for (std::uint16_t i = 0; i < 20; ++i) {
        CHECK_FALSE(ring.watch().has_news());
        queue.post_chain(i % 8, 1);
        CHECK(ring.watch().has_news());
        REQUIRE(ring.refresh());
        CHECK_FALSE(ring.watch().has_news());
        ring.complete(take(ring, queue), 64);
        ring.publish();
    }
}

TEST_CASE("refresh looks some chains ahead, and on when they are taken") {
    RawQueue queue(512);
    PackedRing ring = queue.ring();
    for (std::uint16_t i = 0; i < 200; ++i) queue.post_chain(i, 2);
    REQUIRE(ring.refresh());
    CHECK(ring.available() == kLookAhead);
    take(ring, queue);
    CHECK(ring.available() == kLookAhead - 1);
    std::uint16_t taken = 1;
    while (ring.refresh() && ring.available() > 0) {
        const std::uint32_t count = ring.available();
        for (std::uint32_t i = 0; i < count; ++i) REQUIRE(take(ring, queue).id == taken++);
    }
    CHECK(taken == 200);
}

TEST_CASE("hostile descriptors of a packed ring break it with the error that says so") {
    RawQueue queue(8);
    PackedRing ring = queue.ring();
    const PackedDesc good = queue.buffer(0);
    PackedDesc bad = good;
    SECTION("an id outside the ring") {
        bad.id = 8;
        queue.post({bad});
        CHECK(next_error(ring, queue) == RingError::kHead);
    }
    SECTION("the id of an indirect chain outside the ring") {
        queue.post({queue.indirect(8, {good})});
        CHECK(next_error(ring, queue) == RingError::kHead);
    }
    SECTION("a chain without end") {
        for (int i = 0; i < 8; ++i) {
            bad.flags = kDescWrite | kDescNext;
            queue.post({bad});
        }
        CHECK(next_error(ring, queue) == RingError::kLoop);
    }
    SECTION("a chain that goes on into chains that are held") {
        queue.post_chain(0, 3);
        REQUIRE(ring.refresh());
        take(ring, queue);
        for (int i = 0; i < 5; ++i) {
            bad.flags = kDescWrite | kDescNext;
            queue.post({bad});
        }
        CHECK(next_error(ring, queue) == RingError::kLoop);
    }
    SECTION("an address outside the memory") {
        bad.addr = ~0ULL - 16;
        queue.post({bad});
        CHECK(next_error(ring, queue) == RingError::kAddress);
    }
    SECTION("a length that wraps around") {
        bad.len = ~0U;
        queue.post({good, bad});
        CHECK(next_error(ring, queue) == RingError::kAddress);
    }
    SECTION("a device-readable buffer on receive") {
        bad.flags = 0;
        queue.post({good, bad});
        CHECK(next_error(ring, queue) == RingError::kDirection);
    }
    SECTION("a device-writable buffer on transmit") {
        queue.post({good});
        CHECK(next_error(ring, queue, Direction::kDeviceReadable) == RingError::kDirection);
    }
    SECTION("a table with the wrong direction in it") {
        PackedDesc readable = good;
        readable.flags = 0;
        queue.post({queue.indirect(0, {good, readable})});
        CHECK(next_error(ring, queue) == RingError::kDirection);
    }
    SECTION("a table with NEXT") {
        queue.post({queue.indirect(0, {good}), good});
        CHECK(next_error(ring, queue) == RingError::kIndirect);
    }
    SECTION("a table in a chain") {
        queue.post({good, queue.indirect(0, {good})});
        CHECK(next_error(ring, queue) == RingError::kIndirect);
    }
    SECTION("a table of no whole number of descriptors") {
        bad = queue.indirect(0, {good, good});
        bad.len -= 1;
        queue.post({bad});
        CHECK(next_error(ring, queue) == RingError::kIndirect);
    }
    SECTION("an empty table") {
        bad = queue.indirect(0, {good});
        bad.len = 0;
        queue.post({bad});
        CHECK(next_error(ring, queue) == RingError::kIndirect);
    }
    SECTION("a table outside the memory") {
        bad = queue.indirect(0, {good});
        bad.addr = 0x10;
        queue.post({bad});
        CHECK(next_error(ring, queue) == RingError::kIndirectAddress);
    }
}

TEST_CASE("what a packed driver changes after it was counted is found when it is acquired") {
    RawQueue queue(8);
    PackedRing ring = queue.ring();
    Chain chain;
    Head head;
    for (const std::uint16_t id : {0, 1, 2}) queue.post_chain(id, 1);
    REQUIRE(ring.refresh());
    REQUIRE(ring.available() == 3);
    SECTION("a descriptor taken back") {
        queue.desc(0).flags = 0;
        CHECK(try_take(ring, queue, chain, head) == RingError::kTakenBack);
    }
    SECTION("a descriptor marked used") {
        queue.desc(0).flags = kStateBits | kDescWrite;
        CHECK(try_take(ring, queue, chain, head) == RingError::kTakenBack);
    }
    SECTION("chains joined: fewer are left than were counted") {
        queue.desc(0).flags |= kDescNext;
        queue.desc(1).flags |= kDescNext;
        queue.post_chain(3, 1);  // not counted, so not yet to be had
        CHECK(take(ring, queue).entries == 3);
        CHECK(ring.available() == 0);
        CHECK(try_take(ring, queue, chain, head) == RingError::kTakenBack);
        REQUIRE(ring.refresh());
        CHECK(take(ring, queue).id == 3);
    }
    SECTION("a chain grown beyond what was counted") {
        queue.desc(2).flags |= kDescNext;
        queue.post_chain(3, 1);
        take(ring, queue);
        take(ring, queue);
        CHECK(try_take(ring, queue, chain, head) == RingError::kLoop);
    }
    SECTION("a chain cut short leaves descriptors that are chains of their own") {
        queue.post_chain(3, 3);
        REQUIRE(ring.refresh());
        REQUIRE(ring.available() == 4);
        for (int i = 0; i < 3; ++i) take(ring, queue);
        queue.desc(3).flags &= static_cast<std::uint16_t>(~kDescNext);
        CHECK(take(ring, queue).entries == 1);
        REQUIRE(ring.refresh());
        CHECK(ring.available() == 1);
        CHECK(take(ring, queue).entries == 2);
    }
    SECTION("held descriptors made available for the next turn") {
        for (const std::uint16_t id : {3, 4, 5, 6, 7}) queue.post_chain(id, 1);
        REQUIRE(ring.refresh());
        for (int i = 0; i < 8; ++i) take(ring, queue);
        for (std::uint16_t slot = 0; slot < 8; ++slot) {
            queue.desc(slot).flags = kDescWrite | kPackedDescUsed;
        }
        REQUIRE(ring.refresh());
        CHECK(ring.available() == 0);
    }
    SECTION("a chain in which an error was found is not held") {
        queue.desc(0).id = 8;
        CHECK(try_take(ring, queue, chain, head) == RingError::kHead);
        ring.rewind();
        CHECK(ring.base() == kPackedWrap);
        queue.desc(0).id = 0;
        REQUIRE(ring.refresh());
        CHECK(ring.available() == 3);
    }
}

TEST_CASE("no packed descriptor is acquired twice, whatever chains the driver joins") {
    RawQueue queue(8, 5 | kPackedWrap);
    PackedRing ring = queue.ring();
    for (std::uint16_t id = 0; id < 8; ++id) queue.post_chain(id, 1);
    REQUIRE(ring.refresh());
    REQUIRE(ring.available() == 8);
    for (const std::uint16_t slot : {5, 6, 7, 0, 1, 2}) queue.desc(slot).flags |= kDescNext;
    REQUIRE(take(ring, queue).entries == 7);
    // They are held, and the driver makes them available once more.
    for (const std::uint16_t slot : {5, 6, 7}) queue.desc(slot).flags = queue.desc(4).flags;

    CHECK(ring.available() == 1);
    std::uint16_t ids[8];
    const auto accept = [](std::uint32_t, std::uint64_t, std::uint32_t) { return true; };
    CHECK(ring.acquire_singles(ring.available(), ids, accept) == 1);
    REQUIRE(ring.refresh());
    CHECK(ring.available() == 0);
    CHECK(ring.exhausted({0, 1}));
}

TEST_CASE("packed rings of odd alignment, no size or a base outside are refused") {
    RawQueue queue(8);
    const PackedRingLayout good = queue.layout();
    CHECK(good.valid());
    for (const std::uint32_t size : {0U, 32769U, 65536U}) {
        PackedRingLayout bad = good;
        bad.size = size;
        CHECK_FALSE(bad.valid());
    }
    const auto refuse = [&](auto&& spoil) {
        PackedRingLayout bad = good;
        spoil(bad);
        CHECK_FALSE(bad.valid());
    };
    refuse([](PackedRingLayout& bad) { bad.base = 8; });
    refuse([](PackedRingLayout& bad) { bad.base = 8 | kPackedWrap; });
    refuse([](PackedRingLayout& bad) { bad.desc += 8; });
    refuse([](PackedRingLayout& bad) { bad.driver_event += 2; });
    refuse([](PackedRingLayout& bad) { bad.device_event += 2; });
    refuse([](PackedRingLayout& bad) { bad.desc = nullptr; });
    refuse([](PackedRingLayout& bad) { bad.driver_event = nullptr; });
    refuse([](PackedRingLayout& bad) { bad.device_event = nullptr; });
}

namespace {

// A driver, a device that holds chains for a while, and what must be true between them.
class Model {
  public:
    Model(std::uint16_t size, std::mt19937& random)
        : queue_(size, static_cast<std::uint16_t>(random() % size | (random() & kPackedWrap))),
          random_(random),
          size_(size),
          ring_(queue_.ring()),
          reap_(queue_.next()) {
        for (std::uint16_t id = 0; id < size; ++id) ids_.push_back(id);
        std::ranges::shuffle(ids_, random_);
    }

    void step() {
        switch (upto(9)) {
            case 0:
            case 1:
            case 2:
                return post();
            case 3:
            case 4:
                return acquire();
            case 5:
            case 6:
                return complete();
            case 7:
            case 8:
                return reap();
            default:
                return restart();
        }
    }

  private:
    struct Posted {
        std::uint16_t id;
        std::uint16_t entries;
        std::uint32_t capacity;
        std::uint32_t written = 0;
    };

    std::uint32_t upto(std::uint32_t most) {
        return std::uniform_int_distribution<std::uint32_t>(0, most)(random_);
    }

    void post() {
        for (std::uint32_t i = upto(100); i > 0 && free_slots() > 0; --i) {
            const auto entries =
                static_cast<std::uint16_t>(1 + upto(std::min(free_slots() - 1, 4U)));
            const std::uint16_t id = ids_.front();
            ids_.pop_front();
            std::vector<PackedDesc> chain;
            std::uint32_t capacity = 0;
            for (std::uint16_t at = 0; at < entries; ++at) {
                chain.push_back(queue_.buffer(at + 1 == entries ? id : 0xffff, 1 + upto(99)));
                capacity += chain.back().len;
            }
            queue_.post(chain);
            posted_.push_back({id, entries, capacity});
        }
    }

    // posted_ in order: completed_ chains, held_ chains, and those still to be acquired.
    std::uint32_t free_slots() const {
        std::uint32_t used = 0;
        for (const Posted& chain : posted_) used += chain.entries;
        return size_ - used;
    }
    std::uint32_t held_slots() const {
        std::uint32_t slots = 0;
        for (std::size_t i = completed_; i < completed_ + held_; ++i) slots += posted_[i].entries;
        return slots;
    }

    void acquire() {
        REQUIRE(ring_.refresh());
        const auto waiting = static_cast<std::uint32_t>(posted_.size() - completed_ - held_);
        REQUIRE(ring_.available() == std::min(waiting, kLookAhead));
        for (std::uint32_t i = upto(ring_.available()); i > 0; --i) {
            Chain chain;
            Head head;
            REQUIRE(try_take(ring_, queue_, chain, head) == RingError::kNone);
            const Posted& expected = posted_[completed_ + held_++];
            REQUIRE(head.id == expected.id);
            REQUIRE(head.entries == expected.entries);
            REQUIRE(chain.capacity() == expected.capacity);
            heads_.push_back(head);
        }
        REQUIRE(ring_.exhausted({0, 1}) == (held_slots() == size_));
    }

    // A batch; nothing of it is there before it is published.
    void complete() {
        const std::uint32_t count = upto(held_);
        for (std::uint32_t i = 0; i < count; ++i) {
            posted_[completed_].written = upto(posted_[completed_].capacity);
            ring_.complete(heads_.front(), posted_[completed_].written);
            heads_.pop_front();
            if (published_ == completed_) REQUIRE_FALSE(used_at(reap_position(published_)));
            ++completed_;
            --held_;
        }
        if (count > 0) REQUIRE_FALSE(used_at(reap_position(published_)));
        ring_.publish();
        published_ = completed_;
    }

    void reap() {
        for (std::uint32_t i = upto(published_); i > 0; --i) {
            const PackedDesc used = queue_.desc(reap_ & ~kPackedWrap);
            const Posted& expected = posted_.front();
            REQUIRE(used_at(reap_));
            REQUIRE(used.id == expected.id);
            REQUIRE(used.len == expected.written);
            REQUIRE(((used.flags & kDescWrite) != 0) == (expected.written > 0));
            reap_ = advanced(reap_, expected.entries);
            ids_.push_back(expected.id);
            posted_.pop_front();
            --published_;
            --completed_;
        }
        if (published_ == 0 && !posted_.empty()) REQUIRE_FALSE(used_at(reap_));
    }

    // The device stops with chains in its hands and is set up anew from its base.
    void restart() {
        ring_.rewind();
        REQUIRE(ring_.base() == reap_position(completed_));
        held_ = 0;
        heads_.clear();
        if (upto(1) == 0) return;
        PackedRingLayout layout = queue_.layout();
        layout.base = ring_.base();
        REQUIRE(layout.valid());
        ring_ = PackedRing(layout);
    }

    std::uint16_t advanced(std::uint16_t position, std::uint32_t count) const {
        for (; count > 0; --count) {
            if ((++position & ~kPackedWrap) % size_ == 0) {
                position = (position - size_) ^ kPackedWrap;
            }
        }
        return position;
    }
    // Where the driver looks for the used descriptor of posted_[chain].
    std::uint16_t reap_position(std::size_t chain) const {
        std::uint16_t position = reap_;
        for (std::size_t i = 0; i < chain; ++i) position = advanced(position, posted_[i].entries);
        return position;
    }
    bool used_at(std::uint16_t position) const {
        return is_used(queue_.desc(position & ~kPackedWrap), (position & kPackedWrap) != 0);
    }

    RawQueue queue_;
    std::mt19937& random_;
    const std::uint16_t size_;
    PackedRing ring_;
    std::uint16_t reap_;             // where the driver looks next
    std::deque<std::uint16_t> ids_;  // free
    std::deque<Posted> posted_;      // not reaped, in ring order
    std::deque<Head> heads_;         // of the held chains
    std::uint32_t published_ = 0;    // of posted_, from its front
    std::uint32_t completed_ = 0;
    std::uint32_t held_ = 0;
};

}  // namespace

TEST_CASE("a packed ring keeps every chain and its order in random runs", "[random]") {
    const unsigned seed = std::random_device{}();
    std::mt19937 random(seed);
    const std::uint16_t size =
        GENERATE(std::uint16_t{1}, std::uint16_t{2}, std::uint16_t{3}, std::uint16_t{17},
                 std::uint16_t{64}, std::uint16_t{255}, std::uint16_t{1024});
    INFO("seed " << seed << ", ring size " << size);
    Model model(size, random);
    for (int step = 0; step < 5000; ++step) model.step();
}

TEST_CASE("a packed driver gets back every chain, from whatever position the ring starts") {
    const std::uint16_t size = GENERATE(std::uint16_t{1}, std::uint16_t{6}, std::uint16_t{97});
    const std::uint16_t start = GENERATE(std::uint16_t{0}, std::uint16_t{91});
    const DescForm form = GENERATE(DescForm::kDirect, DescForm::kIndirect);
    FakeMemory memory(16_MiB);
    PackedQueueDriver queue(memory, size, start);
    queue.use_event_idx();
    const DeviceView view(memory);
    PackedRing ring = view.ring(queue, memory, true);
    ring.suppress_kicks();
    const std::vector<Piece> pieces(3, {memory.allocate(64), 64, true});
    for (std::uint32_t round = 0; round < 500; ++round) {
        std::vector<UsedHead> expected;
        for (std::size_t count = 1 + round % 3; count > 0; --count) {
            const auto id = queue.add(std::span(pieces).first(1 + (round + count) % 3), form);
            if (id) expected.push_back({*id, 60});
        }
        queue.publish();
        queue.kick();
        REQUIRE(ring.refresh());
        REQUIRE(ring.available() == expected.size());
        std::vector<Head> heads;
        while (ring.available() > 0) {
            Chain chain;
            REQUIRE(ring.acquire(view.guest(), Direction::kDeviceWritable, chain,
                                 heads.emplace_back()) == RingError::kNone);
        }
        for (const Head head : heads) ring.complete(head, 60);
        REQUIRE(queue.reap().empty());
        ring.publish();
        REQUIRE(ring.call_wanted() == !expected.empty());
        const std::vector<UsedHead> used = queue.reap();
        REQUIRE(std::ranges::equal(used, expected, {}, &UsedHead::head, &UsedHead::head));
        REQUIRE(ring.base() == queue.next_used());
    }
    queue.audit();
    CHECK(queue.violations().count() == 0);
    CHECK(queue.order_violations() == 0);
    CHECK(queue.kicks_sent() == 0);
}

TEST_CASE("a packed driver and the device on two threads lose nothing", "[threads]") {
    constexpr std::uint32_t kChains = 100'000;
    FakeMemory memory(4_MiB);
    PackedQueueDriver queue(memory, 100);
    const DeviceView view(memory);
    PackedRing ring = view.ring(queue, memory);
    const std::vector<Piece> pieces(3, {memory.allocate(64), 64, true});
    std::atomic<bool> failed{false};

    // Lengths count on, so that the driver notices a used descriptor it sees too early.
    std::thread device([&] {
        std::uint32_t completed = 0;
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
        while (completed < kChains && !failed) {
            if (std::chrono::steady_clock::now() > deadline) failed = true;
            ring.refresh();
            for (std::uint32_t i = ring.available(); i > 0; --i) {
                Chain chain;
                Head head;
                failed = failed || ring.acquire(view.guest(), Direction::kDeviceWritable, chain,
                                                head) != RingError::kNone;
                ring.complete(head, completed++ % 64);
            }
            ring.publish();
            std::this_thread::yield();
        }
    });
    std::uint32_t added = 0;
    std::uint32_t reaped = 0;
    bool lengths_right = true;
    while (reaped < kChains && !failed) {
        while (added < kChains && queue.add(std::span(pieces).first(1 + added % 3))) ++added;
        queue.publish();
        for (const UsedHead& used : queue.reap()) {
            lengths_right = lengths_right && used.len == reaped++ % 64;
        }
        std::this_thread::yield();
    }
    device.join();
    CHECK_FALSE(failed);
    CHECK(lengths_right);
    CHECK(reaped == kChains);
    CHECK(queue.violations().count() == 0);
}

}  // namespace zecorx::test
