// One run: the daemon, its guests, what is done to them, and what is checked.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon.h"
#include "dice.h"
#include "guest_process.h"
#include "support/temp_dir.h"
#include "verdicts.h"

namespace zecorx::soak {

struct SoakOptions {
    std::string daemon;  // the binary
    std::uint64_t seed = 1;
    std::size_t vms = 3;
    unsigned rate = 20'000;             // frames a second from the wire
    std::chrono::seconds duration{60};  // of random events
    std::uint64_t kills = 0;            // instead: so many processes killed
    std::uint64_t cycles = 0;           // instead: so many sessions
    unsigned huge_memory = 64;          // MiB, the daemon's
};

// One thread. The checker sleeps most of the time: the guests look at every frame.
class Soak {
  public:
    explicit Soak(const SoakOptions& options);

    // Whether all went well. Prints what was done and found.
    bool run();

  private:
    using Clock = std::chrono::steady_clock;

    struct Slot {
        std::unique_ptr<test::FakeMemory> memory;
        std::unique_ptr<GuestProcess> process;
        std::uint64_t started = 0;  // processes
    };

    void run_for();
    void run_kills();
    void run_cycles();
    void begin();
    void finish();

    void start_guest(std::size_t vm, std::uint64_t cycles = 0);
    void kill_guest(std::size_t vm);
    void kill_daemon(bool restart_at_once);
    void check_dead_ring(std::size_t vm);
    void bury_guest(std::size_t vm);
    void await_release(std::size_t vm);
    void fill(std::size_t vm);
    void check_fill(std::size_t vm);
    void probe_fill(std::size_t vm);

    // All VMs leave; everything must be where it was before they came.
    void checkpoint();
    void await_traffic();
    void rest_all();
    void go_all();
    void run_out_cycles(std::uint64_t cycles);
    nlohmann::json settled_report();
    void check_conservation(const nlohmann::json& report);
    void check_nic(const nlohmann::json& report);
    void check_footprint();
    void watch();
    void nap(std::chrono::microseconds time);
    bool good() const { return verdicts_.good(); }
    void print(Clock::duration took) const;

    const SoakOptions options_;
    test::TempDir directory_;
    SharedMemory shared_;
    Daemon daemon_;
    std::vector<Slot> guests_;
    Dice dice_;
    Verdicts verdicts_;
    std::optional<Footprint> baseline_;  // of this daemon, with no VM connected
    std::optional<Footprint> last_footprint_;
    std::size_t last_reports_ = 0;

    std::uint64_t guests_killed_ = 0;
    std::uint64_t daemons_killed_ = 0;
    std::uint64_t checkpoints_ = 0;
    std::uint64_t zero_copied_ = 0, copied_ = 0, dropped_ = 0;
    std::uint64_t dma_faults_ = 0, writes_after_stop_ = 0, mbufs_held_ = 0;
};

}  // namespace zecorx::soak
