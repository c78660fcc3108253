#include "open_port.h"

#include <rte_ethdev.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "host_checks.h"
#include "restarting_port.h"
#include "vmdq_port.h"

namespace zecorx {
namespace {

// Whose registers VmdqPort knows.
bool is_82599(const EthDevice& device) {
    constexpr std::uint16_t kIntel = 0x8086;
    constexpr std::array<std::uint16_t, 13> k82599{0x10f7, 0x10f8, 0x10f9, 0x10fb, 0x10fc,
                                                   0x1507, 0x1514, 0x1517, 0x151c, 0x154a,
                                                   0x154d, 0x1557, 0x1558};
    const PciId id = pci_id(device.name);
    return id.vendor == kIntel && std::ranges::count(k82599, id.device) != 0;
}

std::unique_ptr<Port> make_port(EthDevice device, const NicOptions& nic,
                                std::vector<VmOptions> vms) {
    const PortGeometry geometry{.mtu = nic.mtu};
    if (device.has_vmdq() && is_82599(device)) {
        return std::make_unique<VmdqPort>(std::move(device), std::move(vms), geometry);
    }
    return std::make_unique<RestartingPort>(std::move(device), std::move(vms), geometry,
                                            nic.longest_frame);
}

}  // namespace

std::unique_ptr<Port> open_port(const std::string& name, const NicOptions& nic,
                                std::vector<VmOptions> vms) {
    std::unique_ptr<Port> port = make_port(EthDevice(name), nic, std::move(vms));
    for (const std::string& limit : port->limits()) spdlog::info("port {}: {}", name, limit);
    return port;
}

}  // namespace zecorx
