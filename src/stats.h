// What the operator sees: packets, rates, the zero-copy share and every lost frame's reason.
//
// Thread rule: main thread only.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "vm.h"

namespace zecorx {

// Everything one report is made of, taken at one moment.
struct Snapshot {
    struct Vm {
        std::string name;
        bool connected = false;
        std::string mac;  // empty: not known yet
        std::uint64_t rx_packets = 0, rx_bytes = 0;
        std::uint64_t tx_packets = 0, tx_bytes = 0;
        std::uint64_t zero_copied = 0;
        std::map<std::string, std::uint64_t> copied_by_reason;
        std::uint64_t moved_bytes = 0;  // by the processor, whether a frame counts as copied or not
        std::map<std::string, std::uint64_t> dropped;
        std::uint64_t kicks = 0, calls = 0;
        std::uint64_t refused_messages = 0;  // of frontends
        std::uint32_t mbufs_held = 0;

        std::uint64_t copied() const;
    };
    struct Port {
        std::string name;
        bool link_up = false;
        std::uint64_t rx_packets = 0, tx_packets = 0;
        std::uint64_t rx_missed = 0, rx_errors = 0;
        std::uint64_t outages = 0;  // stops for the sake of one VM while others were served
        double last_outage = 0;     // seconds
        std::map<std::string, std::uint64_t> soft82599{};  // empty of a real NIC
    };

    double uptime = 0;  // seconds
    std::vector<Vm> vms;
    std::vector<Port> ports;
};

Snapshot::Vm snapshot_of(const Vm::Status& status);
Snapshot::Port snapshot_of(const Port& port);

// One JSON object, without a newline.
std::string to_json(const Snapshot& snapshot);

// Lines for a terminal; rates over the time since `before`, if there is one.
std::string to_text(const Snapshot& snapshot, const std::optional<Snapshot>& before);

}  // namespace zecorx
