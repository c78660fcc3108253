#include "config.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace zecorx::soft82599 {
namespace {

constexpr std::string_view kSpaces = " \t\n";

std::runtime_error config_error(const std::string& what) {
    return std::runtime_error("software NIC port: " + what);
}

bool is_hex(std::string_view text) {
    return text.find_first_not_of("0123456789abcdefABCDEF") == text.npos;
}

std::string parse_bdf(std::string_view text) {
    const bool shape = text.size() == 12 && text[4] == ':' && text[7] == ':' && text[10] == '.' &&
                       is_hex(text.substr(0, 4)) && is_hex(text.substr(5, 2)) &&
                       is_hex(text.substr(8, 2)) && text[11] >= '0' && text[11] <= '7';
    if (!shape) {
        throw config_error("'" + std::string(text) + "' is no PCI address like 0000:03:00.0");
    }
    return std::string(text);
}

std::chrono::microseconds parse_idle(std::string_view text) {
    constexpr unsigned kMost = 1'000'000;
    unsigned value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value > kMost) {
        throw config_error("idle='" + std::string(text) + "' is not 0 to 1000000 microseconds");
    }
    return std::chrono::microseconds(value);
}

MacAddress parse_mac(std::string_view text) {
    const auto mac = MacAddress::parse(text);
    if (!mac || !mac->is_station()) {
        throw config_error("mac='" + std::string(text) +
                           "' is no unicast address like 52:54:00:82:59:00");
    }
    return *mac;
}

void set_key(PortConfig& port, std::string_view key, std::string_view value) {
    if (key == "bdf") {
        port.bdf = parse_bdf(value);
    } else if (key == "mac") {
        port.mac = parse_mac(value);
    } else if (key == "idle") {
        port.idle_sleep = parse_idle(value);
    } else {
        throw config_error("unknown key '" + std::string(key) +
                           "'; known are bdf, mac, idle and, last, wire");
    }
}

}  // namespace

PortConfig parse_port_config(std::string_view text) {
    constexpr std::string_view kWire = "wire=";
    PortConfig port;
    bool first = true;
    while (!text.empty()) {
        if (text.starts_with(kWire)) {
            port.wire = text.substr(kWire.size());
            return port;
        }
        const std::string_view item = text.substr(0, text.find(','));
        text.remove_prefix(std::min(text.size(), item.size() + 1));
        const std::size_t equals = item.find('=');
        if (equals != item.npos) {
            set_key(port, item.substr(0, equals), item.substr(equals + 1));
        } else if (!first || item != "soft") {
            port.bdf = parse_bdf(item);
        }
        first = false;
    }
    return port;
}

Config parse_config(std::string_view text) {
    Config config;
    while (true) {
        text.remove_prefix(std::min(text.find_first_not_of(kSpaces), text.size()));
        if (text.empty()) break;
        const std::string_view word = text.substr(0, text.find_first_of(kSpaces));
        text.remove_prefix(word.size());
        if (word == "mode=threaded") {
            config.mode = Mode::kThreaded;
        } else if (word == "mode=step") {
            config.mode = Mode::kStep;
        } else if (word.starts_with("port=")) {
            config.ports.push_back(parse_port_config(word.substr(5)));
        } else {
            throw std::runtime_error("software NIC: '" + std::string(word) +
                                     "' is neither mode=threaded, mode=step nor port=...");
        }
    }
    if (config.ports.empty()) config.ports.emplace_back();
    return config;
}

}  // namespace zecorx::soft82599
