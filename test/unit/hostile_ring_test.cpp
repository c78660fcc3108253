// Drivers that lie in their rings, on either kind of ring: what is known to have broken other
// backends. Guest memory lies between guard pages, so that a read or write beside it ends the test.

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <vector>

#include "guest/scribbler.h"
#include "receive_bed.h"
#include "transmit_bed.h"

namespace zecorx::test {
namespace {

// For a transmitq, on a split ring and on a packed one.
std::uint64_t transmit_features() {
    return GENERATE(kTransmitFeatures, kTransmitFeatures | kFeatureRingPacked);
}

std::uint64_t receive_features() {
    return GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureRingPacked}) |
           GENERATE(std::uint64_t{kFeatureVersion1}, kFeatureVersion1 | kFeatureNetMrgRxbuf);
}

RxLayout chain_of(std::vector<std::uint32_t> lengths) {
    return {"chain", [lengths](FakeMemory& memory, std::uint32_t, std::size_t) {
                RxBufferBuilder builder(memory);
                for (const std::uint32_t length : lengths) builder.align(1).piece(length);
                return builder.build();
            }};
}

void post(QueueDriver& queue, std::span<const Piece> pieces, DescForm form = DescForm::kDirect) {
    REQUIRE(queue.add(pieces, form));
    queue.publish();
}

// A receive path of a few buffers that takes what is on the driver's ring.
RingError error_of_receiveq(NetDriver& driver, FakeMemory& memory, std::uint64_t features) {
    VmCounters counters;
    std::vector<FakeBuffer> buffers(8);
    ReceivePath<FakeBuffers> path(8, {.geometry = QueueGeometry::whole(1518), .pending_cap = 2},
                                  counters);
    for (FakeBuffer& buffer : buffers) path.give_back(&buffer);
    const DeviceView view(memory);
    path.attach(view.ring(driver.rx().queue(), memory), view.guest(), features);
    std::array<void*, 4> posted{};
    REQUIRE(path.dequeue(posted, Refill::kMustSupply));
    const RingError error = path.broken() ? path.error() : RingError::kNone;
    for (void* buffer : posted) {
        CHECK(static_cast<FakeBuffer*>(buffer)->iova == FakeBuffer::kHost);
        path.give_back(buffer);
    }
    path.detach();
    return error;
}

// Splits: 4 MiB each, apart in guest memory or not.
FakeMemory two_regions(std::size_t gap) {
    return FakeMemory(FakeMemory::equal_regions(2, 4_MiB, gap));
}

}  // namespace

TEST_CASE("a header in pieces of any size is read right, over up to 13 descriptors") {
    const std::uint64_t features = transmit_features();
    const DescForm form = GENERATE(DescForm::kDirect, DescForm::kIndirect);
    const Packet packet = make_packet({.payload = 700});
    TransmitBed bed({.features = features});
    for (std::uint32_t piece = 1; piece <= kHeaderSize; ++piece) {
        CAPTURE(piece);
        const auto sent =
            bed.pass(packet.frame, packet.checksum_header(), {.form = form, .header_piece = piece});
        REQUIRE(sent.has_value());
        CHECK(sent->frame == packet.frame);
        CHECK(sent->request.offload == TransmitRequest::Offload::kTcpChecksum);
    }
    CHECK(bed.driver.violations().empty());
}

TEST_CASE("a chain shorter than its header sends nothing and comes back, however it is cut") {
    const std::uint64_t features = transmit_features();
    TransmitBed bed({.features = features});
    const Gpa end = kDefaultRamBase + 8_MiB;  // where memory ends
    for (std::uint32_t length = 0; length < kHeaderSize; ++length) {
        for (std::uint32_t cut = 1; cut <= kHeaderSize; ++cut) {
            std::vector<Piece> pieces;
            Gpa gpa = end - length;
            for (std::uint32_t left = length; left > 0;) {
                const std::uint32_t n = std::min(cut, left);
                pieces.push_back({gpa, n, false});
                gpa += n;
                left -= n;
            }
            if (pieces.empty()) pieces.push_back({end - 1, 0, false});
            post(bed.driver.tx().queue(), pieces);
            REQUIRE(bed.path.burst(32, bed.sink) == 1);
            CHECK(bed.reason() == DropReason::kTxHeader);
            CHECK(bed.driver.tx().queue().reap().size() == 1);
        }
    }
    CHECK(bed.sink.take().empty());
    CHECK_FALSE(bed.path.broken());
}

TEST_CASE("a receive header in pieces of any size gets its frame, on either ring") {
    const std::uint64_t features = receive_features();
    for (std::uint32_t bytes = 1; bytes < kHeaderSize; ++bytes) {
        for (const RxLayout& layout :
             {RxLayout::split_header(bytes), RxLayout::straddled_header(bytes)}) {
            CAPTURE(layout.name());
            FakeMemory memory(8_MiB);
            ReceiveBed bed(memory, {.driver = {.features = features, .layout = layout}});
            bed.driver().refill();
            bed.start();
            REQUIRE(bed.arrive(make_frame({.seq = bytes, .size = 1514})));
            bed.poll();
            const auto frames = bed.driver().receive();
            REQUIRE(frames.size() == 1);
            CHECK(check_frame(frames[0].bytes) == bytes);
            CHECK(bed.driver().violations() == std::vector<std::string>{});
        }
    }
}

TEST_CASE("receive chains that begin or go on with a runt descriptor are filled to the byte") {
    const std::uint64_t features = receive_features();
    for (const std::uint32_t first : {1U, 2U, 9U, 10U, 11U, 12U, 13U}) {
        for (const std::uint32_t second : {1U, 2U, 3U, 11U, 12U, 13U, 47U, 60U, 1514U}) {
            CAPTURE(first, second);
            FakeMemory memory(16_MiB);
            ReceiveBed bed(memory,
                           {.driver = {.features = features, .layout = chain_of({first, second})}});
            bed.driver().refill();
            bed.start();
            const auto small = make_frame({.seq = 1}), large = make_frame({.seq = 2, .size = 1514});
            REQUIRE(bed.arrive(small));
            REQUIRE(bed.arrive(large));
            std::vector<ReceivedFrame> frames;
            for (int i = 0; i < 64; ++i) {
                bed.poll();
                for (auto& frame : bed.driver().receive()) frames.push_back(std::move(frame));
            }
            for (const ReceivedFrame& frame : frames) {
                CHECK(std::ranges::equal(frame.bytes,
                                         frame.bytes.size() == small.size() ? small : large));
            }
            // All of it, or nothing: what does not fit is dropped.
            const bool whole = first + second >= kHeaderSize + large.size();
            CHECK(frames.size() >= (whole ? 2U : 0U));
            CHECK(bed.driver().violations() == std::vector<std::string>{});
            CHECK_FALSE(bed.path().broken());
        }
    }
}

TEST_CASE("empty descriptors are skipped on either ring, wherever they point") {
    const Gpa wild = GENERATE(Gpa{0}, ~Gpa{0}, ~Gpa{0} - 15, Gpa{1} << 63, kDefaultRamBase - 1);
    SECTION("on the transmitq, alone and around a frame") {
        TransmitBed bed({.features = transmit_features()});
        post(bed.driver.tx().queue(), std::array{Piece{wild, 0, false}, Piece{wild, 0, false}});
        REQUIRE(bed.path.burst(32, bed.sink) == 1);
        CHECK(bed.reason() == DropReason::kTxHeader);

        const Frame frame = make_frame({.size = 200});
        const Gpa gpa = bed.memory.allocate(300);
        bed.memory.write(gpa, std::vector<std::byte>(kHeaderSize));
        bed.memory.write(gpa + kHeaderSize, frame);
        post(
            bed.driver.tx().queue(),
            std::array{Piece{wild, 0, false}, Piece{gpa, kHeaderSize, false}, Piece{wild, 0, false},
                       Piece{gpa + kHeaderSize, 200, false}, Piece{wild, 0, false}});
        REQUIRE(bed.path.burst(32, bed.sink) == 1);
        const auto sent = bed.sink.take();
        REQUIRE(sent.size() == 1);
        CHECK(sent[0].frame == frame);
        CHECK_FALSE(bed.path.broken());
    }
    SECTION("on the receiveq, ahead of a buffer") {
        FakeMemory memory(8_MiB);
        const RxLayout layout("empty first", [wild](FakeMemory& ram, std::uint32_t, std::size_t) {
            return RxBufferBuilder(ram)
                .piece_at(wild, 0)
                .piece(12 + 1514)
                .piece_at(wild, 0)
                .build();
        });
        ReceiveBed bed(memory, {.driver = {.features = receive_features(), .layout = layout}});
        bed.driver().refill();
        bed.start();
        REQUIRE(bed.arrive(make_frame({.seq = 9, .size = 1514})));
        bed.poll();
        const auto frames = bed.driver().receive();
        REQUIRE(frames.size() == 1);
        CHECK(check_frame(frames[0].bytes) == 9U);
        CHECK(bed.driver().violations() == std::vector<std::string>{});
    }
    SECTION("on the receiveq, alone") {
        FakeMemory memory(8_MiB);
        const RxLayout layout("empty", [wild](FakeMemory& ram, std::uint32_t, std::size_t) {
            return RxBufferBuilder(ram).piece_at(wild, 0).build();
        });
        ReceiveBed bed(memory, {.driver = {.features = receive_features(), .layout = layout}});
        bed.driver().refill();
        bed.start();
        for (std::uint32_t seq = 0; seq < 8; ++seq) bed.arrive(make_frame({.seq = seq}));
        for (int i = 0; i < 8; ++i) bed.poll();
        CHECK(bed.driver().receive().empty());
        CHECK(bed.driver().violations() == std::vector<std::string>{});
    }
}

TEST_CASE("a buffer over the end of a region is refused, unless the next one goes on from there") {
    const std::uint64_t ring = GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureRingPacked});
    const Gpa end = kDefaultRamBase + 4_MiB;
    const std::uint32_t before = GENERATE(1U, 12U, 100U, 4095U);
    SECTION("there is a hole behind it") {
        FakeMemory memory = two_regions(64_KiB);
        NetDriver driver(memory, {.features = kFeatureVersion1 | ring, .rx_size = 16});
        post(driver.rx().queue(), std::array{Piece{end - before, 4096, true}});
        CHECK(error_of_receiveq(driver, memory, kFeatureVersion1 | ring) == RingError::kAddress);

        TransmitBed bed({.features = kTransmitFeatures | ring}, two_regions(64_KiB));
        post(bed.driver.tx().queue(), std::array{Piece{end - before, 4096, false}});
        bed.path.burst(32, bed.sink);
        CHECK(bed.path.broken());
        CHECK(bed.path.error() == RingError::kAddress);
    }
    SECTION("the whole of it lies in a hole") {
        FakeMemory memory = two_regions(64_KiB);
        NetDriver driver(memory, {.features = kFeatureVersion1 | ring, .rx_size = 16});
        post(driver.rx().queue(), std::array{Piece{end + before, 2048, true}});
        CHECK(error_of_receiveq(driver, memory, kFeatureVersion1 | ring) == RingError::kAddress);
    }
    SECTION("the next region follows, but not in this process") {
        FakeMemory memory = two_regions(0);
        const RxLayout layout("straddling", [&](FakeMemory& ram, std::uint32_t, std::size_t) {
            return RxBufferBuilder(ram).piece_at(end - before, 4096).build();
        });
        ReceiveBed bed(
            memory,
            {.driver = {.features = kFeatureVersion1 | ring, .rx_size = 16, .layout = layout}});
        bed.driver().rx().refill(1);
        bed.start();
        REQUIRE(bed.arrive(make_frame({.seq = 3, .size = 1514})));
        bed.poll();
        const auto frames = bed.driver().receive();
        REQUIRE(frames.size() == 1);
        CHECK(check_frame(frames[0].bytes) == 3U);
    }
}

TEST_CASE("chains in a circle are left at their end, in the ring and in a table") {
    const std::uint16_t size = 16;
    FakeMemory memory(4_MiB);
    NetDriver driver(memory, {.features = kFeatureVersion1, .rx_size = size, .tx_size = size});
    const bool transmit = GENERATE(false, true);
    SplitQueueDriver& queue = transmit ? driver.transmitq() : driver.receiveq();
    const std::uint16_t flags = transmit ? kDescNext : kDescNext | kDescWrite;
    const std::uint32_t length = GENERATE(0U, 64U);
    const std::uint16_t circle = GENERATE(as<std::uint16_t>{}, 1, 2, 3, 15, 16);
    const std::uint16_t tail = GENERATE(as<std::uint16_t>{}, 0, 1, 5);
    if (tail + circle > size) return;
    const auto entry = [&](std::uint16_t i) {
        const bool back = i + 1 == tail + circle;
        return Desc{kDefaultRamBase, length, flags,
                    back ? tail : static_cast<std::uint16_t>(i + 1)};
    };
    SECTION("in the ring") {
        for (std::uint16_t i = 0; i < tail + circle; ++i) queue.desc(i) = entry(i);
    }
    SECTION("in a table of just that many entries") {
        const Gpa table = memory.allocate(size * sizeof(Desc), 16);
        for (std::uint16_t i = 0; i < tail + circle; ++i) {
            *memory.as<Desc>(table + i * sizeof(Desc)) = entry(i);
        }
        queue.desc(0) = {table, static_cast<std::uint32_t>((tail + circle) * sizeof(Desc)),
                         kDescIndirect, 0};
    }
    SECTION("in a table with one entry more than the ring has") {
        const Gpa table = memory.allocate((size + 1) * sizeof(Desc), 16);
        for (std::uint16_t i = 0; i < tail + circle; ++i) {
            *memory.as<Desc>(table + i * sizeof(Desc)) = entry(i);
        }
        queue.desc(0) = {table, (size + 1) * sizeof(Desc), kDescIndirect, 0};
    }
    queue.write_avail_entry(0, 0);
    queue.write_avail_idx(1);
    if (!transmit) {
        CHECK(error_of_receiveq(driver, memory, kFeatureVersion1) == RingError::kLoop);
        return;
    }
    VmCounters counters;
    const DeviceView view(memory);
    TransmitPath path(kDefaultMtu, {}, counters);
    path.attach(view.ring(driver.tx().queue(), memory), view.guest(), kFeatureVersion1);
    RoomSink sink;
    CHECK(path.burst(32, sink) == 0);
    CHECK(path.error() == RingError::kLoop);
}

// --- Drivers that write while the device reads ---

namespace {

constexpr int kRacingRounds = 60;

// The descriptors of a queue, to be rewritten.
Scribbler::Target descriptors_of(const QueueDriver& queue, const FakeMemory& memory,
                                 std::uint16_t write_flag) {
    const std::size_t bytes = sizeof(Desc) * queue.size();
    return {std::span(memory.at(queue.descriptor_area(), bytes), bytes),
            queue.is_packed() ? Scribbler::Content::kPackedDescriptors
                              : Scribbler::Content::kDescriptors,
            write_flag};
}

constexpr GuestRange kAllRam{kDefaultRamBase, 8_MiB};

}  // namespace

TEST_CASE("a driver that rewrites its transmit descriptors meanwhile is read in bounds") {
    const std::uint64_t features = transmit_features();
    const bool wild = GENERATE(false, true);
    for (int round = 0; round < kRacingRounds; ++round) {
        TransmitBed bed({.features = features, .tx_size = 64});
        QueueDriver& queue = bed.driver.tx().queue();
        const Piece piece{kDefaultRamBase + 1_MiB, 256, false};
        while (queue.add({&piece, 1})) {
        }
        queue.publish();
        const Scribbler scribbler({descriptors_of(queue, bed.memory, 0)}, kAllRam, wild, round);
        for (int i = 0; i < 64 && !bed.path.broken(); ++i) bed.path.burst(32, bed.sink);
        for (const auto& sent : bed.sink.take()) {
            CHECK(sent.frame.size() <= kMaxTransmitRooms * kTransmitRoom);
        }
    }
}

TEST_CASE("a driver that rewrites its indirect tables meanwhile is read in bounds") {
    const std::uint64_t features = transmit_features();
    const bool wild = GENERATE(false, true);
    constexpr std::size_t kTable = 32 * sizeof(Desc);
    for (int round = 0; round < kRacingRounds; ++round) {
        TransmitBed bed({.features = features, .tx_size = 64});
        QueueDriver& queue = bed.driver.tx().queue();
        const std::vector<Piece> pieces(32, Piece{kDefaultRamBase + 1_MiB, 40, false});
        while (queue.add(pieces, DescForm::kIndirect)) {
        }
        std::vector<Scribbler::Target> tables;
        for (std::uint16_t i = 0; i < 64; ++i) {
            const Gpa table = queue.is_packed() ? bed.driver.packed_transmitq().desc(i).addr
                                                : bed.driver.transmitq().desc(i).addr;
            tables.push_back({std::span(bed.memory.at(table, kTable), kTable),
                              queue.is_packed() ? Scribbler::Content::kPackedDescriptors
                                                : Scribbler::Content::kDescriptors});
        }
        queue.publish();
        const Scribbler scribbler(std::move(tables), kAllRam, wild, round);
        for (int i = 0; i < 64 && !bed.path.broken(); ++i) bed.path.burst(1, bed.sink);
        for (const auto& sent : bed.sink.take()) {
            CHECK(sent.frame.size() <= kMaxTransmitRooms * kTransmitRoom);
        }
    }
}

TEST_CASE("a driver that rewrites its receive descriptors meanwhile is written to in bounds") {
    const std::uint64_t features = receive_features();
    const bool wild = GENERATE(false, true);
    for (int round = 0; round < kRacingRounds; ++round) {
        FakeMemory memory(8_MiB);
        ReceiveBed bed(memory, {.driver = {.features = features, .rx_size = 64}, .nic_ring = 64});
        QueueDriver& queue = bed.driver().rx().queue();
        bed.driver().refill();
        const Scribbler scribbler({descriptors_of(queue, memory, kDescWrite)}, kAllRam, wild,
                                  round);
        bed.start();
        for (std::uint32_t i = 0; i < 40; ++i) {
            bed.arrive(make_frame({.seq = i, .size = 60 + 30 * i}));  // throws beyond memory
            bed.poll();
        }
        bed.stop();
        CHECK(bed.path().idle() == bed.buffer_count());
    }
}

}  // namespace zecorx::test
