// The command line and the configuration file, checked.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "zecorx/geometry.h"
#include "zecorx/mac_address.h"

namespace zecorx {

// What the operator typed cannot be used; what() says what, and what to type instead.
class OptionError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// One --vdev NAME[,KEY=VALUE...].
struct VmOptions {
    std::string name;
    std::string socket_path{};       // never empty once parsed
    bool default_socket = false;     // in the daemon's own runtime directory
    bool client = false;             // connect to the frontend instead of listening for it
    std::vector<MacAddress> macs{};  // none: the first is learned from the guest
    bool learn = false;              // follow the address that the guest announces
    // Tagged on the wire, untagged in the VM, which gets frames of this VLAN only.
    std::optional<std::uint16_t> vlan{};
    // Frames of these VLANs are delivered with their tags, beside untagged ones. Ascending; empty
    // where `vlan` is set. A VM with neither gets untagged frames only.
    std::vector<std::uint16_t> trunk{};
    bool promisc = false;                  // unicast frames to addresses of nobody else, too
    bool zerocopy = true;                  // false: every frame is copied
    bool allmulti = true;                  // multicast frames; broadcast comes in any case
    std::optional<std::uint32_t> rxbuf{};  // bytes of a NIC receive buffer; none: chosen
    std::string port{};                    // NicOptions::name; never empty once parsed
};

// --pci BDF[,mtu=N], --pci soft[,mtu=N][,wire=...], or --port DEVARGS[,mtu=N][,longest=N].
struct NicOptions {
    std::string name = "soft";  // as port= has it: soft, soft2 ..., a PCI address, a device's name
    bool soft = true;
    std::string bdf{};          // of a PCI device
    std::string soft_args{};    // what follows "soft," less mtu=
    std::string device_args{};  // of a device without PCI, as DPDK's --vdev takes them
    std::uint32_t mtu = kDefaultMtu;
    // What a driver without DMA writes at most for a frame, as the operator knows; 0: it may fill
    // its buffers.
    std::uint32_t longest_frame = 0;
};

enum class StatsFormat { kText, kJson };

struct Options {
    std::vector<VmOptions> vms;
    std::vector<NicOptions> nics;       // never empty once parsed
    bool unsafe_no_iommu = false;       // NICs that nothing confines are accepted
    std::vector<unsigned> worker_cpus;  // one worker each, never empty
    unsigned huge_memory = 256;         // MiB for EAL
    std::chrono::microseconds idle_sleep{100};
    // None: a second on a terminal, else never.
    std::optional<std::chrono::milliseconds> stats_interval;
    StatsFormat stats_format = StatsFormat::kText;
    std::string log_level = "info";
    std::vector<std::string> eal_args;  // after --
    bool help = false;
    bool version = false;
};

// Reads argv and, if it names one, the configuration file. What the command line says wins, and
// its --vdev are added to the file's. Throws OptionError.
Options parse_options(int argc, const char* const* argv);

std::string help_text();

// Where sockets go that no iface= names.
std::string runtime_directory();

}  // namespace zecorx
