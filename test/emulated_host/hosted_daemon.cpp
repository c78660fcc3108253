#include "hosted_daemon.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>

#include "support/wait.h"

namespace zecorx::test {
namespace {

constexpr const char* kName = "daemon";
constexpr const char* kStats = "/run/daemon.jsonl";

std::string command(unsigned vms, const DaemonOptions& options) {
    std::string words = options.setup + "exec " + options.wrapper + " zecorx-vhost --pci " +
                        EmulatedHost::kNic +
                        " --lcores 0 --huge-mem 128 --idle-sleep 1000 --stats-interval 0.2"
                        " --stats-format json" +
                        options.words;
    for (unsigned vm = 0; vm < vms; ++vm) {
        words += " --vdev net_vhost" + std::to_string(vm) + ",iface=" + HostedDaemon::socket(vm) +
                 ",mac=" + HostedDaemon::mac(vm).to_string() + options.vm;
    }
    return words;
}

}  // namespace

MacAddress HostedDaemon::mac(unsigned vm) {
    return {{0x52, 0x54, 0x00, 0x82, 0x57, static_cast<std::uint8_t>(0x61 + vm)}};
}

std::vector<MacAddress> HostedDaemon::macs(unsigned count) {
    std::vector<MacAddress> all;
    for (unsigned vm = 0; vm < count; ++vm) all.push_back(mac(vm));
    return all;
}

HostedDaemon::HostedDaemon(EmulatedHost& host, unsigned vms, const DaemonOptions& options)
    : host_(host) {
    std::string sockets = "true";
    for (unsigned vm = 0; vm < vms; ++vm) sockets += " && [ -S " + socket(vm) + " ]";
    host_.start(kName, "sh -c '" + command(vms, options) + " > " + kStats + "'");
    const auto listens = [&] { return host_.machine().run(sockets).status == 0; };
    const bool up = wait_until([&] { return listens() || !host_.running(kName); }, kTimeout);
    if (!up || !host_.running(kName)) {
        throw std::runtime_error("zecorx-vhost did not come up: " + host_.log(kName));
    }
}

std::string HostedDaemon::refusal(EmulatedHost& host, unsigned vms, const DaemonOptions& options) {
    const std::string name = "refused";
    host.start(name, "sh -c '" + command(vms, options) + "'");
    if (host.wait_for_end(name) == "0") throw std::runtime_error("zecorx-vhost did not refuse");
    return host.log(name);
}

// Those after the first `skip`. A line that is still being written is left out.
std::vector<nlohmann::json> HostedDaemon::printed_stats(std::size_t skip) {
    std::istringstream lines(
        host_.machine().must("tail -n +" + std::to_string(skip + 1) + " " + kStats));
    std::vector<nlohmann::json> all;
    for (std::string line; std::getline(lines, line) && !lines.eof();) {
        all.push_back(nlohmann::json::parse(line));
    }
    return all;
}

nlohmann::json HostedDaemon::stats() {
    return wait_for_stats([](const nlohmann::json&) { return true; });
}

nlohmann::json HostedDaemon::wait_for_stats(
    const std::function<bool(const nlohmann::json&)>& condition) {
    const std::size_t old = printed_stats(0).size();
    nlohmann::json found;
    const auto met = [&] {
        const auto all = printed_stats(old);
        const auto match = std::ranges::find_if(all, condition);
        if (match != all.end()) found = *match;
        return match != all.end();
    };
    if (!wait_until([&] { return met() || !host_.running(kName); }, kTimeout) || found.is_null()) {
        throw std::runtime_error(host_.running(kName) ? "the awaited statistics did not come"
                                                      : "zecorx-vhost ended");
    }
    return found;
}

nlohmann::json HostedDaemon::wait_for_connection(unsigned vm, bool connected) {
    return wait_for_stats([&](const nlohmann::json& stats) {
        return stats.at("vms").at(vm).at("connected") == connected;
    });
}

std::string HostedDaemon::log() const { return host_.log(kName); }

void HostedDaemon::terminate() {
    const std::string status = host_.stop(kName);
    if (status != "0") {
        throw std::runtime_error("on SIGTERM, zecorx-vhost ended with " + status);
    }
}

}  // namespace zecorx::test
