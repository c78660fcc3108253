#include "machine.h"

#include <cstdio>
#include <set>
#include <stdexcept>
#include <utility>

#include "dma_eal.h"

namespace zecorx::soft82599 {
namespace {

void log_to_stderr(const std::string& line) {
    std::fprintf(stderr, "soft82599: %s\n", line.c_str());
}

MacAddress default_mac(std::size_t index) {
    return MacAddress{{0x52, 0x54, 0x00, 0x82, 0x59, static_cast<std::uint8_t>(index)}};
}

void check_addresses_differ(const std::vector<PortConfig>& ports) {
    std::set<std::string> seen;
    for (const PortConfig& port : ports) {
        if (!seen.insert(port.bdf).second) {
            throw std::runtime_error("two software NIC ports have the PCI address " + port.bdf +
                                     "; give each port its own");
        }
    }
}

}  // namespace

Machine::Machine(Config config) {
    check_addresses_differ(config.ports);
    const LogSink log = config.log ? std::move(config.log) : LogSink(log_to_stderr);
    std::vector<SysfsTree::PortEntry> entries;
    for (std::size_t i = 0; i < config.ports.size(); ++i) {
        const PortConfig& port = config.ports[i];
        ports_.push_back(std::make_unique<Port>(port, port.mac.value_or(default_mac(i)),
                                                std::make_unique<EalDmaSpace>(), log));
        entries.push_back({port.bdf, ports_.back()->uio_number()});
    }
    tree_ = std::make_unique<SysfsTree>(entries);
    for (std::size_t i = 0; i < ports_.size(); ++i) ports_[i]->attach_bar(tree_->resource_fd(i));
    if (config.mode == Mode::kStep) return;
    for (const auto& port : ports_) port->start_thread();
}

Machine::~Machine() = default;

}  // namespace zecorx::soft82599
