// The daemon as a tree of resources, built top down and torn down by scope.
#pragma once

#include <chrono>
#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "eal.h"
#include "options.h"
#include "port.h"
#include "socket_file.h"
#include "soft82599/machine.h"
#include "stats.h"
#include "vhost_user/server.h"
#include "vm.h"
#include "worker.h"

namespace zecorx {

// What ends the daemon: SIGINT and SIGTERM.
sigset_t ending_signals();

class Daemon {
  public:
    // Everything up to listening sockets. Throws std::runtime_error with the remedy, leaving
    // nothing behind.
    explicit Daemon(const Options& options);

    // Serves until one of ending_signals(). REQUIRES: they are blocked in every thread.
    void run();

  private:
    std::vector<std::string> device_names() const;
    void make_port(std::size_t index, const std::string& device);
    void make_sockets();
    void stop_vms();
    void tick();
    void report();
    Snapshot take_snapshot();

    const Options options_;
    const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
    std::optional<Snapshot> reported_;

    vhost_user::ControlMutex mutex_;
    std::unique_ptr<RuntimeDirectory> runtime_directory_;  // only with default sockets
    std::unique_ptr<soft82599::Machine> soft_nics_;        // only with --pci soft
    std::unique_ptr<Eal> eal_;
    std::vector<std::unique_ptr<Port>> ports_;  // as options_.nics
    std::vector<std::unique_ptr<Worker>> workers_;
    std::vector<std::unique_ptr<Vm>> vms_;  // by port
    std::unique_ptr<vhost_user::Server> server_;
    std::vector<std::unique_ptr<vhost_user::Socket>> sockets_;
};

}  // namespace zecorx
