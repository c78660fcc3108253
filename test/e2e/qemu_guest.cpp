#include "qemu_guest.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "guest/event_fd.h"
#include "support/temp_dir.h"
#include "support/wait.h"

namespace zecorx::test {
namespace {

constexpr const char* kReady = "@@READY\n";

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    if (value == nullptr)
        throw std::runtime_error(std::string(name) + " is not set: use meson test");
    return value;
}

constexpr const char* kOnOff[] = {"off", "on"};

// A kernel that clears each page before it posts it would hide whether its hypervisor knows what
// the NIC writes there.
std::string kernel_arguments(const GuestOptions& options) {
    std::string words =
        "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check "
        "random.trust_cpu=on nohz=off highres=off init_on_alloc=0 zecorx.ip=" +
        options.address;
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

std::vector<std::string> qemu_command(const GuestOptions& options) {
    const std::string directory = options.directory.string();
    std::vector<std::string> command{
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
        // la57 costs boot time, and a tickless kernel can hang under TCG.
        "-machine", "q35,memory-backend=guest-memory", "-accel", "tcg,thread=multi", "-cpu",
        "max,la57=off", "-kernel", environment("GUEST_KERNEL"), "-initrd",
        environment("GUEST_INITRAMFS"), "-append", kernel_arguments(options), "-m", "256M",
        "-object",
        "memory-backend-memfd,id=guest-memory,size=256M,share=on,hugetlb=" +
            std::string(kOnOff[options.layout.hugepages]),
        "-serial", "file:" + directory + "/console.log", "-serial", "stdio", "-qmp",
        "unix:" + directory + "/qmp,server=on,wait=off", "-chardev",
        "socket,id=vhost,path=" + options.socket.string() +
            (options.listens ? ",server=on,wait=off" : ""),
        "-netdev", "vhost-user,id=net,chardev=vhost", "-device", network_device(options)};
    // Paused, it does not run when the guest has come, so that its memory can be looked at.
    if (options.incoming) command.insert(command.end(), {"-incoming", "defer", "-S"});
    return command;
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

// Appends what can be read to `text`; false at the end of the stream or when `deadline` passes.
bool read_some(int fd, std::string& text, std::chrono::steady_clock::time_point deadline) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (!poll_fd(fd, POLLIN, left)) return false;
    std::array<char, 4096> buffer;
    const ssize_t size = ::read(fd, buffer.data(), buffer.size());
    if (size <= 0) return false;
    text.append(buffer.data(), static_cast<std::size_t>(size));
    return true;
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

QemuGuest::QemuGuest(GuestOptions options) : options_(std::move(options)) {
    std::filesystem::create_directories(options_.directory);
    process_ = std::make_unique<Process>(
        qemu_command(options_),
        ProcessOptions{.pipes = true, .output = {}, .errors = options_.directory / "qemu.log"});
}

QemuGuest::~QemuGuest() {
    if (std::uncaught_exceptions() > 0) {
        std::cerr << tail(options_.directory / "qemu.log")
                  << tail(options_.directory / "console.log");
    }
}

void QemuGuest::wait_ready(std::chrono::milliseconds timeout) { read_until(kReady, timeout); }

CommandResult QemuGuest::run(const std::string& command, std::chrono::milliseconds timeout) {
    const std::string marker = "@@" + std::to_string(++commands_) + " ";
    send("{ " + command + "\n} < /dev/null 2>&1; status=$?; echo; echo \"" + marker +
         "$status\"\n");
    std::string output = read_until("\n" + marker, timeout);
    const int status = std::stoi(read_until("\n", timeout));
    return {status, std::move(output)};
}

std::string QemuGuest::must(const std::string& command, std::chrono::milliseconds timeout) {
    CommandResult result = run(command, timeout);
    if (result.status != 0) {
        throw std::runtime_error("in the guest, '" + command + "' ended with " +
                                 std::to_string(result.status) + ": " + result.output);
    }
    return std::move(result.output);
}

void QemuGuest::start_reboot() { send("reboot -f\n"); }

std::uint64_t QemuGuest::interface_counter(const std::string& name) {
    return std::stoull(must("cat /sys/class/net/eth0/statistics/" + name));
}

std::uint64_t QemuGuest::features() {
    // One character a bit, bit 0 first.
    std::string bits = must("cat /sys/bus/virtio/devices/virtio0/features").substr(0, 64);
    std::ranges::reverse(bits);
    return std::bitset<64>(bits).to_ullong();
}

void QemuGuest::send(const std::string& text) {
    if (::write(process_->input(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
        throw_errno("write to the guest's control port");
    }
}

// Returns what came before `marker` and drops both.
std::string QemuGuest::read_until(const std::string& marker, std::chrono::milliseconds timeout) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    std::size_t end;
    while ((end = received_.find(marker)) == std::string::npos) {
        if (!read_some(process_->output(), received_, deadline)) {
            throw std::runtime_error(process_->running()
                                         ? "the guest did not answer in time, it said: " + received_
                                         : "QEMU ended");
        }
    }
    std::string before = received_.substr(0, end);
    received_.erase(0, end + marker.size());
    return before;
}

nlohmann::json QemuGuest::qmp(const std::string& command, const nlohmann::json& arguments) {
    const UniqueFd fd = connect_unix(options_.directory / "qmp");
    const auto deadline = std::chrono::steady_clock::now() + kCommandTimeout;
    ask_monitor(fd.get(), {{"execute", "qmp_capabilities"}}, deadline);
    return ask_monitor(fd.get(), {{"execute", command}, {"arguments", arguments}}, deadline);
}

}  // namespace zecorx::test
