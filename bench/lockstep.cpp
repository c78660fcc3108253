#include "lockstep.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "soft82599/frame.h"

namespace zecorx::bench {
namespace {

constexpr std::size_t kCrc = 4;
// The PMD takes 32 descriptors at a time, and a burst of jumbo frames may have ten times as many.
constexpr unsigned kMaxPolls = 32;

std::uint64_t clock() {
    static const std::uint64_t cost = clock_cost();
    return cost;
}

// Holds a lane's session for as long as it is measured.
class Hold {
  public:
    explicit Hold(Lane& lane) : lane_(lane) { lane_.hold(); }
    ~Hold() { lane_.release(); }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

  private:
    Lane& lane_;
};

void inject(soft82599::Port& nic, const Frame& frame) {
    if (nic.inject(frame) != soft82599::RxResult::kDelivered) {
        throw std::runtime_error("the NIC had no buffer for a frame: a backend posted too few");
    }
}

// Calls poll() until `frames` more are completed; returns the cycles of that.
std::uint64_t complete(const auto& completed, std::uint64_t frames, const auto& poll) {
    const std::uint64_t due = completed() + frames;
    std::uint64_t cycles = 0;
    for (unsigned polls = 0; completed() < due; ++polls) {
        if (polls == kMaxPolls) {
            throw std::runtime_error(fmt::format("{} of {} frames of a burst were not completed",
                                                 due - completed(), frames));
        }
        const std::uint64_t start = now();
        poll();
        cycles += now() - start - clock();
    }
    return cycles;
}

std::uint64_t complete(Lane& lane, std::uint64_t frames) {
    return complete([&] { return lane.completed(); }, frames, [&] { lane.poll(); });
}

// The guest's turn.
void take(const Party& party, unsigned frames) {
    if (party.guest != nullptr && party.guest->turn() != frames) {
        throw std::runtime_error("the guest did not get every frame of a burst");
    }
}

// Polls several VMs as a Worker does, or as many floors.
class LockstepWorker {
  public:
    LockstepWorker(std::span<const Party> busy, std::span<const Party> idle) : busy_(busy) {
        for (const std::span<const Party> parties : {busy, idle}) {
            for (const Party& party : parties) add(party.lane);
        }
    }

    // As complete(), for this many frames to each busy VM.
    std::uint64_t complete(std::uint64_t frames) const {
        const auto completed = [this] {
            std::uint64_t sum = 0;
            for (const Party& party : busy_) sum += party.lane.completed();
            return sum;
        };
        return bench::complete(completed, frames * busy_.size(), [this] { poll_all(); });
    }

    void poll_all() const {
        for (Datapath* datapath : datapaths_) datapath->poll();
        for (Lane* lane : others_) lane->poll();
    }

  private:
    void add(Lane& lane) {
        holds_.push_back(std::make_unique<Hold>(lane));
        if (Datapath* datapath = lane.datapath()) {
            datapaths_.push_back(datapath);
        } else {
            others_.push_back(&lane);
        }
    }

    const std::span<const Party> busy_;
    std::vector<std::unique_ptr<Hold>> holds_;
    std::vector<Datapath*> datapaths_;
    std::vector<Lane*> others_;
};

}  // namespace

const char* name_of(Cache cache) { return cache == Cache::kWarm ? "warm" : "flushed"; }

Frame make_frame(const MacAddress& to, std::size_t size) {
    constexpr std::size_t kIp = 14;
    constexpr std::size_t kUdp = kIp + 20;
    Frame frame(size - kCrc);
    for (std::size_t i = 0; i < frame.size(); ++i) frame[i] = static_cast<std::byte>(i * 7 + 1);
    std::memcpy(frame.data(), to.bytes.data(), to.bytes.size());
    frame[6] = std::byte{0x02};
    soft82599::store_be16(frame, 12, 0x0800);
    soft82599::store_be16(frame, kIp, 0x4500);
    soft82599::store_be16(frame, kIp + 2, static_cast<std::uint16_t>(frame.size() - kIp));
    soft82599::store_be16(frame, kIp + 6, 0x4000);  // don't fragment
    frame[kIp + 9] = std::byte{17};
    soft82599::store_be16(frame, kUdp + 4, static_cast<std::uint16_t>(frame.size() - kUdp));
    soft82599::store_be16(frame, kUdp + 6, 0);  // no checksum
    return frame;
}

void check_delivery(soft82599::Port& nic, const Party& party, const Frame& frame) {
    if (party.guest == nullptr) return;
    const Hold hold(party.lane);
    inject(nic, frame);
    complete(party.lane, 1);
    if (!party.guest->received(frame)) {
        throw std::runtime_error("a frame did not reach the guest as it was sent");
    }
}

std::vector<double> run_bursts(soft82599::Port& nic, const Party& party, const Frame& frame,
                               unsigned size, unsigned bursts) {
    const Hold hold(party.lane);
    std::vector<double> cycles(bursts);
    for (double& burst : cycles) {
        for (unsigned i = 0; i < size; ++i) inject(nic, frame);
        burst = static_cast<double>(complete(party.lane, size));
        take(party, size);
    }
    return cycles;
}

Round run_round(soft82599::Port& nic, const Party& party, const Frame& frame, unsigned bursts) {
    const std::uint64_t zero_copied = party.lane.zero_copied();
    const std::vector<double> cycles = run_bursts(nic, party, frame, kBurst, bursts);
    return {mean_undisturbed(cycles) / kBurst,
            static_cast<double>(party.lane.zero_copied() - zero_copied) / (kBurst * bursts)};
}

double run_worker(soft82599::Port& nic, std::span<const Party> busy, std::span<const Party> idle,
                  std::size_t size, unsigned bursts) {
    const LockstepWorker worker(busy, idle);
    std::vector<Frame> frames;
    for (const Party& party : busy) frames.push_back(make_frame(party.lane.mac(), size));
    std::vector<double> cycles(bursts);
    for (double& burst : cycles) {
        for (unsigned i = 0; i < kBurst; ++i) {
            for (const Frame& frame : frames) inject(nic, frame);
        }
        burst = static_cast<double>(worker.complete(kBurst));
        for (const Party& party : busy) take(party, kBurst);
    }
    return mean_undisturbed(cycles);
}

BesideStalled run_beside_stalled(soft82599::Port& nic, const Party& busy, const Party& stalled,
                                 std::size_t size, unsigned bursts) {
    const Hold hold_busy(busy.lane), hold_stalled(stalled.lane);
    const Frame wanted = make_frame(busy.lane.mac(), size);
    const Frame unwanted = make_frame(stalled.lane.mac(), size);
    std::vector<double> busy_cycles(bursts), stalled_cycles(bursts);
    for (unsigned burst = 0; burst < bursts; ++burst) {
        for (unsigned i = 0; i < kBurst; ++i) {
            nic.inject(unwanted);
            inject(nic, wanted);
        }
        const std::uint64_t start = now();
        stalled.lane.poll();
        stalled_cycles[burst] = static_cast<double>(now() - start - clock());
        busy_cycles[burst] = static_cast<double>(complete(busy.lane, kBurst));
        take(busy, kBurst);
    }
    return {mean_undisturbed(busy_cycles), mean_undisturbed(stalled_cycles)};
}

double run_idle_worker(std::span<const Party> idle, unsigned rounds) {
    constexpr unsigned kRounds = 32;  // timed together, since the clock costs more than a poll
    const LockstepWorker worker({}, idle);
    std::vector<double> cycles(rounds / kRounds + 1);
    for (double& several : cycles) {
        const std::uint64_t start = now();
        for (unsigned i = 0; i < kRounds; ++i) worker.poll_all();
        several = static_cast<double>(now() - start - clock());
    }
    return mean_undisturbed(cycles) / kRounds;
}

}  // namespace zecorx::bench
