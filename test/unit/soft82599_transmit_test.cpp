#include <algorithm>
#include <catch2/catch_test_macros.hpp>

#include "soft82599_rig.h"

using namespace zecorx;
using namespace zecorx::test;
namespace reg = nic::reg;
namespace bits = nic::bits;
namespace tx_desc = nic::tx_desc;

TEST_CASE("a frame leaves as posted and its descriptor reports done", "[soft82599]") {
    NicRig rig;
    rig.start_tx(0);
    const nic::Frame frame = frame_of(kBroadcast, 200);
    rig.post_tx_frame(0, frame);
    const auto wire = rig.transmit();
    REQUIRE(wire.size() == 1);
    CHECK(wire[0] == frame);
    CHECK(rig.tx_done(0, 0));
    CHECK(rig.peek(reg::tx_queue(0) + reg::kTdh) == 1);
    CHECK(rig.read(reg::kGptc) == 1);
    CHECK(rig.read(reg::kGotc) == 204);
    CHECK(rig.read(reg::kBptc) == 1);
}

TEST_CASE("a frame in pieces is sent once the last piece is posted", "[soft82599]") {
    NicRig rig;
    rig.start_tx(0);
    const nic::Frame frame = frame_of(kBroadcast, 1500);
    rig.post_tx_frame(0, frame, 0, 400);
    const std::uint32_t tail = reg::tx_queue(0) + reg::kTdt;
    rig.poke(tail, 3);
    CHECK(rig.transmit().empty());
    rig.poke(tail, 4);
    const auto wire = rig.transmit();
    REQUIRE(wire.size() == 1);
    CHECK(wire[0] == frame);
}

TEST_CASE("short frames are padded if the port pads", "[soft82599]") {
    NicRig rig;
    rig.start_tx(0);
    rig.post_tx_frame(0, frame_of(kBroadcast, 42));
    CHECK(rig.transmit().at(0).size() == 60);
    rig.write(reg::kHlreg0, rig.read(reg::kHlreg0) & ~bits::kHlreg0TxPad);
    rig.post_tx_frame(0, frame_of(kBroadcast, 42));
    CHECK(rig.transmit().at(0).size() == 42);
}

TEST_CASE("the tag of the context is inserted", "[soft82599]") {
    NicRig rig;
    rig.start_tx(0);
    const nic::Frame frame = frame_of(kBroadcast, 100);
    rig.post_tx(0, context(14, 20, 0, 0x6007));
    rig.post_tx_frame(0, frame, tx_desc::kVlanInsert);
    CHECK(rig.transmit().at(0) == nic::with_vlan_tag(frame, 0x8100, 0x6007));
}

TEST_CASE("a legacy descriptor sends and inserts its own tag", "[soft82599]") {
    NicRig rig;
    rig.start_tx(0);
    const nic::Frame frame = frame_of(kBroadcast, 100);
    rig.dma().map(0x9'0000'0000, 100);
    rig.dma().store(0x9'0000'0000, frame);
    rig.post_tx(0, {0x9'0000'0000, 100 | tx_desc::kEndOfPacket | tx_desc::kReportStatus |
                                       tx_desc::kVlanInsert | std::uint64_t{9} << 48});
    CHECK(rig.transmit().at(0) == nic::with_vlan_tag(frame, 0x8100, 9));
    CHECK(rig.tx_done(0, 0));
}

TEST_CASE("IPv4 and TCP checksums are inserted", "[soft82599]") {
    NicRig rig;
    rig.start_tx(0);
    nic::Frame frame = FrameBuilder().to(kBroadcast).ipv4(6, 20 + 99).tcp(7, 0x10, 99).build();
    seed_l4_checksum(frame, 34 + 16, true);
    nic::store_be16(frame, 24, 0);
    rig.post_tx(0, context(14, 20, kIpv4Context | kTcpContext));
    rig.post_tx_frame(0, frame, tx_desc::kInsertIpChecksum | tx_desc::kInsertL4Checksum);
    CHECK(checksums_good(rig.transmit().at(0)));
}

TEST_CASE("a UDP checksum over IPv6 is inserted", "[soft82599]") {
    NicRig rig;
    rig.start_tx(0);
    nic::Frame frame = FrameBuilder().to(kBroadcast).ipv6(17, 8 + 33).udp(33).build();
    seed_l4_checksum(frame, 54 + 6, true);
    rig.post_tx(0, context(14, 40, 0));
    rig.post_tx_frame(0, frame, tx_desc::kInsertL4Checksum);
    CHECK(checksums_good(rig.transmit().at(0)));
}

TEST_CASE("offload headers outside the frame send nothing", "[soft82599]") {
    NicRig rig;
    rig.start_tx(0);
    rig.post_tx(0, context(14, 511, kIpv4Context | kTcpContext));
    rig.post_tx_frame(0, frame_of(kBroadcast, 60), tx_desc::kInsertL4Checksum);
    CHECK(rig.transmit().empty());
    CHECK(rig.counters().tx_malformed == 1);
    CHECK(rig.tx_done(0, 1));
}

TEST_CASE("a large TCP packet is cut into segments with adjusted headers", "[soft82599]") {
    NicRig rig;
    rig.start_tx(0);
    constexpr std::size_t kPayload = 2500;
    nic::Frame frame = FrameBuilder()
                           .to(kBroadcast)
                           .ipv4(6, 20 + kPayload)
                           .tcp(0xFFFFFF00, 0x19, kPayload)  // FIN, PSH, ACK
                           .build();
    seed_l4_checksum(frame, 34 + 16, false);
    nic::store_be16(frame, 16, 0);
    nic::store_be16(frame, 24, 0);
    rig.post_tx(0, context(14, 20, kIpv4Context | kTcpContext, 0, 20, 1000));
    rig.post_tx_frame(0, frame, tx_desc::kSegment | tx_desc::kInsertL4Checksum, 700);
    const auto wire = rig.transmit();

    REQUIRE(wire.size() == 3);
    nic::Frame joined;
    for (std::size_t i = 0; i < wire.size(); ++i) {
        INFO("segment " << i);
        CHECK(checksums_good(wire[i]));
        CHECK(nic::load_be16(wire[i], 16) == wire[i].size() - 14);
        CHECK(nic::load_be16(wire[i], 18) == 0x1234 + i);
        CHECK(nic::load_be32(wire[i], 38) == static_cast<std::uint32_t>(0xFFFFFF00 + 1000 * i));
        CHECK((nic::load_be16(wire[i], 46) & 0xFF) == (i == 2 ? 0x19 : 0x10));
        joined.insert(joined.end(), wire[i].begin() + 54, wire[i].end());
    }
    CHECK(joined == nic::Frame(frame.begin() + 54, frame.end()));
    CHECK(rig.counters().tx_frames == 3);
}

TEST_CASE("a segment size of 0 sends nothing", "[soft82599]") {
    NicRig rig;
    rig.start_tx(0);
    rig.post_tx(0, context(14, 20, kIpv4Context | kTcpContext, 0, 20, 0));
    const nic::Frame frame = FrameBuilder().to(kBroadcast).ipv4(6, 120).tcp(1, 0x10, 100).build();
    rig.post_tx_frame(0, frame, tx_desc::kSegment);
    CHECK(rig.transmit().empty());
    CHECK(rig.counters().tx_malformed == 1);
}

TEST_CASE("an unmapped transmit buffer is a fault and the queue goes on", "[soft82599]") {
    NicRig rig;
    rig.start_tx(0);
    rig.post_tx(
        0, {0x7'0000'0000, 60 | NicRig::kData | tx_desc::kEndOfPacket | tx_desc::kReportStatus});
    rig.post_tx_frame(0, frame_of(kBroadcast, 60));
    CHECK(rig.transmit().size() == 1);
    CHECK(rig.counters().dma_faults == 1);
    CHECK(rig.tx_done(0, 0));
}

TEST_CASE("a frame of more than 40 descriptors is refused", "[soft82599]") {
    NicRig rig;
    rig.start_tx(0);
    rig.post_tx_frame(0, frame_of(kBroadcast, 410), 0, 10);
    CHECK(rig.transmit().empty());
    CHECK(rig.counters().tx_malformed == 1);
    rig.post_tx_frame(0, frame_of(kBroadcast, 100), 0, 10);
    CHECK(rig.transmit().size() == 1);
}

TEST_CASE("a disabled queue or transmitter sends nothing", "[soft82599]") {
    NicRig rig;
    rig.start_tx(0);
    rig.post_tx_frame(0, frame_of(kBroadcast, 60));
    rig.write(reg::kDmatxctl, 0);
    CHECK(rig.transmit().empty());
    rig.write(reg::kDmatxctl, bits::kDmatxctlEnable);
    rig.poke(reg::tx_queue(0) + reg::kTxdctl, 0);
    CHECK(rig.transmit().empty());
}

TEST_CASE("a restarted transmit queue does not send what was posted before", "[soft82599]") {
    NicRig rig;
    rig.start_tx(0);
    const std::uint32_t base = reg::tx_queue(0);
    for (int i = 0; i < 3; ++i) rig.post_tx_frame(0, frame_of(kBroadcast, 60));
    REQUIRE(rig.transmit(1).size() == 1);
    rig.poke(base + reg::kTxdctl, 0);
    rig.read(reg::kStatus);
    rig.poke(base + reg::kTdh, 0);
    rig.poke(base + reg::kTxdctl, bits::kQueueEnable);
    CHECK(rig.transmit().empty());
    rig.poke(base + reg::kTdt, 0);
    rig.post_tx_frame(0, frame_of(kBroadcast, 99));
    REQUIRE(rig.transmit().at(0).size() == 99);
}

TEST_CASE("queues take turns and the budget bounds a round", "[soft82599]") {
    NicRig rig;
    for (unsigned queue : {0u, 5u, 127u}) {
        rig.start_tx(queue);
        for (int i = 0; i < 4; ++i) rig.post_tx_frame(queue, frame_of(kBroadcast, 60 + queue));
    }
    const auto wire = rig.transmit(6);
    REQUIRE(wire.size() == 6);
    for (std::size_t size : {60u, 65u, 187u}) {
        CHECK(std::ranges::count_if(wire, [size](const auto& f) { return f.size() == size; }) == 2);
    }
}
