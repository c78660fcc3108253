#include "support/machine.h"

#include <unistd.h>

#include <exception>
#include <iostream>
#include <stdexcept>

#include "support/read_some.h"
#include "support/temp_dir.h"

namespace zecorx::test {
namespace {

constexpr const char* kReady = "@@READY\n";

std::vector<std::string> qemu_command(const MachineOptions& options) {
    std::vector<std::string> command{
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
        // la57 costs boot time.
        "-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-kernel", options.kernel, "-initrd",
        options.initramfs, "-append", Machine::kKernelWords + (" " + options.kernel_words),
        "-serial", "file:" + (options.directory / "console.log").string(), "-serial", "stdio"};
    command.insert(command.end(), options.arguments.begin(), options.arguments.end());
    return command;
}

ProcessOptions with_log(const std::filesystem::path& directory) {
    std::filesystem::create_directories(directory);
    return {.pipes = true, .output = {}, .errors = directory / "qemu.log"};
}

}  // namespace

Machine::Machine(const MachineOptions& options)
    : directory_(options.directory), process_(qemu_command(options), with_log(directory_)) {}

Machine::~Machine() {
    if (std::uncaught_exceptions() > 0) {
        std::cerr << tail(directory_ / "qemu.log") << tail(directory_ / "console.log");
    }
}

void Machine::wait_ready(std::chrono::milliseconds timeout) { read_until(kReady, timeout); }

CommandResult Machine::run(const std::string& command, std::chrono::milliseconds timeout) {
    const std::string marker = "@@" + std::to_string(++commands_) + " ";
    send("{ " + command + "\n} < /dev/null 2>&1; status=$?; echo; echo \"" + marker +
         "$status\"\n");
    std::string output = read_until("\n" + marker, timeout);
    const int status = std::stoi(read_until("\n", timeout));
    return {status, std::move(output)};
}

std::string Machine::must(const std::string& command, std::chrono::milliseconds timeout) {
    CommandResult result = run(command, timeout);
    if (result.status != 0) {
        throw std::runtime_error("in the machine, '" + command + "' ended with " +
                                 std::to_string(result.status) + ": " + result.output);
    }
    return std::move(result.output);
}

void Machine::start_reboot() { send("reboot -f\n"); }

void Machine::send(const std::string& text) {
    if (::write(process_.input(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
        throw_errno("write to the machine's control port");
    }
}

// Returns what came before `marker` and drops both.
std::string Machine::read_until(const std::string& marker, std::chrono::milliseconds timeout) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    std::size_t end;
    while ((end = received_.find(marker)) == std::string::npos) {
        if (!read_some(process_.output(), received_, deadline)) {
            throw std::runtime_error(
                process_.running() ? "the machine did not answer in time, it said: " + received_
                                   : "QEMU ended");
        }
    }
    std::string before = received_.substr(0, end);
    received_.erase(0, end + marker.size());
    return before;
}

}  // namespace zecorx::test
