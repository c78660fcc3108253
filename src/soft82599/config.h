// What a software NIC is made of, as values and as text.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "zecorx/mac_address.h"

namespace zecorx::soft82599 {

struct PortConfig {
    std::string bdf = "0000:03:00.0";  // domain:bus:device.function
    std::optional<MacAddress> mac;     // none: 52:54:00:82:59:00 + index of the port
    std::string wire = "none";         // see wire.h
    // How long the model's thread may sleep when nothing moves; 0 = it polls without pause.
    std::chrono::microseconds idle_sleep{100};
};

enum class Mode {
    kThreaded,  // one thread per port moves frames all the time
    kStep,      // frames move only inside Port::step, step_tx and inject
};

struct Config {
    std::vector<PortConfig> ports;
    Mode mode = Mode::kThreaded;
    // Receives one line per event; standard error if empty. Called from any thread that touches a
    // register and from the model's threads.
    std::function<void(const std::string&)> log;
};

// "[BDF][,bdf=BDF][,mac=MAC][,idle=MICROSECONDS][,wire=WIRE]"; the wire comes last, because it may
// contain commas. A first word "soft" means the default BDF. Throws std::runtime_error.
PortConfig parse_port_config(std::string_view text);

// Words separated by spaces: "mode=threaded" or "mode=step", and "port=PORT" once per port.
// Throws std::runtime_error.
Config parse_config(std::string_view text);

}  // namespace zecorx::soft82599
