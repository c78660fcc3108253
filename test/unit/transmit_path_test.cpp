#include "zecorx/transmit_path.h"

#include <array>
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <thread>

#include "transmit_bed.h"

namespace zecorx::test {
namespace {

// The kinds of ring.
std::uint64_t either_ring() {
    return GENERATE(kTransmitFeatures, kTransmitFeatures | kFeatureRingPacked);
}

}  // namespace

TEST_CASE("a transmitted frame arrives byte for byte in every descriptor layout") {
    const std::uint64_t features = either_ring();
    for (const TxLayout& layout :
         {TxLayout{}, TxLayout{.header_apart = true}, TxLayout{.max_piece = 100},
          TxLayout{.header_apart = true, .max_piece = 60, .form = DescForm::kIndirect}}) {
        TransmitBed bed({.features = features});
        const Frame frame = make_frame({.seq = 5, .size = 1514});
        const auto sent = bed.pass(frame, {}, layout);
        REQUIRE(sent.has_value());
        CHECK(sent->frame == frame);
        CHECK(sent->request.offload == TransmitRequest::Offload::kNone);
        CHECK_FALSE(sent->request.vlan.has_value());
        CHECK(bed.driver.tx().queue().outstanding() == 0);
        CHECK(bed.driver.violations().empty());
    }
}

TEST_CASE("a legacy header of 10 bytes is skipped exactly") {
    TransmitBed bed({.features = 0});
    const Frame frame = make_frame({.seq = 5, .size = 300});
    CHECK(bed.pass(frame).value().frame == frame);
}

TEST_CASE("a short frame is padded with zeros to the Ethernet minimum") {
    TransmitBed bed;
    bed.sink.fill(std::byte{0xee});  // another frame's bytes
    Frame frame = make_frame({.size = 60});
    frame.resize(20);
    const Frame padded = bed.pass(frame).value().frame;
    REQUIRE(padded.size() == 60);
    CHECK(std::equal(frame.begin(), frame.end(), padded.begin()));
    CHECK(std::all_of(padded.begin() + 20, padded.end(),
                      [](std::byte b) { return b == std::byte{0}; }));
}

TEST_CASE("a frame may be as long as the port's frames, and its tag counts extra") {
    for (const std::uint32_t mtu : {68u, 1500u, 9000u}) {
        const std::array<std::uint16_t, 1> vlans{7};
        TransmitBed bed({.mtu = mtu, .vlan = VlanPolicy::trunk(vlans)});
        const auto frame = [](std::size_t size, std::optional<std::uint16_t> vlan = {}) {
            return make_frame({.size = size, .vlan = vlan});
        };
        CAPTURE(mtu);
        CHECK(bed.fate(frame(mtu + 14)) == std::nullopt);
        CHECK(bed.fate(frame(mtu + 15)) == DropReason::kTxLength);
        CHECK(bed.fate(frame(mtu + 18)) == DropReason::kTxLength);
        CHECK(bed.fate(frame(mtu + 18, 7)) == std::nullopt);
        CHECK(bed.fate(frame(mtu + 19, 7)) == DropReason::kTxLength);
        CHECK(bed.fate(frame(mtu + 4000)) == DropReason::kTxLength);
    }
}

TEST_CASE("frames no port may send are dropped, counted, and their chains returned") {
    TransmitBed bed;
    SECTION("shorter than an Ethernet header") {
        CHECK(bed.fate(Frame(13)) == DropReason::kTxLength);
    }
    SECTION("shorter than its VLAN tag") {
        for (std::size_t size = 14; size < 18; ++size) {
            Frame frame = make_frame({.vlan = 5});
            frame.resize(size);
            CHECK(bed.fate(frame) == DropReason::kTxLength);
        }
    }
    SECTION("a chain of more pieces than any frame needs") {
        const auto sent = bed.pass(make_frame({.size = 1514}), {}, {.max_piece = 30});
        CHECK_FALSE(sent.has_value());
        CHECK(bed.reason() == DropReason::kTxLength);
    }
    SECTION("a chain shorter than its header") {
        const Piece piece{bed.memory.allocate(64), 5, false};
        REQUIRE(bed.driver.transmitq().add({&piece, 1}));
        bed.driver.transmitq().publish();
        CHECK(bed.path.burst(32, bed.sink) == 1);
        CHECK(bed.sink.take().empty());
        CHECK(bed.reason() == DropReason::kTxHeader);
        CHECK(bed.driver.transmitq().reap().size() == 1);
    }
    SECTION("a chain of zero-length descriptors with wild addresses") {
        const std::array pieces{Piece{~0ULL, 0, false}, Piece{0, 0, false}};
        REQUIRE(bed.driver.transmitq().add(pieces));
        bed.driver.transmitq().publish();
        CHECK(bed.path.burst(32, bed.sink) == 1);
        CHECK(bed.reason() == DropReason::kTxHeader);
        CHECK(bed.driver.transmitq().reap().size() == 1);
    }
    CHECK(bed.driver.tx().queue().outstanding() == 0);
    CHECK_FALSE(bed.path.broken());
}

TEST_CASE("a device-writable buffer on the transmitq breaks the ring") {
    TransmitBed bed;
    const Piece piece{bed.memory.allocate(64), 64, true};
    REQUIRE(bed.driver.send(make_frame({.seq = 1})));
    REQUIRE(bed.driver.transmitq().add({&piece, 1}));
    bed.driver.transmitq().publish();
    // What came before it is sent and published all the same.
    CHECK(bed.path.burst(32, bed.sink) == 1);
    CHECK(bed.sink.take().size() == 1);
    CHECK(bed.path.broken());
    CHECK(bed.path.error() == RingError::kDirection);
    CHECK(bed.path.burst(32, bed.sink) == 0);
    CHECK(bed.driver.transmitq().reap().size() == 1);
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
    CHECK(bed.path.burst(32, bed.sink) == 1);
    const auto sent = bed.sink.take();
    REQUIRE(sent.size() == 1);
    CHECK(sent[0].frame == frame);
}

TEST_CASE("transmission resumes at the used index after a detach") {
    TransmitBed bed;
    REQUIRE(bed.driver.send(make_frame({.seq = 1})));
    REQUIRE(bed.driver.send(make_frame({.seq = 2})));
    CHECK(check_frame(bed.next().value().frame) == 1u);
    CHECK(bed.path.detach() == 1);
    CHECK(bed.path.burst(32, bed.sink) == 0);
    bed.path.attach(bed.view.ring(bed.driver.tx().queue(), bed.memory), bed.view.guest(),
                    kFeatureVersion1);
    CHECK(check_frame(bed.next().value().frame) == 2u);
}

TEST_CASE("without room for a frame its chain stays with the driver, and nothing is lost") {
    TransmitBed bed({.features = either_ring()});
    for (std::uint32_t seq = 0; seq < 10; ++seq) {
        REQUIRE(bed.driver.send(make_frame({.seq = seq})));
    }
    bed.sink.limit(4);
    CHECK(bed.path.burst(32, bed.sink) == 4);
    CHECK(bed.driver.reap_transmitted() == 4);
    CHECK(bed.path.burst(32, bed.sink) == 0);
    bed.sink.limit(32);
    CHECK(bed.path.burst(32, bed.sink) == 6);
    CHECK(bed.driver.reap_transmitted() == 6);
    const auto sent = bed.sink.take();
    REQUIRE(sent.size() == 10);
    for (std::uint32_t seq = 0; seq < 10; ++seq) CHECK(check_frame(sent[seq].frame) == seq);
}

TEST_CASE("large frames end a burst early, so that other VMs are served") {
    TransmitBed bed({.features = either_ring()});
    const Packet packet = make_packet({.payload = 60000});
    for (int i = 0; i < 8; ++i) {
        REQUIRE(bed.driver.tx().send(packet.frame, {}, packet.segment_header(1400)));
    }
    CHECK(bed.path.burst(32, bed.sink) == 3);  // the one that reaches 128 KiB is the last
    CHECK(bed.path.burst(32, bed.sink) == 3);
    CHECK(bed.path.burst(32, bed.sink) == 2);
    CHECK(bed.sink.take().size() == 8);
}

TEST_CASE("a VM sends the VLAN tags it is allowed and no other") {
    const std::array<std::uint16_t, 3> listed{1, 100, 4094};
    const auto tagged = [](std::uint16_t tci) { return make_frame({.seq = 3, .vlan = tci}); };
    SECTION("none by default, not even a priority tag") {
        TransmitBed bed;
        CHECK(bed.fate(make_frame({})) == std::nullopt);
        for (const std::uint16_t tci : {0, 1, 100, 4095, 0x6000, 0x2064}) {
            CHECK(bed.fate(tagged(tci)) == DropReason::kTxVlan);
        }
        CHECK(bed.dropped(DropReason::kTxVlan) == 6);
    }
    SECTION("an access VM's frames get its tag") {
        TransmitBed bed({.vlan = VlanPolicy::access(100)});
        const auto sent = bed.pass(make_frame({.seq = 4}));
        REQUIRE(sent.has_value());
        CHECK(sent->request.vlan == 100);
        CHECK(sent->frame == make_frame({.seq = 4}));  // the NIC inserts it
        CHECK(bed.fate(tagged(100)) == DropReason::kTxVlan);
        CHECK(bed.fate(tagged(0)) == DropReason::kTxVlan);
    }
    SECTION("a trunk's listed ones, with any priority, beside untagged frames") {
        TransmitBed bed({.vlan = VlanPolicy::trunk(listed)});
        const auto untagged = bed.pass(make_frame({}));
        REQUIRE(untagged.has_value());
        CHECK_FALSE(untagged->request.vlan.has_value());
        for (unsigned tci = 0; tci <= 0xffff; tci += tci < 0x1000 ? 1 : 0xfff) {
            const std::uint16_t id = tci & 0xfff;
            const bool allowed = id == 1 || id == 100 || id == 4094;
            CAPTURE(tci);
            CHECK(bed.fate(tagged(static_cast<std::uint16_t>(tci))) ==
                  (allowed ? std::nullopt : std::optional(DropReason::kTxVlan)));
        }
    }
    SECTION("only 8100h makes a tag") {
        TransmitBed bed;
        Frame frame = tagged(100);
        frame[12] = std::byte{0x88};
        frame[13] = std::byte{0xa8};
        CHECK(bed.fate(frame) == std::nullopt);
    }
}

TEST_CASE("a checksum cannot be written over the VLAN tag that was checked") {
    const std::array<std::uint16_t, 1> vlans{7};
    TransmitBed bed({.vlan = VlanPolicy::trunk(vlans)});
    const Frame tagged = make_frame({.size = 100, .vlan = 7});
    const Frame untagged = make_frame({.size = 100});
    for (std::uint16_t start = 0; start < 30; ++start) {
        CAPTURE(start);
        CHECK(bed.fate(tagged, checksum_at(start, 0)).has_value() == (start < 18));
        CHECK(bed.fate(untagged, checksum_at(start, 0)).has_value() == (start < 14));
    }
}

TEST_CASE("what the driver writes after the header was read changes nothing") {
    TransmitBed bed;
    const Packet packet = make_packet({.payload = 6000});
    const NetHeader header = packet.segment_header(1400);
    const Gpa gpa = bed.memory.allocate(20000);
    const auto bytes = std::as_bytes(std::span(&header, 1));
    bed.memory.write(gpa, bytes);
    bed.memory.write(gpa + 12, packet.frame);
    const zecorx::test::Piece piece{gpa, static_cast<std::uint32_t>(12 + packet.frame.size()),
                                    false};
    REQUIRE(bed.driver.transmitq().add({&piece, 1}));
    bed.driver.transmitq().publish();

    // Before each room is filled, all that was read before is overwritten.
    bed.sink.on_room = [&](std::size_t i) {
        bed.memory.write(gpa, Frame(12 + i * kTransmitRoom, std::byte{0xff}));
    };
    CHECK(bed.path.burst(1, bed.sink) == 1);
    const auto sent = bed.sink.take();
    REQUIRE(sent.size() == 1);
    CHECK(sent[0].request.offload == TransmitRequest::Offload::kTcpSegmentation);
    CHECK(sent[0].request.segment_size == 1400);
    const std::size_t kept = packet.payload;
    CHECK(
        std::equal(packet.frame.begin() + kept, packet.frame.end(), sent[0].frame.begin() + kept));
}

TEST_CASE("a driver that rewrites header and frame meanwhile gets only consistent requests",
          "[threads]") {
    TransmitBed bed;
    const Packet four = make_packet({.ip_extra = 40, .tcp_extra = 40, .payload = 1200});
    const Packet six = make_packet({.ipv6 = true, .ip_extra = 0, .payload = 1200});
    std::array headers{four.segment_header(1000), six.segment_header(65535), checksum_at(65535, 0),
                       six.checksum_header()};
    const Gpa gpa = bed.memory.allocate(4096);
    const auto length =
        static_cast<std::uint32_t>(12 + std::min(four.frame.size(), six.frame.size()));
    std::byte* raw = bed.memory.at(gpa, 4096);
    std::atomic<bool> stop = false;
    std::thread writer([&] {
        for (std::size_t i = 0; !stop.load(std::memory_order_relaxed); ++i) {
            // Byte by byte and unsynchronized, as a hostile driver does it.
            const auto& header = headers[i % headers.size()];
            const auto* from = reinterpret_cast<const std::byte*>(&header);
            const Frame& frame = i % 3 == 0 ? four.frame : six.frame;
            for (std::size_t b = 0; b < 12; ++b) {
                std::atomic_ref(raw[b]).store(from[b], std::memory_order_relaxed);
            }
            for (std::size_t b = 0; b < 120; ++b) {
                std::atomic_ref(raw[12 + b]).store(frame[b], std::memory_order_relaxed);
            }
        }
    });
    for (int i = 0; i < 20'000; ++i) {
        const zecorx::test::Piece piece{gpa, length, false};
        REQUIRE(bed.driver.transmitq().add({&piece, 1}));
        bed.driver.transmitq().publish();
        if (bed.path.burst(1, bed.sink) != 1) break;
        bed.driver.transmitq().reap();
        for (const auto& [request, frame] : bed.sink.take()) {
            if (request.offload == TransmitRequest::Offload::kNone) continue;
            const std::size_t l4 = request.link_length + request.network_length;
            const auto network =
                parse_network(std::span(frame).subspan(request.link_length), load_be16(frame, 12));
            if (!network || network->length != request.network_length ||
                l4 + request.transport_length > frame.size() ||
                request.network_length + request.transport_length + request.segment_size > 1500) {
                stop = true;
                FAIL_CHECK("a request that does not match the copied frame");
            }
        }
    }
    stop = true;
    writer.join();
    CHECK_FALSE(bed.path.broken());
}

}  // namespace zecorx::test
