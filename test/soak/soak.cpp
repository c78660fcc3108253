#include "soak.h"

#include <fmt/format.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <thread>

namespace zecorx::soak {
namespace {

using namespace std::chrono_literals;

constexpr auto kPatience = 60s;  // with everybody on a busy machine

constexpr const char* kGuestView = "guests: heads once, in order; bytes; poison";
constexpr const char* kPoison = "memory of dead guests keeps still";
constexpr const char* kPoisonProbe = "one byte written there would be noticed";
constexpr const char* kDeadRings = "used rings of dead guests within bounds";
constexpr const char* kReleased = "the daemon lets go of a dead guest's memory";
constexpr const char* kAlive = "processes live until they are killed";
constexpr const char* kNic = "NIC: no DMA fault, no write after a stop";
constexpr const char* kConserved = "frames: delivered = completed + dropped";
constexpr const char* kTransmitted = "frames: taken from guests = sent by the NIC";
constexpr const char* kMbufs = "mbufs all back when no VM is connected";
constexpr const char* kLeaks = "descriptors, mappings, memory as at the start";
constexpr const char* kTraffic = "every VM receives";
constexpr const char* kLog = "log without errors";

// Allocators settle, and the kernel counts resident pages by the batch.
constexpr std::size_t kResidentSlack = 2048;  // KiB
constexpr std::size_t kMappingSlack = 2;

std::uint64_t dropped(const nlohmann::json& vm, bool transmit) {
    std::uint64_t sum = 0;
    for (const auto& [reason, count] : vm.at("dropped").items()) {
        if (reason.starts_with("tx-") == transmit) sum += count.get<std::uint64_t>();
    }
    return sum;
}

std::uint64_t sum_of(const nlohmann::json& report, const char* key) {
    std::uint64_t sum = 0;
    for (const auto& vm : report.at("vms")) sum += vm.at(key).get<std::uint64_t>();
    return sum;
}

std::uint64_t sum_dropped(const nlohmann::json& report, bool transmit) {
    std::uint64_t sum = 0;
    for (const auto& vm : report.at("vms")) sum += dropped(vm, transmit);
    return sum;
}

bool all_disconnected(const nlohmann::json& report) {
    for (const auto& vm : report.at("vms")) {
        if (vm.at("connected").get<bool>()) return false;
    }
    return true;
}

}  // namespace

Soak::Soak(const SoakOptions& options)
    : options_(options),
      daemon_({options.daemon, directory_.path(), options.vms, options.rate, options.huge_memory},
              *shared_),
      guests_(options.vms),
      dice_(options.seed) {
    for (std::size_t vm = 0; vm < guests_.size(); ++vm) {
        const auto page = vm % 3 == 2 ? test::PageSize::k4KiB : test::PageSize::k2MiB;
        const auto regions = guest_regions(page);
        guests_[vm].memory = std::make_unique<test::FakeMemory>(regions);
    }
}

bool Soak::run() {
    const auto start = Clock::now();
    if (options_.cycles != 0) {
        run_cycles();
    } else {
        begin();
        options_.kills != 0 ? run_kills() : run_for();
        finish();
    }
    print(Clock::now() - start);
    // Set by scripts/test, see count-results.
    if (const char* report = std::getenv("REPORT_FILE")) {
        std::ofstream(report) << verdicts_.report();
    }
    return good();
}

void Soak::begin() {
    daemon_.start();
    for (std::size_t vm = 0; vm < guests_.size(); ++vm) start_guest(vm);
    checkpoint();
}

void Soak::finish() {
    if (good()) checkpoint();
    for (Slot& slot : guests_) slot.process.reset();
    if (!good()) return;
    verdicts_.check(kAlive, daemon_.terminate() == 0, "the daemon did not end well on SIGTERM");
    watch();
}

void Soak::run_for() {
    const auto end = Clock::now() + options_.duration;
    while (Clock::now() < end && good()) {
        nap(std::chrono::microseconds(dice_.between(100'000, 1'500'000)));
        const std::uint64_t chance = dice_.below(10);
        const std::size_t vm = dice_.below(guests_.size());
        if (chance < 6) {
            kill_guest(vm);
        } else if (chance < 9) {
            checkpoint();
        } else {
            kill_daemon(dice_.percent(70));
        }
    }
}

// Half of the time a guest dies, half of the time the daemon, and sometimes both.
void Soak::run_kills() {
    std::uint64_t next_checkpoint = 50;
    while (guests_killed_ + daemons_killed_ < options_.kills && good()) {
        nap(std::chrono::microseconds(dice_.below(dice_.percent(25) ? 20'000 : 900'000)));
        const std::uint64_t chance = dice_.below(20);
        const std::size_t vm = dice_.below(guests_.size());
        if (chance < 10) {
            kill_guest(vm);
        } else if (chance < 19) {
            kill_daemon(dice_.percent(80));
        } else {
            guests_[vm].process->kill();
            ++guests_killed_;
            kill_daemon(true);
            bury_guest(vm);
            start_guest(vm);
        }
        if (guests_killed_ + daemons_killed_ < next_checkpoint) continue;
        next_checkpoint += 50;
        checkpoint();
    }
}

void Soak::run_cycles() {
    daemon_.start();
    const std::uint64_t warm_up = std::min<std::uint64_t>(500, options_.cycles / 4 + 1);
    run_out_cycles(warm_up);
    run_out_cycles(options_.cycles - std::min(warm_up, options_.cycles));
    if (!good()) return;
    verdicts_.check(kAlive, daemon_.terminate() == 0, "the daemon did not end well on SIGTERM");
    watch();
}

// Shared out among the VMs.
void Soak::run_out_cycles(std::uint64_t cycles) {
    for (std::size_t vm = 0; vm < guests_.size(); ++vm) {
        const std::uint64_t share = (cycles + vm) / guests_.size();
        if (share != 0) start_guest(vm, share);
    }
    for (Slot& slot : guests_) {
        while (slot.process && !slot.process->status() && good()) nap(20ms);
        if (!slot.process) continue;
        verdicts_.check(kAlive, !good() || slot.process->status() == 0, "a guest ended badly");
        slot.process.reset();
    }
    const nlohmann::json report = settled_report();
    if (!good()) return;
    check_conservation(report);
    check_footprint();
}

void Soak::start_guest(std::size_t vm, std::uint64_t cycles) {
    Slot& slot = guests_[vm];
    slot.process.reset();
    const GuestConfig config{.index = vm,
                             .vms = guests_.size(),
                             .socket = daemon_.socket(vm),
                             .daemon_connects = Daemon::connects(vm),
                             .seed = derived_seed(options_.seed, vm, slot.started++),
                             .cycles = cycles};
    slot.process = std::make_unique<GuestProcess>(config, *slot.memory, *shared_);
}

void Soak::kill_guest(std::size_t vm) {
    guests_[vm].process->kill();
    ++guests_killed_;
    bury_guest(vm);
    start_guest(vm);
}

// What a guest leaves must be its own: nothing is written there once the daemon knows.
void Soak::bury_guest(std::size_t vm) {
    await_release(vm);
    check_dead_ring(vm);
    fill(vm);
    nap(std::chrono::microseconds(dice_.below(20'000)));
    check_fill(vm);
    probe_fill(vm);
    shared_->guests[vm].serving = false;
}

void Soak::await_release(std::size_t vm) {
    const auto regions = guests_[vm].memory->regions();
    const auto deadline = Clock::now() + kPatience;
    bool mapped = true;
    while (mapped && Clock::now() < deadline) {
        mapped = holds_any(daemon_.pid(), regions);
        if (mapped) nap(1ms);
    }
    verdicts_.check(kReleased, !mapped,
                    fmt::format("the memory of VM {} is mapped a minute after its death", vm));
}

// VIRTIO 2.7.8: used chains were available before.
void Soak::check_dead_ring(std::size_t vm) {
    const RingPlace& ring = shared_->guests[vm].receiveq;
    if (ring.avail == 0) return;
    const auto index = [&](std::uint64_t at) {
        return std::atomic_ref(*guests_[vm].memory->as<std::uint16_t>(at + kRingIdxOffset)).load();
    };
    const auto ahead = static_cast<std::uint16_t>(index(ring.avail) - index(ring.used));
    verdicts_.check(kDeadRings, ahead <= ring.size,
                    fmt::format("VM {} died with avail.idx {} and used.idx {} in a ring of {}", vm,
                                index(ring.avail), index(ring.used), ring.size));
}

void Soak::fill(std::size_t vm) {
    for (const auto& region : guests_[vm].memory->regions()) {
        guests_[vm].memory->fill_canary({region.gpa, region.size});
    }
    shared_->guests[vm].receiveq = {};
}

void Soak::check_fill(std::size_t vm) {
    for (const auto& region : guests_[vm].memory->regions()) {
        const auto damage = guests_[vm].memory->find_damage({region.gpa, region.size});
        verdicts_.check(
            kPoison, !damage,
            fmt::format("VM {} is dead, but GPA {:#x} was written", vm, damage.value_or(0)));
    }
}

// The check before could fail.
void Soak::probe_fill(std::size_t vm) {
    const auto regions = guests_[vm].memory->regions();
    const auto& region = dice_.pick(std::span(regions));
    const std::uint64_t at = region.gpa + dice_.below(region.size);
    std::byte* const probed = guests_[vm].memory->at(at, 1);
    *probed ^= std::byte{1};
    const auto damage = guests_[vm].memory->find_damage({region.gpa, region.size});
    *probed ^= std::byte{1};
    verdicts_.check(kPoisonProbe, damage == at,
                    fmt::format("a write to GPA {:#x} of dead VM {} went unnoticed", at, vm));
}

void Soak::kill_daemon(bool restart_at_once) {
    watch();
    daemon_.kill();
    ++daemons_killed_;
    baseline_.reset();
    last_reports_ = 0;
    if (!restart_at_once) nap(std::chrono::microseconds(dice_.below(200'000)));
    daemon_.start();
}

void Soak::checkpoint() {
    if (!good()) return;
    await_traffic();
    rest_all();
    if (!good()) return;
    const nlohmann::json report = settled_report();
    if (!good()) return;
    check_conservation(report);
    check_footprint();
    ++checkpoints_;
    go_all();
}

// More than a ring's worth, so that every buffer that was posted has come back.
void Soak::await_traffic() {
    constexpr std::uint64_t kFrames = 600;
    std::vector<std::uint64_t> due;
    for (std::size_t vm = 0; vm < guests_.size(); ++vm) {
        due.push_back(shared_->guests[vm].rx_frames + kFrames);
    }
    const auto deadline = Clock::now() + 2 * kPatience;
    for (std::size_t vm = 0; vm < guests_.size(); ++vm) {
        while (shared_->guests[vm].rx_frames < due[vm] && Clock::now() < deadline && good()) {
            nap(10ms);
        }
        verdicts_.check(kTraffic, !good() || shared_->guests[vm].rx_frames >= due[vm],
                        fmt::format("VM {} received too little for two minutes", vm));
    }
}

void Soak::rest_all() {
    for (Slot& slot : guests_) slot.process->order(Order::kRest);
    for (std::size_t vm = 0; vm < guests_.size(); ++vm) {
        bool answered = false;
        const auto deadline = Clock::now() + 2 * kPatience;
        while (!answered && good() && Clock::now() < deadline) {
            answered = guests_[vm].process->answered(50ms);
            watch();
        }
        verdicts_.check(kAlive, answered || !good(),
                        fmt::format("the guest of VM {} does not answer", vm));
    }
}

void Soak::go_all() {
    for (Slot& slot : guests_) slot.process->order(Order::kGo);
}

// With no VM connected, and nothing on its way any more.
nlohmann::json Soak::settled_report() {
    const std::size_t old = daemon_.reports().size();
    const auto deadline = Clock::now() + kPatience;
    while (Clock::now() < deadline && good()) {
        const auto all = daemon_.reports();
        if (all.size() > old + 1 && all_disconnected(all.back()) &&
            all.back().at("ports").at(0).at("soft82599") ==
                all[all.size() - 2].at("ports").at(0).at("soft82599")) {
            return all.back();
        }
        nlohmann::json now, before;
        if (all.size() > old + 1) {
            // Frames that nobody wants are still counted.
            now = all.back().at("ports").at(0).at("soft82599").at("rx_delivered");
            before = all[all.size() - 2].at("ports").at(0).at("soft82599").at("rx_delivered");
            if (all_disconnected(all.back()) && now == before) return all.back();
        }
        nap(50ms);
    }
    verdicts_.check(kConserved, !good(), "no statistics without a connected VM for a minute");
    return {};
}

void Soak::check_conservation(const nlohmann::json& report) {
    const auto delivered =
        report.at("ports").at(0).at("soft82599").at("rx_delivered").get<std::uint64_t>();
    const std::uint64_t completed = sum_of(report, "rx_packets");
    const std::uint64_t lost = sum_dropped(report, false);
    verdicts_.check(kConserved, delivered == completed + lost,
                    fmt::format("the NIC delivered {} frames; {} were completed and {} dropped",
                                delivered, completed, lost));
    const auto sent = report.at("ports").at(0).at("soft82599").at("tx_frames").get<std::uint64_t>();
    const std::uint64_t taken = sum_of(report, "tx_packets");
    const std::uint64_t unsent = sum_dropped(report, true);
    verdicts_.check(kTransmitted, taken == sent + unsent || taken == sent,
                    fmt::format("{} frames were taken from guests; the NIC sent {} and {} were "
                                "dropped",
                                taken, sent, unsent));
    mbufs_held_ = sum_of(report, "mbufs_held");
    verdicts_.check(kMbufs, mbufs_held_ == 0,
                    fmt::format("{} mbufs did not come back", mbufs_held_));
    check_nic(report);
}

void Soak::check_nic(const nlohmann::json& report) {
    const auto& nic = report.at("ports").at(0).at("soft82599");
    dma_faults_ += nic.at("dma_faults").get<std::uint64_t>();
    writes_after_stop_ += nic.at("writes_after_stop").get<std::uint64_t>();
    verdicts_.check(
        kNic, dma_faults_ == 0 && writes_after_stop_ == 0,
        fmt::format("{} DMA faults, {} writes after a stop", dma_faults_, writes_after_stop_));
}

void Soak::check_footprint() {
    const Footprint now = daemon_.footprint();
    last_footprint_ = now;
    if (!baseline_) {
        baseline_ = now;
        return;
    }
    verdicts_.check(kLeaks,
                    now.fds <= baseline_->fds &&
                        now.mappings <= baseline_->mappings + kMappingSlack &&
                        now.resident <= baseline_->resident + kResidentSlack,
                    fmt::format("{} descriptors, {} mappings and {} KiB instead of {}, {} and {}",
                                now.fds, now.mappings, now.resident, baseline_->fds,
                                baseline_->mappings, baseline_->resident));
}

// What may be wrong at any time.
void Soak::watch() {
    for (std::size_t vm = 0; vm < guests_.size(); ++vm) {
        GuestReport& report = shared_->guests[vm];
        const bool violated = report.violations.load() != 0;
        verdicts_.check(kGuestView, !violated, report.violation.data());
        if (!guests_[vm].process || options_.cycles != 0) continue;
        const auto status = guests_[vm].process->status();
        verdicts_.check(kAlive, !status || *status > 128,
                        fmt::format("the guest of VM {} ended", vm));
    }
    if (const auto sentence = daemon_.ended()) verdicts_.check(kAlive, false, *sentence);
    for (const std::string& line : daemon_.new_errors()) verdicts_.check(kLog, false, line);
    const auto all = daemon_.reports();
    for (; last_reports_ < all.size(); ++last_reports_) check_nic(all[last_reports_]);
}

void Soak::nap(std::chrono::microseconds time) {
    const auto end = Clock::now() + time;
    do {
        std::this_thread::sleep_for(std::min<Clock::duration>(20ms, end - Clock::now()));
        if (time >= 10ms) watch();
    } while (Clock::now() < end && good());
}

void Soak::print(Clock::duration took) const {
    const auto row = [](const char* what, std::uint64_t count) {
        fmt::print("{:<46} {:>12}\n", what, count);
    };
    const auto sum = [&](auto&& of) {
        return std::accumulate(
            shared_->guests.begin(), shared_->guests.end(), std::uint64_t{0},
            [&](std::uint64_t all, const GuestReport& report) { return all + of(report); });
    };
    fmt::print("seed {}, {} VMs, {:.0f} s\n\n", options_.seed, guests_.size(),
               std::chrono::duration<double>(took).count());
    for (std::size_t event = 0; event < kEvents; ++event) {
        row(kEventNames[event],
            sum([&](const auto& report) { return report.events[event].load(); }));
    }
    row("kill -9 of a guest and its frontend", guests_killed_);
    row("kill -9 of the daemon", daemons_killed_);
    row("checkpoints with no VM connected", checkpoints_);
    row("sessions started", sum([](const auto& report) { return report.sessions.load(); }));
    row("frames received, every byte checked",
        sum([](const auto& report) { return report.rx_frames.load(); }));
    row("frames sent by guests", sum([](const auto& report) { return report.tx_frames.load(); }));
    if (last_footprint_ && baseline_) {
        fmt::print(
            "daemon, first and last look: {} and {} descriptors, {} and {} mappings, {} and "
            "{} KiB resident; {} mbufs held\n",
            baseline_->fds, last_footprint_->fds, baseline_->mappings, last_footprint_->mappings,
            baseline_->resident, last_footprint_->resident, mbufs_held_);
    }
    fmt::print("DMA faults {}, writes after stop {}\n\n{}", dma_faults_, writes_after_stop_,
               verdicts_.table());
}

}  // namespace zecorx::soak
