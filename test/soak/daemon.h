// The daemon under test as a process that may be killed at any time.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "shared.h"
#include "support/process.h"

namespace zecorx::soak {

struct DaemonConfig {
    std::string binary;
    std::filesystem::path directory;  // sockets, statistics and log
    std::size_t vms = 1;
    unsigned rate = 20'000;     // frames a second from the wire, over all VMs
    unsigned huge_memory = 64;  // MiB
};

// What a process holds.
struct Footprint {
    std::size_t fds = 0;
    std::size_t mappings = 0;
    std::size_t resident = 0;  // KiB
};

class Daemon {
  public:
    Daemon(DaemonConfig config, Shared& shared) : config_(std::move(config)), shared_(shared) {}
    ~Daemon();

    static bool connects(std::size_t vm) { return vm % 2 == 1; }  // client=1
    std::string socket(std::size_t vm) const;

    void start();
    void kill();
    // SIGTERM; its exit status, or nothing if it had to be killed.
    std::optional<int> terminate();
    // Sentence about how it ended by itself; nothing while it runs.
    std::optional<std::string> ended();

    pid_t pid() const { return shared_.daemon.pid.load(); }
    std::uint32_t generation() const { return shared_.daemon.generation.load(); }
    Footprint footprint() const;

    // Every report so far of this process.
    std::vector<nlohmann::json> reports() const;
    // Lines of its log since the last call that tell of something wrong.
    std::vector<std::string> new_errors();
    const std::filesystem::path& directory() const { return config_.directory; }

  private:
    std::vector<std::string> command() const;
    std::filesystem::path stats_file() const { return config_.directory / "stats.jsonl"; }
    std::filesystem::path log_file() const { return config_.directory / "daemon.log"; }
    void bury();

    const DaemonConfig config_;
    Shared& shared_;
    std::optional<test::Process> process_;
    std::streamoff log_read_ = 0;
};

}  // namespace zecorx::soak
