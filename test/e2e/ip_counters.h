#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "net_namespace.h"
#include "qemu_guest.h"

namespace zecorx::test {

// What a host's IP stack has counted, as "Udp.NoPorts"; see RFC 4113 and its sisters.
using IpCounters = std::map<std::string, std::int64_t>;

IpCounters ip_counters(const NetNamespace& netns);
IpCounters ip_counters(QemuGuest& guest);

// Packets of all protocols that came in with a wrong checksum.
std::int64_t checksum_errors(const IpCounters& counters);

}  // namespace zecorx::test
