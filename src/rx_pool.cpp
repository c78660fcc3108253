#include "rx_pool.h"

#include <fmt/format.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_version.h>

#include <cstring>
#include <span>
#include <stdexcept>

namespace zecorx {
namespace {

MbufReceivePath& path_of(const rte_mempool* pool) {
    return *static_cast<MbufReceivePath*>(pool->pool_config);
}

int op_alloc(rte_mempool* pool) noexcept {
    pool->pool_data = pool->pool_config;
    return 0;
}

void op_free(rte_mempool*) noexcept {}

int op_enqueue(rte_mempool* pool, void* const* objects, unsigned count) noexcept {
    MbufReceivePath& path = path_of(pool);
    for (void* object : std::span(objects, count)) path.give_back(object);
    return 0;
}

int op_dequeue(rte_mempool* pool, void** objects, unsigned count) noexcept {
    const Refill refill = count == kVectorRefill ? Refill::kMayRefuse : Refill::kMustSupply;
    return path_of(pool).dequeue({objects, count}, refill) ? 0 : -ENOBUFS;
}

unsigned op_get_count(const rte_mempool* pool) noexcept {
    return static_cast<unsigned>(path_of(pool).idle());
}

constexpr const char* kOpsName = "zecorx_avail_ring";

// Mempool handlers register once per process.
void register_ops() {
    static const int index = [] {
        rte_mempool_ops ops{};
        std::strncpy(ops.name, kOpsName, sizeof ops.name - 1);
        ops.alloc = op_alloc;
        ops.free = op_free;
        ops.enqueue = op_enqueue;
        ops.dequeue = op_dequeue;
        ops.get_count = op_get_count;
        return rte_mempool_register_ops(&ops);
    }();
    if (index < 0) throw std::runtime_error("cannot register the avail-ring mempool handler");
}

[[noreturn]] void fail(const std::string& name, std::uint32_t mbufs, int error) {
    throw std::runtime_error(fmt::format(
        "cannot create mempool {} of {} mbufs: {}; give the daemon more huge-page memory with "
        "--huge-mem",
        name, mbufs, rte_strerror(error)));
}

}  // namespace

Mempool make_rx_pool(const std::string& name, std::uint32_t mbufs, std::uint32_t nic_buffer,
                     MbufReceivePath& path, int socket) {
    register_ops();
    const auto room = static_cast<std::uint16_t>(RTE_PKTMBUF_HEADROOM + nic_buffer);
    // Cache size 0: a cache would hand out mbufs in another order than the handler's.
    Mempool pool(rte_mempool_create_empty(name.c_str(), mbufs, sizeof(rte_mbuf) + room, 0,
                                          sizeof(rte_pktmbuf_pool_private), socket, 0));
    if (!pool) fail(name, mbufs, rte_errno);
    if (const int error = rte_mempool_set_ops_byname(pool.get(), kOpsName, &path); error != 0) {
        fail(name, mbufs, -error);
    }
    rte_pktmbuf_pool_private sizes{};
    sizes.mbuf_data_room_size = room;
    rte_pktmbuf_pool_init(pool.get(), &sizes);
    if (const int count = rte_mempool_populate_default(pool.get()); count < 0) {
        fail(name, mbufs, -count);
    }
    rte_mempool_obj_iter(pool.get(), rte_pktmbuf_init, nullptr);
    return pool;
}

Mempool make_host_pool(const std::string& name, std::uint32_t mbufs, std::uint32_t room,
                       int socket) {
    Mempool pool(rte_pktmbuf_pool_create(name.c_str(), mbufs, 0, 0,
                                         static_cast<std::uint16_t>(RTE_PKTMBUF_HEADROOM + room),
                                         socket));
    if (!pool) fail(name, mbufs, rte_errno);
    return pool;
}

}  // namespace zecorx
