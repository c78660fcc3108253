#include "stats.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <nlohmann/json.hpp>

namespace zecorx {
namespace {

using Catch::Matchers::ContainsSubstring;

Snapshot sample() {
    Snapshot snapshot;
    snapshot.uptime = 2.0;
    Snapshot::Vm vm;
    vm.name = "net_vhost0";
    vm.connected = true;
    vm.mac = "52:54:00:00:00:01";
    vm.rx_packets = 1000;
    vm.rx_bytes = 1'000'000;
    vm.zero_copied = 970;
    vm.copied_by_reason = {{"starved", 25}, {"small", 5}, {"crossing", 0}};
    vm.dropped = {{"no-buffer", 7}, {"too-big", 0}};
    vm.kicks = 3;
    vm.calls = 44;
    snapshot.vms.push_back(vm);
    Snapshot::Port port;
    port.name = "0000:03:00.0";
    port.rx_missed = 5;
    snapshot.ports.push_back(port);
    return snapshot;
}

}  // namespace

TEST_CASE("text statistics show shares, reasons and rates since the last report") {
    Snapshot before = sample();
    before.uptime = 1.0;
    before.vms[0].rx_packets = 400;
    const std::string text = to_text(sample(), before);
    CHECK_THAT(text, ContainsSubstring("rx 1000 pkt (600 pkt/s"));
    CHECK_THAT(text, ContainsSubstring("zero-copied 97.0 %"));
    CHECK_THAT(text, ContainsSubstring("copied 3.0 %: 30 (small 5, starved 25)"));
    CHECK_THAT(text, ContainsSubstring("dropped 7 (no-buffer 7)"));
    CHECK_THAT(text, ContainsSubstring("kicks 3  calls 44"));
    CHECK_THAT(text, ContainsSubstring("missed 5"));
    CHECK(text.find("DMA faults") == std::string::npos);
}

TEST_CASE("a VM that received nothing has shares of zero, not of nothing") {
    Snapshot snapshot = sample();
    snapshot.vms[0].rx_packets = 0;
    snapshot.vms[0].zero_copied = 0;
    snapshot.vms[0].copied_by_reason.clear();
    CHECK_THAT(to_text(snapshot, std::nullopt),
               ContainsSubstring("zero-copied 0.0 %  copied 0.0 %"));
}

TEST_CASE("JSON statistics carry every counter on one line") {
    Snapshot snapshot = sample();
    snapshot.ports[0].soft82599 = {{"dma_faults", 0}};
    const std::string line = to_json(snapshot);
    CHECK(line.find('\n') == std::string::npos);
    const auto json = nlohmann::json::parse(line);
    CHECK(json["vms"][0]["zero_copied"] == 970);
    CHECK(json["vms"][0]["copied"] == 30);
    CHECK(json["vms"][0]["copied_by_reason"]["small"] == 5);
    CHECK(json["vms"][0]["dropped"]["no-buffer"] == 7);
    CHECK(json["ports"][0]["rx_missed"] == 5);
    CHECK(json["ports"][0]["soft82599"]["dma_faults"] == 0);
}

TEST_CASE("every port has statistics of its own, and what its outages cost") {
    Snapshot snapshot = sample();
    Snapshot::Port second;
    second.name = "0000:04:00.0";
    second.outages = 3;
    second.last_outage = 0.0125;
    snapshot.ports.push_back(second);
    CHECK_THAT(to_text(snapshot, std::nullopt),
               ContainsSubstring("port 0000:03:00.0") && ContainsSubstring("port 0000:04:00.0") &&
                   ContainsSubstring("stopped 3 times, the last for 12.5 ms"));
    const auto json = nlohmann::json::parse(to_json(snapshot));
    CHECK(json["ports"].size() == 2);
    CHECK(json["ports"][1]["outages"] == 3);
}

}  // namespace zecorx
