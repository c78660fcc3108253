// Transmit switching from pool to pool (section 7.10.3.4).
#include <algorithm>
#include <catch2/catch_test_macros.hpp>

#include "soft82599_rig.h"

using namespace zecorx;
using namespace zecorx::test;
namespace reg = nic::reg;
namespace bits = nic::bits;
namespace rx_desc = nic::rx_desc;
namespace tx_desc = nic::tx_desc;

namespace {

constexpr MacAddress kStranger{{2, 9, 9, 9, 9, 9}};

// Pools 1 to 3 with an address each; pool 1 transmits. Pool p receives and sends on queue 2p.
class SwitchRig : public NicRig {
  public:
    static constexpr unsigned kSender = 2;    // queue of pool 1
    static constexpr unsigned kReceiver = 4;  // queue of pool 2
    static constexpr unsigned kThird = 6;

    explicit SwitchRig(unsigned receiver_kib = 2) {
        enable_vmdq();
        write(reg::kMtqc, bits::kMtqcVirtualization | 0x4);
        write(reg::kPfdtxgswc, bits::kPfdtxgswcLoopback);
        write(reg::kVfre, 0xE);
        write(reg::kVfre + 4, 0);
        for (unsigned pool = 1; pool <= 3; ++pool) {
            add_mac(pool, guest_mac(static_cast<std::uint8_t>(pool)), 1u << pool);
            start_rx(2 * pool, 2 * pool == kReceiver ? receiver_kib : 2);
        }
        start_tx(kSender);
    }

    // Sends one frame from pool 1; returns what left by the wire.
    std::vector<nic::Frame> send(const nic::Frame& frame, std::uint64_t flags = 0) {
        post_tx_frame(kSender, frame, flags);
        return transmit();
    }
    void join_vlan(unsigned entry, std::uint16_t vlan, std::uint32_t pools) {
        write(reg::kVlvf + 4 * entry, bits::kVlvfEnable | vlan);
        write(reg::kVlvfb + 8 * entry, pools);
    }
    // Bytes of the frame whose first descriptor is `slot`.
    nic::Frame frame_at(unsigned queue, unsigned slot) {
        nic::Frame frame;
        for (unsigned i = slot; i < kRing; ++i) {
            const auto got = received(queue, i);
            const nic::Frame piece = payload(queue, i, got.length);
            frame.insert(frame.end(), piece.begin(), piece.end());
            if (!got.done || got.end) break;
        }
        return frame;
    }
};

}  // namespace

TEST_CASE("unicast to a pool stays inside and is marked as looped", "[soft82599]") {
    SwitchRig rig;
    const nic::Frame frame = frame_of(guest_mac(2), 60);
    CHECK(rig.send(frame).empty());
    CHECK(rig.frame_at(SwitchRig::kReceiver, 0) == frame);
    CHECK((rig.received(SwitchRig::kReceiver, 0).status & rx_desc::kLoopback) != 0);
    CHECK(rig.done_count(SwitchRig::kThird) == 0);
    CHECK(rig.counters().tx_looped == 1);

    rig.device().receive(frame);
    CHECK((rig.received(SwitchRig::kReceiver, 1).status & rx_desc::kLoopback) == 0);
}

TEST_CASE("unicast to nobody here leaves by the wire only", "[soft82599]") {
    SwitchRig rig;
    CHECK(rig.send(frame_of(kStranger, 60)).size() == 1);
    for (unsigned queue : {2u, 4u, 6u}) CHECK(rig.done_count(queue) == 0);
}

TEST_CASE("broadcast reaches every other pool once, and the wire once", "[soft82599]") {
    SwitchRig rig;
    rig.add_mac(7, kBroadcast, 1u << 2);  // selected twice: by address and by BAM
    CHECK(rig.send(frame_of(kBroadcast, 60)).size() == 1);
    CHECK(rig.done_count(SwitchRig::kReceiver) == 1);
    CHECK(rig.done_count(SwitchRig::kThird) == 1);
    CHECK(rig.done_count(SwitchRig::kSender) == 0);
}

TEST_CASE("multicast reaches pools that are promiscuous to it, and the wire", "[soft82599]") {
    SwitchRig rig;
    rig.write(reg::kVmolr + 4 * 3, bits::kVmolrAcceptUntagged | bits::kVmolrMulticastPromiscuous);
    CHECK(rig.send(frame_of(MacAddress{{1, 0, 0x5E, 0, 0, 1}}, 60)).size() == 1);
    CHECK(rig.done_count(SwitchRig::kReceiver) == 0);
    CHECK(rig.done_count(SwitchRig::kThird) == 1);
}

TEST_CASE("a pool hears itself only with its PFVMTXSW bit", "[soft82599]") {
    SwitchRig rig;
    CHECK(rig.send(frame_of(kBroadcast, 60)).size() == 1);
    CHECK(rig.send(frame_of(guest_mac(1), 60)).empty());  // local: nowhere at all
    CHECK(rig.done_count(SwitchRig::kSender) == 0);

    rig.write(reg::kVmtxsw, 1u << 2);  // another pool's bit
    CHECK(rig.send(frame_of(kBroadcast, 60)).size() == 1);
    CHECK(rig.done_count(SwitchRig::kSender) == 0);

    rig.write(reg::kVmtxsw, 1u << 1);
    CHECK(rig.send(frame_of(kBroadcast, 60)).size() == 1);
    CHECK(rig.send(frame_of(guest_mac(1), 60)).empty());
    CHECK(rig.done_count(SwitchRig::kSender) == 2);
}

TEST_CASE("a local address never leaves by the wire, whatever keeps the frame from its pool",
          "[soft82599]") {
    SwitchRig rig;
    rig.join_vlan(0, 10, 1u << 1);
    rig.join_vlan(1, 20, 1u << 2);
    SECTION("the VLAN of another pool") {
        const nic::Frame frame =
            FrameBuilder().to(guest_mac(2)).tag(10).be16(0x88B5).fill_to(64).build();
        CHECK(rig.send(frame).empty());
    }
    SECTION("a pool that takes no untagged frames") {
        rig.write(reg::kVmolr + 4 * 2, bits::kVmolrBroadcast);
        CHECK(rig.send(frame_of(guest_mac(2), 60)).empty());
    }
    SECTION("but the address of a pool with the receiver off is no local address") {
        rig.write(reg::kVfre, 0xE & ~(1u << 2));
        CHECK(rig.send(frame_of(guest_mac(2), 60)).size() == 1);
    }
    CHECK(rig.done_count(SwitchRig::kReceiver) == 0);
}

TEST_CASE("a unicast hash hit is delivered and also leaves by the wire", "[soft82599]") {
    SwitchRig rig;
    for (unsigned i = 0; i < 128; ++i) rig.write(reg::kUta + 4 * i, ~0u);
    rig.write(reg::kVmolr + 4 * 3, bits::kVmolrAcceptUntagged | bits::kVmolrUnicastHash);
    CHECK(rig.send(frame_of(kStranger, 60)).size() == 1);
    CHECK(rig.done_count(SwitchRig::kThird) == 1);
}

TEST_CASE("the tag inserted on transmit selects the pool and is stripped where the queue strips",
          "[soft82599]") {
    SwitchRig rig;
    rig.join_vlan(0, 10, 1u << 1 | 1u << 2 | 1u << 3);
    rig.poke(reg::rx_queue(SwitchRig::kReceiver) + reg::kRxdctl,
             bits::kQueueEnable | bits::kRxdctlVlanStrip);
    const nic::Frame frame = frame_of(kBroadcast, 100);
    rig.post_tx(SwitchRig::kSender, context(14, 20, 0, 10));
    const auto wire = rig.send(frame, tx_desc::kVlanInsert);

    const nic::Frame tagged = nic::with_vlan_tag(frame, 0x8100, 10);
    REQUIRE(wire.size() == 1);
    CHECK(wire[0] == tagged);
    CHECK(rig.frame_at(SwitchRig::kReceiver, 0) == frame);
    CHECK(rig.received(SwitchRig::kReceiver, 0).vlan == 10);
    CHECK((rig.received(SwitchRig::kReceiver, 0).status & rx_desc::kVlanPacket) != 0);
    CHECK(rig.frame_at(SwitchRig::kThird, 0) == tagged);

    rig.join_vlan(0, 10, 1u << 1);  // the others left the VLAN
    rig.send(frame, tx_desc::kVlanInsert);
    CHECK(rig.done_count(SwitchRig::kReceiver) == 1);
    CHECK(rig.done_count(SwitchRig::kThird) == 1);
}

TEST_CASE("the port can impose or forbid a pool's tag", "[soft82599]") {
    SwitchRig rig;
    const nic::Frame frame = frame_of(kStranger, 100);
    rig.post_tx(SwitchRig::kSender, context(14, 20, 0, 10));
    rig.write(reg::kVmvir + 4 * 1, bits::kVmvirAlwaysInsert | 30);
    CHECK(rig.send(frame).at(0) == nic::with_vlan_tag(frame, 0x8100, 30));
    CHECK(rig.send(frame, tx_desc::kVlanInsert).at(0) == nic::with_vlan_tag(frame, 0x8100, 30));
    rig.write(reg::kVmvir + 4 * 1, bits::kVmvirNeverInsert);
    CHECK(rig.send(frame, tx_desc::kVlanInsert).at(0) == frame);
}

TEST_CASE("a looped frame spans as many of the receiver's buffers as it needs", "[soft82599]") {
    SwitchRig rig(1);
    const nic::Frame frame = frame_of(guest_mac(2), 5 * 1024 + 100);
    CHECK(rig.send(frame).empty());
    CHECK(rig.done_count(SwitchRig::kReceiver) == 6);
    CHECK(rig.frame_at(SwitchRig::kReceiver, 0) == frame);
    const nic::Frame behind =
        rig.dma().bytes(NicRig::rx_buffer(SwitchRig::kReceiver, 0) + 1024, 1024);
    CHECK(std::ranges::all_of(behind, [](std::byte b) { return b == FakeDma::kCanary; }));
    CHECK((rig.received(SwitchRig::kReceiver, 0).status & rx_desc::kLoopback) == 0);
    CHECK((rig.received(SwitchRig::kReceiver, 5).status & rx_desc::kLoopback) != 0);
}

TEST_CASE("a looped frame is not held to the wire's size limit", "[soft82599]") {
    SwitchRig rig;
    CHECK(rig.send(frame_of(guest_mac(2), 1600)).empty());
    CHECK(rig.received(SwitchRig::kReceiver, 0).length == 1600);
}

TEST_CASE(
    "a looped frame without enough descriptors is dropped whole, broadcast only for that pool",
    "[soft82599]") {
    SwitchRig rig(1);
    rig.set_tail(SwitchRig::kReceiver, 2);
    const nic::Frame frame = frame_of(kBroadcast, 2100);
    CHECK(rig.send(frame).size() == 1);
    CHECK(rig.done_count(SwitchRig::kReceiver) == 0);
    CHECK(rig.frame_at(SwitchRig::kThird, 0) == frame);
    CHECK(rig.counters().rx_dropped_no_descriptor == 1);
}

TEST_CASE("nothing longer than 9.5 KiB is sent while pools are switched", "[soft82599]") {
    SwitchRig rig(16);
    constexpr std::size_t kLongest = nic::kMaxSwitchedFrame - nic::kCrc;
    CHECK(rig.send(frame_of(kStranger, kLongest)).size() == 1);
    CHECK(rig.send(frame_of(guest_mac(2), kLongest)).empty());
    CHECK(rig.received(SwitchRig::kReceiver, 0).length == kLongest);
    CHECK(rig.counters().tx_too_long_to_switch == 0);

    CHECK(rig.send(frame_of(kStranger, kLongest + 1)).empty());
    CHECK(rig.send(frame_of(guest_mac(2), kLongest + 1)).empty());
    CHECK(rig.done_count(SwitchRig::kReceiver) == 1);
    CHECK(rig.counters().tx_too_long_to_switch == 2);

    rig.write(reg::kPfdtxgswc, 0);
    CHECK(rig.send(frame_of(kStranger, kLongest + 1)).size() == 1);
}

TEST_CASE("TSO segments loop one by one with good checksums", "[soft82599]") {
    SwitchRig rig;
    constexpr std::size_t kPayload = 2500;
    nic::Frame frame =
        FrameBuilder().to(guest_mac(2)).ipv4(6, 20 + kPayload).tcp(1, 0x18, kPayload).build();
    seed_l4_checksum(frame, 34 + 16, false);
    nic::store_be16(frame, 16, 0);
    nic::store_be16(frame, 24, 0);
    rig.post_tx(SwitchRig::kSender, context(14, 20, kIpv4Context | kTcpContext, 0, 20, 1000));
    CHECK(rig.send(frame, tx_desc::kSegment | tx_desc::kInsertL4Checksum).empty());

    REQUIRE(rig.done_count(SwitchRig::kReceiver) == 3);
    nic::Frame joined;
    for (unsigned slot = 0; slot < 3; ++slot) {
        INFO("segment " << slot);
        const auto got = rig.received(SwitchRig::kReceiver, slot);
        CHECK((got.status & (rx_desc::kL4Checked | rx_desc::kIpChecked)) ==
              (rx_desc::kL4Checked | rx_desc::kIpChecked));
        CHECK((got.status & (rx_desc::kL4Error | rx_desc::kIpError)) == 0);
        const nic::Frame segment = rig.frame_at(SwitchRig::kReceiver, slot);
        CHECK(checksums_good(segment));
        joined.insert(joined.end(), segment.begin() + 54, segment.end());
    }
    CHECK(joined == nic::Frame(frame.begin() + 54, frame.end()));
}

TEST_CASE("a looped frame has its checksum inserted before anyone receives it", "[soft82599]") {
    SwitchRig rig;
    nic::Frame frame = FrameBuilder().to(guest_mac(2)).ipv6(17, 8 + 33).udp(33).build();
    seed_l4_checksum(frame, 54 + 6, true);
    rig.post_tx(SwitchRig::kSender, context(14, 40, 0));
    rig.send(frame, tx_desc::kInsertL4Checksum);
    CHECK(checksums_good(rig.frame_at(SwitchRig::kReceiver, 0)));
    CHECK((rig.received(SwitchRig::kReceiver, 0).status & rx_desc::kL4Error) == 0);

    rig.send(frame);  // without the offload the receiver is told that the sum is wrong
    CHECK((rig.received(SwitchRig::kReceiver, 1).status & rx_desc::kL4Error) != 0);
}

TEST_CASE("without link or with the receiver off nothing loops", "[soft82599]") {
    SwitchRig rig;
    SECTION("link down") {
        rig.device().set_link(false);
        CHECK(rig.send(frame_of(guest_mac(2), 60)).empty());
    }
    SECTION("receiver off") {
        rig.write(reg::kRxctrl, 0);
        CHECK(rig.send(frame_of(guest_mac(2), 60)).size() == 1);
    }
    CHECK(rig.done_count(SwitchRig::kReceiver) == 0);
    CHECK(rig.tx_done(SwitchRig::kSender, 0));
}

TEST_CASE("a looped frame that waits for descriptors keeps its mark", "[soft82599]") {
    SwitchRig rig;
    rig.start_rx(SwitchRig::kReceiver, 2, false);
    rig.set_tail(SwitchRig::kReceiver, 0);
    rig.send(frame_of(guest_mac(2), 60));
    CHECK(rig.done_count(SwitchRig::kReceiver) == 0);
    rig.set_tail(SwitchRig::kReceiver, 3);
    rig.device().retry_held_frames();
    REQUIRE(rig.done_count(SwitchRig::kReceiver) == 1);
    CHECK((rig.received(SwitchRig::kReceiver, 0).status & rx_desc::kLoopback) != 0);
}
