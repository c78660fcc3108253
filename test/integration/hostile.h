// What the tests of hostile frontends and drivers have in common.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <thread>

#include "test_host.h"

namespace zecorx::test {

inline const Negotiation kPacked{.features = Negotiation{}.features | kFeatureRingPacked};

// The daemon serves an honest guest on VM 0, and nothing of it is amiss.
inline void require_served(TestHost& host) {
    REQUIRE(host.eventually([&] { return !host.status(0).running; }));
    FakeMemory memory(8_MiB);
    FakeGuest guest = host.connect(0, memory);
    guest.net.refill();
    host.require_delivered(0, guest, 1);
    guest.stop_device();
    host.require_stopped(0);
}

// Lets the control side and the worker do whatever they would do.
inline void settle(TestHost& host) {
    for (int round = 0; round < 100; ++round) {
        host.pump();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

}  // namespace zecorx::test
