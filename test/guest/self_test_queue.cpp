#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <chrono>

#include "test_device.h"

using namespace zecorx;
using namespace zecorx::test;
using namespace std::chrono_literals;

namespace {

struct QueueFixture {
    FakeMemory memory{1_MiB};
    SplitQueueDriver queue{memory, 8};
    SplitTestDevice device{memory, queue};
    Gpa buffer = memory.allocate(4096);

    // A published chain of one piece.
    std::uint16_t give() {
        const Piece piece{buffer, 64, true};
        const auto head = queue.add({&piece, 1});
        REQUIRE(head);
        queue.publish();
        return *head;
    }
};

}  // namespace

TEST_CASE_METHOD(QueueFixture, "the device sees a chain as it was added, once it is published") {
    const std::vector<Piece> pieces{
        {buffer, 12, false}, {buffer + 100, 50, true}, {buffer + 300, 7, true}};
    const DescForm form = GENERATE_COPY(DescForm::kDirect, DescForm::kIndirect);
    const auto head = queue.add(pieces, form);
    REQUIRE(head);
    CHECK_FALSE(device.acquire());

    queue.publish();
    const auto chain = device.acquire();
    REQUIRE(chain);
    CHECK(chain->head == *head);
    REQUIRE(chain->pieces.size() == 3);
    for (std::size_t i = 0; i < 3; ++i) {
        CHECK(chain->pieces[i].gpa == pieces[i].gpa);
        CHECK(chain->pieces[i].len == pieces[i].len);
        CHECK(chain->pieces[i].device_writable == pieces[i].device_writable);
    }
    CHECK(queue.free_descriptors() == (form == DescForm::kIndirect ? 7U : 5U));
}

TEST_CASE_METHOD(QueueFixture, "a chain that needs more descriptors than are free is refused") {
    const std::vector<Piece> pieces(3, Piece{buffer, 8, true});
    CHECK(queue.add(pieces));
    CHECK(queue.add(pieces));
    CHECK_FALSE(queue.add(pieces));
    CHECK(queue.free_descriptors() == 2);
    CHECK(queue.outstanding() == 2);
}

TEST_CASE("indices wrap at 16 bits with every chain coming back in order") {
    FakeMemory memory(1_MiB);
    SplitQueueDriver queue(memory, 4, 65530);
    SplitTestDevice device(memory, queue);
    const Piece piece{memory.allocate(128), 128, true};
    for (std::uint32_t i = 0; i < 100; ++i) {
        while (queue.add({&piece, 1})) {
        }
        queue.publish();
        while (const auto chain = device.acquire()) device.complete(chain->head, i);
        device.publish();
        const auto reaped = queue.reap();
        CHECK(reaped.size() == 4);
        CHECK(reaped.at(0).len == i);
    }
    CHECK(queue.violations().count() == 0);
    CHECK(queue.order_violations() == 0);
    CHECK(queue.free_descriptors() == 4);
}

TEST_CASE_METHOD(QueueFixture, "completion in order uses descriptors in ring order") {
    for (std::uint16_t i = 0; i < 20; ++i) {
        CHECK(give() == i % 8);
        device.complete(device.acquire()->head, 0);
        device.publish();
        queue.reap();
    }
}

TEST_CASE_METHOD(QueueFixture, "a head returned twice is a violation") {
    const std::uint16_t head = give();
    give();
    device.complete(head, 1);
    device.complete(head, 1);
    device.publish();
    CHECK(queue.reap().size() == 1);
    CHECK(queue.violations().count() == 1);
}

TEST_CASE_METHOD(QueueFixture, "a head that was never given is a violation") {
    give();
    const std::uint32_t id = GENERATE(5U, 8U, 0x1'0000U, 0xffff'ffffU);
    device.complete(id, 1);
    device.publish();
    CHECK(queue.reap().empty());
    CHECK(queue.violations().count() == 1);
}

TEST_CASE_METHOD(QueueFixture, "a head that is added but not published cannot come back") {
    give();
    const Piece piece{buffer, 64, true};
    const auto hidden = queue.add({&piece, 1});
    device.complete(*hidden, 1);
    device.publish();
    CHECK(queue.reap().empty());
    CHECK(queue.violations().count() == 1);
}

TEST_CASE_METHOD(QueueFixture, "a used index that runs ahead or backwards is a violation") {
    give();
    device.publish_idx(GENERATE(as<std::uint16_t>(), 2, 300, 65535));
    CHECK(queue.reap().empty());
    CHECK(queue.violations().count() == 1);
    CHECK(queue.outstanding() == 1);
}

TEST_CASE_METHOD(QueueFixture, "completion out of order is counted, not forbidden") {
    const std::uint16_t first = give();
    const std::uint16_t second = give();
    device.complete(second, 1);
    device.complete(first, 1);
    device.publish();
    CHECK(queue.reap().size() == 2);
    CHECK(queue.order_violations() == 1);
    CHECK(queue.violations().count() == 0);
}

TEST_CASE_METHOD(QueueFixture, "completion out of order is a violation with IN_ORDER") {
    queue.use_in_order();
    const std::uint16_t first = give();
    const std::uint16_t second = give();
    device.complete(second, 1);
    device.complete(first, 1);
    device.publish();
    CHECK(queue.reap().size() == 2);
    CHECK(queue.violations().count() == 1);
}

TEST_CASE_METHOD(QueueFixture, "one used entry stands for a batch where batches are accepted") {
    queue.use_in_order();
    queue.accept_batches();
    give();
    give();
    device.complete(give(), 9);
    device.skip_entries(2);
    device.publish();
    const auto reaped = queue.reap();
    REQUIRE(reaped.size() == 3);
    CHECK(reaped[0].len == 64);
    CHECK(reaped[2].len == 9);
    device.complete(give(), 1);
    device.publish();
    CHECK(queue.reap().size() == 1);

    give();
    device.complete(give(), 1);
    device.publish();
    CHECK(queue.reap().empty());
    CHECK(queue.violations().count() == 1);  // used.idx counts one chain of the two
}

TEST_CASE_METHOD(QueueFixture, "a used length beyond what was posted is a violation") {
    device.complete(give(), 65);
    device.publish();
    CHECK(queue.reap().size() == 1);
    CHECK(queue.violations().count() == 1);
}

TEST_CASE_METHOD(QueueFixture, "a kick is sent for new chains unless the device declines") {
    CHECK_FALSE(queue.kick());
    give();
    CHECK(queue.kick());
    CHECK_FALSE(queue.kick());

    device.word(queue.used_ring(), kRingFlagsOffset) = kUsedNoNotify;
    give();
    CHECK_FALSE(queue.kick());
    CHECK(queue.kicks_sent() == 1);
    CHECK(queue.kicks_suppressed() == 1);
}

TEST_CASE_METHOD(QueueFixture, "with EVENT_IDX a kick is sent when the avail event is passed") {
    queue.use_event_idx();
    std::uint16_t& avail_event = device.word(queue.used_ring(), kRingEntriesOffset + 8 * 8);
    avail_event = 1;
    give();
    CHECK_FALSE(queue.kick());
    give();
    CHECK(queue.kick());
    give();
    CHECK_FALSE(queue.kick());
}

TEST_CASE_METHOD(QueueFixture, "the driver tells the device whether it wants calls") {
    CHECK(device.word(queue.avail_ring(), kRingFlagsOffset) == 0);
    queue.want_calls(false);
    CHECK(device.word(queue.avail_ring(), kRingFlagsOffset) == kAvailNoInterrupt);

    std::uint16_t& used_event = device.word(queue.avail_ring(), kRingEntriesOffset + 2 * 8);
    queue.use_event_idx();
    queue.want_calls(true);
    device.complete(give(), 0);
    device.publish();
    queue.reap();
    CHECK(used_event == 1);
}

TEST_CASE_METHOD(QueueFixture, "waiting for a call ends with the call or the timeout") {
    CHECK_FALSE(queue.wait_call(1ms));
    eventfd_write(queue.call_fd(), 3);
    CHECK(queue.wait_call(1000ms));
    CHECK(queue.drain_calls() == 0);
}
