// The stock ixgbe driver on the software 82599: life of a port, of a queue and of frames.
#include <rte_ip.h>
#include <rte_memory.h>
#include <rte_tcp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "soft82599/checksum.h"
#include "soft82599/dma_eal.h"
#include "soft82599_bench.h"

using namespace zecorx;
using namespace zecorx::test;
using soft82599::RxResult;

namespace {

rte_eth_stats stats_of(std::uint16_t port) {
    rte_eth_stats stats;
    REQUIRE(rte_eth_stats_get(port, &stats) == 0);
    return stats;
}

// Waits for a condition that another thread brings about, for a generous while.
template <typename Condition>
bool eventually(Condition condition) {
    for (int i = 0; i < 10'000 && !condition(); ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return condition();
}

}  // namespace

TEST_CASE("EAL finds the ports with their own addresses and leaves no /dev node",
          "[soft82599][eal]") {
    SoftNicBench& bench = SoftNicBench::instance();
    CHECK(rte_eth_dev_count_avail() == kPorts);
    for (std::uint16_t port = 0; port < kPorts; ++port) {
        rte_ether_addr mac;
        REQUIRE(rte_eth_macaddr_get(port, &mac) == 0);
        const MacAddress& expected = bench.machine().port(port).mac();
        CHECK(std::memcmp(mac.addr_bytes, expected.bytes.data(), 6) == 0);
        const unsigned number = bench.machine().port(port).uio_number();
        CHECK_FALSE(std::filesystem::exists("/dev/uio" + std::to_string(number)));
    }
    CHECK(std::filesystem::exists("/sys/class/net/lo/address"));  // the host's classes still work
}

TEST_CASE("frames of every length arrive exactly, through several ring turns", "[soft82599][eal]") {
    const RunningPort port;
    std::size_t checked = 0;
    for (std::size_t length = 60; length <= 1514; length += 3) {
        const Frame frame = make_frame(port.model().mac(), length, static_cast<unsigned>(length));
        REQUIRE(port.model().inject(frame) == RxResult::kDelivered);
        const std::vector<Frame> got = port.receive();
        REQUIRE(got.size() == 1);
        REQUIRE(got[0] == frame);
        ++checked;
    }
    CHECK(port.model().counters().rx_delivered >= checked);
    CHECK(port.model().counters().dma_faults == 0);
}

TEST_CASE("statistics are exact over repeated readings", "[soft82599][eal]") {
    const RunningPort port;
    std::uint64_t frames = 0;
    std::uint64_t bytes = 0;
    for (unsigned round = 1; round <= 5; ++round) {
        for (unsigned i = 0; i < 3 * round; ++i) {
            port.model().inject(make_frame(port.model().mac(), 100 + i));
            ++frames;
            bytes += 100 + i;
        }
        port.receive();
        for (int reading = 0; reading < 3; ++reading) {
            const rte_eth_stats stats = stats_of(port.id());
            CHECK(stats.ipackets == frames);
            CHECK(stats.ibytes == bytes);
            CHECK(stats.ierrors == 0);
            CHECK(stats.imissed == 0);
        }
    }
    port.model().inject(make_frame(port.model().mac(), 1515));
    CHECK(stats_of(port.id()).ierrors == 1);
    CHECK(stats_of(port.id()).ierrors == 1);
}

TEST_CASE("frames beyond the posted descriptors are dropped and counted", "[soft82599][eal]") {
    const RunningPort port;
    unsigned delivered = 0;
    for (unsigned i = 0; i < kRing + 10; ++i) {
        if (port.model().inject(make_frame(port.model().mac(), 60)) == RxResult::kDelivered) {
            ++delivered;
        }
    }
    CHECK(delivered == kRing - 1);
    const rte_eth_stats stats = stats_of(port.id());
    CHECK(stats.ipackets == kRing - 1);
    CHECK(stats.q_errors[0] == 11);
}

TEST_CASE("a stopped queue takes nothing, and a restarted one works from the first frame on",
          "[soft82599][eal]") {
    const RunningPort port;
    const Frame frame = make_frame(port.model().mac(), 200);
    port.model().guard_buffers_at_stop(true);
    for (int round = 0; round < 50; ++round) {
        for (int i = 0; i < round; ++i) port.model().inject(frame);
        REQUIRE(rte_eth_dev_rx_queue_stop(port.id(), 0) == 0);
        CHECK(port.model().inject(frame) == RxResult::kDroppedNoDescriptor);
        CHECK(port.model().verify_stopped_queue(0) == 0u);
        REQUIRE(rte_eth_dev_rx_queue_start(port.id(), 0) == 0);
        CHECK_FALSE(port.model().verify_stopped_queue(0).has_value());
        REQUIRE(port.model().inject(frame) == RxResult::kDelivered);
        const std::vector<Frame> got = port.receive();
        REQUIRE(got.size() == 1);
        REQUIRE(got[0] == frame);
    }
    port.model().guard_buffers_at_stop(false);
    // Not one buffer is lost over the restarts: the ring holds all that is out of the pool.
    CHECK(rte_mempool_in_use_count(RunningPort::bench().pool()) <= kRing);
}

TEST_CASE("a queue may be stopped and started under traffic from another thread",
          "[soft82599][eal]") {
    const RunningPort port;
    const Frame frame = make_frame(port.model().mac(), 200);
    std::atomic<bool> stop{false};
    std::thread traffic([&] {
        while (!stop) port.model().inject(frame);
    });
    for (int round = 0; round < 30; ++round) {
        REQUIRE(rte_eth_dev_rx_queue_stop(port.id(), 0) == 0);
        // A trapped read is a barrier: the model has seen the stop when it returns.
        rte_eth_link link;
        rte_eth_link_get_nowait(port.id(), &link);
        REQUIRE(rte_eth_dev_rx_queue_start(port.id(), 0) == 0);
        REQUIRE(eventually([&] {
            const std::vector<Frame> got = port.receive();
            CHECK(std::ranges::all_of(got, [&](const Frame& f) { return f == frame; }));
            return !got.empty();
        }));
    }
    stop = true;
    traffic.join();
    CHECK(port.model().counters().dma_faults == 0);
}

TEST_CASE("a link change reaches the application as an interrupt", "[soft82599][eal]") {
    rte_eth_conf conf{};
    conf.intr_conf.lsc = 1;
    const RunningPort port(0, conf);
    std::atomic<int> events{0};
    const auto on_event = [](std::uint16_t, rte_eth_event_type, void* argument, void*) {
        ++*static_cast<std::atomic<int>*>(argument);
        return 0;
    };
    REQUIRE(rte_eth_dev_callback_register(port.id(), RTE_ETH_EVENT_INTR_LSC, on_event, &events) ==
            0);
    rte_eth_link link;
    REQUIRE(rte_eth_link_get_nowait(port.id(), &link) == 0);
    CHECK(link.link_status == RTE_ETH_LINK_UP);
    CHECK(link.link_speed == RTE_ETH_SPEED_NUM_10G);

    port.model().set_link(false);
    // The driver reports a change seconds later, when it expects the link to be stable.
    CHECK(eventually([&] { return events > 0; }));
    rte_eth_link_get_nowait(port.id(), &link);
    CHECK(link.link_status == RTE_ETH_LINK_DOWN);
    CHECK(port.model().inject(make_frame(port.model().mac(), 60)) == RxResult::kDroppedDisabled);

    port.model().set_link(true);
    CHECK(eventually([&] { return events > 1; }));
    rte_eth_dev_callback_unregister(port.id(), RTE_ETH_EVENT_INTR_LSC, on_event, &events);
}

TEST_CASE("frames are sent as posted, in order", "[soft82599][eal]") {
    const RunningPort port;
    std::vector<Frame> sent;
    for (unsigned i = 0; i < 500; ++i) {
        sent.push_back(make_frame(kPeer, 60 + i, i));
        port.transmit(port.make_mbuf(sent.back()));
        port.model().step_tx(4);
    }
    CHECK(port.model().take_transmitted() == sent);
    const rte_eth_stats stats = stats_of(port.id());
    CHECK(stats.opackets == sent.size());
    CHECK(stats_of(port.id()).opackets == sent.size());
}

TEST_CASE("a frame in two mbufs leaves as one", "[soft82599][eal]") {
    rte_eth_conf conf{};
    conf.txmode.offloads = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
    const RunningPort port(0, conf);
    const Frame frame = make_frame(kPeer, 1000);
    rte_mbuf* const head = port.make_mbuf(FrameView(frame).first(100));
    rte_mbuf* const tail = port.make_mbuf(FrameView(frame).subspan(100));
    REQUIRE(rte_pktmbuf_chain(head, tail) == 0);
    port.transmit(head);
    port.model().step_tx(8);
    CHECK(port.model().take_transmitted() == std::vector<Frame>{frame});
}

TEST_CASE("TCP segmentation and checksums are done as the driver asks", "[soft82599][eal]") {
    rte_eth_conf conf{};
    conf.txmode.offloads = RTE_ETH_TX_OFFLOAD_MULTI_SEGS | RTE_ETH_TX_OFFLOAD_IPV4_CKSUM |
                           RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_TSO |
                           RTE_ETH_TX_OFFLOAD_VLAN_INSERT;
    const RunningPort port(0, conf);
    constexpr std::size_t kHeaders = 14 + 20 + 20;
    constexpr std::size_t kPayload = 1700;
    Frame frame = make_frame(kPeer, kHeaders + kPayload);
    soft82599::store_be16(frame, 12, 0x0800);
    rte_mbuf* mbuf = port.make_mbuf(frame);
    auto* const ip = rte_pktmbuf_mtod_offset(mbuf, rte_ipv4_hdr*, 14);
    *ip = {};
    ip->version_ihl = 0x45;
    ip->total_length = rte_cpu_to_be_16(20 + 20 + kPayload);
    ip->time_to_live = 64;
    ip->next_proto_id = 6;
    ip->src_addr = rte_cpu_to_be_32(0x0A000001);
    ip->dst_addr = rte_cpu_to_be_32(0x0A000002);
    auto* const tcp = rte_pktmbuf_mtod_offset(mbuf, rte_tcp_hdr*, 34);
    *tcp = {};
    tcp->data_off = 5 << 4;
    mbuf->l2_len = 14;
    mbuf->l3_len = 20;
    mbuf->l4_len = 20;
    mbuf->tso_segsz = 1000;
    mbuf->vlan_tci = 77;
    mbuf->ol_flags =
        RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_IP_CKSUM | RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_VLAN;
    REQUIRE(rte_eth_tx_prepare(port.id(), 0, &mbuf, 1) == 1);
    port.transmit(mbuf);
    port.model().step_tx(8);

    const std::vector<Frame> sent = port.model().take_transmitted();
    REQUIRE(sent.size() == 2);
    Frame payload;
    for (const Frame& segment : sent) {
        const soft82599::FrameLayout layout = soft82599::parse_frame(segment, 0x8100);
        CHECK(layout.vlan == 77);
        const soft82599::ChecksumReport report = soft82599::check_received(segment, layout);
        CHECK((report.ip_checked && !report.ip_bad));
        CHECK((report.l4_checked && !report.l4_bad));
        payload.insert(payload.end(), segment.begin() + kHeaders + 4, segment.end());
    }
    CHECK(payload == Frame(frame.begin() + kHeaders, frame.end()));
}

TEST_CASE("VMDq pools get their own unicast and a copy of broadcast", "[soft82599][eal]") {
    constexpr std::uint16_t kPoolsUsed = 4;
    const RunningPort port(0, vmdq_config(), 2 * kPoolsUsed);
    for (std::uint16_t pool = 1; pool < kPoolsUsed; ++pool) {
        rte_ether_addr mac = to_ether({{0x52, 0x54, 0, 0, 1, static_cast<std::uint8_t>(pool)}});
        REQUIRE(rte_eth_dev_mac_addr_add(port.id(), &mac, pool) == 0);
    }
    for (std::uint16_t pool = 1; pool < kPoolsUsed; ++pool) {
        const Frame frame =
            make_frame({{0x52, 0x54, 0, 0, 1, static_cast<std::uint8_t>(pool)}}, 100, pool);
        REQUIRE(port.model().inject(frame) == RxResult::kDelivered);
        const auto got = port.receive(static_cast<std::uint16_t>(2 * pool));
        REQUIRE(got.size() == 1);
        CHECK(got[0] == frame);
    }
    port.model().inject(make_frame(MacAddress{{255, 255, 255, 255, 255, 255}}, 60));
    for (std::uint16_t pool = 0; pool < kPoolsUsed; ++pool) {
        INFO("pool " << pool);
        CHECK(port.receive(static_cast<std::uint16_t>(2 * pool)).size() == 1);
    }
    rte_ether_addr removed = to_ether({{0x52, 0x54, 0, 0, 1, 2}});
    REQUIRE(rte_eth_dev_mac_addr_remove(port.id(), &removed) == 0);
    CHECK(port.model().inject(make_frame({{0x52, 0x54, 0, 0, 1, 2}}, 60)) ==
          RxResult::kDroppedFilter);
}

TEST_CASE("jumbo frames arrive in several buffers", "[soft82599][eal]") {
    rte_eth_conf conf{};
    conf.rxmode.mtu = 9000;
    conf.rxmode.offloads = RTE_ETH_RX_OFFLOAD_SCATTER;
    const RunningPort port(0, conf);
    const Frame frame = make_frame(port.model().mac(), 9014);
    REQUIRE(port.model().inject(frame) == RxResult::kDelivered);
    const auto got = port.receive();
    REQUIRE(got.size() == 1);
    CHECK(got[0] == frame);
    CHECK(port.model().inject(make_frame(port.model().mac(), 9015)) == RxResult::kDroppedOversize);
}

TEST_CASE("two ports run side by side and do not mix", "[soft82599][eal]") {
    const RunningPort first(0);
    const RunningPort second(1);
    const Frame to_first = make_frame(first.model().mac(), 100, 1);
    const Frame to_second = make_frame(second.model().mac(), 100, 2);
    CHECK(first.model().inject(to_second) == RxResult::kDroppedFilter);
    first.model().inject(to_first);
    second.model().inject(to_second);
    CHECK(first.receive() == std::vector<Frame>{to_first});
    CHECK(second.receive() == std::vector<Frame>{to_second});
    second.transmit(second.make_mbuf(to_first));
    second.model().step_tx(1);
    CHECK(first.model().take_transmitted().empty());
    CHECK(second.model().take_transmitted().size() == 1);
}

TEST_CASE("external memory is reachable page by page until it is unregistered",
          "[soft82599][eal]") {
    SoftNicBench::instance();
    constexpr std::size_t kPage = 4096;
    constexpr unsigned kPages = 4;
    void* const memory = mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_LOCKED, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    auto* const bytes = static_cast<std::byte*>(memory);
    // IOVAs of the test's own choice: in reverse order, so pages are not contiguous.
    std::array<rte_iova_t, kPages> iovas;
    for (unsigned i = 0; i < kPages; ++i) iovas[i] = 0x7777'0000'0000 + (kPages - i) * kPage;
    REQUIRE(rte_extmem_register(memory, kPages * kPage, iovas.data(), kPages, kPage) == 0);

    soft82599::EalDmaSpace space;
    for (unsigned i = 0; i < kPages; ++i) {
        const auto span = space.translate(iovas[i] + 100, 8192);
        CHECK(span.data() == bytes + i * kPage + 100);
        CHECK(span.size() == kPage - 100);
    }
    CHECK(space.translate(0x7777'0000'0000, 1).empty());
    REQUIRE(rte_extmem_unregister(memory, kPages * kPage) == 0);
    for (const rte_iova_t iova : iovas) CHECK(space.translate(iova, 1).empty());

    // The same bytes under another address: the old one stays a fault.
    iovas = {0x7777'1000'0000, 0x7777'1000'1000, 0x7777'1000'2000, 0x7777'1000'3000};
    REQUIRE(rte_extmem_register(memory, kPages * kPage, iovas.data(), kPages, kPage) == 0);
    CHECK(space.translate(0x7777'0000'0000 + kPage, 1).empty());
    CHECK(space.translate(iovas[2], 1).data() == bytes + 2 * kPage);
    REQUIRE(rte_extmem_unregister(memory, kPages * kPage) == 0);
    munmap(memory, kPages * kPage);
}
