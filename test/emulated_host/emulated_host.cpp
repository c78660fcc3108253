#include "emulated_host.h"

#include <algorithm>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <utility>
#include <vector>

#include "support/environment.h"
#include "support/wait.h"

namespace zecorx::test {
namespace {

using namespace std::chrono_literals;

MachineOptions machine_options(const std::filesystem::path& directory, const Wire& wire,
                               const HostOptions& options) {
    // One processor: QEMU's second one now and then gets no timer interrupts, and Linux hangs as it
    // boots. Two would not be faster.
    std::vector<std::string> arguments{"-machine", "q35", "-smp", "1", "-m", "2G", "-no-reboot"};
    // With interrupt remapping, which vfio asks for, and caching mode, without which QEMU does not
    // learn what the kernel maps.
    const std::vector<std::string> iommu{"-device", "intel-iommu,intremap=on,caching-mode=on"};
    if (options.iommu) arguments.insert(arguments.end(), iommu.begin(), iommu.end());
    const std::vector<std::string> nic{
        "-netdev", wire.netdev() + ",id=wire", "-device",
        options.nic + ",netdev=wire,mac=52:54:00:82:57:60,addr=04.0"};
    arguments.insert(arguments.end(), nic.begin(), nic.end());
    return {.directory = directory,
            .kernel = environment("EMULATED_HOST_KERNEL"),
            .initramfs = environment("EMULATED_HOST_INITRAMFS"),
            .kernel_words = std::string(options.iommu ? "intel_iommu=on" : "intel_iommu=off") +
                            " zecorx.hugepages=256",
            .arguments = std::move(arguments)};
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace

EmulatedHost::EmulatedHost(const HostOptions& options)
    : wire_(directory_.path()), machine_(machine_options(directory_.path(), wire_, options)) {
    machine_.wait_ready();
    // Debian's vfio-pci takes no device that no IOMMU confines.
    const std::string driver = options.iommu ? "vfio-pci" : "uio_pci_generic";
    machine_.must("bind-nic --driver " + driver + " " + kNic);
}

EmulatedHost::~EmulatedHost() {
    if (std::uncaught_exceptions() == 0) return;
    try {
        std::cerr << machine_.run("tail -n 30 /run/*.log; dmesg | tail -n 15", 10s).output;
    } catch (const std::exception& error) {
        std::cerr << "no logs of the emulated host: " << error.what() << '\n';
    }
}

void EmulatedHost::start(const std::string& name, const std::string& command) {
    machine_.must("start " + name + " " + command);
}

bool EmulatedHost::running(const std::string& name) {
    return machine_.run("test -e /run/" + name + ".status").status != 0;
}

void EmulatedHost::write_line(const std::string& name, const std::string& line) {
    machine_.must("write-line " + name + " '" + line + "'");
}

std::string EmulatedHost::read_line(const std::string& name) {
    return first_line(machine_.must("read-line " + name));
}

std::string EmulatedHost::ask(const std::string& name, const std::string& line) {
    return first_line(machine_.must("write-line " + name + " '" + line + "' && read-line " + name));
}

std::string EmulatedHost::stop(const std::string& name, const std::string& signal) {
    machine_.must("kill -" + signal + " $(cat /run/" + name + ".pid)");
    return wait_for_end(name);
}

std::string EmulatedHost::wait_for_end(const std::string& name) {
    if (!wait_until([&] { return !running(name); }, Machine::kCommandTimeout)) {
        throw std::runtime_error(name + " does not end");
    }
    return first_line(machine_.must("cat /run/" + name + ".status"));
}

std::string EmulatedHost::log(const std::string& name) {
    return machine_.must("cat /run/" + name + ".log");
}

std::string EmulatedHost::iommu_group() {
    const std::string link = std::string("/sys/bus/pci/devices/") + kNic + "/iommu_group";
    return first_line(machine_.must("basename $(readlink " + link + ")"));
}

std::size_t EmulatedHost::dma_faults() {
    const std::string lines = machine_.run("dmesg | grep 'DMAR:.*fault addr'").output;
    return static_cast<std::size_t>(std::ranges::count(lines, '\n'));
}

}  // namespace zecorx::test
