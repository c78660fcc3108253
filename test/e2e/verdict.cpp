#include "verdict.h"

#include <algorithm>
#include <array>
#include <catch2/catch_test_macros.hpp>
#include <string>

namespace zecorx::test {

void check_nothing_wrong(const nlohmann::json& stats, const std::string& but_for) {
    // A slow guest, or one that is stopped, has these.
    constexpr std::array<const char*, 3> kHarmless{"no-buffer", "stopped", "tx-stopped"};
    INFO(stats.dump());
    CHECK(stats.at("ports").at(0).at("soft82599").at("dma_faults") == 0);
    CHECK(stats.at("ports").at(0).at("soft82599").at("writes_after_stop") == 0);
    CHECK(stats.at("ports").at(0).at("rx_errors") == 0);
    for (const nlohmann::json& vm : stats.at("vms")) {
        for (const auto& [reason, count] : vm.at("dropped").items()) {
            if (std::ranges::find(kHarmless, reason) != kHarmless.end()) continue;
            if (reason == but_for) continue;
            INFO(vm.at("name") << ", " << reason);
            CHECK(count == 0);
        }
    }
}

void check_traffic(TestBed& bed, QemuGuest& guest, unsigned pings, std::size_t bytes) {
    guest.must(std::string("ping -c 3 -W 5 ") + kWireIp);
    const EchoResult result = bed.ping(0, pings);
    CHECK(result.returned == pings);
    CHECK(result.damaged == 0);
    CHECK(result.unexpected == 0);
    const auto content = random_bytes(bytes);
    const std::string hash = sha256(content);
    CHECK(send_to_guest(bed.netns(), guest, guest_ip(0), content) == hash);
    CHECK(receive_from_guest(bed.netns(), guest, kWireIp) == hash);
}

}  // namespace zecorx::test
