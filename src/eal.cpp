#include "eal.h"

#include <fmt/format.h>
#include <rte_eal.h>
#include <rte_errno.h>

#include <stdexcept>
#include <thread>

#include "log.h"

namespace zecorx {
namespace {

std::string lcore_map(const std::vector<unsigned>& worker_cpus) {
    std::string map = fmt::format("0@(0-{})", std::thread::hardware_concurrency() - 1);
    for (std::size_t worker = 0; worker < worker_cpus.size(); ++worker) {
        map += fmt::format(",{}@{}", Eal::worker_lcore(worker), worker_cpus[worker]);
    }
    return map;
}

}  // namespace

std::vector<std::string> eal_arguments(const Options& options, const EalDevices& devices) {
    std::vector<std::string> arguments{
        "zecorx-vhost",
        "--lcores",
        lcore_map(options.worker_cpus),
        "--main-lcore",
        "0",
        "-m",
        fmt::format("{}", options.huge_memory),
        "--in-memory",      // no files in hugetlbfs or /var/run that a killed daemon would leave
        "--no-telemetry"};  // likewise its socket directory
    for (const std::string& bdf : devices.pci) arguments.insert(arguments.end(), {"-a", bdf});
    if (devices.pci.empty()) arguments.emplace_back("--no-pci");
    for (const std::string& device : devices.software) {
        arguments.insert(arguments.end(), {"--vdev", device});
    }
    arguments.emplace_back(devices.physical_iova ? "--iova-mode=pa" : "--iova-mode=va");
    arguments.insert(arguments.end(), options.eal_args.begin(), options.eal_args.end());
    return arguments;
}

Eal::Eal(const Options& options, const EalDevices& devices) {
    forward_dpdk_log();
    std::vector<std::string> arguments = eal_arguments(options, devices);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    if (rte_eal_init(static_cast<int>(argv.size()), argv.data()) < 0) {
        throw std::runtime_error(fmt::format(
            "DPDK's EAL does not start: {}; the warnings above say why (--log-level debug says "
            "more)",
            rte_strerror(rte_errno)));
    }
}

Eal::~Eal() { rte_eal_cleanup(); }

}  // namespace zecorx
