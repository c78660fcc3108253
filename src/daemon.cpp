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
#include <numeric>

#include "host_checks.h"

namespace zecorx {
namespace {

constexpr auto kTick = std::chrono::milliseconds(5);

std::unique_ptr<soft82599::Machine> make_soft_nic(const Options& options) {
    soft82599::PortConfig port = soft82599::parse_port_config(options.nic.soft_args);
    port.idle_sleep = options.idle_sleep;
    soft82599::Config config;
    config.ports = {port};
    return std::make_unique<soft82599::Machine>(config);
}

bool on_terminal() { return ::isatty(STDOUT_FILENO) != 0; }

std::chrono::seconds stats_interval(const Options& options) {
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

// Frames no queue had a buffer for: the NIC counts those dropped at a full queue by queue
// (82599 datasheet, QPRDC), and those its packet buffer could not hold by port (MPC).
std::uint64_t missed(const rte_eth_stats& stats) {
    return std::accumulate(std::begin(stats.q_errors), std::end(stats.q_errors), stats.imissed);
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
    if (!options_.nic.soft) check_pci_device(options_.nic.bdf);
    if (std::ranges::any_of(options_.vms, &VmOptions::default_socket)) {
        runtime_directory_ = std::make_unique<RuntimeDirectory>(zecorx::runtime_directory());
    }
    for (const VmOptions& vm : options_.vms) {
        if (!vm.client) claim_socket_path(vm.socket_path);
    }
    check_huge_pages(options_.huge_memory);
    std::string bdf = options_.nic.bdf;
    if (options_.nic.soft) {
        soft_nic_ = make_soft_nic(options_);
        bdf = soft_nic_->port(0).bdf();
    }
    eal_ = std::make_unique<Eal>(options_, bdf,
                                 options_.nic.soft || uses_physical_iova(options_.nic.bdf));
    port_ = std::make_unique<Port>(bdf, options_.vms, options_.nic.mtu);
    for (std::size_t i = 0; i < options_.worker_cpus.size(); ++i) {
        workers_.push_back(std::make_unique<Worker>(Eal::worker_lcore(i), options_.idle_sleep));
    }
    make_vms();
    port_->start();
    make_sockets();
}

// VMs go round robin over the workers.
void Daemon::make_vms() {
    for (std::size_t i = 0; i < options_.vms.size(); ++i) {
        vms_.push_back(std::make_unique<Vm>(options_.vms[i], *port_,
                                            port_->queues_of(static_cast<std::uint16_t>(i)),
                                            *workers_[i % workers_.size()]));
    }
}

void Daemon::make_sockets() {
    ::umask(S_IRWXO);  // sockets are the owner's and the group's
    server_ = std::make_unique<vhost_user::Server>(mutex_);
    for (std::size_t i = 0; i < options_.vms.size(); ++i) {
        const VmOptions& vm = options_.vms[i];
        sockets_.push_back(
            std::make_unique<vhost_user::Socket>(*server_, vm.socket_path, vm.client, *vms_[i]));
        spdlog::info("{}: {} {}", vm.name, vm.client ? "connecting to" : "listening on",
                     vm.socket_path);
    }
}

void Daemon::run() {
    const std::chrono::seconds interval = stats_interval(options_);
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
    const rte_eth_stats stats = port_->stats();
    snapshot.port = {port_->name(),  port_->link_up(), stats.ipackets,
                     stats.opackets, missed(stats),    stats.ierrors};
    if (soft_nic_) {
        const soft82599::PortCounters counters = soft_nic_->port(0).counters();
        snapshot.soft82599 = {{"dma_faults", counters.dma_faults},
                              {"writes_after_stop", counters.writes_after_stop},
                              {"rx_delivered", counters.rx_delivered},
                              {"rx_dropped_no_descriptor", counters.rx_dropped_no_descriptor},
                              {"rx_dropped_filter", counters.rx_dropped_filter},
                              {"rx_dropped_oversize", counters.rx_dropped_oversize},
                              {"tx_frames", counters.tx_frames}};
    }
    return snapshot;
}

}  // namespace zecorx
