#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "test_device.h"

using namespace zecorx;
using namespace zecorx::test;

namespace {

struct PackedFixture {
    FakeMemory memory{1_MiB};
    PackedQueueDriver queue;
    PackedTestDevice device;
    Gpa buffer = memory.allocate(4096);

    explicit PackedFixture(std::uint16_t size = 8, std::uint16_t first_index = 0)
        : queue(memory, size, first_index), device(memory, queue) {}

    // A published chain.
    std::uint16_t give(std::size_t pieces = 1) {
        const std::vector<Piece> chain(pieces, Piece{buffer, 64, true});
        const auto id = queue.add(chain);
        REQUIRE(id);
        queue.publish();
        return *id;
    }
    std::uint16_t acquire() {
        const auto chain = device.acquire();
        REQUIRE(chain);
        return chain->head;
    }
    std::size_t violations() {
        queue.audit();
        return queue.violations().count();
    }
};

}  // namespace

TEST_CASE_METHOD(PackedFixture, "a packed ring shows a chain as it was added, once published") {
    const std::vector<Piece> pieces{
        {buffer, 12, false}, {buffer + 100, 50, true}, {buffer + 300, 7, true}};
    const DescForm form = GENERATE_COPY(DescForm::kDirect, DescForm::kIndirect);
    const auto id = queue.add(pieces, form);
    REQUIRE(id);
    REQUIRE(queue.add(pieces, form));
    CHECK_FALSE(device.acquire());

    queue.publish();
    const auto chain = device.acquire();
    REQUIRE(chain);
    CHECK(chain->head == *id);
    REQUIRE(chain->pieces.size() == 3);
    for (std::size_t i = 0; i < 3; ++i) {
        CHECK(chain->pieces[i].gpa == pieces[i].gpa);
        CHECK(chain->pieces[i].len == pieces[i].len);
        CHECK(chain->pieces[i].device_writable == pieces[i].device_writable);
    }
    CHECK(queue.free_descriptors() == (form == DescForm::kIndirect ? 6U : 2U));
    CHECK(device.acquire());
    CHECK_FALSE(device.acquire());
}

TEST_CASE("descriptors carry the flags the packed ring's specification gives as bits") {
    PackedFixture ring(2);
    ring.give();
    CHECK(ring.queue.desc(0).flags == (1 << 7 | kDescWrite));
    CHECK(ring.queue.desc(0).id == 1);
    ring.device.complete(ring.acquire(), 5);
    ring.device.publish();
    CHECK(ring.queue.desc(0).flags == (1 << 15 | 1 << 7 | kDescWrite));
    CHECK(ring.queue.reap().at(0).len == 5);
    ring.give(1);
    ring.give(1);  // the second lap
    CHECK(ring.queue.desc(0).flags == (1 << 15 | kDescWrite));
    CHECK(ring.queue.next_avail() == 1);
    CHECK(ring.queue.next_used() == (1 | 1 << 15));
}

TEST_CASE("a packed ring of any size goes round with every chain coming back in order") {
    const std::uint16_t size = GENERATE(as<std::uint16_t>(), 1, 3, 16, 24, 256);
    const std::uint16_t start = GENERATE(as<std::uint16_t>(), 0, 17, 65530);
    const bool in_order = GENERATE(false, true);
    PackedFixture ring(size, start);
    if (in_order) ring.queue.use_in_order();
    std::uint32_t given = 0;
    std::uint32_t returned = 0;
    while (returned < 5U * size) {
        // Chains of 1 to 4 descriptors, as many as there is room for.
        const auto fits = [&] { return ring.queue.free_descriptors() >= 1 + given % 4 % size; };
        for (; fits(); ++given) ring.give(1 + given % 4 % size);
        while (const auto chain = ring.device.acquire()) {
            ring.device.complete(chain->head, static_cast<std::uint32_t>(chain->pieces.size()));
        }
        ring.device.publish();
        for (const UsedHead& used : ring.queue.reap()) {
            CHECK(used.len == 1 + returned % 4 % size);
            ++returned;
        }
        CHECK(returned == given);
    }
    CHECK(ring.queue.used_idx() == ring.queue.next_used());
    CHECK(ring.violations() == 0);
    CHECK(ring.queue.order_violations() == 0);
    CHECK(ring.queue.free_descriptors() == size);
}

TEST_CASE("ids are no ring positions unless IN_ORDER makes them so") {
    PackedFixture ring;
    const bool in_order = GENERATE(false, true);
    if (in_order) ring.queue.use_in_order();
    for (std::uint16_t i = 0; i < 4; ++i) CHECK(ring.give() == (in_order ? i : 7 - i));
}

TEST_CASE("a packed ring starts in the state of one that has been in use") {
    const std::uint16_t start = GENERATE(as<std::uint16_t>(), 0, 3, 8, 11, 16);
    PackedFixture ring(8, start);
    CHECK(ring.queue.used_idx() == (start % 8 | (start / 8 % 2 == 0 ? kPackedWrap : 0)));
    CHECK_FALSE(ring.device.acquire());
    CHECK(ring.queue.reap().empty());
    CHECK(ring.violations() == 0);
}

TEST_CASE_METHOD(PackedFixture, "the used position is where a device has to go on") {
    give(3);
    give(2);
    give(1);
    CHECK(queue.used_idx() == (0 | kPackedWrap));
    device.complete(acquire(), 1);
    device.publish();
    CHECK(queue.used_idx() == (3 | kPackedWrap));
    device.complete(acquire(), 1);
    device.complete(acquire(), 1);
    device.publish();
    CHECK(queue.used_idx() == (6 | kPackedWrap));
    CHECK(queue.reap().size() == 3);
    CHECK(queue.used_idx() == (6 | kPackedWrap));
    give(3);
    device.complete(acquire(), 1);
    device.publish();
    CHECK(queue.used_idx() == 1);
}

TEST_CASE_METHOD(PackedFixture, "completion out of order on a packed ring reuses ids and room") {
    for (std::size_t round = 0; round < 20; ++round) {
        const std::uint16_t first = give(3);
        const std::uint16_t second = give(1);
        const std::uint16_t third = give(2);
        while (device.acquire()) {
        }
        for (const std::uint16_t id : {third, first, second}) device.complete(id, 1);
        device.publish();
        CHECK(queue.reap().size() == 3);
    }
    CHECK(queue.order_violations() == 20);
    CHECK(violations() == 0);
    CHECK(queue.free_descriptors() == 8);
}

TEST_CASE_METHOD(PackedFixture, "completion out of order is a violation with IN_ORDER") {
    queue.use_in_order();
    const std::uint16_t first = give();
    const std::uint16_t second = give();
    device.complete(second, 1);
    device.complete(first, 1);
    device.publish();
    CHECK(queue.reap().size() == 2);
    CHECK(violations() == 1);
}

TEST_CASE_METHOD(PackedFixture,
                 "one used descriptor stands for a batch where batches are accepted") {
    queue.use_in_order();
    queue.accept_batches();
    give(2);
    give(1);
    const std::uint16_t last = give(3);
    device.complete_as(last, 9, 6);
    device.publish();
    CHECK(queue.used_idx() == (6 | kPackedWrap));
    const auto reaped = queue.reap();
    REQUIRE(reaped.size() == 3);
    CHECK(reaped[0].len == 128);
    CHECK(reaped[1].len == 64);
    CHECK(reaped[2].len == 9);
    CHECK(queue.free_descriptors() == 8);
    CHECK(violations() == 0);
}

TEST_CASE_METHOD(PackedFixture, "an id returned twice is a violation") {
    const std::uint16_t id = give();
    give();
    acquire();
    acquire();
    device.complete(id, 1);
    device.complete(id, 1);
    device.publish();
    CHECK(queue.reap().size() == 1);
    CHECK(queue.violations().count() == 1);
    CHECK(queue.reap().empty());
    CHECK(queue.violations().count() == 1);
}

TEST_CASE_METHOD(PackedFixture, "an id that was never given is a violation") {
    give();
    device.complete(GENERATE(0U, 6U, 8U, 0xfff8U, 0xffffU), 1);
    device.publish();
    CHECK(queue.reap().empty());
    CHECK(queue.violations().count() == 1);
}

TEST_CASE_METHOD(PackedFixture, "the id of a descriptor inside a chain is not the chain's") {
    give(2);
    device.complete(queue.desc(0).id, 1);
    device.publish();
    CHECK(queue.reap().empty());
    CHECK(queue.violations().count() == 1);
}

TEST_CASE_METHOD(PackedFixture, "an id that is added but not published cannot come back") {
    give();
    const Piece piece{buffer, 64, true};
    const auto hidden = queue.add({&piece, 1});
    device.complete(*hidden, 1);
    device.publish();
    CHECK(queue.reap().empty());
    CHECK(queue.violations().count() == 1);
}

TEST_CASE_METHOD(PackedFixture, "used flags of the wrong lap are a violation") {
    give();
    device.complete(acquire(), 1);
    device.unpublished()[0].desc.flags ^= kPackedStateFlags;
    device.publish();
    CHECK(queue.reap().empty());
    CHECK(queue.violations().count() == 1);
}

TEST_CASE_METHOD(PackedFixture, "a used length beyond what was posted is a violation") {
    give(2);
    device.complete(acquire(), GENERATE(129U, 0xffff'ffffU));
    device.publish();
    CHECK(queue.reap().size() == 1);
    CHECK(queue.violations().count() == 1);
}

TEST_CASE_METHOD(PackedFixture, "a used length counts with the WRITE flag only") {
    give();
    device.complete(acquire(), 33);
    device.unpublished()[0].desc.flags ^= kDescWrite;
    device.publish();
    CHECK(queue.reap().at(0).len == 0);
    CHECK(queue.violations().count() == 1);
}

TEST_CASE_METHOD(PackedFixture, "a device-readable chain has no used length") {
    const Piece piece{buffer, 64, false};
    REQUIRE(queue.add({&piece, 1}));
    queue.publish();
    const std::uint16_t id = acquire();
    device.complete(id, GENERATE(0U, 1U));
    const bool wrong = device.unpublished()[0].desc.len != 0;
    device.publish();
    CHECK(queue.reap().size() == 1);
    CHECK(queue.violations().count() == (wrong ? 1 : 0));
}

TEST_CASE_METHOD(PackedFixture, "a used descriptor whose flags came before its length is noticed") {
    give();
    device.complete(acquire(), 10);
    device.write_flags(device.unpublished()[0]);
    CHECK(queue.reap().size() == 1);
    device.write_body(device.unpublished()[0]);
    SECTION("by an audit") { CHECK(violations() == 1); }
    SECTION("when the descriptor is used again") {
        device.unpublished().clear();
        for (int i = 0; i < 7; ++i) {
            give();
            device.complete(acquire(), 0);
            device.publish();
            queue.reap();
        }
        CHECK(queue.violations().count() == 0);
        give();
        CHECK(queue.violations().count() == 1);
    }
}

TEST_CASE_METHOD(PackedFixture, "flags that came before the id of a longer chain are noticed") {
    give(2);
    device.complete(acquire(), 10);
    device.write_flags(device.unpublished()[0]);
    CHECK(queue.reap().empty());
    CHECK(queue.violations().count() == 1);
}

TEST_CASE_METHOD(PackedFixture, "a write to any descriptor that is not its to write is noticed") {
    give(3);
    SECTION("inside a chain it holds") {
        device.complete(acquire(), 1);
        queue.desc(GENERATE(as<std::uint16_t>(), 1, 2)).len ^= 1;
        device.publish();
        CHECK(queue.reap().size() == 1);
        CHECK(queue.violations().count() == 1);
    }
    SECTION("which is free") {
        queue.desc(GENERATE(as<std::uint16_t>(), 3, 7)).flags = kPackedStateFlags;
    }
    SECTION("which it has given back") {
        device.complete(acquire(), 1);
        device.publish();
        queue.reap();
        queue.desc(GENERATE(as<std::uint16_t>(), 0, 2)).id ^= 1;
    }
    CHECK(violations() == 1);
}

TEST_CASE_METHOD(PackedFixture, "a changed indirect table is noticed") {
    const std::vector<Piece> pieces(3, Piece{buffer, 64, true});
    REQUIRE(queue.add(pieces, DescForm::kIndirect));
    queue.publish();
    const auto table = memory.as<PackedDesc>(queue.desc(0).addr + 2 * sizeof(PackedDesc));
    device.complete(acquire(), 1);
    table->flags = 0;
    device.publish();
    CHECK(queue.reap().size() == 1);
    CHECK(violations() == 1);
}

TEST_CASE_METHOD(PackedFixture, "a packed ring kicks for new chains unless the device declines") {
    CHECK_FALSE(queue.kick());
    give();
    CHECK(queue.kick());
    CHECK_FALSE(queue.kick());
    queue.device_event().flags = kEventDisable;
    give();
    CHECK_FALSE(queue.kick());
    CHECK(queue.kicks_sent() == 1);
    CHECK(queue.kicks_suppressed() == 1);
    CHECK(violations() == 0);

    queue.device_event().flags = kEventDesc;
    give();
    queue.kick();
    CHECK(violations() == 1);  // not without EVENT_IDX
}

TEST_CASE("with EVENT_IDX a packed ring kicks when the device's position is passed") {
    const std::uint16_t size = GENERATE(as<std::uint16_t>(), 8, 24);
    const std::uint16_t start = GENERATE(as<std::uint16_t>(), 0, 6, 8, 14, 23, 47);
    const std::size_t step = GENERATE(1U, 2U, 3U);
    PackedFixture ring(size, start);
    ring.queue.use_event_idx();
    for (std::size_t ahead = 0; ahead < size; ++ahead) {
        // Counted as two laps of positions, the second with the other wrap counter.
        const auto base = ring.queue.next_avail();
        const std::size_t from = (base & ~kPackedWrap) + ((base & kPackedWrap) != 0 ? 0 : size);
        const std::size_t event = (from + ahead) % (2UL * size);
        ring.queue.device_event() = {
            static_cast<std::uint16_t>(event % size | (event < size ? kPackedWrap : 0)),
            kEventDesc};
        std::size_t given = 0;
        for (; given + step <= size; given += step) {
            ring.give(step);
            CHECK(ring.queue.kick() == (given <= ahead && ahead < given + step));
        }
        for (; given < size; ++given) ring.give();
        ring.queue.kick();
        while (const auto chain = ring.device.acquire()) ring.device.complete(chain->head, 0);
        ring.device.publish();
        ring.queue.reap();
        REQUIRE(ring.queue.free_descriptors() == size);
    }
    CHECK(ring.violations() == 0);
}

TEST_CASE_METHOD(PackedFixture, "the driver of a packed ring tells the device when to call") {
    CHECK(queue.driver_event().flags == kEventEnable);
    queue.want_calls(false);
    CHECK(queue.driver_event().flags == kEventDisable);
    queue.want_calls(true);
    CHECK(queue.driver_event().flags == kEventEnable);

    queue.use_event_idx();
    CHECK(queue.driver_event().flags == kEventDesc);
    CHECK(queue.driver_event().off_wrap == (0 | kPackedWrap));
    for (const std::uint16_t next : {3 | kPackedWrap, 6 | kPackedWrap, 1}) {
        give(3);
        device.complete(acquire(), 0);
        device.publish();
        queue.reap();
        CHECK(queue.driver_event().off_wrap == next);
    }
    queue.want_calls(false);
    CHECK(queue.driver_event().flags == kEventDisable);
}
