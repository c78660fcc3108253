#include "daemon.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <iterator>
#include <map>

#include "host_checks.h"
#include "open_port.h"

namespace zecorx {
namespace {

constexpr auto kTick = std::chrono::milliseconds(5);

// A further software 82599 is another device, unless its arguments say which it is.
std::string with_address(const std::string& args, std::size_t index) {
    constexpr std::size_t kFirstBus = 3;
    if (index == 0 || args.find("bdf=") != args.npos) return args;
    const std::string bdf = fmt::format("bdf=0000:{:02x}:00.0", kFirstBus + index);
    return args.empty() ? bdf : bdf + "," + args;
}

// All software 82599s of the daemon; null: none.
std::unique_ptr<soft82599::Machine> make_soft_nics(const Options& options) {
    soft82599::Config config;
    for (const NicOptions& nic : options.nics) {
        if (!nic.soft) continue;
        soft82599::PortConfig port =
            soft82599::parse_port_config(with_address(nic.soft_args, config.ports.size()));
        port.idle_sleep = options.idle_sleep;
        config.ports.push_back(port);
    }
    return config.ports.empty() ? nullptr : std::make_unique<soft82599::Machine>(config);
}

void check_nic(const NicOptions& nic, bool unsafe_allowed) {
    if (nic.bdf.empty()) return;
    check_pci_device(nic.bdf);
    if (!unsafe_allowed) check_iommu(nic.bdf);
}

void check_workers(const Options& options) {
    const std::size_t most = Worker::kMaxDatapaths * options.worker_cpus.size();
    if (options.vms.size() <= most) return;
    throw std::runtime_error(
        fmt::format("{} VMs are more than {} workers serve; give --lcores a CPU "
                    "for every {} of them",
                    options.vms.size(), options.worker_cpus.size(), Worker::kMaxDatapaths));
}

EalDevices eal_devices(const Options& options, const std::vector<std::string>& names) {
    EalDevices devices;
    for (std::size_t i = 0; i < names.size(); ++i) {
        const NicOptions& nic = options.nics[i];
        if (!nic.device_args.empty()) {
            devices.software.push_back(nic.device_args);
            continue;
        }
        devices.pci.push_back(names[i]);
        devices.physical_iova |= nic.soft || reached_without_iommu(nic.bdf);
    }
    return devices;
}

bool on_terminal() { return ::isatty(STDOUT_FILENO) != 0; }

std::chrono::milliseconds stats_interval(const Options& options) {
    return options.stats_interval.value_or(std::chrono::seconds(on_terminal() ? 1 : 0));
}

// Waits for a signal to end, at most `timeout`. 0: none came.
int wait_for_signal(std::chrono::nanoseconds timeout) {
    const sigset_t signals = ending_signals();
    const timespec time{timeout.count() / 1'000'000'000, timeout.count() % 1'000'000'000};
    const int signal = ::sigtimedwait(&signals, nullptr, &time);
    return signal > 0 ? signal : 0;
}

void end_on_next_signal() {
    const sigset_t signals = ending_signals();
    ::pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

std::map<std::string, std::uint64_t> counters_of(const soft82599::Port& port) {
    const soft82599::PortCounters counters = port.counters();
    return {{"dma_faults", counters.dma_faults},
            {"writes_after_stop", counters.writes_after_stop},
            {"rx_delivered", counters.rx_delivered},
            {"rx_dropped_no_descriptor", counters.rx_dropped_no_descriptor},
            {"rx_dropped_filter", counters.rx_dropped_filter},
            {"rx_dropped_oversize", counters.rx_dropped_oversize},
            {"tx_frames", counters.tx_frames}};
}

}  // namespace

sigset_t ending_signals() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    return signals;
}

Daemon::Daemon(const Options& options) : options_(options) {
    check_permission();
    check_workers(options_);
    for (const NicOptions& nic : options_.nics) check_nic(nic, options_.unsafe_no_iommu);
    if (std::ranges::any_of(options_.vms, &VmOptions::default_socket)) {
        runtime_directory_ = std::make_unique<RuntimeDirectory>(zecorx::runtime_directory());
    }
    for (const VmOptions& vm : options_.vms) {
        if (!vm.client) claim_socket_path(vm.socket_path);
    }
    check_huge_pages(options_.huge_memory);
    soft_nics_ = make_soft_nics(options_);
    const std::vector<std::string> names = device_names();
    eal_ = std::make_unique<Eal>(options_, eal_devices(options_, names));
    for (std::size_t i = 0; i < options_.worker_cpus.size(); ++i) {
        workers_.push_back(std::make_unique<Worker>(Eal::worker_lcore(i), options_.idle_sleep));
    }
    for (std::size_t i = 0; i < names.size(); ++i) make_port(i, names[i]);
    make_sockets();
}

// As EAL knows them; a software 82599 has got its PCI address by now.
std::vector<std::string> Daemon::device_names() const {
    std::vector<std::string> names;
    std::size_t soft = 0;
    for (const NicOptions& nic : options_.nics) {
        names.push_back(nic.soft ? soft_nics_->port(soft++).bdf() : nic.name);
    }
    return names;
}

void Daemon::make_port(std::size_t index, const std::string& device) {
    const NicOptions& nic = options_.nics[index];
    std::vector<VmOptions> vms;
    std::ranges::copy_if(options_.vms, std::back_inserter(vms),
                         [&](const VmOptions& vm) { return vm.port == nic.name; });
    if (vms.empty()) spdlog::warn("port {}: no --vdev has port={}", device, nic.name);
    Port& port = *ports_.emplace_back(open_port(device, nic, vms));
    for (std::size_t i = 0; i < vms.size(); ++i) {
        // VMs go round robin over the workers.
        Worker& worker = *workers_[vms_.size() % workers_.size()];
        vms_.push_back(std::make_unique<Vm>(vms[i], port,
                                            port.queues_of(static_cast<std::uint16_t>(i)), worker));
    }
    port.start();
}

void Daemon::make_sockets() {
    ::umask(S_IRWXO);  // sockets are the owner's and the group's
    server_ = std::make_unique<vhost_user::Server>(mutex_);
    for (const auto& served : vms_) {
        const VmOptions& vm = served->options();
        sockets_.push_back(
            std::make_unique<vhost_user::Socket>(*server_, vm.socket_path, vm.client, *served));
        spdlog::info("{}: {} {}", vm.name, vm.client ? "connecting to" : "listening on",
                     vm.socket_path);
    }
}

void Daemon::run() {
    const std::chrono::milliseconds interval = stats_interval(options_);
    auto next_report = std::chrono::steady_clock::now() + interval;
    int signal = 0;
    while ((signal = wait_for_signal(kTick)) == 0) {
        tick();
        if (interval.count() > 0 && std::chrono::steady_clock::now() >= next_report) {
            report();
            next_report += interval;
        }
    }
    spdlog::info("{}: stopping", ::strsignal(signal));
    stop_vms();
    // By now the NIC has let go of all guest memory, so whoever is impatient may signal again.
    end_on_next_signal();
    sockets_.clear();
    if (interval.count() > 0) report();
}

void Daemon::stop_vms() {
    const std::lock_guard lock(mutex_);
    for (const auto& vm : vms_) vm->shut_down();
}

void Daemon::tick() {
    const std::lock_guard lock(mutex_);
    for (const auto& vm : vms_) vm->tick();
}

void Daemon::report() {
    const Snapshot snapshot = take_snapshot();
    if (options_.stats_format == StatsFormat::kJson) {
        fmt::print("{}\n", to_json(snapshot));
    } else {
        fmt::print("{}", to_text(snapshot, reported_));
    }
    std::fflush(stdout);
    reported_ = snapshot;
}

Snapshot Daemon::take_snapshot() {
    const std::lock_guard lock(mutex_);
    Snapshot snapshot;
    snapshot.uptime =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
    for (const auto& vm : vms_) snapshot.vms.push_back(snapshot_of(vm->status()));
    std::size_t soft = 0;
    for (std::size_t i = 0; i < ports_.size(); ++i) {
        snapshot.ports.push_back(snapshot_of(*ports_[i]));
        if (options_.nics[i].soft) {
            snapshot.ports.back().soft82599 = counters_of(soft_nics_->port(soft++));
        }
    }
    return snapshot;
}

}  // namespace zecorx
