#include "hosted_guest.h"

#include <stdexcept>

#include "hosted_daemon.h"
#include "support/wait.h"

namespace zecorx::test {
namespace {

std::string name_of(unsigned vm) { return "guest" + std::to_string(vm); }

std::string to_text(const Ipv4& ip) {
    return std::to_string(ip[0]) + "." + std::to_string(ip[1]) + "." + std::to_string(ip[2]) + "." +
           std::to_string(ip[3]);
}

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
                           (options.huge_pages ? " --huge-pages" : "") + " --memory " +
                           std::to_string(options.memory) + " --regions " +
                           std::to_string(options.regions) + " --room " +
                           std::to_string(options.room) +
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
                    " --total-num-mbufs=8192");
}

HostedTestpmd::~HostedTestpmd() { stop_if_running(host_, name_); }

// The control port of its init is stdin and stdout of its QEMU.
HostedLinux::HostedLinux(EmulatedHost& host, unsigned vm) : host_(host), name_(name_of(vm)) {
    host_.start(name_,
                "qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot"
                " -machine q35,memory-backend=memory -accel tcg,thread=single,tb-size=64"
                " -cpu qemu64 -m 128 -object memory-backend-memfd,id=memory,size=128M,share=on"
                " -kernel /guest/guest-vmlinuz -initrd /guest/guest-initramfs"
                " -append \"" +
                    std::string(Machine::kKernelWords) + " zecorx.ip=" + to_text(kIp) +
                    "/24\" -chardev socket,id=vhost,path=" + HostedDaemon::socket(vm) +
                    " -netdev vhost-user,id=net,chardev=vhost"
                    " -device virtio-net-pci,netdev=net,romfile=,mac=" +
                    HostedDaemon::mac(vm).to_string() + " -serial null -serial stdio");
    wait_for_line("@@READY", kBootTimeout);
    host_.write_line(name_,
                     "arp -s " + to_text(kPeerIp) + " " + kPeerMac.to_string() + " && echo known");
    wait_for_line("known", HostedDaemon::kTimeout);
}

HostedLinux::~HostedLinux() { stop_if_running(host_, name_); }

void HostedLinux::wait_for_line(const std::string& wanted, std::chrono::seconds timeout) {
    const auto said = [&] { return host_.machine().run("read-line " + name_).output; };
    if (!wait_until([&] { return said().starts_with(wanted); }, timeout)) {
        throw std::runtime_error("the guest in the emulated host does not say " + wanted);
    }
}

}  // namespace zecorx::test
