#include "options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <rte_kvargs.h>
#include <sched.h>
#include <sys/un.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <span>
#include <sstream>

#include "nic_options.h"
#include "option_values.h"

namespace zecorx {
namespace {

namespace po = boost::program_options;

constexpr unsigned kMostHugeMemory = 1U << 20;  // MiB
constexpr double kShortestInterval = 0.1;       // seconds
constexpr double kLongestInterval = 86400;      // a day
constexpr std::size_t kMaxName = 16;       // mempools carry it in their names, which DPDK limits
constexpr std::uint16_t kFirstVlan = 1;    // 0 marks a priority tag, IEEE 802.1Q 9.6
constexpr std::uint16_t kLastVlan = 4094;  // 4095 is reserved
constexpr std::size_t kPortVlans = 64;     // PFVLVF, 82599 datasheet 8.2.3.27.12
constexpr std::size_t kPortMacs = 127;     // RAL/RAH 8.2.3.7.7 less the host's own
constexpr unsigned kMostRxbuf = 16384;     // SRRCTL.BSIZEPACKET, 8.2.3.8.7

po::options_description general_options() {
    po::options_description general("zecorx-vhost [options] [-- EAL arguments]");
    general.add_options()                                         //
        ("help,h", "print this help and exit")                    //
        ("version,V", "print the version and exit")               //
        ("config", po::value<std::string>()->value_name("FILE"),  //
         "read these options, without the dashes, from an INI file");
    return general;
}

po::options_description shared_options() {
    po::options_description shared("Options that a configuration file may hold too");
    shared.add_options()  //
        ("vdev", po::value<std::vector<std::string>>()->value_name("NAME[,KEY=VALUE...]"),
         "a VM, repeatable. Keys:\n"
         "iface=PATH   vhost-user socket [RUNTIME_DIR/NAME.sock]\n"
         "client=0|1   connect to the frontend's socket instead of listening, with retry [0]\n"
         "mac=ADDRESS  a MAC address of it, repeatable [learned from the guest]\n"
         "learn=0|1    let the first address follow what the guest announces [0]\n"
         "vlan=ID      frames of this VLAN only, without their tag inside the VM\n"
         "trunk=IDS    frames of these VLANs with their tags, as in 10:20:100-110, and untagged "
         "ones [untagged only]\n"
         "promisc=0|1  also unicast frames to addresses of no other VM [0]\n"
         "allmulti=0|1 multicast frames; broadcast comes in any case [1]\n"
         "rxbuf=BYTES|auto  the NIC's receive buffer, a multiple of 1024 up to 16384 [auto]\n"
         "zerocopy=0|1 0: copy every frame, for comparison [1]\n"
         "port=NAME    the port it is on: soft, soft2 for the second of these, a PCI address, or "
         "the name of a --port [the only one]")  //
        ("pci", po::value<std::vector<std::string>>()->value_name("BDF|soft[,KEY=VALUE...]"),
         "the NIC at this PCI address, or the embedded software 82599 [soft], repeatable. Keys:\n"
         "mtu=BYTES           68 to 9216 [1500]\n"
         "and of soft, last:\n"
         "wire=tap:NAME       a TAP interface\n"
         "wire=pcap:IN[,OUT]  capture files\n"
         "wire=gen:...        a traffic generator")  //
        ("port", po::value<std::vector<std::string>>()->value_name("NAME[,KEY=VALUE...]"),
         "a port of one VM on a DPDK device without PCI, repeatable, as in net_tap0,iface=tap0 or "
         "net_af_packet0,iface=eth1. Keys beside the driver's:\n"
         "mtu=BYTES      68 to 9216 [1500]\n"
         "longest=BYTES  no frame is longer: guest buffers of so many bytes are written to "
         "directly [what the driver's own buffers hold]")  //
        ("unsafe-no-iommu", po::bool_switch(),
         "accept a NIC that no IOMMU confines (UIO, VFIO's no-IOMMU mode): it, and who controls "
         "it, "
         "can write anywhere in the host's memory")  //
        ("lcores", po::value<std::string>()->value_name("CPUS"),
         "CPUs of the workers, one worker each, as in 1,3-5 [the last CPU]")  //
        ("huge-mem", po::value<std::string>()->value_name("MIB"),
         "huge-page memory for DPDK [256]")  //
        ("idle-sleep", po::value<std::string>()->value_name("USEC|off"),
         "longest sleep of a worker that finds nothing; off: pure polling [100]")  //
        ("stats-interval", po::value<std::string>()->value_name("SECONDS"),
         "print statistics this often, as 0.5; 0: never [1 on a terminal, else 0]")  //
        ("stats-format", po::value<std::string>()->value_name("text|json"),
         "json: one object a line [text]")  //
        ("log-level", po::value<std::string>()->value_name("LEVEL"),
         "trace, debug, info, warning, error, critical or off [info]");
    return shared;
}

po::options_description all_options() {
    po::options_description all;
    all.add(general_options()).add(shared_options());
    return all;
}

// What Boost says, in words of the command line: it names the option, but not what to do.
po::variables_map read(std::span<const char* const> arguments) {
    po::variables_map values;
    const std::vector<std::string> words(arguments.begin(), arguments.end());
    try {
        // Abbreviations are off: a typo must not become another option.
        using namespace po::command_line_style;
        constexpr int kStyle = unix_style & ~allow_guessing;
        po::store(po::command_line_parser(words)
                      .options(all_options())
                      .style(kStyle)
                      .positional(po::positional_options_description())
                      .run(),
                  values);
    } catch (const po::too_many_positional_options_error&) {
        fail("there is an argument that belongs to no option; see --help");
    } catch (const po::error& error) {
        fail("{}; see --help", error.what());
    }
    return values;
}

void read_config(po::variables_map& values) {
    const auto path = values["config"].as<std::string>();
    std::ifstream file(path);
    if (!file) fail("cannot read the configuration file {}: {}", path, std::strerror(errno));
    if (!std::filesystem::is_regular_file(path)) {
        fail("cannot read the configuration file {}: not a regular file", path);
    }
    // The first store() of an option wins, but VMs of both places are wanted.
    std::vector<std::string> vdevs;
    if (values.count("vdev")) vdevs = values["vdev"].as<std::vector<std::string>>();
    try {
        // What is parsed keeps pointing at its description.
        const po::options_description description = shared_options();
        const auto parsed = po::parse_config_file(file, description);
        po::variables_map from_file;
        po::store(parsed, from_file);
        if (from_file.count("vdev")) {
            const auto more = from_file["vdev"].as<std::vector<std::string>>();
            vdevs.insert(vdevs.end(), more.begin(), more.end());
        }
        po::store(parsed, values);
    } catch (const po::error& error) {
        fail("configuration file {}: {}", path, error.what());
    }
    if (!vdevs.empty()) values.at("vdev").value() = vdevs;
}

bool parse_flag(const VmOptions& vm, std::string_view key, std::string_view value) {
    if (value != "0" && value != "1") fail("--vdev {}: {}={} must be 0 or 1", vm.name, key, value);
    return value == "1";
}

MacAddress parse_mac(const VmOptions& vm, std::string_view value) {
    const auto mac = MacAddress::parse(value);
    if (!mac || !mac->is_station()) {
        fail("--vdev {}: mac={} is no unicast MAC address like 52:54:00:12:34:56", vm.name, value);
    }
    return *mac;
}

std::optional<std::uint16_t> to_vlan(std::string_view text) {
    const auto number = to_number(text);
    if (!number || *number < kFirstVlan || *number > kLastVlan) return std::nullopt;
    return static_cast<std::uint16_t>(*number);
}

std::uint16_t parse_vlan(const VmOptions& vm, std::string_view value) {
    const auto vlan = to_vlan(value);
    if (!vlan) {
        fail("--vdev {}: vlan={} is no VLAN ID from {} to {}", vm.name, value, kFirstVlan,
             kLastVlan);
    }
    return *vlan;
}

// IDs and ranges of them between colons, since commas separate keys.
std::vector<std::uint16_t> parse_trunk(const VmOptions& vm, std::string_view value) {
    std::set<std::uint16_t> vlans;
    for (std::string_view rest = value;;) {
        const auto colon = rest.find(':');
        const std::string_view item = rest.substr(0, colon);
        const auto dash = item.find('-');
        const auto first = to_vlan(item.substr(0, dash));
        const auto last = dash == item.npos ? first : to_vlan(item.substr(dash + 1));
        if (!first || !last || *first > *last) {
            fail("--vdev {}: trunk={} must be VLAN IDs from {} to {} as in 10:20:100-110", vm.name,
                 value, kFirstVlan, kLastVlan);
        }
        for (std::uint16_t vlan = *first; vlan <= *last; ++vlan) vlans.insert(vlan);
        if (colon == rest.npos) return {vlans.begin(), vlans.end()};
        rest.remove_prefix(colon + 1);
    }
}

std::optional<std::uint32_t> parse_rxbuf(const VmOptions& vm, std::string_view value) {
    if (value == "auto") return std::nullopt;
    const auto bytes = to_number(value);
    if (!bytes || *bytes == 0 || *bytes % kNicBufferStep != 0 || *bytes > kMostRxbuf) {
        fail("--vdev {}: rxbuf={} must be auto or a multiple of {} up to {}", vm.name, value,
             kNicBufferStep, kMostRxbuf);
    }
    return *bytes;
}

void set_key(VmOptions& vm, std::string_view key, std::string_view value) {
    if (key == "iface") {
        vm.socket_path = value;
    } else if (key == "client") {
        vm.client = parse_flag(vm, key, value);
    } else if (key == "mac") {
        vm.macs.push_back(parse_mac(vm, value));
    } else if (key == "learn") {
        vm.learn = parse_flag(vm, key, value);
    } else if (key == "vlan") {
        vm.vlan = parse_vlan(vm, value);
    } else if (key == "trunk") {
        vm.trunk = parse_trunk(vm, value);
    } else if (key == "promisc") {
        vm.promisc = parse_flag(vm, key, value);
    } else if (key == "allmulti") {
        vm.allmulti = parse_flag(vm, key, value);
    } else if (key == "zerocopy") {
        vm.zerocopy = parse_flag(vm, key, value);
    } else if (key == "port") {
        vm.port = value;
    } else if (key == "rxbuf") {
        vm.rxbuf = parse_rxbuf(vm, value);
    } else {
        fail(
            "--vdev {}: unknown key '{}'; the keys are iface, client, mac, learn, vlan, trunk, "
            "promisc, allmulti, rxbuf, zerocopy and port",
            vm.name, key);
    }
}

bool valid_name(std::string_view name) {
    return !name.empty() && name.size() <= kMaxName && std::ranges::all_of(name, [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-';
    });
}

struct KvargsFree {
    void operator()(rte_kvargs* list) const { rte_kvargs_free(list); }
};

VmOptions parse_vdev(const std::string& text) {
    const auto comma = text.find(',');
    VmOptions vm;
    vm.name = text.substr(0, comma);
    if (!valid_name(vm.name)) {
        fail("--vdev {}: a name has 1 to {} letters, digits, '_' or '-', as in net_vhost0", text,
             kMaxName);
    }
    if (comma != std::string::npos) {
        const std::unique_ptr<rte_kvargs, KvargsFree> list(
            rte_kvargs_parse(text.c_str() + comma + 1, nullptr));
        if (!list) fail("--vdev {}: expected KEY=VALUE pairs after the name", text);
        std::set<std::string> seen;
        for (const rte_kvargs_pair& pair : std::span(list->pairs, list->count)) {
            if (pair.value == nullptr || *pair.value == '\0') {
                fail("--vdev {}: key '{}' has no value", vm.name, pair.key);
            }
            if (!seen.insert(pair.key).second && pair.key != std::string_view("mac")) {
                fail("--vdev {}: key '{}' is given twice", vm.name, pair.key);
            }
            set_key(vm, pair.key, pair.value);
        }
    }
    if (vm.vlan && !vm.trunk.empty()) {
        fail("--vdev {}: vlan and trunk exclude each other; a trunk may name that VLAN too",
             vm.name);
    }
    if (vm.socket_path.empty()) {
        vm.default_socket = true;
        vm.socket_path = runtime_directory() + "/" + vm.name + ".sock";
    }
    if (vm.socket_path.size() >= sizeof(sockaddr_un::sun_path)) {
        fail("--vdev {}: socket path {} is longer than {} characters", vm.name, vm.socket_path,
             sizeof(sockaddr_un::sun_path) - 1);
    }
    return vm;
}

void check_distinct(const std::vector<VmOptions>& vms) {
    std::set<std::string> names, paths, macs;
    for (const VmOptions& vm : vms) {
        if (!names.insert(vm.name).second) fail("two --vdev have the name {}", vm.name);
        if (!paths.insert(vm.socket_path).second) {
            fail("two --vdev have the socket {}", vm.socket_path);
        }
        for (const MacAddress& mac : vm.macs) {
            if (!macs.insert(mac.to_string()).second) {
                fail("the MAC address {} is given twice", mac.to_string());
            }
        }
    }
}

// One port has to filter for all its VMs.
void check_filters(const std::vector<VmOptions>& vms, const NicOptions& nic) {
    std::set<std::uint16_t> vlans;
    std::size_t macs = 0;
    for (const VmOptions& vm : vms) {
        if (vm.port != nic.name) continue;
        if (vm.vlan) vlans.insert(*vm.vlan);
        vlans.insert(vm.trunk.begin(), vm.trunk.end());
        macs += std::max<std::size_t>(vm.macs.size(), 1);
    }
    if (vlans.size() > kPortVlans) {
        fail("the --vdev of port {} name {} VLANs, but a port filters {}; use fewer", nic.name,
             vlans.size(), kPortVlans);
    }
    if (macs > kPortMacs) {
        fail("the --vdev of port {} need {} MAC addresses, but a port filters {}; use fewer",
             nic.name, macs, kPortMacs);
    }
}

std::vector<unsigned> allowed_cpus() {
    cpu_set_t set;
    CPU_ZERO(&set);
    std::vector<unsigned> cpus;
    if (::sched_getaffinity(0, sizeof set, &set) != 0) return {0};
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
    return cpus;
}

void add_cpus(std::vector<unsigned>& cpus, const std::string& item, const std::string& all) {
    const auto dash = item.find('-');
    const auto first = to_number(std::string_view(item).substr(0, dash));
    const auto last =
        dash == std::string::npos ? first : to_number(std::string_view(item).substr(dash + 1));
    if (!first || !last || *first > *last || *last >= CPU_SETSIZE) {
        fail("--lcores {}: expected CPU numbers like 1,3-5", all);
    }
    for (unsigned cpu = *first; cpu <= *last; ++cpu) cpus.push_back(cpu);
}

std::vector<unsigned> parse_lcores(const std::string& text) {
    std::vector<unsigned> cpus;
    std::istringstream items(text);
    for (std::string item; std::getline(items, item, ',');) add_cpus(cpus, item, text);
    const std::vector<unsigned> allowed = allowed_cpus();
    for (const unsigned cpu : cpus) {
        if (!std::ranges::binary_search(allowed, cpu)) {
            fail("--lcores {}: this process may not run on CPU {}; allowed: {}", text, cpu,
                 fmt::join(allowed, ","));
        }
        if (std::ranges::count(cpus, cpu) > 1) fail("--lcores {}: CPU {} twice", text, cpu);
    }
    if (cpus.empty()) fail("--lcores: expected CPU numbers like 1,3-5");
    return cpus;
}

unsigned parse_number(const char* option, const std::string& text, unsigned most) {
    const auto number = to_number(text);
    if (!number || *number > most) fail("--{} {}: expected a number up to {}", option, text, most);
    return *number;
}

std::chrono::milliseconds parse_stats_interval(const std::string& text) {
    double seconds = 0;
    const auto [end, error] =
        std::from_chars(text.data(), text.data() + text.size(), seconds, std::chars_format::fixed);
    const bool is_number = error == std::errc() && end == text.data() + text.size();
    // So written that it does not hold for what is no number either.
    const bool in_range =
        seconds == 0 || (seconds >= kShortestInterval && seconds <= kLongestInterval);
    if (!is_number || !in_range) {
        fail("--stats-interval {}: expected seconds, {} to {}, or 0 for never", text,
             kShortestInterval, kLongestInterval);
    }
    return std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::duration<double>(seconds));
}

std::chrono::microseconds parse_idle_sleep(const std::string& text) {
    constexpr unsigned kMost = 100'000;  // a tenth of a second: longer would look like a hang
    if (text == "off") return std::chrono::microseconds(0);
    const auto number = to_number(text);
    if (!number || *number > kMost) {
        fail("--idle-sleep {}: expected microseconds up to {}, or off", text, kMost);
    }
    return std::chrono::microseconds(*number);
}

StatsFormat parse_stats_format(const std::string& text) {
    if (text == "text") return StatsFormat::kText;
    if (text == "json") return StatsFormat::kJson;
    fail("--stats-format {}: expected text or json", text);
}

std::string parse_log_level(const std::string& text) {
    constexpr std::array kLevels{"trace", "debug", "info", "warning", "error", "critical", "off"};
    if (std::ranges::find(kLevels, text) == kLevels.end()) {
        fail("--log-level {}: expected {}", text, fmt::join(kLevels, ", "));
    }
    return text;
}

void fill(Options& options, const po::variables_map& values) {
    const auto text = [&](const char* name) { return values[name].as<std::string>(); };
    if (values.count("vdev")) {
        for (const auto& vdev : values["vdev"].as<std::vector<std::string>>()) {
            options.vms.push_back(parse_vdev(vdev));
        }
    }
    if (options.vms.empty()) fail("no VM given; add --vdev net_vhost0, or see --help");
    check_distinct(options.vms);
    const auto all = [&](const char* name) {
        return values.count(name) ? values[name].as<std::vector<std::string>>()
                                  : std::vector<std::string>{};
    };
    options.nics = parse_nics(all("pci"), all("port"));
    assign_ports(options.vms, options.nics);
    for (const NicOptions& nic : options.nics) check_filters(options.vms, nic);
    options.unsafe_no_iommu = values["unsafe-no-iommu"].as<bool>();
    options.worker_cpus = values.count("lcores") ? parse_lcores(text("lcores"))
                                                 : std::vector<unsigned>{allowed_cpus().back()};
    if (values.count("huge-mem")) {
        options.huge_memory = parse_number("huge-mem", text("huge-mem"), kMostHugeMemory);
    }
    if (values.count("idle-sleep")) options.idle_sleep = parse_idle_sleep(text("idle-sleep"));
    if (values.count("stats-interval")) {
        options.stats_interval = parse_stats_interval(text("stats-interval"));
    }
    if (values.count("stats-format")) {
        options.stats_format = parse_stats_format(text("stats-format"));
    }
    if (values.count("log-level")) options.log_level = parse_log_level(text("log-level"));
}

}  // namespace

Options parse_options(int argc, const char* const* argv) {
    const std::span<const char* const> arguments(argv + 1, static_cast<std::size_t>(argc - 1));
    const auto separator =
        std::ranges::find_if(arguments, [](std::string_view word) { return word == "--"; });
    Options options;
    po::variables_map values = read({arguments.begin(), separator});
    if (separator != arguments.end()) options.eal_args.assign(separator + 1, arguments.end());
    options.help = values.count("help") > 0;
    options.version = values.count("version") > 0;
    if (options.help || options.version) return options;
    if (values.count("config")) read_config(values);
    fill(options, values);
    return options;
}

std::string help_text() {
    std::ostringstream text;
    text << all_options()
         << "\nRUNTIME_DIR is $RUNTIME_DIRECTORY, or /run/zecorx-vhost.\n"
            "Example: zecorx-vhost --vdev net_vhost0 --pci 0000:03:00.0\n";
    return text.str();
}

std::string runtime_directory() {
    const char* directory = std::getenv("RUNTIME_DIRECTORY");  // systemd.exec(5)
    return directory != nullptr && *directory != '\0' ? directory : "/run/zecorx-vhost";
}

}  // namespace zecorx
