// stray-dma: has a NIC on vfio-pci write a received frame to memory that nobody mapped for it. What
// the IOMMU reports then shows that its silence means something.

#include <rte_bus_pci.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace {

constexpr std::uint16_t kPort = 0;
constexpr std::uint16_t kRing = 64;
constexpr unsigned kBuffers = 255;
constexpr std::size_t kPage = 4096;

void check(int result, const char* what) {
    if (result < 0) throw std::runtime_error(what + std::string(": ") + rte_strerror(-result));
}

// An address of this process that is not the NIC's.
rte_iova_t unmapped_page() {
    void* page = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) throw std::runtime_error("mmap failed");
    return reinterpret_cast<rte_iova_t>(page);
}

rte_mempool* make_pool(rte_iova_t address) {
    rte_mempool* pool = rte_pktmbuf_pool_create("stray", kBuffers, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE,
                                                static_cast<int>(rte_socket_id()));
    if (pool == nullptr) throw std::runtime_error("no memory for buffers");
    rte_mempool_obj_iter(
        pool,
        [](rte_mempool*, void* address, void* object, unsigned) {
            rte_mbuf_iova_set(static_cast<rte_mbuf*>(object), *static_cast<rte_iova_t*>(address));
        },
        &address);
    return pool;
}

void start_port(rte_mempool* pool) {
    const rte_eth_conf plain{};
    check(rte_eth_dev_configure(kPort, 1, 1, &plain), "configure the port");
    check(rte_eth_rx_queue_setup(kPort, 0, kRing, 0, nullptr, pool), "set the RX queue up");
    check(rte_eth_tx_queue_setup(kPort, 0, kRing, 0, nullptr), "set the TX queue up");
    check(rte_eth_dev_start(kPort), "start the port");
    check(rte_eth_promiscuous_enable(kPort), "receive every frame");
}

}  // namespace

// Arguments are EAL's. Says "posted" once the NIC has the descriptors, and ends after a line on
// stdin.
int main(int argc, char** argv) {
    try {
        check(rte_eal_init(argc, argv), "start EAL");
        if (rte_eal_iova_mode() != RTE_IOVA_VA) throw std::runtime_error("the IOMMU is not in use");
        start_port(make_pool(unmapped_page()));
        std::puts("posted");
        std::fflush(stdout);
        std::getchar();
        rte_eth_dev_stop(kPort);
        rte_eal_cleanup();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "stray-dma: %s\n", error.what());
        return EXIT_FAILURE;
    }
}
