#include "hosted_guest.h"

#include <stdexcept>

#include "hosted_daemon.h"

namespace zecorx::test {
namespace {

std::string name_of(unsigned vm) { return "guest" + std::to_string(vm); }

// What is left running after a test does no harm: the machine ends with it.
void stop_if_running(EmulatedHost& host, const std::string& name) {
    try {
        if (host.running(name)) host.stop(name, "KILL");
    } catch (const std::exception&) {
    }
}

}  // namespace

HostedFrontend::HostedFrontend(EmulatedHost& host, unsigned vm, FrontendOptions options)
    : host_(host), name_(name_of(vm)) {
    host_.start(name_, "vhost-frontend --mac " + HostedDaemon::mac(vm).to_string() +
                           (options.huge_pages ? " --huge-pages" : "") +
                           (options.whole_tables ? " --whole-tables" : ""));
    order("connect " + HostedDaemon::socket(vm));
}

HostedFrontend::~HostedFrontend() { stop_if_running(host_, name_); }

void HostedFrontend::order(const std::string& line) {
    const std::string answer = host_.ask(name_, line);
    if (answer != "ok") throw std::runtime_error(name_ + ", " + line + ": " + answer);
}

nlohmann::json HostedFrontend::stat() { return nlohmann::json::parse(host_.ask(name_, "stat")); }

void HostedFrontend::kill() { host_.stop(name_, "KILL"); }

HostedTestpmd::HostedTestpmd(EmulatedHost& host, unsigned vm) : host_(host), name_(name_of(vm)) {
    host_.start(name_,
                "dpdk-testpmd --no-pci --in-memory --single-file-segments --no-telemetry -m 128"
                " --lcores \"(0,1)@0\" --vdev net_virtio_user0,queues=1,mrg_rxbuf=1,path=" +
                    HostedDaemon::socket(vm) + ",mac=" + HostedDaemon::mac(vm).to_string() +
                    " -- --forward-mode=macswap --auto-start --no-lsc-interrupt"
                    " --total-num-mbufs=4096");
}

HostedTestpmd::~HostedTestpmd() { stop_if_running(host_, name_); }

}  // namespace zecorx::test
