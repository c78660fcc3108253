#include "daemon.h"

#include <algorithm>
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>

#include "support/environment.h"
#include "support/temp_dir.h"
#include "support/wait.h"

namespace zecorx::test {
namespace {

std::string name_of(const WireSpec& wire) {
    return wire.interface.empty() ? Daemon::kWire : wire.interface;
}

std::vector<std::string> nic(const WireSpec& wire) {
    const std::string mtu = ",mtu=" + std::to_string(wire.mtu);
    if (!wire.port.empty()) return {"--port", wire.port + mtu};
    return {"--pci", "soft" + mtu + ",wire=tap:" + name_of(wire)};
}

std::vector<std::string> daemon_command(const std::vector<VmSpec>& vms, const WireSpec& wire) {
    std::vector<std::string> command{environment("ZECORX_VHOST"), "--stats-interval", "0.2",
                                     "--stats-format", "json"};
    std::ranges::copy(nic(wire), std::back_inserter(command));
    std::ranges::copy(wire.further, std::back_inserter(command));
    for (std::size_t i = 0; i < vms.size(); ++i) {
        command.insert(command.end(),
                       {"--vdev", "net_vhost" + std::to_string(i) +
                                      ",iface=" + vms[i].socket.string() + ",mac=" + vms[i].mac +
                                      (vms[i].client ? ",client=1" : "") + vms[i].options});
    }
    return command;
}

// True once the process accepts connections there: the file exists a moment before that.
bool listens(pid_t pid, const std::filesystem::path& socket) {
    constexpr const char* kAccepting = " 00010000 ";  // __SO_ACCEPTCON
    std::ifstream sockets("/proc/" + std::to_string(pid) + "/net/unix");
    for (std::string line; std::getline(sockets, line);) {
        if (line.ends_with(" " + socket.string()) && line.find(kAccepting) != std::string::npos) {
            return true;
        }
    }
    return false;
}

}  // namespace

Daemon::Daemon(const NetNamespace& netns, const std::filesystem::path& directory,
               const std::vector<VmSpec>& vms, const WireSpec& wire)
    : directory_(directory),
      process_(daemon_command(vms, wire), {.netns = netns.fd(),
                                           .output = directory / "stats.jsonl",
                                           .errors = directory / "daemon.log"}) {
    const auto all_listen = [&] {
        return std::ranges::all_of(
            vms, [&](const VmSpec& vm) { return vm.client || listens(pid(), vm.socket); });
    };
    const std::string name = name_of(wire);
    const bool up = wait_until(
        [&] { return !process_.running() || (netns.interface_index(name) != 0 && all_listen()); },
        kTimeout);
    if (!up || !process_.running()) {
        throw std::runtime_error("zecorx-vhost did not come up; " +
                                 tail(directory_ / "daemon.log"));
    }
    netns.ip({"link", "set", name, "up", "mtu", std::to_string(wire.mtu)});
    if (!wire.address.empty()) netns.ip({"address", "add", wire.address, "dev", name});
}

Daemon::~Daemon() {
    if (std::uncaught_exceptions() > 0) {
        std::cerr << tail(directory_ / "daemon.log") << tail(directory_ / "stats.jsonl", 2);
    }
    // Politely first: a killed EAL leaves its huge page files behind.
    process_.terminate(kTimeout);
}

// A line that is still being written is left out.
std::vector<nlohmann::json> Daemon::printed_stats() const {
    std::ifstream input(directory_ / "stats.jsonl");
    std::vector<nlohmann::json> all;
    for (std::string line; std::getline(input, line) && !input.eof();) {
        all.push_back(nlohmann::json::parse(line));
    }
    return all;
}

nlohmann::json Daemon::stats() {
    return wait_for_stats([](const nlohmann::json&) { return true; });
}

nlohmann::json Daemon::wait_for_stats(const std::function<bool(const nlohmann::json&)>& condition,
                                      std::chrono::milliseconds timeout) {
    const std::size_t old = printed_stats().size();
    nlohmann::json found;
    const auto met = [&] {
        const auto all = printed_stats();
        const auto first_new = all.begin() + static_cast<std::ptrdiff_t>(std::min(old, all.size()));
        const auto match = std::find_if(first_new, all.end(), condition);
        if (match != all.end()) found = *match;
        return match != all.end();
    };
    if (!wait_until([&] { return met() || !process_.running(); }, timeout) || found.is_null()) {
        throw std::runtime_error(process_.running() ? "the awaited statistics did not come"
                                                    : "zecorx-vhost ended");
    }
    return found;
}

nlohmann::json Daemon::wait_for_connection(std::size_t vm, bool connected) {
    return wait_for_stats([&](const nlohmann::json& stats) {
        return stats.at("vms").at(vm).at("connected") == connected;
    });
}

nlohmann::json Daemon::terminate() {
    const std::optional<int> status = process_.terminate(kTimeout);
    if (status != 0) {
        throw std::runtime_error(
            "on SIGTERM, zecorx-vhost " +
            (status ? "ended with " + std::to_string(*status) : std::string("did not end")));
    }
    return printed_stats().back();
}

std::size_t Daemon::open_fds() const {
    const std::filesystem::directory_iterator fds("/proc/" + std::to_string(pid()) + "/fd");
    return static_cast<std::size_t>(std::distance(begin(fds), end(fds)));
}

std::size_t Daemon::mappings() const {
    std::ifstream maps("/proc/" + std::to_string(pid()) + "/maps");
    return static_cast<std::size_t>(
        std::count(std::istreambuf_iterator<char>(maps), std::istreambuf_iterator<char>(), '\n'));
}

std::size_t Daemon::guest_mappings() const {
    std::ifstream maps("/proc/" + std::to_string(pid()) + "/maps");
    std::size_t count = 0;
    for (std::string line; std::getline(maps, line);) {
        if (line.find("memfd:memory-backend-memfd") != std::string::npos) ++count;
    }
    return count;
}

double zero_copy_share(const nlohmann::json& vm) {
    return zero_copy_share({{"zero_copied", 0}, {"copied", 0}}, vm);
}

double zero_copy_share(const nlohmann::json& before, const nlohmann::json& after) {
    const auto difference = [&](const char* name) {
        return after.at(name).get<double>() - before.at(name).get<double>();
    };
    const double zero_copied = difference("zero_copied");
    const double all = zero_copied + difference("copied");
    return all == 0 ? 1 : zero_copied / all;
}

}  // namespace zecorx::test
