// The software 82599 under EAL and the stock ixgbe driver, in step mode: what its tests share.
#pragma once

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_log.h>
#include <rte_mbuf.h>

#include <algorithm>
#include <array>
#include <catch2/catch_test_macros.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "soft82599/machine.h"

namespace zecorx::test {

using soft82599::Frame;
using soft82599::FrameView;

inline constexpr std::uint16_t kRing = 128;
inline constexpr std::size_t kPorts = 2;
inline constexpr unsigned kStandardBuffer = 2048;
inline constexpr MacAddress kPeer{{0x02, 0, 0, 0, 0, 0x42}};

// EAL can be started once in a process: all test cases share it and the machine.
class SoftNicBench {
  public:
    static SoftNicBench& instance() {
        static SoftNicBench bench;
        return bench;
    }

    soft82599::Machine& machine() { return *machine_; }

    // Mbufs with this many bytes behind the headroom.
    rte_mempool* pool(unsigned buffer = kStandardBuffer) {
        rte_mempool*& pool = pools_[buffer];
        if (pool != nullptr) return pool;
        const unsigned mbufs = buffer > kStandardBuffer ? 1023 : 8191;
        pool = rte_pktmbuf_pool_create(("soft82599_" + std::to_string(buffer)).c_str(), mbufs, 32,
                                       0, static_cast<std::uint16_t>(buffer + RTE_PKTMBUF_HEADROOM),
                                       SOCKET_ID_ANY);
        if (pool == nullptr) throw std::runtime_error("no memory for a pool of mbufs");
        return pool;
    }

    ~SoftNicBench() {
        for (std::uint16_t port = 0; port < kPorts; ++port) rte_eth_dev_close(port);
        for (const auto& [buffer, pool] : pools_) rte_mempool_free(pool);
        rte_eal_cleanup();
    }

  private:
    SoftNicBench() {
        soft82599::Config config;
        config.mode = soft82599::Mode::kStep;
        config.ports.resize(kPorts);
        config.ports[1].bdf = "0000:04:00.0";
        machine_ = std::make_unique<soft82599::Machine>(std::move(config));
        std::vector<std::string> words = {
            "soft82599_test", "--in-memory", "--iova-mode=pa", "-m", "128", "-l", "0",
            "--no-telemetry", "--log-level", "lib.eal:warning"};
        std::vector<char*> arguments;
        for (std::string& word : words) arguments.push_back(word.data());
        if (rte_eal_init(static_cast<int>(arguments.size()), arguments.data()) < 0) {
            throw std::runtime_error("EAL does not start: " + std::string(rte_strerror(rte_errno)));
        }
    }

    std::unique_ptr<soft82599::Machine> machine_;
    std::map<unsigned, rte_mempool*> pools_;
};

// What the ixgbe driver logs about its setup while this exists; nothing of it goes elsewhere.
class DriverLog {
  public:
    DriverLog() : stream_(open_memstream(&text_, &size_)) {
        rte_log_set_level_pattern("pmd.net.ixgbe.init", RTE_LOG_DEBUG);
        rte_openlog_stream(stream_);
    }
    ~DriverLog() {
        rte_openlog_stream(nullptr);
        rte_log_set_level_pattern("pmd.net.ixgbe.init", RTE_LOG_NOTICE);
        std::fclose(stream_);
        std::free(text_);
    }
    DriverLog(const DriverLog&) = delete;
    DriverLog& operator=(const DriverLog&) = delete;

    std::string text() {
        std::fflush(stream_);
        return {text_, size_};
    }
    bool has(const std::string& words) { return text().find(words) != std::string::npos; }

  private:
    char* text_ = nullptr;
    std::size_t size_ = 0;
    std::FILE* stream_;
};

inline rte_ether_addr to_ether(const MacAddress& mac) {
    rte_ether_addr address;
    std::memcpy(address.addr_bytes, mac.bytes.data(), mac.bytes.size());
    return address;
}

inline Frame make_frame(const MacAddress& to, std::size_t length, unsigned seed = 0) {
    Frame frame(length);
    for (std::size_t i = 0; i < length; ++i) {
        frame[i] = static_cast<std::byte>(i * 7 + i / 256 + seed);
    }
    std::memcpy(frame.data(), to.bytes.data(), 6);
    std::memcpy(frame.data() + 6, kPeer.bytes.data(), 6);
    soft82599::store_be16(frame, 12, 0x88B5);
    return frame;
}

inline Frame bytes_of(const rte_mbuf* mbuf) {
    Frame bytes;
    for (; mbuf != nullptr; mbuf = mbuf->next) {
        const auto* data = rte_pktmbuf_mtod(mbuf, const std::byte*);
        bytes.insert(bytes.end(), data, data + mbuf->data_len);
    }
    return bytes;
}

struct FreeMbuf {
    void operator()(rte_mbuf* mbuf) const { rte_pktmbuf_free(mbuf); }
};
using MbufPtr = std::unique_ptr<rte_mbuf, FreeMbuf>;

// A configured and started port; stopped at the end of the test.
class RunningPort {
  public:
    // `buffers`: bytes per buffer of each receive queue; queues beyond it get the standard size.
    explicit RunningPort(std::uint16_t id = 0, rte_eth_conf conf = {}, std::uint16_t queues = 1,
                         const std::vector<unsigned>& buffers = {},
                         std::uint16_t transmit_queues = 1)
        : id_(id) {
        REQUIRE(rte_eth_dev_configure(id, queues, transmit_queues, &conf) == 0);
        rte_eth_dev_info info;
        REQUIRE(rte_eth_dev_info_get(id, &info) == 0);
        set_up_receive(info, conf, queues, buffers);
        rte_eth_txconf tx = info.default_txconf;
        tx.offloads = conf.txmode.offloads;
        for (std::uint16_t queue = 0; queue < transmit_queues; ++queue) {
            REQUIRE(rte_eth_tx_queue_setup(id, queue, kRing, SOCKET_ID_ANY, &tx) == 0);
        }
        REQUIRE(rte_eth_dev_start(id) == 0);
        REQUIRE(rte_eth_stats_reset(id) == 0);
    }
    ~RunningPort() { rte_eth_dev_stop(id_); }
    RunningPort(const RunningPort&) = delete;
    RunningPort& operator=(const RunningPort&) = delete;

    static SoftNicBench& bench() { return SoftNicBench::instance(); }
    soft82599::Port& model() const { return bench().machine().port(id_); }
    std::uint16_t id() const { return id_; }

    std::vector<MbufPtr> receive_mbufs(std::uint16_t queue = 0) const {
        std::array<rte_mbuf*, 64> burst;
        const std::uint16_t count = rte_eth_rx_burst(id_, queue, burst.data(), burst.size());
        std::vector<MbufPtr> mbufs;
        for (std::uint16_t i = 0; i < count; ++i) mbufs.emplace_back(burst[i]);
        return mbufs;
    }

    std::vector<Frame> receive(std::uint16_t queue = 0) const {
        std::vector<Frame> frames;
        for (const MbufPtr& mbuf : receive_mbufs(queue)) frames.push_back(bytes_of(mbuf.get()));
        return frames;
    }

    // A chain of as many mbufs as the frame needs.
    rte_mbuf* make_mbuf(FrameView frame) const {
        rte_mbuf* const head = make_piece(frame.first(std::min<std::size_t>(frame.size(), 2048)));
        for (std::size_t at = 2048; at < frame.size(); at += 2048) {
            const std::size_t length = std::min<std::size_t>(frame.size() - at, 2048);
            REQUIRE(rte_pktmbuf_chain(head, make_piece(frame.subspan(at, length))) == 0);
        }
        return head;
    }
    void transmit(rte_mbuf* mbuf, std::uint16_t queue = 0) const {
        REQUIRE(rte_eth_tx_burst(id_, queue, &mbuf, 1) == 1);
    }

  private:
    void set_up_receive(const rte_eth_dev_info& info, const rte_eth_conf& conf,
                        std::uint16_t queues, const std::vector<unsigned>& buffers) const {
        rte_eth_rxconf rx = info.default_rxconf;
        rx.rx_drop_en = 1;
        rx.offloads = conf.rxmode.offloads;
        for (std::uint16_t queue = 0; queue < queues; ++queue) {
            rte_mempool* const pool =
                bench().pool(queue < buffers.size() ? buffers[queue] : kStandardBuffer);
            REQUIRE(rte_eth_rx_queue_setup(id_, queue, kRing, SOCKET_ID_ANY, &rx, pool) == 0);
        }
    }

    static rte_mbuf* make_piece(FrameView bytes) {
        rte_mbuf* const mbuf = rte_pktmbuf_alloc(bench().pool());
        REQUIRE(mbuf != nullptr);
        std::memcpy(rte_pktmbuf_append(mbuf, static_cast<std::uint16_t>(bytes.size())),
                    bytes.data(), bytes.size());
        return mbuf;
    }

    std::uint16_t id_;
};

inline rte_eth_conf vmdq_config() {
    rte_eth_conf conf{};
    conf.rxmode.mq_mode = RTE_ETH_MQ_RX_VMDQ_ONLY;
    rte_eth_vmdq_rx_conf& vmdq = conf.rx_adv_conf.vmdq_rx_conf;
    vmdq.nb_queue_pools = RTE_ETH_64_POOLS;
    vmdq.rx_mode = RTE_ETH_VMDQ_ACCEPT_UNTAG | RTE_ETH_VMDQ_ACCEPT_BROADCAST;
    return conf;
}

// Makes these pools the members of a VLAN.
inline void vmdq_pool_map(rte_eth_conf& conf, std::uint16_t vlan, std::uint64_t pools) {
    rte_eth_vmdq_rx_conf& vmdq = conf.rx_adv_conf.vmdq_rx_conf;
    vmdq.pool_map[vmdq.nb_pool_maps++] = {vlan, pools};
}

}  // namespace zecorx::test
