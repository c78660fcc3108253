#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "soft82599_rig.h"

using namespace zecorx;
using namespace zecorx::test;
using nic::RxResult;
namespace reg = nic::reg;
namespace bits = nic::bits;
namespace rx_desc = nic::rx_desc;

namespace {

bool all_canary(const nic::Frame& bytes) {
    return std::ranges::all_of(bytes, [](std::byte b) { return b == FakeDma::kCanary; });
}

nic::Frame tagged_frame(std::uint16_t tci, std::size_t length) {
    return FrameBuilder().to(kPortMac).tag(tci).be16(0x88B5).fill_to(length).build();
}

}  // namespace

TEST_CASE("a frame is written exactly and nothing behind it", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    const nic::Frame frame = frame_of(kPortMac, 1514);
    CHECK(rig.device().receive(frame) == RxResult::kDelivered);
    const auto got = rig.received(0, 0);
    CHECK(got.done);
    CHECK(got.end);
    CHECK(got.length == 1514);
    CHECK(rig.payload(0, 0, 1514) == frame);
    CHECK(all_canary(rig.dma().bytes(NicRig::rx_buffer(0, 0) + 1514, 534)));
    CHECK(rig.peek(reg::rx_queue(0) + reg::kRdh) == 1);
}

TEST_CASE("a runt is padded with zeros to 60 bytes", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    rig.device().receive(frame_of(kPortMac, 42));
    CHECK(rig.received(0, 0).length == 60);
    const nic::Frame padding = rig.dma().bytes(NicRig::rx_buffer(0, 0) + 42, 18);
    CHECK(std::ranges::all_of(padding, [](std::byte b) { return b == std::byte{0}; }));
}

TEST_CASE("the size limit is 1518 with CRC, and 4 more with a tag", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    CHECK(rig.device().receive(frame_of(kPortMac, 1514)) == RxResult::kDelivered);
    CHECK(rig.device().receive(frame_of(kPortMac, 1515)) == RxResult::kDroppedOversize);
    CHECK(rig.device().receive(tagged_frame(5, 1518)) == RxResult::kDelivered);
    CHECK(rig.device().receive(tagged_frame(5, 1519)) == RxResult::kDroppedOversize);
    CHECK(rig.read(reg::kRoc) == 2);
    CHECK(rig.counters().rx_dropped_oversize == 2);
    CHECK(rig.done_count(0) == 2);
}

TEST_CASE("MAXFRS holds only with jumbo frames enabled", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0, 16);
    rig.write(reg::kMaxfrs, 9018u << 16);
    CHECK(rig.device().receive(frame_of(kPortMac, 9014)) == RxResult::kDroppedOversize);
    rig.write(reg::kHlreg0, rig.read(reg::kHlreg0) | bits::kHlreg0Jumbo);
    CHECK(rig.device().receive(frame_of(kPortMac, 9014)) == RxResult::kDelivered);
    CHECK(rig.device().receive(frame_of(kPortMac, 9015)) == RxResult::kDroppedOversize);
}

TEST_CASE("a frame longer than a buffer spans descriptors and ends in the last", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0, 1);
    const nic::Frame frame = frame_of(kPortMac, 1514);
    CHECK(rig.device().receive(frame) == RxResult::kDelivered);
    const auto first = rig.received(0, 0);
    const auto second = rig.received(0, 1);
    CHECK((first.done && !first.end && first.length == 1024));
    CHECK((second.done && second.end && second.length == 490));
    nic::Frame joined = rig.payload(0, 0, 1024);
    const nic::Frame rest = rig.payload(0, 1, 490);
    joined.insert(joined.end(), rest.begin(), rest.end());
    CHECK(joined == frame);
    CHECK(rig.counters().rx_delivered == 1);
}

TEST_CASE("a frame that exactly fills a buffer takes one descriptor", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0, 1);
    rig.device().receive(frame_of(kPortMac, 1024));
    CHECK(rig.received(0, 0).end);
    CHECK_FALSE(rig.received(0, 1).done);
}

TEST_CASE("only the last descriptor of a frame tells about the frame", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0, 1);
    nic::Frame frame =
        FrameBuilder().to(kPortMac).tag(7).ipv4(6, 20 + 1400).tcp(1, 0x10, 1400).build();
    rig.device().receive(frame);
    const auto first = rig.received(0, 0);
    CHECK(first.status == rx_desc::kDone);
    CHECK(first.type == 0);
    CHECK(first.vlan == 0);
    const auto last = rig.received(0, 1);
    CHECK((last.type & rx_desc::kTypeTcp) != 0);
    CHECK((last.status & rx_desc::kL4Checked) != 0);
    CHECK((last.status & rx_desc::kVlanPacket) != 0);
    CHECK(last.vlan == 7);
}

TEST_CASE(
    "a frame that needs more descriptors than a frame may use is dropped and holds up nothing",
    "[soft82599]") {
    const bool drop = GENERATE(true, false);
    NicRig rig;
    rig.start_rx(0, 1, drop);
    rig.device().rx_queue(0).limit_pieces(1);
    CHECK(rig.device().receive(frame_of(kPortMac, 1025)) == RxResult::kDroppedNoDescriptor);
    CHECK(rig.counters().rx_dropped_too_long == 1);
    CHECK(rig.done_count(0) == 0);
    CHECK(all_canary(rig.payload(0, 0, 1024)));
    CHECK(rig.device().receive(frame_of(kPortMac, 1024)) == RxResult::kDelivered);
}

TEST_CASE("the longest frame fits the descriptors a frame may use", "[soft82599]") {
    STATIC_REQUIRE((nic::kMaxJumboFrame + nic::kVlanTag + 1023) / 1024 == nic::RxQueue::kMaxPieces);
}

TEST_CASE("without drop enable a frame waits as a whole until all of its descriptors are there",
          "[soft82599]") {
    NicRig rig;
    rig.start_rx(0, 1, false);
    rig.set_tail(0, 1);
    const nic::Frame frame = frame_of(kPortMac, 1514);
    CHECK(rig.device().receive(frame) == RxResult::kHeld);
    rig.device().retry_held_frames();
    CHECK(rig.done_count(0) == 0);
    CHECK(all_canary(rig.payload(0, 0, 1024)));
    rig.set_tail(0, 2);
    rig.device().retry_held_frames();
    CHECK(rig.done_count(0) == 2);
    CHECK(rig.received(0, 1).length == 490);
}

TEST_CASE("an interrupted frame is completed by the next one or on demand", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0, 1);
    rig.device().rx_queue(0).interrupt_frames_after(1);
    const nic::Frame frame = frame_of(kPortMac, 1514);
    CHECK(rig.device().receive(frame) == RxResult::kDelivered);
    CHECK(rig.done_count(0) == 1);
    CHECK_FALSE(rig.received(0, 0).end);
    CHECK(rig.peek(reg::rx_queue(0) + reg::kRdh) == 1);
    CHECK(rig.device().receive(frame) == RxResult::kDelivered);
    CHECK(rig.done_count(0) == 3);
    CHECK(rig.received(0, 1).end);
    rig.device().rx_queue(0).finish_frame();
    CHECK(rig.received(0, 3).end);
    CHECK(rig.payload(0, 3, 490) == nic::Frame(frame.begin() + 1024, frame.end()));
}

TEST_CASE("a stop in the middle of a frame forgets its rest", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0, 1);
    rig.device().rx_queue(0).interrupt_frames_after(1);
    rig.device().receive(frame_of(kPortMac, 1514));
    rig.stop_rx(0);
    rig.read(reg::kStatus);
    rig.device().rx_queue(0).finish_frame();
    CHECK(rig.done_count(0) == 1);
    rig.start_rx(0, 1);
    rig.device().rx_queue(0).finish_frame();
    CHECK(rig.done_count(0) == 0);
    rig.device().receive(frame_of(kPortMac, 60));
    CHECK(rig.received(0, 0).length == 60);
    CHECK(rig.counters().writes_after_stop == 0);
}

TEST_CASE("a full queue with drop enable drops and counts", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    for (unsigned i = 0; i < NicRig::kRing - 1; ++i) {
        REQUIRE(rig.device().receive(frame_of(kPortMac, 60)) == RxResult::kDelivered);
    }
    CHECK(rig.device().receive(frame_of(kPortMac, 60)) == RxResult::kDroppedNoDescriptor);
    CHECK(rig.counters().rx_dropped_no_descriptor == 1);
    rig.read(reg::kCrcerrs);
    CHECK(rig.peek(reg::kQprdc) == 1);
    rig.read(reg::kMlfc);
    CHECK(rig.read(reg::kMpc) == 0);  // the packet buffer missed nothing
}

TEST_CASE("a frame is dropped whole when descriptors suffice for a part only", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0, 1);
    rig.set_tail(0, 1);
    CHECK(rig.device().receive(frame_of(kPortMac, 1514)) == RxResult::kDroppedNoDescriptor);
    CHECK(rig.done_count(0) == 0);
    CHECK(all_canary(rig.payload(0, 0, 1024)));
}

TEST_CASE("without drop enable a full queue blocks the other pools", "[soft82599]") {
    NicRig rig;
    rig.enable_vmdq();
    rig.add_mac(1, guest_mac(1), 1 << 1);
    rig.add_mac(2, guest_mac(2), 1 << 2);
    rig.start_rx(2, 2, false);
    rig.start_rx(4);
    rig.set_tail(2, 0);
    CHECK(rig.device().receive(frame_of(guest_mac(1), 60)) == RxResult::kHeld);
    CHECK(rig.device().receive(frame_of(guest_mac(2), 60)) == RxResult::kHeld);
    CHECK(rig.done_count(4) == 0);

    rig.set_tail(2, 3);
    rig.device().retry_held_frames();
    CHECK(rig.done_count(2) == 1);
    CHECK(rig.done_count(4) == 1);
}

TEST_CASE("PFQDE makes a queue drop whatever SRRCTL says", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0, 2, false);
    rig.set_tail(0, 0);
    rig.write(reg::kQde, bits::kQdeWrite | bits::kQdeEnable);
    CHECK(rig.device().receive(frame_of(kPortMac, 60)) == RxResult::kDroppedNoDescriptor);
}

TEST_CASE("the packet buffer is bounded and what overflows is missed", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0, 2, false);
    rig.set_tail(0, 0);
    RxResult last = RxResult::kHeld;
    for (int i = 0; i < 400 && last == RxResult::kHeld; ++i) {
        last = rig.device().receive(frame_of(kPortMac, 1514));
    }
    CHECK(last == RxResult::kDroppedFifo);
    CHECK(rig.read(reg::kMpc) == 1);
    CHECK(rig.counters().rx_held == 512 * 1024 / 1514);
}

TEST_CASE("a disabled queue drops, even without drop enable", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0, 2, false);
    rig.stop_rx(0);
    CHECK(rig.device().receive(frame_of(kPortMac, 60)) == RxResult::kDroppedNoDescriptor);
    CHECK(rig.done_count(0) == 0);
}

TEST_CASE("nothing is received before RXCTRL.RXEN or without link", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    rig.write(reg::kRxctrl, 0);
    CHECK(rig.device().receive(frame_of(kPortMac, 60)) == RxResult::kDroppedDisabled);
    rig.write(reg::kRxctrl, 1);
    rig.device().set_link(false);
    CHECK(rig.device().receive(frame_of(kPortMac, 60)) == RxResult::kDroppedDisabled);
    CHECK(rig.done_count(0) == 0);
}

TEST_CASE("a frame written while its queue is being disabled is told on", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    rig.device().receive(frame_of(kPortMac, 60));
    CHECK(rig.counters().writes_after_stop == 0);
    rig.dma().on_access = [&rig] { rig.stop_rx(0); };
    CHECK(rig.device().receive(frame_of(kPortMac, 60)) == RxResult::kDelivered);
    CHECK(rig.counters().writes_after_stop == 1);
    CHECK(rig.device().receive(frame_of(kPortMac, 60)) == RxResult::kDroppedNoDescriptor);
    CHECK(rig.counters().writes_after_stop == 1);
}

TEST_CASE("a restart in the middle of a frame is not overwritten", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    rig.device().receive(frame_of(kPortMac, 60));
    // The driver's store to RDH falls between the device's read of it and its update.
    rig.dma().on_access = [&rig] { rig.poke(reg::rx_queue(0) + reg::kRdh, 0); };
    rig.device().receive(frame_of(kPortMac, 60));
    rig.dma().on_access = nullptr;
    rig.post(0, 0, NicRig::rx_buffer(0, 0));
    rig.device().receive(frame_of(kPortMac, 77));
    CHECK(rig.received(0, 0).length == 77);
}

TEST_CASE("a restarted queue begins at descriptor 0 once RDH is written", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    rig.device().receive(frame_of(kPortMac, 60));
    rig.stop_rx(0);
    rig.read(reg::kStatus);  // any trapped access makes the device see the stop

    const std::uint32_t base = reg::rx_queue(0);
    rig.poke(base + reg::kRxdctl, bits::kQueueEnable);
    CHECK(rig.device().receive(frame_of(kPortMac, 60)) == RxResult::kDroppedNoDescriptor);
    rig.start_rx(0);
    CHECK(rig.device().receive(frame_of(kPortMac, 61)) == RxResult::kDelivered);
    CHECK(rig.received(0, 0).length == 61);
    CHECK_FALSE(rig.received(0, 1).done);
}

TEST_CASE("a stop and start between two looks also begins at descriptor 0", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    rig.device().receive(frame_of(kPortMac, 60));
    rig.stop_rx(0);
    rig.start_rx(0);
    rig.device().receive(frame_of(kPortMac, 61));
    CHECK(rig.received(0, 0).length == 61);
}

TEST_CASE("guarded buffers of a stopped queue are unchanged, or the change is found",
          "[soft82599]") {
    NicRig rig;
    rig.device().rx_queue(0).guard_buffers_at_stop(true);
    rig.start_rx(0);
    rig.device().receive(frame_of(kPortMac, 60));
    CHECK_FALSE(rig.device().rx_queue(0).verify_stopped().has_value());
    rig.stop_rx(0);
    rig.read(reg::kStatus);
    rig.device().receive(frame_of(kPortMac, 60));
    CHECK(rig.device().rx_queue(0).verify_stopped() == 0u);
    const nic::Frame scribble(1);
    rig.dma().store(NicRig::rx_buffer(0, 3) + 2047, scribble);
    CHECK(rig.device().rx_queue(0).verify_stopped() == 1u);
}

TEST_CASE("an unmapped buffer is a fault and delivers nothing", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    rig.post(0, 0, 0x7'0000'0000);
    CHECK(rig.device().receive(frame_of(kPortMac, 60)) == RxResult::kDmaFault);
    CHECK(rig.counters().dma_faults == 1);
    CHECK(rig.done_count(0) == 0);
}

TEST_CASE("memory that is unmapped after posting is a fault", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    CHECK(rig.device().receive(frame_of(kPortMac, 60)) == RxResult::kDelivered);
    rig.dma().unmap(NicRig::rx_buffer(0, 1));
    CHECK(rig.device().receive(frame_of(kPortMac, 60)) == RxResult::kDmaFault);
}

TEST_CASE("a frame may cross pages as long as every page is mapped", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    const std::uint64_t near_end = NicRig::rx_buffer(0, 0) - 0x80 + FakeDma::kPage - 100;
    rig.post(0, 0, near_end);
    const nic::Frame frame = frame_of(kPortMac, 1514);
    CHECK(rig.device().receive(frame) == RxResult::kDelivered);
    CHECK(rig.dma().bytes(near_end, 1514) == frame);
}

TEST_CASE("bit 0 of a packet address is not address", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    rig.post(0, 0, NicRig::rx_buffer(0, 0) | 1);
    const nic::Frame frame = frame_of(kPortMac, 60);
    rig.device().receive(frame);
    CHECK(rig.payload(0, 0, 60) == frame);
}

TEST_CASE("the tag is reported, and taken out where the queue strips", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    const nic::Frame frame = tagged_frame(0x2005, 100);
    rig.device().receive(frame);
    rig.poke(reg::rx_queue(0) + reg::kRxdctl, bits::kQueueEnable | bits::kRxdctlVlanStrip);
    rig.device().receive(frame);

    const auto kept = rig.received(0, 0);
    CHECK((kept.status & rx_desc::kVlanPacket) != 0);
    CHECK(kept.vlan == 0x2005);
    CHECK(kept.length == 100);
    CHECK(rig.payload(0, 0, 100) == frame);
    const auto stripped = rig.received(0, 1);
    CHECK(stripped.vlan == 0x2005);
    CHECK(stripped.length == 96);
    CHECK(rig.payload(0, 1, 96) == nic::without_vlan_tag(frame));
}

TEST_CASE("the CRC is appended when it is not stripped", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    rig.write(reg::kHlreg0, rig.read(reg::kHlreg0) & ~bits::kHlreg0RxCrcStrip);
    const nic::Frame frame = frame_of(kPortMac, 60);
    rig.device().receive(frame);
    CHECK(rig.received(0, 0).length == 64);
    // A CRC over data and its CRC is the constant residue.
    CHECK(nic::ethernet_crc(rig.payload(0, 0, 64)) == 0x2144DF1C);
}

TEST_CASE("checksums are verified and reported", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    nic::Frame frame = FrameBuilder().to(kPortMac).ipv4(6, 20 + 100).tcp(1, 0x10, 100).build();
    const nic::FrameLayout layout = nic::parse_frame(frame, 0x8100);
    const auto sum =
        nic::pseudo_header_sum(frame, layout) + nic::sum_bytes(nic::FrameView(frame).subspan(34));
    nic::store_be16(frame, 34 + 16, static_cast<std::uint16_t>(~nic::fold(sum)));

    rig.device().receive(frame);
    const auto good = rig.received(0, 0);
    CHECK((good.type & 0x7F0) == (rx_desc::kTypeIpv4 | rx_desc::kTypeTcp));
    CHECK((good.status & rx_desc::kIpChecked) != 0);
    CHECK((good.status & rx_desc::kL4Checked) != 0);
    CHECK((good.status & (rx_desc::kIpError | rx_desc::kL4Error)) == 0);

    frame.back() ^= std::byte{1};
    rig.device().receive(frame);
    CHECK((rig.received(0, 1).status & rx_desc::kL4Error) != 0);
    CHECK((rig.received(0, 1).status & rx_desc::kIpError) == 0);

    frame[14 + 8] ^= std::byte{1};  // TTL
    rig.device().receive(frame);
    CHECK((rig.received(0, 2).status & rx_desc::kIpError) != 0);
}

TEST_CASE("a UDP checksum of 0 over IPv4 is reported as an error, as the 82599 does",
          "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    rig.device().receive(FrameBuilder().to(kPortMac).ipv4(17, 8 + 50).udp(50).build());
    const auto got = rig.received(0, 0);
    CHECK((got.type & rx_desc::kTypeUdp) != 0);
    CHECK((got.status & rx_desc::kL4Error) != 0);
    CHECK((got.status & rx_desc::kIpError) == 0);
}

TEST_CASE("the payload of a fragment is not checked", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    nic::Frame frame = FrameBuilder().to(kPortMac).ipv4(17, 8 + 50).udp(50).build();
    nic::store_be16(frame, 14 + 6, 0x2000);  // more fragments
    rig.device().receive(frame);
    CHECK((rig.received(0, 0).type & rx_desc::kTypeUdp) == 0);
    CHECK((rig.received(0, 0).status & (rx_desc::kL4Checked | rx_desc::kL4Error)) == 0);
}

TEST_CASE("headers cut short by the frame's end are no headers", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    const nic::Frame lying = FrameBuilder().to(kPortMac).ipv4(6, 1000).fill_to(60).build();
    CHECK(rig.device().receive(lying) == RxResult::kDelivered);
    CHECK((rig.received(0, 0).type & rx_desc::kTypeTcp) == 0);
    const nic::Frame v6 = FrameBuilder().to(kPortMac).be16(0x86DD).be16(0x6000).fill_to(53).build();
    CHECK(rig.device().receive(v6) == RxResult::kDelivered);
}

TEST_CASE("RSS spreads over the redirection table with the verification key", "[soft82599]") {
    // The IPv4 vectors of the Microsoft RSS specification.
    NicRig rig;
    static constexpr std::uint8_t kKey[40] = {
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
        0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
        0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};
    for (unsigned i = 0; i < 10; ++i) {
        std::uint32_t word = 0;
        std::memcpy(&word, kKey + 4 * i, 4);
        rig.write(reg::kRssrk + 4 * i, word);
    }
    rig.write(reg::kMrqc, bits::kMrqcRss | bits::kMrqcTcpIpv4);
    rig.write(reg::kReta + (0x51ccc178 & 0x7F) / 4 * 4, 0x03030303);
    rig.start_rx(3);
    nic::Frame frame = FrameBuilder().to(kPortMac).ipv4(6, 40).tcp(1, 0x10, 20).build();
    nic::store_be32(frame, 26, 0x420995BB);  // 66.9.149.187:2794 -> 161.142.100.80:1766
    nic::store_be32(frame, 30, 0xA18E6450);
    nic::store_be16(frame, 34, 2794);
    nic::store_be16(frame, 36, 1766);
    rig.device().receive(frame);
    REQUIRE(rig.received(3, 0).done);
    CHECK((rig.received(3, 0).type & 0xF) == 1);
}
