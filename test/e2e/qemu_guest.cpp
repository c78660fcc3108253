#include "qemu_guest.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <bitset>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "support/environment.h"
#include "support/read_some.h"
#include "support/wait.h"

namespace zecorx::test {
namespace {

constexpr const char* kOnOff[] = {"off", "on"};

// A kernel that clears each page before it posts it would hide whether its hypervisor knows what
// the NIC writes there.
std::string kernel_arguments(const GuestOptions& options) {
    std::string words = "init_on_alloc=0 zecorx.ip=" + options.address;
    if (!options.layout.device_mtu) words += " zecorx.mtu=" + std::to_string(options.mtu);
    return words;
}

std::string network_device(const GuestOptions& options) {
    const GuestLayout& layout = options.layout;
    std::string device = "virtio-net-pci,netdev=net,romfile=,mac=" + options.mac +
                         ",mrg_rxbuf=" + kOnOff[layout.mrg_rxbuf] +
                         ",packed=" + kOnOff[layout.packed] +
                         ",rx_queue_size=" + std::to_string(layout.rx_ring);
    if (layout.device_mtu) device += ",host_mtu=" + std::to_string(options.mtu);
    if (!layout.announces) device += ",guest_announce=off";
    if (!layout.offloads) device += ",csum=off,guest_csum=off,host_tso4=off,host_tso6=off";
    return device;
}

std::filesystem::path monitor_socket(const GuestOptions& options) {
    return options.directory / "qmp";
}

std::vector<std::string> qemu_arguments(const GuestOptions& options) {
    std::vector<std::string> arguments{
        "-machine",
        "q35,memory-backend=guest-memory",
        "-m",
        "256M",
        "-object",
        "memory-backend-memfd,id=guest-memory,size=256M,share=on,hugetlb=" +
            std::string(kOnOff[options.layout.hugepages]),
        "-qmp",
        "unix:" + monitor_socket(options).string() + ",server=on,wait=off",
        "-chardev",
        "socket,id=vhost,path=" + options.socket.string() +
            (options.listens ? ",server=on,wait=off" : ""),
        "-netdev",
        "vhost-user,id=net,chardev=vhost",
        "-device",
        network_device(options)};
    // Paused, it does not run when the guest has come, so that its memory can be looked at.
    if (options.incoming) arguments.insert(arguments.end(), {"-incoming", "defer", "-S"});
    return arguments;
}

// QEMU listens a moment after it was started.
UniqueFd connect_unix(const std::filesystem::path& path) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.string().copy(address.sun_path, sizeof address.sun_path - 1);
    const auto connected = [&] {
        return ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    };
    if (!wait_until(connected, QemuGuest::kCommandTimeout)) throw_errno(path.c_str());
    return fd;
}

// One command of QMP and its answer, whatever events come before it.
nlohmann::json ask_monitor(int fd, const nlohmann::json& request,
                           std::chrono::steady_clock::time_point deadline) {
    const std::string line = request.dump() + "\n";
    if (::write(fd, line.data(), line.size()) < 0) throw_errno("write to QMP");
    for (std::string text;;) {
        for (std::size_t end; (end = text.find('\n')) != std::string::npos;) {
            const auto answer = nlohmann::json::parse(text.substr(0, end));
            text.erase(0, end + 1);
            if (answer.contains("return")) return answer.at("return");
            if (answer.contains("error")) {
                throw std::runtime_error("QMP " + request.dump() + " failed: " + answer.dump());
            }
        }
        if (!read_some(fd, text, deadline)) {
            throw std::runtime_error("QMP " + request.dump() + " was not answered");
        }
    }
}

}  // namespace

QemuGuest::QemuGuest(const GuestOptions& options)
    : Machine({.directory = options.directory,
               .kernel = environment("GUEST_KERNEL"),
               .initramfs = environment("GUEST_INITRAMFS"),
               .kernel_words = kernel_arguments(options),
               .arguments = qemu_arguments(options)}),
      monitor_(monitor_socket(options)) {}

std::uint64_t QemuGuest::interface_counter(const std::string& name) {
    return std::stoull(must("cat /sys/class/net/eth0/statistics/" + name));
}

std::uint64_t QemuGuest::features() {
    // One character a bit, bit 0 first.
    std::string bits = must("cat /sys/bus/virtio/devices/virtio0/features").substr(0, 64);
    std::ranges::reverse(bits);
    return std::bitset<64>(bits).to_ullong();
}

nlohmann::json QemuGuest::qmp(const std::string& command, const nlohmann::json& arguments) {
    const UniqueFd fd = connect_unix(monitor_);
    const auto deadline = std::chrono::steady_clock::now() + kCommandTimeout;
    ask_monitor(fd.get(), {{"execute", "qmp_capabilities"}}, deadline);
    return ask_monitor(fd.get(), {{"execute", command}, {"arguments", arguments}}, deadline);
}

}  // namespace zecorx::test
