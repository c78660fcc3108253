#include "wire.h"

#include <stdexcept>
#include <string>

namespace zecorx::soft82599 {

std::unique_ptr<Wire> make_wire(std::string_view spec, const MacAddress& port_mac) {
    const std::size_t colon = spec.find(':');
    const std::string_view kind = spec.substr(0, colon);
    const std::string_view rest =
        colon == std::string_view::npos ? std::string_view() : spec.substr(colon + 1);
    if (kind.empty() || kind == "none") return nullptr;
    if (kind == "tap") return make_tap_wire(rest);
    if (kind == "pcap") return make_pcap_wire(rest);
    if (kind == "gen") return make_generator_wire(rest, port_mac);
    throw std::runtime_error("unknown wire '" + std::string(spec) +
                             "' of a software NIC port; use none, tap:NAME, pcap:IN,OUT or "
                             "gen:size=64,...");
}

}  // namespace zecorx::soft82599
