#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "test_bed.h"

namespace zecorx::test {

// CSUM, GUEST_CSUM, HOST_TSO4 and HOST_TSO6 (VIRTIO 5.1.3).
inline constexpr std::uint64_t kOffloadFeatures = 1U << 0 | 1U << 1 | 1U << 11 | 1U << 12;

// Checks the daemon's statistics: the NIC wrote nowhere else than it was told, and no frame was
// lost for a reason that only a mistake can have, but for one that the test means to have.
void check_nothing_wrong(const nlohmann::json& stats, const std::string& but_for = {});

// Pings both ways between guest 0 and the wire, and as many bytes over TCP each way.
void check_traffic(TestBed& bed, QemuGuest& guest, unsigned pings, std::size_t bytes);

}  // namespace zecorx::test
