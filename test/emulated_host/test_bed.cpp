#include "test_bed.h"

#include <cstdlib>
#include <iostream>
#include <string>

namespace zecorx::test {

unsigned rounds() {
    const char* value = std::getenv("EMULATED_HOST_ROUNDS");
    return value == nullptr ? 1 : static_cast<unsigned>(std::stoul(value));
}

Bed::Bed(unsigned vms, const HostOptions& host_options, const DaemonOptions& daemon_options)
    : host(host_options), macs(HostedDaemon::macs(vms)), daemon(host, vms, daemon_options) {}

void Bed::check_exchange(std::uint32_t count, std::span<const MacAddress> to) {
    const EchoResult echo = exchange(host.wire(), to, next, count);
    next += count;
    CHECK(echo.returned == count);
    CHECK(echo.damaged == 0);
    CHECK(echo.unexpected == 0);
}

void Bed::send_tagged() {
    for (const std::uint16_t vlan : {0, 1, 100, 4094}) {
        for (const MacAddress& to : {macs.front(), kBroadcast}) {
            host.wire().send(
                make_frame({.dst = to, .src = kPeerMac, .seq = next++, .size = 200, .vlan = vlan}));
        }
    }
}

void Bed::send(std::size_t size) {
    host.wire().send(
        make_frame({.dst = macs.front(), .src = kPeerMac, .seq = next++, .size = size}));
}

void Bed::check_end() {
    // The figures of a long run.
    if (rounds() > 1) std::cout << daemon.stats().dump() << '\n';
    daemon.terminate();
    CHECK(host.dma_faults() == 0);
}

double zero_copied_share(const nlohmann::json& before, const nlohmann::json& after, unsigned vm) {
    const auto more = [&](const char* name) {
        return after.at("vms").at(vm).at(name).get<double>() -
               before.at("vms").at(vm).at(name).get<double>();
    };
    return more("zero_copied") / more("rx_packets");
}

void check_untouched(HostedFrontend& guest) {
    const nlohmann::json stat = guest.stat();
    INFO(stat.dump());
    CHECK(stat.at("damaged") == 0);
    CHECK(stat.at("duplicates") == 0);
    CHECK(stat.at("strangers") == 0);
    CHECK(stat.at("violations").empty());
}

}  // namespace zecorx::test
