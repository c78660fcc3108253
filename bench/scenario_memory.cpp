// The daemon's memory for one more VM: what beds with few and with many differ by.
#include <fmt/format.h>
#include <malloc.h>
#include <rte_malloc.h>
#include <rte_mempool.h>
#include <rte_memzone.h>

#include "scenarios.h"
#include "table.h"

namespace zecorx::bench {
namespace {

struct Usage {
    double huge = 0;  // bytes that EAL gave out
    double heap = 0;
    double receive = 0;  // of huge
    double transmit = 0;
};

double huge_in_use() {
    double bytes = 0;
    for (int socket = 0; socket < RTE_MAX_NUMA_NODES; ++socket) {
        rte_malloc_socket_stats stats{};
        if (rte_malloc_get_socket_stats(socket, &stats) == 0) {
            bytes += static_cast<double>(stats.heap_allocsz_bytes);
        }
    }
    return bytes;
}

double heap_in_use() {
    const struct mallinfo2 heap = ::mallinfo2();
    return static_cast<double>(heap.uordblks + heap.hblkhd);
}

double size_of(const rte_mempool& pool) {
    double bytes = static_cast<double>(pool.mz->len);
    const rte_mempool_memhdr* chunk = nullptr;
    STAILQ_FOREACH(chunk, &pool.mem_list, next) bytes += static_cast<double>(chunk->len);
    return bytes;
}

Usage usage() {
    Usage all{.huge = huge_in_use(), .heap = heap_in_use()};
    rte_mempool_walk(
        [](rte_mempool* pool, void* sums) {
            auto& usage = *static_cast<Usage*>(sums);
            const std::string_view name = pool->name;
            if (name.starts_with("rx_")) usage.receive += size_of(*pool);
            if (name.starts_with("tx_")) usage.transmit += size_of(*pool);
        },
        &all);
    return all;
}

Usage operator-(const Usage& a, const Usage& b) {
    return {a.huge - b.huge, a.heap - b.heap, a.receive - b.receive, a.transmit - b.transmit};
}

Usage operator/(const Usage& a, double by) {
    return {a.huge / by, a.heap / by, a.receive / by, a.transmit / by};
}

MemoryFigures figures_of(const Usage& vm) {
    return {vm.huge + vm.heap,
            {{"receive mbufs", vm.receive},
             {"transmit mbufs", vm.transmit},
             {"rings of the PMD", vm.huge - vm.receive - vm.transmit},
             {"heap", vm.heap}}};
}

}  // namespace

void run_memory(Context& context) {
    constexpr std::size_t kFew = 1, kMany = 9;
    const Usage nothing = usage();
    const Bed few = context.make_bed(kDefaultMtu, std::vector<LaneOptions>(kFew));
    const Usage with_few = usage() - nothing;
    const Bed many = context.make_bed(kDefaultMtu, std::vector<LaneOptions>(kMany));
    const Usage with_many = usage() - nothing - with_few;
    const MemoryFigures figures = figures_of((with_many - with_few) / (kMany - kFew));
    context.results.memory = figures;
    Table table({"memory of a VM", "MiB"});
    for (const auto& [part, bytes] : figures.parts) {
        table.add({part, fmt::format("{:.3f}", bytes / (1 << 20))});
    }
    table.add({"all", fmt::format("{:.3f}", figures.per_vm / (1 << 20))});
    print_heading("The daemon's memory for each VM");
    table.print();
}

}  // namespace zecorx::bench
