#include "daemon.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>

#include "frame_check.h"

namespace zecorx::soak {
namespace {

constexpr std::chrono::seconds kPatience{60};

// What the library says of a frontend that died is no fault of the daemon's.
bool tells_of_a_fault(const std::string& line) {
    constexpr std::array kFaults{" error ", " critical ", "soft82599:", "assert", "PANIC"};
    constexpr std::array kHarmless{"vhost peer closed", "VHOST_CONFIG", "(%%)"};
    const auto has = [&](const char* text) { return line.find(text) != line.npos; };
    return std::ranges::any_of(kFaults, has) && std::ranges::none_of(kHarmless, has);
}

}  // namespace

Daemon::~Daemon() { kill(); }

std::string Daemon::socket(std::size_t vm) const {
    return (config_.directory / fmt::format("vm{}.sock", vm)).string();
}

std::vector<std::string> Daemon::command() const {
    std::string wire = fmt::format("soft,wire=gen:size=64-1518,payload=numbered,rate={},src={}",
                                   config_.rate, wire_address(generation()).to_string());
    std::vector<std::string> words{config_.binary};
    for (std::size_t vm = 0; vm < config_.vms; ++vm) {
        const std::string mac = vm_address(vm).to_string();
        wire += ",dst=" + mac;
        words.insert(words.end(),
                     {"--vdev", fmt::format("net_vhost{},iface={},mac={},client={}", vm, socket(vm),
                                            mac, connects(vm) ? 1 : 0)});
    }
    const std::string memory = fmt::format("{}", config_.huge_memory);
    words.insert(words.end(),
                 {"--pci", wire, "--huge-mem", memory, "--idle-sleep", "50", "--stats-interval",
                  "1", "--stats-format", "json", "--log-level", "info"});
    return words;
}

void Daemon::start() {
    std::filesystem::remove(stats_file());
    ++shared_.daemon.generation;
    process_.emplace(command(), test::ProcessOptions{.output = stats_file(), .errors = log_file()});
    shared_.daemon.pid = process_->pid();
}

void Daemon::bury() {
    process_.reset();
    shared_.daemon.buried = generation();
}

void Daemon::kill() {
    if (!process_) return;
    shared_.daemon.killed = generation();
    process_->kill();
    bury();
}

std::optional<int> Daemon::terminate() {
    shared_.daemon.killed = generation();
    const std::optional<int> status = process_->terminate(kPatience);
    bury();
    return status;
}

std::optional<std::string> Daemon::ended() {
    if (!process_ || process_->running()) return std::nullopt;
    const int status = process_->wait(std::chrono::milliseconds(0)).value_or(-1);
    return fmt::format("the daemon ended by itself with status {}", status);
}

Footprint Daemon::footprint() const {
    Footprint found;
    const std::string proc = fmt::format("/proc/{}", pid());
    std::error_code gone;
    std::filesystem::directory_iterator fd(proc + "/fd", gone);
    for (; !gone && fd != std::filesystem::directory_iterator(); fd.increment(gone)) ++found.fds;
    std::ifstream maps(proc + "/maps");
    for (std::string line; std::getline(maps, line);) ++found.mappings;
    std::ifstream status(proc + "/status");
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with("VmRSS:")) found.resident = std::stoul(line.substr(6));
    }
    return found;
}

// A line that is still being written is left out.
std::vector<nlohmann::json> Daemon::reports() const {
    std::ifstream input(stats_file());
    std::vector<nlohmann::json> all;
    for (std::string line; std::getline(input, line) && !input.eof();) {
        all.push_back(nlohmann::json::parse(line));
    }
    return all;
}

std::vector<std::string> Daemon::new_errors() {
    std::ifstream input(log_file());
    input.seekg(log_read_);
    std::vector<std::string> errors;
    for (std::string line; std::getline(input, line) && !input.eof();) {
        log_read_ = input.tellg();
        if (tells_of_a_fault(line)) errors.push_back(line);
    }
    return errors;
}

}  // namespace zecorx::soak
