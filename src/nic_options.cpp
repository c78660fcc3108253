#include "nic_options.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <set>
#include <string_view>

#include "option_values.h"

namespace zecorx {
namespace {

constexpr unsigned kLeastMtu = 68;  // RFC 791 3.2
constexpr unsigned kMostMtu = 9216;
constexpr unsigned kLeastLongest = 1514;  // bytes, of a frame without CRC
constexpr unsigned kMostLongest = 9234;

bool is_bdf(std::string_view text) {
    constexpr std::string_view kForm = "xxxx:xx:xx.x";
    return text.size() == kForm.size() && std::ranges::equal(text, kForm, [](char c, char form) {
               return form == 'x' ? std::isxdigit(static_cast<unsigned char>(c)) != 0 : c == form;
           });
}

std::uint32_t parse_bounded(std::string_view key, std::string_view value, unsigned least,
                            unsigned most, const std::string& option) {
    const auto number = to_number(value);
    if (!number || *number < least || *number > most) {
        fail("{}: {}={} must be {} to {}", option, key, value, least, most);
    }
    return *number;
}

// Takes the keys of every port out of those behind its name, and returns the others. wire= comes
// last and may contain commas.
std::string take_keys(NicOptions& nic, std::string_view keys, const std::string& option) {
    std::string others;
    while (!keys.empty() && !keys.starts_with("wire=")) {
        const auto comma = keys.find(',');
        const std::string_view pair = keys.substr(0, comma);
        const auto equals = std::min(pair.find('='), pair.size());
        const std::string_view key = pair.substr(0, equals);
        const std::string_view value = pair.substr(std::min(equals + 1, pair.size()));
        if (key == "mtu") {
            nic.mtu = parse_bounded(key, value, kLeastMtu, kMostMtu, option);
        } else if (key == "longest" && option.starts_with("--port")) {
            nic.longest_frame = parse_bounded(key, value, kLeastLongest, kMostLongest, option);
        } else {
            others.append(pair).append(",");
        }
        keys = comma == keys.npos ? "" : keys.substr(comma + 1);
    }
    others.append(keys);
    if (others.ends_with(',')) others.pop_back();
    return others;
}

std::string_view behind_name(std::string_view text) {
    const auto comma = text.find(',');
    return comma == text.npos ? "" : text.substr(comma + 1);
}

NicOptions parse_pci(const std::string& text) {
    const std::string option = "--pci " + text;
    NicOptions nic;
    nic.name = text.substr(0, text.find(','));
    nic.soft = nic.name == "soft";
    if (!nic.soft && !is_bdf(nic.name)) {
        fail("{}: expected a PCI address like 0000:03:00.0, or soft for the software 82599",
             option);
    }
    const std::string others = take_keys(nic, behind_name(text), option);
    if (nic.soft) {
        nic.soft_args = others;
        return nic;
    }
    if (!others.empty()) {
        fail("{}: '{}' is no key of a PCI address; the one there is is mtu", option, others);
    }
    nic.bdf = nic.name;
    return nic;
}

NicOptions parse_port(const std::string& text) {
    const std::string option = "--port " + text;
    NicOptions nic;
    nic.name = text.substr(0, text.find(','));
    nic.soft = false;
    if (!nic.name.starts_with("net_")) {
        fail("{}: expected a DPDK device like net_tap0,iface=tap0{}", option,
             is_bdf(nic.name) || nic.name == "soft" ? "; this one is for --pci" : "");
    }
    const std::string others = take_keys(nic, behind_name(text), option);
    nic.device_args = others.empty() ? nic.name : nic.name + "," + others;
    return nic;
}

std::vector<std::string> names_of(const std::vector<NicOptions>& nics) {
    std::vector<std::string> names;
    for (const NicOptions& nic : nics) names.push_back(nic.name);
    return names;
}

}  // namespace

std::vector<NicOptions> parse_nics(const std::vector<std::string>& pci,
                                   const std::vector<std::string>& ports) {
    std::vector<NicOptions> nics;
    unsigned soft = 0;
    for (const std::string& text : pci) {
        nics.push_back(parse_pci(text));
        if (nics.back().soft && ++soft > 1) nics.back().name = fmt::format("soft{}", soft);
    }
    for (const std::string& text : ports) nics.push_back(parse_port(text));
    std::set<std::string> seen;
    for (const NicOptions& nic : nics) {
        if (!seen.insert(nic.name).second) fail("the port {} is given twice", nic.name);
    }
    if (nics.empty()) nics.emplace_back();
    return nics;
}

void assign_ports(std::vector<VmOptions>& vms, const std::vector<NicOptions>& nics) {
    const std::vector<std::string> names = names_of(nics);
    for (VmOptions& vm : vms) {
        if (vm.port.empty() && nics.size() == 1) vm.port = nics.front().name;
        if (vm.port.empty()) {
            fail("--vdev {}: there are several ports, so say which it is on: port={}", vm.name,
                 fmt::join(names, " or port="));
        }
        if (std::ranges::count(names, vm.port) == 0) {
            fail("--vdev {}: there is no port {}; there are: {}", vm.name, vm.port,
                 fmt::join(names, ", "));
        }
    }
}

}  // namespace zecorx
