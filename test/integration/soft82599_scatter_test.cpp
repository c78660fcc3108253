// Frames in several buffers through the stock ixgbe driver: which receive function it takes, what
// it reports about a chain, and whose the buffers are when a queue stops in the middle of one.
#include <rte_ip.h>

#include <algorithm>
#include <catch2/generators/catch_generators.hpp>

#include "soft82599/checksum.h"
#include "soft82599_bench.h"

using namespace zecorx;
using namespace zecorx::test;
using soft82599::RxResult;

namespace {

constexpr std::uint32_t kJumboMtu = 9216;
constexpr std::size_t kLongestFrame = kJumboMtu + 14;
constexpr std::size_t kTcpHeaders = 14 + 20 + 20;

constexpr const char* kVector = "Vector rx enabled";
constexpr const char* kVectorScattered = "Using Vector Scattered Rx callback";

rte_eth_conf config_of(std::uint32_t mtu, std::uint64_t offloads = 0) {
    rte_eth_conf conf{};
    conf.rxmode.mtu = mtu;
    conf.rxmode.offloads = offloads;
    return conf;
}

constexpr std::uint16_t kSender = 2;    // queue of pool 1, to send and to receive
constexpr std::uint16_t kReceiver = 4;  // queue of pool 2

rte_eth_conf switched_config() {
    rte_eth_conf conf = vmdq_config();
    conf.rx_adv_conf.vmdq_rx_conf.enable_loop_back = 1;
    conf.txmode.mq_mode = RTE_ETH_MQ_TX_VMDQ_ONLY;
    conf.tx_adv_conf.vmdq_tx_conf.nb_queue_pools = RTE_ETH_64_POOLS;
    return conf;
}

// A TCP segment over IPv4 with good checksums.
Frame tcp_frame(const MacAddress& to, std::size_t length) {
    Frame frame = make_frame(to, length);
    soft82599::store_be16(frame, 12, 0x0800);
    const std::span<std::byte> ip = std::span(frame).subspan(14, 20);
    std::ranges::fill(ip, std::byte{0});
    ip[0] = std::byte{0x45};
    ip[8] = std::byte{64};
    ip[9] = std::byte{6};
    soft82599::store_be16(ip, 2, static_cast<std::uint16_t>(length - 14));
    soft82599::store_be32(ip, 12, 0x0A000001);
    soft82599::store_be32(ip, 16, 0x0A000002);
    const auto complement = [](soft82599::PartialSum sum) {
        return static_cast<std::uint16_t>(~soft82599::fold(sum));
    };
    soft82599::store_be16(ip, 10, complement(soft82599::sum_bytes(ip)));
    soft82599::store_be16(frame, 34 + 12, 0x5010);
    soft82599::store_be16(frame, 34 + 16, 0);
    const soft82599::FrameLayout layout = soft82599::parse_frame(frame, 0x8100);
    soft82599::store_be16(frame, 34 + 16,
                          complement(soft82599::pseudo_header_sum(frame, layout) +
                                     soft82599::sum_bytes(FrameView(frame).subspan(34))));
    return frame;
}

// The next frame of a queue. The driver does not look past the end of the ring, so a chain that
// goes on at its start is reported by the second call only.
MbufPtr receive_one(const RunningPort& port, std::uint16_t queue = 0) {
    std::vector<MbufPtr> got = port.receive_mbufs(queue);
    if (got.empty()) got = port.receive_mbufs(queue);
    REQUIRE(got.size() == 1);
    return std::move(got[0]);
}

std::size_t segments_for(std::size_t length, unsigned buffer) {
    return (length + buffer - 1) / buffer;
}

std::uint64_t checksum_flags(const rte_mbuf& mbuf) {
    return mbuf.ol_flags & (RTE_MBUF_F_RX_IP_CKSUM_MASK | RTE_MBUF_F_RX_L4_CKSUM_MASK);
}
constexpr std::uint64_t kAllGood = RTE_MBUF_F_RX_IP_CKSUM_GOOD | RTE_MBUF_F_RX_L4_CKSUM_GOOD;

}  // namespace

TEST_CASE("the receive function depends on MTU and buffer sizes, not on offloads",
          "[soft82599][eal][scatter]") {
    struct Row {
        std::uint32_t mtu;
        std::vector<unsigned> buffers;
        const char* expected;
    };
    static const Row kRows[] = {
        {1500, {2048, 2048}, kVector},           {1500, {2048, 1024}, kVectorScattered},
        {9000, {2048, 2048}, kVectorScattered},  {9000, {16384, 16384}, kVector},
        {9000, {16384, 1024}, kVectorScattered},
    };
    const Row& row = kRows[GENERATE(0, 1, 2, 3, 4)];
    const std::uint64_t offloads =
        GENERATE(std::uint64_t{0},
                 std::uint64_t{RTE_ETH_RX_OFFLOAD_CHECKSUM | RTE_ETH_RX_OFFLOAD_VLAN_STRIP});
    INFO("MTU " << row.mtu << ", second queue " << row.buffers[1] << ", offloads " << offloads);
    rte_eth_conf conf = vmdq_config();
    conf.rxmode.mtu = row.mtu;
    conf.rxmode.offloads = offloads;
    SoftNicBench::instance();
    DriverLog log;
    const RunningPort port(0, conf, 2, row.buffers);
    CHECK(log.has(row.expected));
}

TEST_CASE("any transmit offload takes the vector function away", "[soft82599][eal][scatter]") {
    const std::uint64_t offload = GENERATE(
        std::uint64_t{0}, std::uint64_t{RTE_ETH_TX_OFFLOAD_MULTI_SEGS},
        std::uint64_t{RTE_ETH_TX_OFFLOAD_TCP_CKSUM}, std::uint64_t{RTE_ETH_TX_OFFLOAD_TCP_TSO},
        std::uint64_t{RTE_ETH_TX_OFFLOAD_VLAN_INSERT});
    rte_eth_conf conf{};
    conf.txmode.offloads = offload;
    SoftNicBench::instance();
    DriverLog log;
    const RunningPort port(0, conf);
    CHECK(log.has("Vector tx enabled") == (offload == 0));
    CHECK(log.has("Using full-featured tx code path") == (offload != 0));
}

TEST_CASE("frames of every length arrive as chains of exactly the buffers they need",
          "[soft82599][eal][scatter]") {
    const unsigned buffer = GENERATE(1024u, 2048u, 4096u, 16384u);
    INFO("buffers of " << buffer << " bytes");
    const RunningPort port(0, config_of(kJumboMtu, RTE_ETH_RX_OFFLOAD_CHECKSUM), 1, {buffer});
    std::vector<std::size_t> lengths = {kLongestFrame, 1514, 9014};
    for (std::size_t length = 60; length <= kLongestFrame; length += 97) lengths.push_back(length);
    for (std::size_t edge = buffer; edge <= kLongestFrame; edge += buffer) {
        for (const std::size_t length : {edge - 1, edge, edge + 1}) lengths.push_back(length);
    }
    for (const std::size_t length : lengths) {
        INFO("length " << length);
        const Frame frame = tcp_frame(port.model().mac(), length);
        REQUIRE(port.model().inject(frame) == RxResult::kDelivered);
        const MbufPtr got = receive_one(port);
        REQUIRE(bytes_of(got.get()) == frame);
        REQUIRE(got->nb_segs == segments_for(length, buffer));
        REQUIRE(got->pkt_len == length);
        REQUIRE(checksum_flags(*got) == kAllGood);
    }
    CHECK(port.model().inject(make_frame(port.model().mac(), kLongestFrame + 1)) ==
          RxResult::kDroppedOversize);
    CHECK(port.model().counters().dma_faults == 0);
}

TEST_CASE("checksum errors are reported for whole chains", "[soft82599][eal][scatter]") {
    const unsigned buffer = GENERATE(1024u, 16384u);
    const RunningPort port(0, config_of(kJumboMtu, RTE_ETH_RX_OFFLOAD_CHECKSUM), 1, {buffer});
    Frame frame = tcp_frame(port.model().mac(), 5000);
    frame.back() ^= std::byte{1};
    port.model().inject(frame);
    CHECK(checksum_flags(*receive_one(port)) ==
          (RTE_MBUF_F_RX_IP_CKSUM_GOOD | RTE_MBUF_F_RX_L4_CKSUM_BAD));
    frame[14 + 8] ^= std::byte{1};  // TTL
    port.model().inject(frame);
    CHECK(checksum_flags(*receive_one(port)) ==
          (RTE_MBUF_F_RX_IP_CKSUM_BAD | RTE_MBUF_F_RX_L4_CKSUM_BAD));
}

// What a guest may be told rests on these: GOOD alone proves nothing.
TEST_CASE("the driver calls good what the NIC did not check", "[soft82599][eal][scatter]") {
    const std::uint64_t offloads =
        GENERATE(std::uint64_t{0}, std::uint64_t{RTE_ETH_RX_OFFLOAD_CHECKSUM});
    const RunningPort port(0, config_of(1500, offloads));
    const auto is_tcp = [](const rte_mbuf& mbuf) {
        return (mbuf.packet_type & RTE_PTYPE_L4_MASK) == RTE_PTYPE_L4_TCP;
    };
    SECTION("no IP at all") {
        port.model().inject(make_frame(port.model().mac(), 100));
        const MbufPtr got = receive_one(port);
        CHECK(checksum_flags(*got) == kAllGood);
        CHECK((got->packet_type & RTE_PTYPE_L3_MASK) == 0);
    }
    SECTION("a fragment with a wrong TCP checksum") {
        Frame frame = tcp_frame(port.model().mac(), 200);
        frame.back() ^= std::byte{1};
        frame[14 + 6] = std::byte{0x20};  // more fragments
        soft82599::store_be16(frame, 24,
                              static_cast<std::uint16_t>(soft82599::load_be16(frame, 24) - 0x2000));
        port.model().inject(frame);
        const MbufPtr got = receive_one(port);
        CHECK(checksum_flags(*got) == kAllGood);
        CHECK_FALSE(is_tcp(*got));
    }
    SECTION("while a checked segment is known as TCP") {
        port.model().inject(tcp_frame(port.model().mac(), 200));
        const MbufPtr got = receive_one(port);
        CHECK(checksum_flags(*got) == kAllGood);
        CHECK(is_tcp(*got));
    }
    SECTION("and a wrong UDP checksum is neither good nor bad") {
        Frame frame = tcp_frame(port.model().mac(), 200);
        frame[14 + 9] = std::byte{17};
        soft82599::store_be16(frame, 24,
                              static_cast<std::uint16_t>(soft82599::load_be16(frame, 24) - 11));
        port.model().inject(frame);
        CHECK((receive_one(port)->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) ==
              RTE_MBUF_F_RX_L4_CKSUM_UNKNOWN);
    }
}

TEST_CASE("a stripped tag and the packet type of a chain are in its last segment only",
          "[soft82599][eal][scatter]") {
    const RunningPort port(0, config_of(kJumboMtu, RTE_ETH_RX_OFFLOAD_VLAN_STRIP), 1, {1024});
    const std::size_t length = GENERATE(200u, 3000u);
    const Frame frame = tcp_frame(port.model().mac(), length);
    port.model().inject(soft82599::with_vlan_tag(frame, 0x8100, 0x2007));
    const MbufPtr got = receive_one(port);
    CHECK(bytes_of(got.get()) == frame);
    CHECK((got->ol_flags & (RTE_MBUF_F_RX_VLAN | RTE_MBUF_F_RX_VLAN_STRIPPED)) ==
          (RTE_MBUF_F_RX_VLAN | RTE_MBUF_F_RX_VLAN_STRIPPED));
    CHECK(checksum_flags(*got) == kAllGood);
    const rte_mbuf* const last = rte_pktmbuf_lastseg(got.get());
    CHECK(last->vlan_tci == 0x2007);
    CHECK((last->packet_type & RTE_PTYPE_L4_MASK) == RTE_PTYPE_L4_TCP);
    if (got->nb_segs > 1) CHECK(got->vlan_tci == 0);
}

TEST_CASE("a tag that is not stripped stays in the frame", "[soft82599][eal][scatter]") {
    const RunningPort port(0, config_of(kJumboMtu), 1, {1024});
    const Frame tagged = soft82599::with_vlan_tag(tcp_frame(port.model().mac(), 3000), 0x8100, 7);
    port.model().inject(tagged);
    const MbufPtr got = receive_one(port);
    CHECK(bytes_of(got.get()) == tagged);
    CHECK((got->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED) == 0);
}

TEST_CASE("queues with different buffer sizes and stripping share a port",
          "[soft82599][eal][scatter]") {
    rte_eth_conf conf = vmdq_config();
    conf.rxmode.mtu = kJumboMtu;
    vmdq_pool_map(conf, 5, 0x6);
    const RunningPort port(0, conf, 8, {2048, 2048, 1024, 1024, 4096, 4096, 16384, 16384});
    REQUIRE(rte_eth_dev_set_vlan_strip_on_queue(port.id(), 2, 1) == 0);
    for (std::uint16_t pool = 1; pool < 4; ++pool) {
        rte_ether_addr mac = to_ether({{0x52, 0x54, 0, 0, 2, static_cast<std::uint8_t>(pool)}});
        REQUIRE(rte_eth_dev_mac_addr_add(port.id(), &mac, pool) == 0);
    }
    const auto mac_of = [](std::uint16_t pool) {
        return MacAddress{{0x52, 0x54, 0, 0, 2, static_cast<std::uint8_t>(pool)}};
    };
    constexpr unsigned kBuffers[] = {2048, 1024, 4096, 16384};
    for (std::uint16_t pool = 1; pool < 4; ++pool) {
        INFO("pool " << pool);
        const Frame frame = tcp_frame(mac_of(pool), kLongestFrame);
        REQUIRE(port.model().inject(frame) == RxResult::kDelivered);
        const MbufPtr got = receive_one(port, static_cast<std::uint16_t>(2 * pool));
        CHECK(bytes_of(got.get()) == frame);
        CHECK(got->nb_segs == segments_for(kLongestFrame, kBuffers[pool]));
    }
    for (std::uint16_t pool = 1; pool < 3; ++pool) {
        INFO("pool " << pool << " of VLAN 5");
        const Frame frame = tcp_frame(mac_of(pool), 2000);
        const Frame tagged = soft82599::with_vlan_tag(frame, 0x8100, 5);
        REQUIRE(port.model().inject(tagged) == RxResult::kDelivered);
        const MbufPtr got = receive_one(port, static_cast<std::uint16_t>(2 * pool));
        CHECK(bytes_of(got.get()) == (pool == 1 ? frame : tagged));
    }
}

TEST_CASE("a chain is reported once its last descriptor is done", "[soft82599][eal][scatter]") {
    const unsigned shown = GENERATE(1u, 3u, 4u, 7u, 8u);
    INFO(shown << " of 9 descriptors done at first");
    const RunningPort port(0, config_of(kJumboMtu), 1, {1024});
    const Frame frame = tcp_frame(port.model().mac(), 9000);
    port.model().interrupt_frames_after(shown);
    REQUIRE(port.model().inject(frame) == RxResult::kDelivered);
    CHECK(port.receive_mbufs().empty());
    CHECK(port.receive_mbufs().empty());
    port.model().finish_interrupted_frames();
    port.model().interrupt_frames_after(0);
    CHECK(bytes_of(receive_one(port).get()) == frame);
}

TEST_CASE("a queue that stops in the middle of a frame gives all its buffers back",
          "[soft82599][eal][scatter]") {
    const unsigned buffer = GENERATE(1024u, 2048u);
    const bool collected = GENERATE(true, false);
    INFO("buffers of " << buffer << ", first part collected by the driver: " << collected);
    rte_mempool* const pool = SoftNicBench::instance().pool(buffer);
    const RunningPort port(0, config_of(kJumboMtu), 1, {buffer});
    const unsigned while_running = rte_mempool_avail_count(pool);
    const Frame frame = tcp_frame(port.model().mac(), 9000);
    for (unsigned round = 0; round < 2 * kRing; ++round) {
        // Turn the ring by another amount each time, so that the stop comes at any place of it.
        for (unsigned i = 0; i < round % 5; ++i) {
            REQUIRE(port.model().inject(frame) == RxResult::kDelivered);
            REQUIRE(bytes_of(receive_one(port).get()) == frame);
        }
        port.model().interrupt_frames_after(1 + round % 4);
        REQUIRE(port.model().inject(frame) == RxResult::kDelivered);
        if (collected) REQUIRE(port.receive_mbufs().empty());
        REQUIRE(rte_eth_dev_rx_queue_stop(port.id(), 0) == 0);
        REQUIRE(rte_mempool_avail_count(pool) == while_running + kRing);
        port.model().finish_interrupted_frames();
        port.model().interrupt_frames_after(0);
        REQUIRE(rte_eth_dev_rx_queue_start(port.id(), 0) == 0);
        REQUIRE(rte_mempool_avail_count(pool) == while_running);
        REQUIRE(port.model().inject(frame) == RxResult::kDelivered);
        REQUIRE(bytes_of(receive_one(port).get()) == frame);
    }
    CHECK(port.model().counters().dma_faults == 0);
}

TEST_CASE("jumbo frames and segments loop from pool to pool into small buffers",
          "[soft82599][eal][scatter]") {
    rte_eth_conf conf = switched_config();
    conf.rxmode.mtu = kJumboMtu;
    conf.txmode.offloads = RTE_ETH_TX_OFFLOAD_MULTI_SEGS | RTE_ETH_TX_OFFLOAD_IPV4_CKSUM |
                           RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_TSO;
    const RunningPort port(0, conf, 6, {2048, 2048, 2048, 2048, 1024, 1024}, 4);
    const MacAddress to{{0x52, 0x54, 0, 0, 3, 2}};
    rte_ether_addr mac = to_ether(to);
    REQUIRE(rte_eth_dev_mac_addr_add(port.id(), &mac, 2) == 0);
    SECTION("a jumbo frame, its checksum left to the NIC") {
        const Frame frame = tcp_frame(to, kLongestFrame);
        rte_mbuf* mbuf = port.make_mbuf(frame);
        mbuf->l2_len = 14;
        mbuf->l3_len = 20;
        mbuf->l4_len = 20;
        mbuf->ol_flags = RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_IP_CKSUM | RTE_MBUF_F_TX_TCP_CKSUM;
        REQUIRE(rte_eth_tx_prepare(port.id(), kSender, &mbuf, 1) == 1);
        port.transmit(mbuf, kSender);
        port.model().step_tx(8);
        const MbufPtr got = receive_one(port, kReceiver);
        CHECK(bytes_of(got.get()) == frame);
        CHECK(got->nb_segs == segments_for(kLongestFrame, 1024));
        CHECK(checksum_flags(*got) == kAllGood);
    }
    SECTION("a large packet in segments") {
        const Frame frame = tcp_frame(to, kTcpHeaders + 20'000);
        rte_mbuf* mbuf = port.make_mbuf(frame);
        mbuf->l2_len = 14;
        mbuf->l3_len = 20;
        mbuf->l4_len = 20;
        mbuf->tso_segsz = 8900;
        mbuf->ol_flags = RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_IP_CKSUM | RTE_MBUF_F_TX_TCP_SEG;
        REQUIRE(rte_eth_tx_prepare(port.id(), kSender, &mbuf, 1) == 1);
        port.transmit(mbuf, kSender);
        port.model().step_tx(8);
        Frame payload;
        for (const MbufPtr& segment : port.receive_mbufs(kReceiver)) {
            CHECK(checksum_flags(*segment) == kAllGood);
            const Frame bytes = bytes_of(segment.get());
            payload.insert(payload.end(), bytes.begin() + kTcpHeaders, bytes.end());
        }
        CHECK(payload == Frame(frame.begin() + kTcpHeaders, frame.end()));
    }
    CHECK(port.model().take_transmitted().empty());
}

// The driver sets every PFVMTXSW bit with the switch.
TEST_CASE("with the driver's switch on, a pool hears its own broadcast",
          "[soft82599][eal][scatter]") {
    const RunningPort port(0, switched_config(), 6, {}, 4);
    const Frame frame = make_frame(MacAddress{{255, 255, 255, 255, 255, 255}}, 60);
    port.transmit(port.make_mbuf(frame), kSender);
    port.model().step_tx(8);
    CHECK(port.receive(kSender) == std::vector<Frame>{frame});
    CHECK(port.receive(kReceiver) == std::vector<Frame>{frame});
    CHECK(port.model().take_transmitted() == std::vector<Frame>{frame});
}
