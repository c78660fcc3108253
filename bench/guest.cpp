#include "guest.h"

#include <fmt/format.h>
#include <rte_bus_vdev.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "fake_driver.h"

namespace zecorx::bench {
namespace {

using namespace std::chrono_literals;

constexpr std::uint16_t kTransmitRing = 256;
constexpr const char* kMac = "52:54:00:00:00:ff";  // nothing goes by it

// DPDK's own driver, as in a container.
class VirtioUser final : public Guest {
  public:
    VirtioUser(const std::string& socket, const GuestOptions& options) : name_(next_name()) {
        const std::string arguments = fmt::format(
            "path={},mac={},queues=1,queue_size={},mrg_rxbuf={},packed_vq={}", socket, kMac,
            options.ring, static_cast<int>(options.mergeable), static_cast<int>(options.packed));
        if (rte_eal_hotplug_add("vdev", name_.c_str(), arguments.c_str()) != 0 ||
            rte_eth_dev_get_port_by_name(name_.c_str(), &port_) != 0) {
            throw std::runtime_error(
                fmt::format("cannot create {} with {}; is the package "
                            "librte-net-virtio23 installed?",
                            name_, arguments));
        }
        try {
            start(options);
        } catch (...) {
            close();
            throw;
        }
    }
    ~VirtioUser() override {
        rte_eth_dev_stop(port_);
        close();
    }

    std::uint64_t turn() override {
        std::uint64_t frames = 0;
        std::array<rte_mbuf*, kBurst> burst;
        while (const std::uint16_t count = rte_eth_rx_burst(port_, 0, burst.data(), burst.size())) {
            rte_pktmbuf_free_bulk(burst.data(), count);
            frames += count;
        }
        return frames;
    }

    bool received(std::span<const std::byte> frame) override {
        std::array<rte_mbuf*, 2> burst;
        if (rte_eth_rx_burst(port_, 0, burst.data(), burst.size()) != 1) return false;
        std::vector<std::byte> bytes;
        for (const rte_mbuf* piece = burst[0]; piece != nullptr; piece = piece->next) {
            const auto* data = rte_pktmbuf_mtod(piece, const std::byte*);
            bytes.insert(bytes.end(), data, data + piece->data_len);
        }
        rte_pktmbuf_free(burst[0]);
        return std::ranges::equal(frame, bytes);
    }

  private:
    static constexpr std::uint16_t kBurst = 32;

    static std::string next_name() {
        static unsigned count = 0;
        return fmt::format("net_virtio_user{}", count++);
    }

    void start(const GuestOptions& options) {
        // Without mergeable buffers a frame needs one mbuf; DPDK's usual room else.
        const std::uint32_t room =
            options.mergeable ? 2048 : std::max<std::uint32_t>(2048, options.mtu + 64);
        pool_.reset(rte_pktmbuf_pool_create(name_.c_str(), 2U * options.ring + 512, 256, 0,
                                            static_cast<std::uint16_t>(RTE_PKTMBUF_HEADROOM + room),
                                            SOCKET_ID_ANY));
        rte_eth_conf conf{};
        rte_eth_dev_info info{};
        rte_eth_dev_info_get(port_, &info);
        conf.rxmode.mtu = std::min<std::uint32_t>(options.mtu, info.max_mtu);
        conf.rxmode.offloads = info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER;
        if (!pool_ || rte_eth_dev_configure(port_, 1, 1, &conf) != 0 ||
            rte_eth_rx_queue_setup(port_, 0, options.ring, 0, nullptr, pool_.get()) != 0 ||
            rte_eth_tx_queue_setup(port_, 0, kTransmitRing, 0, nullptr) != 0 ||
            rte_eth_dev_start(port_) != 0) {
            throw std::runtime_error(
                fmt::format("cannot start {}: {}", name_, rte_strerror(rte_errno)));
        }
    }

    void close() {
        rte_eth_dev_close(port_);
        rte_eal_hotplug_remove("vdev", name_.c_str());
    }

    const std::string name_;
    std::uint16_t port_ = 0;
    Mempool pool_;
};

// Polls, since the events come from another thread.
void await(const char* what, const auto& reached) {
    for (int i = 0; i < 10'000; ++i) {
        if (reached()) return;
        std::this_thread::sleep_for(1ms);
    }
    throw std::runtime_error(fmt::format("waited in vain for {}", what));
}

}  // namespace

const char* name_of(Driver driver) { return driver == Driver::kFake ? "fake" : "virtio-user"; }

std::unique_ptr<Guest> connect(const std::string& socket, const GuestOptions& options) {
    if (options.driver == Driver::kFake) {
        auto driver = std::make_unique<FakeDriver>(make_memory(options.memory), socket, options);
        driver->start();
        return driver;
    }
    return std::make_unique<VirtioUser>(socket, options);
}

void await_running(Lane& lane) {
    await("a backend to serve its guest", [&] { return lane.running(); });
}

void await_vacant(Lane& lane) {
    await("a backend to notice that its guest is gone", [&] { return lane.vacant(); });
}

}  // namespace zecorx::bench
