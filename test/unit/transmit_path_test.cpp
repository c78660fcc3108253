#include "zecorx/transmit_path.h"

#include <array>
#include <catch2/catch_test_macros.hpp>

#include "ring_bed.h"

namespace zecorx::test {
namespace {

struct TransmitBed {
    explicit TransmitBed(NetDriverOptions options = {}, FakeMemory ram = FakeMemory(8_MiB))
        : memory(std::move(ram)), driver(memory, options), view(memory), path(1518, counters) {
        path.attach(view.ring(driver.transmitq(), memory), view.guest(), options.features);
    }

    // The next frame as it would go to the NIC; empty: dropped.
    Frame next() {
        REQUIRE(path.waiting(32) > 0);
        std::array<std::byte, 2048> out{};
        const std::uint32_t length = path.next(out);
        path.publish();
        return {out.begin(), out.begin() + length};
    }
    std::uint64_t dropped(DropReason reason) const {
        return counters.dropped[static_cast<std::size_t>(reason)].get();
    }

    FakeMemory memory;
    NetDriver driver;
    DeviceView view;
    VmCounters counters;
    TransmitPath path;
};

}  // namespace

TEST_CASE("a transmitted frame arrives byte for byte in every descriptor layout") {
    for (const TxLayout& layout :
         {TxLayout{}, TxLayout{.header_apart = true}, TxLayout{.max_piece = 100},
          TxLayout{.header_apart = true, .max_piece = 60, .form = DescForm::kIndirect}}) {
        TransmitBed bed;
        const Frame frame = make_frame({.seq = 5, .size = 1514});
        REQUIRE(bed.driver.send(frame, layout));
        CHECK(bed.next() == frame);
        CHECK(bed.driver.reap_transmitted() == 1);
        CHECK(bed.driver.violations().empty());
    }
}

TEST_CASE("a legacy header of 10 bytes is skipped exactly") {
    TransmitBed bed({.features = 0});
    const Frame frame = make_frame({.seq = 5, .size = 300});
    REQUIRE(bed.driver.send(frame));
    CHECK(bed.next() == frame);
}

TEST_CASE("a short frame is padded with zeros to the Ethernet minimum") {
    TransmitBed bed;
    Frame frame = make_frame({.size = 60});
    frame.resize(20);
    REQUIRE(bed.driver.send(frame));
    const Frame padded = bed.next();
    REQUIRE(padded.size() == 60);
    CHECK(std::equal(frame.begin(), frame.end(), padded.begin()));
    CHECK(std::all_of(padded.begin() + 20, padded.end(),
                      [](std::byte b) { return b == std::byte{0}; }));
}

TEST_CASE("frames no port may send are dropped, counted, and their chains returned") {
    TransmitBed bed;
    SECTION("longer than the port's longest frame") {
        REQUIRE(bed.driver.send(Frame(1519)));
        CHECK(bed.next().empty());
        CHECK(bed.dropped(DropReason::kTxLength) == 1);
    }
    SECTION("shorter than an Ethernet header") {
        REQUIRE(bed.driver.send(Frame(13)));
        CHECK(bed.next().empty());
        CHECK(bed.dropped(DropReason::kTxLength) == 1);
    }
    SECTION("an offload that was not negotiated") {
        NetHeader header{};
        header.flags = kNetHeaderNeedsCsum;
        header.csum_start = 65535;
        REQUIRE(bed.driver.tx().send(make_frame({}), {}, header));
        CHECK(bed.next().empty());
        CHECK(bed.dropped(DropReason::kTxHeader) == 1);
    }
    SECTION("a chain shorter than its header") {
        const Piece piece{bed.memory.allocate(64), 5, false};
        REQUIRE(bed.driver.transmitq().add({&piece, 1}));
        bed.driver.transmitq().publish();
        CHECK(bed.next().empty());
        CHECK(bed.dropped(DropReason::kTxHeader) == 1);
        CHECK(bed.driver.transmitq().reap().size() == 1);
        return;
    }
    CHECK(bed.driver.reap_transmitted() == 1);
    CHECK_FALSE(bed.path.broken());
}

TEST_CASE("a transmit chain of zero-length descriptors is dropped, not read") {
    TransmitBed bed;
    const std::array pieces{Piece{~0ULL, 0, false}, Piece{0, 0, false}};
    REQUIRE(bed.driver.transmitq().add(pieces));
    bed.driver.transmitq().publish();
    CHECK(bed.next().empty());
    CHECK(bed.dropped(DropReason::kTxHeader) == 1);
}

TEST_CASE("a device-writable buffer on the transmitq breaks the ring") {
    TransmitBed bed;
    const Piece piece{bed.memory.allocate(64), 64, true};
    REQUIRE(bed.driver.transmitq().add({&piece, 1}));
    bed.driver.transmitq().publish();
    CHECK(bed.next().empty());
    CHECK(bed.path.broken());
    CHECK(bed.path.error() == RingError::kDirection);
    CHECK(bed.path.waiting(32) == 0);
}

TEST_CASE("a frame that crosses adjacent regions is gathered from both") {
    TransmitBed bed({}, FakeMemory(FakeMemory::equal_regions(2, 4_MiB, 0)));
    const auto gpa = bed.memory.allocate_across_boundary(12 + 1000);
    REQUIRE(gpa.has_value());
    const Frame frame = make_frame({.seq = 9, .size = 1000});
    bed.memory.write(*gpa, Frame(12));
    bed.memory.write(*gpa + 12, frame);
    const Piece piece{*gpa, 12 + 1000, false};
    REQUIRE(bed.driver.transmitq().add({&piece, 1}));
    bed.driver.transmitq().publish();
    CHECK(bed.next() == frame);
}

TEST_CASE("transmission resumes at the used index after a detach") {
    TransmitBed bed;
    REQUIRE(bed.driver.send(make_frame({.seq = 1})));
    REQUIRE(bed.driver.send(make_frame({.seq = 2})));
    CHECK(check_frame(bed.next()) == 1u);
    CHECK(bed.path.detach() == 1);
    CHECK(bed.path.waiting(32) == 0);
    bed.path.attach(bed.view.ring(bed.driver.transmitq(), bed.memory), bed.view.guest(),
                    kFeatureVersion1);
    CHECK(check_frame(bed.next()) == 2u);
}

}  // namespace zecorx::test
