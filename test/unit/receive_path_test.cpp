#include "zecorx/receive_path.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <random>
#include <string>

#include "receive_bed.h"

namespace zecorx::test {
namespace {

using namespace std::chrono_literals;

Frame frame_of(std::uint32_t seq, std::size_t size) {
    return make_frame({.seq = seq, .size = size});
}

// Sequence numbers of what the guest received; 0xffffffff for a frame with a wrong byte.
std::vector<std::uint32_t> sequence_of(const std::vector<ReceivedFrame>& frames) {
    std::vector<std::uint32_t> numbers;
    for (const ReceivedFrame& frame : frames) {
        numbers.push_back(check_frame(frame.bytes).value_or(0xffffffff));
    }
    return numbers;
}

void require_clean(ReceiveBed& bed) {
    CHECK(bed.driver().violations() == std::vector<std::string>{});
    CHECK(bed.driver().rx().queue().order_violations() == 0);
}

}  // namespace

TEST_CASE("a posted guest buffer receives the frame without a copy") {
    const std::uint64_t packed = GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureRingPacked});
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory,
                   {.driver = {.features = kFeatureVersion1 | kFeatureNetMrgRxbuf | packed}});
    bed.driver().refill();
    bed.start();

    REQUIRE(bed.arrive(frame_of(7, 1514)));
    CHECK(bed.poll() == 1);

    const auto frames = bed.driver().receive();
    CHECK(sequence_of(frames) == std::vector<std::uint32_t>{7});
    CHECK(frames[0].used_lens == std::vector<std::uint32_t>{1514 + 12});
    CHECK(frames[0].header.num_buffers == 1);
    CHECK(bed.delivered_by_dma() == 1);
    require_clean(bed);
}

TEST_CASE("every layout a guest posts gets the same bytes, by DMA or by copy") {
    const std::uint64_t features =
        GENERATE(kFeatureVersion1 | kFeatureNetMrgRxbuf, std::uint64_t{kFeatureVersion1},
                 std::uint64_t{0}, std::uint64_t{kFeatureNetMrgRxbuf},
                 kFeatureVersion1 | kFeatureNetMrgRxbuf | kFeatureRingPacked,
                 kFeatureVersion1 | kFeatureRingPacked);
    for (const RxLayout& layout : RxLayout::whole_frame_layouts()) {
        DYNAMIC_SECTION(layout.name() << ", features " << features) {
            FakeMemory memory(FakeMemory::equal_regions(4, 8_MiB, 0));
            ReceiveBed bed(memory, {.driver = {.features = features, .layout = layout}});
            bed.driver().refill();
            bed.start();
            std::vector<std::uint32_t> sent, received;
            for (std::uint32_t seq = 0; seq < 700; ++seq) {
                REQUIRE(bed.arrive(frame_of(seq, 60 + seq * 2 % 1455)));
                sent.push_back(seq);
                bed.poll();
                for (const std::uint32_t number : sequence_of(bed.driver().receive())) {
                    received.push_back(number);
                }
            }
            CHECK(received == sent);
            require_clean(bed);
        }
    }
}

TEST_CASE("a buffer takes DMA exactly when it holds the longest frame") {
    const std::uint32_t f = PortGeometry{}.max_frame(true);
    const std::uint32_t length = GENERATE_COPY(f - 1, f, f + 1);
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.layout = RxLayout::single(length)}});
    bed.driver().refill();
    bed.start();

    REQUIRE(bed.arrive(frame_of(1, 1514)));
    bed.poll();

    CHECK(sequence_of(bed.driver().receive()) == std::vector<std::uint32_t>{1});
    CHECK(bed.delivered_by_dma() == (length >= f ? 1 : 0));
    CHECK(bed.copied(CopyReason::kSmall) == (length >= f ? 0 : 1));
    require_clean(bed);
}

TEST_CASE("the longest frame is copied as far as its last byte, which has a piece of its own") {
    const std::uint64_t merge = GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureNetMrgRxbuf});
    const std::uint32_t f = PortGeometry{}.max_frame(true);
    const RxLayout layout(
        "the last byte apart", [](FakeMemory& memory, std::uint32_t header, std::size_t) {
            return RxBufferBuilder(memory).piece(header + f - 1).piece(1).piece(100).build();
        });
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.features = kFeatureVersion1 | merge, .layout = layout}});
    bed.driver().refill();
    bed.start();

    REQUIRE(bed.arrive(make_frame({.seq = 1, .size = f, .vlan = 5})));
    bed.poll();

    CHECK(sequence_of(bed.driver().receive()) == std::vector<std::uint32_t>{1});
    CHECK(bed.copied(CopyReason::kSmall) == 1);
    require_clean(bed);
}

TEST_CASE("a buffer that is not contiguous for the device is copied and counted") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.layout = RxLayout::page_crossing()},
                            .iova = DeviceView::Iova::kScattered});
    bed.driver().refill();
    bed.start();

    REQUIRE(bed.arrive(frame_of(1, 1000)));
    bed.poll();

    CHECK(sequence_of(bed.driver().receive()) == std::vector<std::uint32_t>{1});
    CHECK(bed.copied(CopyReason::kCrossing) == 1);
    require_clean(bed);
}

TEST_CASE("an odd data address is copied, because the NIC ignores bit 0") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.layout = RxLayout::odd_address()}});
    bed.driver().refill();
    bed.start();

    REQUIRE(bed.arrive(frame_of(1, 200)));
    bed.poll();

    CHECK(sequence_of(bed.driver().receive()) == std::vector<std::uint32_t>{1});
    CHECK(bed.copied(CopyReason::kLayout) == 1);
    require_clean(bed);
}

TEST_CASE("a frame that does not fit its chain is dropped whole and its head returns empty") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.features = kFeatureVersion1, .layout = RxLayout::tiny()}});
    bed.driver().refill();
    bed.start();

    REQUIRE(bed.arrive(frame_of(1, 1000)));
    REQUIRE(bed.arrive(frame_of(2, 100)));
    bed.poll();

    CHECK(sequence_of(bed.driver().receive()) == std::vector<std::uint32_t>{2});
    CHECK(bed.driver().rx().empty_completions() == 1);
    CHECK(bed.dropped(DropReason::kTooBig) == 1);
    require_clean(bed);
}

TEST_CASE("with mergeable buffers a frame spreads over as many short chains as it takes") {
    const std::uint32_t length = GENERATE(40u, 128u, 512u, 1000u, 1529u);
    const std::uint64_t packed = GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureRingPacked});
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.features = kFeatureVersion1 | kFeatureNetMrgRxbuf | packed,
                                       .layout = RxLayout::tiny(length)}});
    bed.driver().refill();
    bed.start();
    std::vector<std::uint32_t> sent, received;
    for (std::uint32_t seq = 0; seq < 400; ++seq) {
        REQUIRE(bed.arrive(frame_of(seq, 60 + seq * 11 % 1455)));
        sent.push_back(seq);
        bed.poll();
        for (const ReceivedFrame& frame : bed.driver().receive()) {
            received.push_back(check_frame(frame.bytes).value_or(0xffffffff));
            const std::size_t needed = (12 + frame.bytes.size() + length - 1) / length;
            CHECK(frame.header.num_buffers == needed);
        }
    }
    CHECK(received == sent);
    CHECK(bed.copied(CopyReason::kSmall) == 400);
    require_clean(bed);
}

TEST_CASE("a frame waits until the driver has posted enough short chains for it") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.layout = RxLayout::tiny(512)}});
    bed.start();
    REQUIRE(bed.arrive(frame_of(1, 1514)));
    REQUIRE(bed.arrive(frame_of(2, 60)));
    bed.driver().rx().refill(2);
    CHECK(bed.poll() == 0);
    CHECK(bed.driver().receiveq().used_idx() == 0);

    bed.driver().rx().refill(1);
    CHECK(bed.poll() == 1);
    CHECK(bed.driver().receiveq().used_idx() == 3);
    bed.driver().rx().refill(1);
    CHECK(bed.poll() == 1);

    CHECK(sequence_of(bed.driver().receive()) == std::vector<std::uint32_t>{1, 2});
    require_clean(bed);
}

TEST_CASE(
    "a frame that needs more chains than the ring holds is dropped, and the next one served") {
    // Of linux_old's two descriptors the ring holds eight; of 1024 bytes each the frame needs nine.
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.rx_size = 16, .layout = RxLayout::linux_old()},
                            .geometry = {PortGeometry{9000}.max_frame(true), 1024}});
    bed.driver().rx().tolerate_scratch(2048);
    bed.driver().refill();
    bed.start();
    REQUIRE(bed.arrive(frame_of(1, 9014)));
    REQUIRE(bed.arrive(frame_of(2, 8192)));
    bed.poll();
    CHECK(bed.dropped(DropReason::kTooBig) == 1);
    bed.driver().receive();
    CHECK(bed.driver().rx().empty_completions() == 8);
    bed.poll();
    CHECK(sequence_of(bed.driver().receive()) == std::vector<std::uint32_t>{2});
    require_clean(bed);
}

TEST_CASE("short chains and long ones may follow each other in any order") {
    FakeMemory memory(32_MiB);
    ReceiveBed bed(memory, {.nic_ring = 64});
    bed.start();
    std::vector<std::uint32_t> sent, received;
    std::uint32_t seq = 0;
    for (int round = 0; round < 200; ++round) {
        const std::array layouts{RxLayout::tiny(300), RxLayout::dpdk(), RxLayout::linux_old()};
        bed.driver().rx().set_layout(layouts[static_cast<std::size_t>(round) % layouts.size()]);
        bed.driver().rx().refill(static_cast<std::size_t>(round % 7));
        for (int i = 0; i < 2; ++i) {
            sent.push_back(seq);
            REQUIRE(bed.arrive(frame_of(seq, 60 + seq * 7 % 1400)));
            ++seq;
        }
        bed.poll();
        for (const std::uint32_t number : sequence_of(bed.driver().receive())) {
            received.push_back(number);
        }
    }
    CHECK(received == sent);
    CHECK(bed.delivered_by_dma() > 0);
    CHECK(bed.copied(CopyReason::kSmall) > 0);
    require_clean(bed);
}

TEST_CASE("a mergeable chain that cannot hold the header costs the frame, not the ring") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.layout = RxLayout::tiny(5)}});
    bed.driver().refill();
    bed.start();
    REQUIRE(bed.arrive(frame_of(1, 60)));
    bed.poll();
    CHECK(bed.dropped(DropReason::kTooBig) == 1);
    CHECK(bed.driver().receive().empty());
    CHECK_FALSE(bed.path().broken());
}

TEST_CASE("frames wait in order for a driver that posts late") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {});
    bed.start();
    for (std::uint32_t seq = 0; seq < 40; ++seq) REQUIRE(bed.arrive(frame_of(seq, 64)));
    CHECK(bed.poll() + bed.poll() == 0);

    bed.driver().refill();
    bed.poll();

    const auto numbers = sequence_of(bed.driver().receive());
    REQUIRE(numbers.size() == 40);
    CHECK(std::ranges::is_sorted(numbers));
    CHECK(bed.copied(CopyReason::kStarved) == 40);
    require_clean(bed);
}

TEST_CASE("beyond the pending cap the newest frames are dropped and the oldest survive") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.nic_ring = 128, .pending_cap = 16});
    bed.start();
    for (std::uint32_t seq = 0; seq < 100; ++seq) {
        REQUIRE(bed.arrive(frame_of(seq, 64)));
        bed.poll();
    }
    CHECK(bed.dropped(DropReason::kNoBuffer) == 84);

    bed.driver().refill();
    bed.poll();

    const auto numbers = sequence_of(bed.driver().receive());
    REQUIRE(numbers.size() == 16);
    CHECK(numbers.front() == 0);
    CHECK(numbers.back() == 15);
    require_clean(bed);
}

TEST_CASE("zero copy returns as soon as the driver refills after starvation") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.nic_ring = 128});
    bed.start();
    for (std::uint32_t seq = 0; seq < 64; ++seq) REQUIRE(bed.arrive(frame_of(seq, 64)));
    bed.poll();
    bed.driver().refill();
    std::uint32_t seq = 64;
    for (int round = 0; round < 40; ++round) {
        for (int i = 0; i < 16; ++i) REQUIRE(bed.arrive(frame_of(seq++, 64)));
        bed.poll();
        bed.driver().receive();
    }

    const std::uint64_t before = bed.delivered_by_dma();
    for (int round = 0; round < 10; ++round) {
        for (int i = 0; i < 16; ++i) REQUIRE(bed.arrive(frame_of(seq++, 64)));
        bed.poll();
        bed.driver().receive();
    }

    CHECK(bed.delivered_by_dma() - before == 160);
    require_clean(bed);
}

TEST_CASE("a NIC ring larger than the guest's ring still gets zero copy") {
    FakeMemory memory(32_MiB);
    ReceiveBed bed(memory, {.driver = {.rx_size = 256}, .nic_ring = 512});
    bed.driver().refill();
    bed.start();
    std::uint32_t seq = 0;
    for (int round = 0; round < 2000; ++round) {
        for (int i = 0; i < 12; ++i) bed.arrive(frame_of(seq++, 64));
        bed.poll();
        bed.driver().receive();
    }

    const std::uint64_t received = bed.counters().rx_packets.get();
    CHECK(bed.delivered_by_dma() * 100 >= received * 95);
    require_clean(bed);
}

TEST_CASE("a stop gives every buffer back and rewinds to the used index") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {});
    bed.driver().refill();
    bed.start();
    for (std::uint32_t seq = 0; seq < 10; ++seq) REQUIRE(bed.arrive(frame_of(seq, 64)));
    bed.poll();
    CHECK(bed.driver().receive().size() == 10);

    CHECK(bed.stop() == 10);
    CHECK(bed.path().idle() == bed.buffer_count());

    bed.start();
    for (std::uint32_t seq = 10; seq < 20; ++seq) REQUIRE(bed.arrive(frame_of(seq, 64)));
    bed.poll();
    CHECK(sequence_of(bed.driver().receive()).front() == 10);
    require_clean(bed);
}

TEST_CASE("frames pending at a stop are counted as lost") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {});
    bed.start();
    for (std::uint32_t seq = 0; seq < 5; ++seq) REQUIRE(bed.arrive(frame_of(seq, 64)));
    bed.poll();
    bed.stop();
    CHECK(bed.dropped(DropReason::kStopped) == 5);
    CHECK(bed.path().idle() == bed.buffer_count());
}

TEST_CASE("a buffer the NIC returns out of order breaks the ring") {
    FakeMemory memory(16_MiB);
    VmCounters counters;
    std::vector<FakeBuffer> buffers(4);
    ReceivePath<FakeBuffers> path(4, {.geometry = QueueGeometry::whole(1518), .pending_cap = 4},
                                  counters);
    for (FakeBuffer& buffer : buffers) path.give_back(&buffer);
    NetDriver driver(memory);
    driver.refill();
    const DeviceView view(memory);
    path.attach(view.ring(driver.receiveq(), memory), view.guest(), kFeatureVersion1);
    std::array<void*, 2> posted{};
    REQUIRE(path.dequeue(posted, Refill::kMustSupply));

    path.returned(posted[1], {.length = 64});

    CHECK(path.broken());
    CHECK(path.error() == RingError::kOrder);
}

TEST_CASE("a burst is completed up to a buffer that is out of order") {
    FakeMemory memory(16_MiB);
    VmCounters counters;
    std::vector<FakeBuffer> buffers(4);
    ReceivePath<FakeBuffers> path(4, {.geometry = QueueGeometry::whole(1518), .pending_cap = 4},
                                  counters);
    for (FakeBuffer& buffer : buffers) path.give_back(&buffer);
    NetDriver driver(memory);
    driver.refill();
    const DeviceView view(memory);
    path.attach(view.ring(driver.receiveq(), memory), view.guest(), kFeatureVersion1);
    std::array<void*, 4> posted{};
    REQUIRE(path.dequeue(posted, Refill::kMustSupply));
    for (FakeBuffer& buffer : buffers) buffer.delivered.length = 64;

    const std::array<void*, 2> burst{posted[0], posted[2]};
    const std::uint32_t completed =
        path.receive(burst, [&](void* frame) { path.returned(frame, {.length = 64}); });

    CHECK(completed == 1);
    CHECK(path.broken());
    CHECK(path.error() == RingError::kOrder);
    CHECK(driver.receiveq().used_idx() == 1);
}

TEST_CASE("each header says what the NIC found of the frame's checksum, not of the one before") {
    const bool zero_copy = GENERATE(true, false);
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.features = kFeatureVersion1 | kFeatureNetMrgRxbuf |
                                                   kFeatureNetGuestCsum},
                            .zero_copy = zero_copy});
    bed.driver().refill();
    bed.start();
    std::uint32_t seq = 0;
    for (const bool verified : {false, true, true, false, true, false, false, true}) {
        bed.verify_checksums(verified);
        REQUIRE(bed.arrive(frame_of(seq, 200)));
        if (seq++ % 3 == 0) bed.poll();
        // So many that every buffer is posted anew, with what was found last in its header.
        for (int i = 0; verified && i < 600; ++i) {
            bed.arrive(frame_of(seq++, 100));
            bed.poll();
            for (const ReceivedFrame& frame : bed.driver().receive()) {
                if (frame.bytes.size() == 100) CHECK(frame.header.flags == kNetHeaderDataValid);
            }
        }
        bed.poll();
        for (const ReceivedFrame& frame : bed.driver().receive()) {
            CHECK(frame.header.flags == (verified ? kNetHeaderDataValid : 0));
        }
    }
    require_clean(bed);
}

TEST_CASE("with zero copy off every frame is copied, and counted as that") {
    const std::uint64_t packed = GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureRingPacked});
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.features = kFeatureVersion1 | kFeatureNetMrgRxbuf | packed},
                            .zero_copy = false});
    bed.driver().refill();
    bed.start();
    for (std::uint32_t seq = 0; seq < 700; ++seq) {
        REQUIRE(bed.arrive(frame_of(seq, 60 + seq)));
        bed.poll();
        CHECK(sequence_of(bed.driver().receive()) == std::vector<std::uint32_t>{seq});
    }
    CHECK(bed.delivered_by_dma() == 0);
    // The NIC's ring was filled when the driver's was half as long.
    CHECK(bed.copied(CopyReason::kDisabled) + bed.copied(CopyReason::kStarved) == 700);
    CHECK(bed.copied(CopyReason::kDisabled) > 400);
    require_clean(bed);
}

TEST_CASE("a frame longer than the NIC may write is not copied over its chain's end") {
    FakeMemory memory(16_MiB);
    VmCounters counters;
    std::array<std::byte, 2048> room{};
    FakeBuffer buffer{.room = room};
    ReceivePath<FakeBuffers> path(1,
                                  {.geometry = QueueGeometry::whole(1514),
                                   .low_water = 1,
                                   .pending_cap = 1,
                                   .zero_copy = false},
                                  counters);
    path.give_back(&buffer);
    NetDriver driver(memory, {.features = kFeatureVersion1, .layout = RxLayout::single(1514)});
    driver.refill();
    const DeviceView view(memory);
    path.attach(view.ring(driver.receiveq(), memory), view.guest(), kFeatureVersion1);
    for (const std::uint32_t length : {1514U, 1515U, 2048U, 1514U}) {
        std::array<void*, 1> posted{};
        REQUIRE(path.dequeue(posted, Refill::kMustSupply));
        buffer.delivered.length = length;
        CHECK(path.receive(posted,
                           [&](void* frame) { path.returned(frame, {.length = length}); }) == 1);
    }
    CHECK(counters.rx_packets.get() == 2);
    CHECK(counters.dropped[static_cast<std::size_t>(DropReason::kTooBig)].get() == 2);
    CHECK_FALSE(path.broken());
    driver.receive();
    CHECK(driver.violations() == std::vector<std::string>{});
}

TEST_CASE("buffers in turns of several regions take DMA all of them") {
    FakeMemory memory(FakeMemory::equal_regions(3, 8_MiB, 2_MiB));
    const RxLayout in_turns("in_turns", [](FakeMemory& guest, std::uint32_t header, std::size_t i) {
        const Gpa gpa = guest.allocate_in(i % 3, 2048);
        return RxBufferBuilder(guest).piece_at(gpa, header + 1518).build();
    });
    ReceiveBed bed(memory, {.driver = {.features = kFeatureVersion1, .layout = in_turns}});
    bed.driver().refill();
    bed.start();
    for (std::uint32_t seq = 0; seq < 300; ++seq) {
        REQUIRE(bed.arrive(frame_of(seq, 1514)));
        bed.poll();
        CHECK(sequence_of(bed.driver().receive()) == std::vector<std::uint32_t>{seq});
    }
    CHECK(bed.copied(CopyReason::kStarved) + bed.delivered_by_dma() == 300);
    CHECK(bed.delivered_by_dma() >= 256);
    require_clean(bed);
}

TEST_CASE("hostile receive rings break the ring and touch nothing") {
    FakeMemory memory(16_MiB);
    NetDriver driver(memory, {.rx_size = 16});
    SplitQueueDriver& queue = driver.receiveq();
    const Gpa ram = kDefaultRamBase;
    RingError expected{};

    SECTION("an avail index ahead by more than the ring") {
        queue.write_avail_idx(17);
        expected = RingError::kAvailIndex;
    }
    SECTION("a head outside the table") {
        queue.write_avail_entry(0, 16);
        queue.write_avail_idx(1);
        expected = RingError::kHead;
    }
    SECTION("a chain that loops on itself") {
        queue.desc(0) = {ram, 64, kDescWrite | kDescNext, 0};
        queue.write_avail_entry(0, 0);
        queue.write_avail_idx(1);
        expected = RingError::kLoop;
    }
    SECTION("a next index outside the table") {
        queue.desc(0) = {ram, 64, kDescWrite | kDescNext, 16};
        queue.write_avail_entry(0, 0);
        queue.write_avail_idx(1);
        expected = RingError::kNext;
    }
    SECTION("a buffer outside memory") {
        queue.desc(0) = {0x1000, 2048, kDescWrite, 0};
        queue.write_avail_entry(0, 0);
        queue.write_avail_idx(1);
        expected = RingError::kAddress;
    }
    SECTION("a buffer that runs over the end of memory") {
        queue.desc(0) = {ram + 16_MiB - 100, 2048, kDescWrite, 0};
        queue.write_avail_entry(0, 0);
        queue.write_avail_idx(1);
        expected = RingError::kAddress;
    }
    SECTION("an address and length that wrap") {
        queue.desc(0) = {~0ULL - 100, 2048, kDescWrite, 0};
        queue.write_avail_entry(0, 0);
        queue.write_avail_idx(1);
        expected = RingError::kAddress;
    }
    SECTION("a device-readable buffer") {
        queue.desc(0) = {ram, 2048, 0, 0};
        queue.write_avail_entry(0, 0);
        queue.write_avail_idx(1);
        expected = RingError::kDirection;
    }
    SECTION("an indirect table of odd length") {
        queue.desc(0) = {ram, 24, kDescIndirect, 0};
        queue.write_avail_entry(0, 0);
        queue.write_avail_idx(1);
        expected = RingError::kIndirect;
    }
    SECTION("an indirect table in an indirect table") {
        *memory.as<Desc>(ram) = {ram, 16, kDescIndirect, 0};
        queue.desc(0) = {ram, 16, kDescIndirect, 0};
        queue.write_avail_entry(0, 0);
        queue.write_avail_idx(1);
        expected = RingError::kIndirect;
    }
    SECTION("an indirect table outside memory") {
        queue.desc(0) = {0x1000, 32, kDescIndirect, 0};
        queue.write_avail_entry(0, 0);
        queue.write_avail_idx(1);
        expected = RingError::kIndirectAddress;
    }

    VmCounters counters;
    std::vector<FakeBuffer> buffers(8);
    ReceivePath<FakeBuffers> path(8, {.geometry = QueueGeometry::whole(1518), .pending_cap = 2},
                                  counters);
    for (FakeBuffer& buffer : buffers) path.give_back(&buffer);
    const DeviceView view(memory);
    path.attach(view.ring(queue, memory), view.guest(), kFeatureVersion1);
    std::array<void*, 4> posted{};
    REQUIRE(path.dequeue(posted, Refill::kMustSupply));

    CHECK(path.broken());
    CHECK(path.error() == expected);
    for (void* buffer : posted) {
        CHECK(static_cast<FakeBuffer*>(buffer)->iova == FakeBuffer::kHost);
    }
    for (void* buffer : posted) path.returned(buffer, {.length = 64});
    CHECK(path.complete() == 0);
    CHECK(counters.dropped[static_cast<std::size_t>(DropReason::kBroken)].get() == 2);
    CHECK(queue.used_idx() == 0);
}

// --- Frames that span several of the NIC's buffers ---

namespace {

constexpr QueueGeometry kJumboSegments{PortGeometry{9000}.max_frame(true), 1024};

// used.len of a frame of `size` bytes, cut by `nic_buffer` into chains that each hold a piece.
std::vector<std::uint32_t> piece_lengths(std::uint32_t size, std::uint32_t nic_buffer) {
    std::vector<std::uint32_t> lengths;
    for (; size > nic_buffer; size -= nic_buffer) lengths.push_back(nic_buffer);
    lengths.push_back(size + kHeaderSize);
    return lengths;
}

RxLayout header_apart(std::uint32_t length) {
    return {"header apart", [length](FakeMemory& memory, std::uint32_t header, std::size_t) {
                return RxBufferBuilder(memory).piece(header).piece(length).build();
            }};
}

}  // namespace

TEST_CASE("a segmented frame lands in a chain for each piece, and only header sizes of it move") {
    const std::uint32_t size = GENERATE(1024u, 1025u, 1036u, 2048u, 2049u, 9014u, 9018u);
    const RxLayout layout =
        GENERATE(RxLayout::single(1024), header_apart(1024), RxLayout::linux_mergeable());
    CAPTURE(size, layout.name());
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.layout = layout}, .geometry = kJumboSegments});
    bed.driver().rx().tolerate_scratch(kHeaderSize);
    bed.driver().refill();
    bed.start();

    REQUIRE(bed.arrive(frame_of(5, size)));
    CHECK(bed.poll() == 1);

    const auto frames = bed.driver().receive();
    CHECK(sequence_of(frames) == std::vector<std::uint32_t>{5});
    CHECK(frames[0].used_lens == piece_lengths(size, 1024));
    CHECK(frames[0].header.num_buffers == (size + 1023) / 1024);
    CHECK(bed.delivered_by_dma() == 1);
    CHECK(bed.counters().moved_bytes.get() == kHeaderSize * ((size - 1) / 1024));
    require_clean(bed);
}

// Of a virtio-net device: it writes as much as a buffer holds, behind a header of its own.
constexpr QueueGeometry kDeviceWithHeader{1518, 1518, kHeaderSize};

TEST_CASE("a NIC's own header never shows, and is written to no byte that is not the guest's") {
    const std::uint64_t features =
        GENERATE(kFeatureVersion1 | kFeatureNetMrgRxbuf, std::uint64_t{kFeatureVersion1},
                 std::uint64_t{0}, kFeatureVersion1 | kFeatureNetMrgRxbuf | kFeatureRingPacked);
    for (const RxLayout& layout : RxLayout::whole_frame_layouts()) {
        DYNAMIC_SECTION(layout.name() << ", features " << features) {
            FakeMemory memory(FakeMemory::equal_regions(4, 8_MiB, 0));
            ReceiveBed bed(
                memory, {.driver = {.features = features | kFeatureNetGuestCsum, .layout = layout},
                         .geometry = kDeviceWithHeader});
            bed.driver().refill();
            bed.start();
            for (std::uint32_t seq = 0; seq < 700; ++seq) {
                bed.verify_checksums(seq % 3 == 0);
                REQUIRE(bed.arrive(frame_of(seq, 60 + seq * 2 % 1455)));
                bed.poll();
                const auto frames = bed.driver().receive();
                REQUIRE(sequence_of(frames) == std::vector{seq});
                CHECK(frames[0].header.flags == (seq % 3 == 0 ? kNetHeaderDataValid : 0));
                CHECK(frames[0].header.gso_type == kNetHeaderGsoNone);
            }
            require_clean(bed);
        }
    }
}

TEST_CASE("a NIC's own header lands where the guest's will be, or the frame is copied") {
    const auto [features, dma] = GENERATE(std::pair{kFeatureVersion1 | kFeatureNetMrgRxbuf, true},
                                          std::pair{std::uint64_t{kFeatureVersion1}, true},
                                          // A header of 10 bytes is too short for one of 12.
                                          std::pair{std::uint64_t{0}, false});
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.features = features, .layout = RxLayout::linux_small()},
                            .geometry = kDeviceWithHeader});
    bed.driver().refill();
    bed.start();
    for (std::uint32_t seq = 0; seq < 100; ++seq) REQUIRE(bed.arrive(frame_of(seq, 1514)));
    while (bed.poll() > 0) {
    }
    CHECK(bed.driver().receive().size() == 100);
    CHECK(bed.delivered_by_dma() == (dma ? 100 : 0));
    CHECK(bed.copied(CopyReason::kLayout) == (dma ? 0 : 100));
    require_clean(bed);
}

TEST_CASE("what the NIC spills over a buffer behind its own header is dropped as a whole") {
    const std::uint64_t features =
        GENERATE(kFeatureVersion1 | kFeatureNetMrgRxbuf, std::uint64_t{kFeatureVersion1});
    const bool zero_copy = GENERATE(true, false);
    FakeMemory memory(16_MiB);
    ReceiveBed bed(
        memory,
        {.driver = {.features = features}, .geometry = kDeviceWithHeader, .zero_copy = zero_copy});
    bed.driver().rx().tolerate_scratch();
    bed.driver().refill();
    bed.start();
    REQUIRE(bed.arrive(frame_of(1, 1514)));
    bed.arrive_too_long(frame_of(2, 1519));
    bed.arrive_too_long(frame_of(3, 4000));
    REQUIRE(bed.arrive(frame_of(4, 1514)));
    while (bed.poll() > 0) {
    }
    CHECK(sequence_of(bed.driver().receive()) == std::vector<std::uint32_t>{1, 4});
    CHECK(bed.dropped(DropReason::kTooBig) == 2);
    require_clean(bed);
}

TEST_CASE("the longest frame in the smallest buffers takes ten descriptors") {
    const QueueGeometry geometry{PortGeometry{kMaxMtu}.max_frame(true), kNicBufferStep};
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.layout = RxLayout::single(1024)}, .geometry = geometry});
    bed.driver().rx().tolerate_scratch(kHeaderSize);
    bed.driver().refill();
    bed.start();

    REQUIRE(bed.arrive(make_frame({.seq = 3, .size = geometry.max_frame, .vlan = 7})));
    bed.poll();

    const auto frames = bed.driver().receive();
    CHECK(sequence_of(frames) == std::vector<std::uint32_t>{3});
    CHECK(frames[0].heads.size() == 10);
    CHECK_FALSE(bed.arrive(make_frame({.size = geometry.max_frame + 1})));
    require_clean(bed);
}

TEST_CASE("a driver that starves inside a frame gets the rest of it copied") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(
        memory,
        {.driver = {.layout = RxLayout::single(1024)}, .geometry = kJumboSegments, .nic_ring = 64});
    bed.driver().rx().tolerate_scratch(kHeaderSize);
    bed.driver().rx().refill(3);
    bed.start();
    REQUIRE(bed.arrive(frame_of(1, 9014)));
    bed.driver().rx().refill(5);
    CHECK(bed.poll() == 0);
    CHECK(bed.driver().receiveq().used_idx() == 0);

    bed.driver().rx().refill(1);
    CHECK(bed.poll() == 1);

    const auto frames = bed.driver().receive();
    CHECK(sequence_of(frames) == std::vector<std::uint32_t>{1});
    CHECK(frames[0].used_lens == piece_lengths(9014, 1024));
    CHECK(bed.copied(CopyReason::kStarved) == 1);
    // Three chains were posted to the NIC; what is copied begins with the third one's last bytes.
    CHECK(bed.counters().moved_bytes.get() == 2 * kHeaderSize + kHeaderSize + 9014 - 3 * 1024);
    require_clean(bed);
}

TEST_CASE("a piece that meets a short chain fills it and goes on in the next") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(
        memory,
        {.driver = {.layout = RxLayout::single(1024)}, .geometry = kJumboSegments, .nic_ring = 64});
    bed.driver().rx().tolerate_scratch(kHeaderSize);
    bed.driver().rx().refill(2);
    bed.driver().rx().set_layout(RxLayout::tiny(600));
    bed.driver().rx().refill(1);
    bed.driver().rx().set_layout(RxLayout::single(1024));
    bed.driver().refill();
    bed.start();

    REQUIRE(bed.arrive(frame_of(1, 4096)));
    REQUIRE(bed.arrive(frame_of(2, 60)));
    bed.poll();

    const auto frames = bed.driver().receive();
    CHECK(sequence_of(frames) == std::vector<std::uint32_t>{1, 2});
    CHECK(frames[0].used_lens == std::vector<std::uint32_t>{1024, 1024, 600, 424, 1036});
    CHECK(frames[0].header.num_buffers == 5);
    CHECK(bed.copied(CopyReason::kSmall) == 1);
    require_clean(bed);
}

TEST_CASE(
    "a piece the NIC filled with less than the next one's chain begins with costs the frame") {
    const bool posted_late = GENERATE(false, true);
    const std::uint32_t length = GENERATE(0u, 11u, 12u);
    FakeMemory memory(16_MiB);
    VmCounters counters;
    std::vector<FakeBuffer> buffers(4);
    std::array<std::byte, 1024> room{};
    for (FakeBuffer& buffer : buffers) buffer.room = room;
    ReceivePath<FakeBuffers> path(4, {.geometry = kJumboSegments, .pending_cap = 4}, counters);
    for (FakeBuffer& buffer : buffers) path.give_back(&buffer);
    NetDriver driver(memory, {.layout = RxLayout::single(1024)});
    driver.rx().tolerate_scratch();
    if (!posted_late) driver.refill();
    const DeviceView view(memory);
    path.attach(view.ring(driver.receiveq(), memory), view.guest(),
                kFeatureVersion1 | kFeatureNetMrgRxbuf);
    std::array<void*, 3> posted{};
    REQUIRE(path.dequeue(posted, Refill::kMustSupply));
    if (posted_late) driver.refill();

    path.returned(posted[0], {.length = 1024, .end_of_frame = false});
    path.returned(posted[1], {.length = length, .end_of_frame = false});
    path.returned(posted[2], {.length = 100});
    CHECK(path.complete() == 1);

    const bool whole = length >= kHeaderSize;
    CHECK(driver.receive().size() == (whole ? 1 : 0));
    CHECK(counters.dropped[static_cast<std::size_t>(DropReason::kTooBig)].get() == (whole ? 0 : 1));
    CHECK(driver.rx().empty_completions() == (whole ? 0 : 3));
    CHECK_FALSE(path.broken());
}

TEST_CASE("in a segmented queue a driver that merges none gets frames that fit one buffer") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.features = kFeatureVersion1, .layout = RxLayout::page()},
                            .geometry = kJumboSegments});
    bed.driver().refill();
    bed.start();

    for (const std::uint32_t size : {4084u, 4085u, 60u, 9014u})
        REQUIRE(bed.arrive(frame_of(size, size)));
    bed.poll();

    const auto frames = bed.driver().receive();
    CHECK(sequence_of(frames) == std::vector<std::uint32_t>{4084, 60});
    CHECK(frames[0].used_lens == std::vector<std::uint32_t>{4096});
    CHECK(bed.driver().rx().empty_completions() == 2);
    CHECK(bed.dropped(DropReason::kTooBig) == 2);
    CHECK(bed.copied(CopyReason::kUnmerged) == 2);
    require_clean(bed);
}

TEST_CASE("the newest frames are dropped whole, however many buffers each has") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.layout = RxLayout::single(1024)},
                            .geometry = kJumboSegments,
                            .nic_ring = 128,
                            .pending_cap = 16});
    bed.driver().rx().tolerate_scratch(kHeaderSize);
    bed.start();
    // 9 + 2 + 9 buffers: the third frame goes, and nothing of the fourth's one stays in its place.
    REQUIRE(bed.arrive(frame_of(1, 9014)));
    REQUIRE(bed.arrive(frame_of(2, 2000)));
    REQUIRE(bed.arrive(frame_of(3, 9014)));
    bed.poll();
    CHECK(bed.dropped(DropReason::kNoBuffer) == 1);
    CHECK(bed.path().pending() == 11);
    REQUIRE(bed.arrive(frame_of(4, 500)));
    bed.poll();
    CHECK(bed.path().pending() == 12);

    bed.driver().refill();
    bed.poll();

    const auto frames = bed.driver().receive();
    CHECK(sequence_of(frames) == std::vector<std::uint32_t>{1, 2, 4});
    CHECK(frames[1].used_lens == piece_lengths(2000, 1024));
    require_clean(bed);
}

TEST_CASE("the oldest frame stays though it alone is more than the pending cap") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.layout = RxLayout::single(1024)},
                            .geometry = kJumboSegments,
                            .nic_ring = 64,
                            .pending_cap = 4});
    bed.driver().rx().tolerate_scratch(kHeaderSize);
    bed.driver().rx().refill(2);  // bound to its first pieces
    bed.start();
    for (std::uint32_t seq = 1; seq <= 3; ++seq) REQUIRE(bed.arrive(frame_of(seq, 9014)));
    bed.poll();
    CHECK(bed.dropped(DropReason::kNoBuffer) == 2);

    bed.driver().refill();
    bed.poll();

    CHECK(sequence_of(bed.driver().receive()) == std::vector<std::uint32_t>{1});
    require_clean(bed);
}

TEST_CASE("a stop inside a frame gives its buffers and chains back") {
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory,
                   {.driver = {.layout = RxLayout::single(1024)}, .geometry = kJumboSegments});
    bed.driver().rx().tolerate_scratch(1u << 20);
    bed.driver().refill();
    bed.start();
    REQUIRE(bed.arrive(frame_of(1, 3000)));
    bed.arrive_in_part(frame_of(2, 9014), 4);

    CHECK(bed.stop() == 3);
    CHECK(bed.path().idle() == bed.buffer_count());
    bed.start();
    REQUIRE(bed.arrive(frame_of(3, 9014)));
    bed.poll();

    CHECK(sequence_of(bed.driver().receive()) == std::vector<std::uint32_t>{1, 3});
    require_clean(bed);
}

TEST_CASE("the size gate is what the NIC may write to one buffer, to the byte") {
    const bool tag_left_in = GENERATE(false, true);
    const std::uint32_t mtu = GENERATE(1500u, 1501u, 9000u);
    const std::uint32_t rxbuf = GENERATE(0u, 1024u, 2048u, 4096u, 16384u);
    const int off = GENERATE(-1, 0, 1);
    const std::uint32_t f = PortGeometry{mtu}.max_frame(tag_left_in);
    const QueueGeometry geometry = rxbuf == 0 ? QueueGeometry::whole(f) : QueueGeometry{f, rxbuf};
    const std::uint32_t gate = std::min(f, geometry.nic_buffer);
    CAPTURE(f, geometry.nic_buffer, off);
    FakeMemory memory(16_MiB);
    ReceiveBed bed(memory, {.driver = {.layout = RxLayout::single(static_cast<std::uint32_t>(
                                           static_cast<int>(gate) + off))},
                            .geometry = geometry});
    bed.driver().rx().tolerate_scratch(geometry.segmented() ? kHeaderSize : 0);
    bed.driver().refill();
    bed.start();

    for (std::uint32_t seq = 0; seq < 3; ++seq) {
        FrameSpec spec{.seq = seq, .size = f - 2 + seq};
        if (tag_left_in) spec.vlan = 5;
        REQUIRE(bed.arrive(make_frame(spec)));
    }
    bed.poll();

    CHECK(sequence_of(bed.driver().receive()) == std::vector<std::uint32_t>{0, 1, 2});
    CHECK(bed.delivered_by_dma() == (off < 0 ? 0 : 3));
    CHECK(bed.copied(CopyReason::kSmall) == (off < 0 ? 3 : 0));
    CHECK_FALSE(bed.arrive(make_frame({.size = f + 1})));
    require_clean(bed);
}

// --- Chains of many pieces ---

namespace {

// The longest frame reaches all forty pieces.
RxLayout forty_pieces() {
    return {"forty pieces",
            [](FakeMemory& memory, std::uint32_t, std::size_t) {
                const std::vector<std::uint32_t> all_but_one(39, 39);
                return RxBufferBuilder(memory).packed(40 * 39, all_but_one).build();
            },
            MrgRxbuf::kAny, DescForm::kIndirect};
}

ReceiveBedOptions many_pieces(PmdMode pmd, std::uint64_t features) {
    return {.driver = {.features = kFeatureVersion1 | kFeatureIndirectDesc | features,
                       .rx_size = 1024,
                       .layout = forty_pieces()},
            .pmd = pmd};
}

}  // namespace

TEST_CASE("chains of many pieces serve a full FIFO, though only some of them can be bound") {
    const PmdMode pmd = GENERATE(PmdMode::kVector, PmdMode::kBulk, PmdMode::kScalar);
    const std::uint64_t features = GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureNetMrgRxbuf});
    FakeMemory memory(64_MiB);
    ReceiveBed bed(memory, many_pieces(pmd, features));
    bed.driver().refill();
    bed.start();
    std::uint32_t sent = 0;
    std::vector<std::uint32_t> received;
    const auto exchange = [&] {
        // As many as the NIC has buffers for.
        while (bed.arrive(frame_of(sent, 60 + sent * 11 % 1455))) ++sent;
        for (int poll = 0; poll < 20; ++poll) bed.poll();
        for (const std::uint32_t number : sequence_of(bed.driver().receive()))
            received.push_back(number);
        CHECK(received.size() == sent);
    };
    for (int round = 0; round < 12; ++round) {
        exchange();
        if (round == 6) {
            bed.stop();
            bed.start();
        }
    }
    CHECK(sent >= 12 * 64);
    CHECK(std::ranges::is_sorted(received));
    CHECK(bed.delivered_by_dma() == 0);

    bed.driver().rx().set_layout(RxLayout::dpdk());
    for (int round = 0; round < 40; ++round) exchange();
    const std::uint64_t before = bed.delivered_by_dma();
    const std::uint32_t sent_before = sent;
    exchange();
    CHECK(bed.delivered_by_dma() - before == sent - sent_before);
    require_clean(bed);
}

TEST_CASE("a frame in short chains takes no room from the chains of many pieces around it") {
    FakeMemory memory(64_MiB);
    ReceiveBed bed(memory, many_pieces(PmdMode::kScalar, kFeatureNetMrgRxbuf));
    NetReceiver& rx = bed.driver().rx();
    bed.driver().refill();
    bed.start();
    std::uint32_t sent = 0;
    std::vector<std::uint32_t> received;
    const auto exchange = [&] {
        while (bed.arrive(frame_of(sent, 1514))) ++sent;
        for (int poll = 0; poll < 20; ++poll) bed.poll();
        for (const std::uint32_t number : sequence_of(bed.driver().receive()))
            received.push_back(number);
    };
    // Slots that were bound before are posted again with no chain for them.
    for (int round = 0; round < 4; ++round) exchange();
    rx.set_refill_threshold(NetReceiver::kRefillFrozen);
    for (int round = 0; round < 3; ++round) exchange();
    REQUIRE(bed.path().pending() > 0);

    rx.set_layout(RxLayout::tiny(512));
    rx.refill(3);
    rx.set_layout(forty_pieces());
    rx.refill();
    const std::uint64_t before = bed.counters().rx_packets.get();
    exchange();
    CHECK(bed.counters().rx_packets.get() - before > 200);
    CHECK(received.size() == bed.counters().rx_packets.get());
    CHECK(std::ranges::count(received, 0xffffffff) == 0);
    require_clean(bed);
}

TEST_CASE("all frames that waited for a driver go to its chains of many pieces in one poll") {
    FakeMemory memory(64_MiB);
    ReceiveBed bed(memory, many_pieces(PmdMode::kVector, kFeatureNetMrgRxbuf));
    bed.start();
    while (bed.arrive(frame_of(0, 1514))) continue;
    for (int poll = 0; poll < 20; ++poll) bed.poll();
    CHECK(bed.path().pending() == 256);

    bed.driver().refill();
    CHECK(bed.poll() == 256);

    CHECK(bed.path().pending() == 0);
    CHECK(bed.driver().receive().size() == 256);
    require_clean(bed);
}

TEST_CASE("random traffic keeps order, bytes and every frame accounted for", "[random]") {
    const PmdMode pmd = GENERATE(PmdMode::kVector, PmdMode::kBulk, PmdMode::kScalar);
    const std::uint32_t seed = GENERATE(range(1u, 13u));
    std::mt19937 random(seed);
    const auto any = [&](std::uint32_t below) { return random() % below; };
    const std::uint64_t packed = seed % 2 * std::uint64_t{kFeatureRingPacked};
    auto ring = static_cast<std::uint16_t>(16u << any(6));
    if (packed != 0) ring = static_cast<std::uint16_t>(ring + any(ring));
    FakeMemory memory(FakeMemory::equal_regions(4, 16_MiB, 0));
    auto layouts = RxLayout::whole_frame_layouts();
    layouts.push_back(RxLayout::tiny(600));
    ReceiveBed bed(
        memory,
        {.driver = {.features = kFeatureVersion1 | kFeatureNetMrgRxbuf | packed,
                    .rx_size = ring,
                    .layout = layouts[any(static_cast<std::uint32_t>(layouts.size()))]},
         .pmd = pmd,
         .nic_ring = 64u << any(4),
         .pending_cap = 16u << any(5),
         .iova = any(2) != 0u ? DeviceView::Iova::kScattered : DeviceView::Iova::kContiguous});
    CAPTURE(seed, ring, packed);
    bed.driver().rx().set_refill_threshold(1 + any(ring / 2));
    if (any(3) != 0u) bed.driver().refill();
    bed.start();

    std::uint32_t sent = 0;
    std::uint64_t lost = 0;
    std::vector<std::uint32_t> received;
    const auto receive = [&] {
        for (const std::uint32_t number : sequence_of(bed.driver().receive())) {
            received.push_back(number);
        }
    };
    for (int step = 0; step < 1500; ++step) {
        for (std::uint32_t n = any(40); n > 0; --n) {
            if (!bed.arrive(frame_of(sent++, 60 + any(1455)))) ++lost;
        }
        bed.poll();
        if (any(4) != 0u) receive();
        if (any(200) == 0) {
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

    CHECK(std::ranges::is_sorted(received));
    CHECK(std::ranges::adjacent_find(received) == received.end());
    CHECK((received.empty() || received.back() < sent));
    CHECK(received.size() + lost + bed.dropped(DropReason::kNoBuffer) +
              bed.dropped(DropReason::kStopped) ==
          sent);
    bed.stop();
    CHECK(bed.path().idle() == bed.buffer_count());
    require_clean(bed);
}

}  // namespace zecorx::test
