#include "ip_counters.h"

#include <fstream>
#include <sstream>

namespace zecorx::test {
namespace {

// Each protocol has two lines: "Udp: InDatagrams NoPorts ..." and "Udp: 12 3 ...".
IpCounters parse(std::istream& snmp) {
    IpCounters counters;
    for (std::string names, values; std::getline(snmp, names) && std::getline(snmp, values);) {
        std::istringstream name_words(names), value_words(values);
        std::string protocol, name;
        name_words >> protocol;
        value_words >> protocol;
        protocol.back() = '.';
        for (std::int64_t value; name_words >> name && value_words >> value;) {
            counters[protocol + name] = value;
        }
    }
    return counters;
}

}  // namespace

IpCounters ip_counters(const NetNamespace& netns) {
    IpCounters counters;
    netns.run_inside([&] {
        std::ifstream snmp("/proc/thread-self/net/snmp");
        counters = parse(snmp);
    });
    return counters;
}

IpCounters ip_counters(QemuGuest& guest) {
    std::istringstream snmp(guest.must("cat /proc/net/snmp"));
    return parse(snmp);
}

std::int64_t checksum_errors(const IpCounters& counters) {
    std::int64_t errors = 0;
    for (const auto& [name, value] : counters) {
        if (name.ends_with(".InCsumErrors")) errors += value;
    }
    return errors;
}

}  // namespace zecorx::test
