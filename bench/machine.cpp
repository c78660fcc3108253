#include "machine.h"

#include <fmt/format.h>
#include <rte_cycles.h>
#include <rte_version.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

namespace zecorx::bench {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

std::string first_line(const fs::path& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

std::string cpu_model() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
    }
    return "unknown";
}

// Of CPU 0, by names as L1d and L2: proc(5), sysfs-devices-system-cpu.
Json caches() {
    Json all = Json::object();
    std::error_code none;
    for (const auto& entry : fs::directory_iterator("/sys/devices/system/cpu/cpu0/cache", none)) {
        if (!entry.path().filename().string().starts_with("index")) continue;
        const std::string type = first_line(entry.path() / "type");
        const std::string kind = type == "Data" ? "d" : type == "Instruction" ? "i" : "";
        all["L" + first_line(entry.path() / "level") + kind] = first_line(entry.path() / "size");
    }
    return all;
}

long memory_mib() {
    struct sysinfo info {};
    ::sysinfo(&info);
    return static_cast<long>(info.totalram * info.mem_unit >> 20);
}

}  // namespace

Json describe_machine() {
    struct utsname system {};
    ::uname(&system);
    return {{"cpu", cpu_model()},
            {"cores", std::thread::hardware_concurrency()},
            {"tsc_mhz", std::round(static_cast<double>(rte_get_tsc_hz()) / 1e5) / 10},
            {"kernel", system.release},
            {"memory_mib", memory_mib()},
            {"caches", caches()}};
}

Json describe_versions() {
    return {{"zecorx-vhost", ZECORX_VERSION},
            {"dpdk", rte_version()},
            {"compiler", fmt::format("gcc {}", __VERSION__)}};
}

}  // namespace zecorx::bench
