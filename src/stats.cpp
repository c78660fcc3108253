#include "stats.h"

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <numeric>

namespace zecorx {
namespace {

double percent(std::uint64_t part, std::uint64_t whole) {
    return whole == 0 ? 0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

std::uint64_t sum(const std::map<std::string, std::uint64_t>& reasons) {
    return std::accumulate(
        reasons.begin(), reasons.end(), std::uint64_t{0},
        [](std::uint64_t total, const auto& entry) { return total + entry.second; });
}

// "12 (small 3, starved 9)": the total, and what it is made of where it is not zero.
std::string with_reasons(const std::map<std::string, std::uint64_t>& reasons) {
    std::string parts;
    for (const auto& [name, count] : reasons) {
        if (count != 0) parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", name, count);
    }
    return parts.empty() ? "0" : fmt::format("{} ({})", sum(reasons), parts);
}

const Snapshot::Vm* find(const std::optional<Snapshot>& snapshot, const std::string& name) {
    if (!snapshot) return nullptr;
    for (const Snapshot::Vm& vm : snapshot->vms) {
        if (vm.name == name) return &vm;
    }
    return nullptr;
}

struct Rate {
    double packets = 0;  // per second
    double bits = 0;     // per second
};

Rate rate(std::uint64_t packets, std::uint64_t bytes, double seconds) {
    if (seconds <= 0) return {};
    return {static_cast<double>(packets) / seconds, 8.0 * static_cast<double>(bytes) / seconds};
}

std::string vm_text(const Snapshot::Vm& vm, const Snapshot::Vm* before, double seconds) {
    const Snapshot::Vm old = before != nullptr ? *before : Snapshot::Vm{};
    const Rate rx = rate(vm.rx_packets - old.rx_packets, vm.rx_bytes - old.rx_bytes, seconds);
    const Rate tx = rate(vm.tx_packets - old.tx_packets, vm.tx_bytes - old.tx_bytes, seconds);
    return fmt::format(
        "{:<16} {} {}\n"
        "  rx {} pkt ({:.0f} pkt/s, {:.1f} Mbit/s)  tx {} pkt ({:.0f} pkt/s, {:.1f} Mbit/s)\n"
        "  zero-copied {:.1f} %  copied {:.1f} %: {}  dropped {}  kicks {}  calls {}\n",
        vm.name, vm.connected ? "connected" : "waiting for a frontend",
        vm.mac.empty() ? "(address not known yet)" : vm.mac, vm.rx_packets, rx.packets,
        rx.bits / 1e6, vm.tx_packets, tx.packets, tx.bits / 1e6,
        percent(vm.zero_copied, vm.rx_packets), percent(vm.copied(), vm.rx_packets),
        with_reasons(vm.copied_by_reason), with_reasons(vm.dropped), vm.kicks, vm.calls);
}

std::string port_text(const Snapshot::Port& port) {
    std::string text =
        fmt::format("port {:<11} link {}  rx {} pkt, missed {}, errors {}  tx {} pkt", port.name,
                    port.link_up ? "up" : "down", port.rx_packets, port.rx_missed, port.rx_errors,
                    port.tx_packets);
    if (port.outages > 0) {
        text += fmt::format("  stopped {} times, the last for {:.1f} ms", port.outages,
                            port.last_outage * 1e3);
    }
    if (const auto faults = port.soft82599.find("dma_faults"); faults != port.soft82599.end()) {
        text += fmt::format("  DMA faults {}", faults->second);
    }
    return text + "\n";
}

nlohmann::json port_json(const Snapshot::Port& port) {
    nlohmann::json json{{"name", port.name},
                        {"link_up", port.link_up},
                        {"rx_packets", port.rx_packets},
                        {"tx_packets", port.tx_packets},
                        {"rx_missed", port.rx_missed},
                        {"rx_errors", port.rx_errors},
                        {"outages", port.outages},
                        {"last_outage", port.last_outage}};
    if (!port.soft82599.empty()) json["soft82599"] = port.soft82599;
    return json;
}

nlohmann::json vm_json(const Snapshot::Vm& vm) {
    return {{"name", vm.name},
            {"connected", vm.connected},
            {"mac", vm.mac},
            {"rx_packets", vm.rx_packets},
            {"rx_bytes", vm.rx_bytes},
            {"tx_packets", vm.tx_packets},
            {"tx_bytes", vm.tx_bytes},
            {"zero_copied", vm.zero_copied},
            {"copied", vm.copied()},
            {"copied_by_reason", vm.copied_by_reason},
            {"moved_bytes", vm.moved_bytes},
            {"dropped", vm.dropped},
            {"kicks", vm.kicks},
            {"calls", vm.calls},
            {"refused_messages", vm.refused_messages},
            {"mbufs_held", vm.mbufs_held}};
}

}  // namespace

std::uint64_t Snapshot::Vm::copied() const { return sum(copied_by_reason); }

Snapshot::Vm snapshot_of(const Vm::Status& status) {
    const VmCounters& counters = *status.counters;
    Snapshot::Vm vm;
    vm.name = status.name;
    vm.connected = status.running;
    vm.mac = status.mac ? status.mac->to_string() : "";
    vm.rx_packets = counters.rx_packets.get();
    vm.rx_bytes = counters.rx_bytes.get();
    vm.tx_packets = counters.tx_packets.get();
    vm.tx_bytes = counters.tx_bytes.get();
    vm.zero_copied = counters.zero_copied.get();
    vm.moved_bytes = counters.moved_bytes.get();
    for (std::size_t i = 0; i < kCopyReasons; ++i) {
        vm.copied_by_reason[kCopyReasonNames[i]] = counters.copied[i].get();
    }
    for (std::size_t i = 0; i < kDropReasons; ++i) {
        vm.dropped[kDropReasonNames[i]] = counters.dropped[i].get();
    }
    vm.kicks = status.kicks;
    vm.calls = counters.calls.get();
    vm.refused_messages = status.refused;
    vm.mbufs_held = status.mbufs_held;
    return vm;
}

Snapshot::Port snapshot_of(const Port& port) {
    const FrameCounts frames = port.frames();
    Snapshot::Port snapshot;
    snapshot.name = port.name();
    snapshot.link_up = port.link_up();
    snapshot.rx_packets = frames.received;
    snapshot.tx_packets = frames.sent;
    snapshot.rx_missed = frames.missed;
    snapshot.rx_errors = frames.errors;
    snapshot.outages = port.outages().count;
    snapshot.last_outage = std::chrono::duration<double>(port.outages().last).count();
    return snapshot;
}

std::string to_json(const Snapshot& snapshot) {
    nlohmann::json json{{"uptime", snapshot.uptime},
                        {"vms", nlohmann::json::array()},
                        {"ports", nlohmann::json::array()}};
    for (const Snapshot::Vm& vm : snapshot.vms) json["vms"].push_back(vm_json(vm));
    for (const Snapshot::Port& port : snapshot.ports) json["ports"].push_back(port_json(port));
    return json.dump();
}

std::string to_text(const Snapshot& snapshot, const std::optional<Snapshot>& before) {
    const double seconds = snapshot.uptime - (before ? before->uptime : 0);
    std::string text;
    for (const Snapshot::Vm& vm : snapshot.vms) text += vm_text(vm, find(before, vm.name), seconds);
    for (const Snapshot::Port& port : snapshot.ports) text += port_text(port);
    return text;
}

}  // namespace zecorx
