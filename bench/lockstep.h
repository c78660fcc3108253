// NIC, backend and guest take turns on one core; only the backend's turn is timed.
//
// Two busy threads on a small machine measure its scheduler. In lockstep each party finds the
// caches as the party before left them, and a backend's cost is a figure that repeats.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cycles.h"
#include "guest.h"
#include "rig.h"

namespace zecorx::bench {

using Frame = std::vector<std::byte>;

enum class Cache {
    kWarm,     // the NIC's DMA leaves the frame in the cache, as with DDIO
    kFlushed,  // in memory only
};
const char* name_of(Cache cache);

// A UDP frame of `size` bytes on the wire, CRC included, as benchmarks count; without the CRC it is
// 4 bytes shorter. REQUIRES: size >= 64.
Frame make_frame(const MacAddress& to, std::size_t size);

// One backend, and the guest on it unless it is a floor.
struct Party {
    Lane& lane;
    Guest* guest = nullptr;
};

// A frame arrives and is the guest's, byte for byte. Throws std::runtime_error otherwise: there is
// nothing to measure then.
void check_delivery(soft82599::Port& nic, const Party& party, const Frame& frame);

inline constexpr unsigned kBurst = 32;

// `bursts` times `size` frames: the backend's cycles for each burst. Throws std::runtime_error if
// frames are lost.
std::vector<double> run_bursts(soft82599::Port& nic, const Party& party, const Frame& frame,
                               unsigned size, unsigned bursts);

// Bursts after which what the NIC was given before the guest posted its first buffer is behind us.
inline constexpr unsigned kWarmUp = 2 * Bed::nic_ring() / kBurst;

struct Round {
    double cycles = 0;       // the backend's, a frame
    double zero_copied = 0;  // part of the frames
};

// `bursts` times 32 frames. Throws std::runtime_error if frames are lost.
Round run_round(soft82599::Port& nic, const Party& party, const Frame& frame, unsigned bursts);

// One worker for all of these VMs, which are ours: 32 frames of `size` bytes to each of the busy
// ones, none to the idle ones, `bursts` times. The worker's cycles for one time.
double run_worker(soft82599::Port& nic, std::span<const Party> busy, std::span<const Party> idle,
                  std::size_t size, unsigned bursts);

// Two VMs of one worker, which are ours: as many frames arrive for each, but the stalled one's
// guest takes and posts nothing. The worker's cycles for 32 frames of the busy one, and for as many
// of the other, which are dropped.
struct BesideStalled {
    double busy = 0;
    double stalled = 0;
};
BesideStalled run_beside_stalled(soft82599::Port& nic, const Party& busy, const Party& stalled,
                                 std::size_t size, unsigned bursts);

// One worker for all of these VMs, which are ours, and nothing to do: its cycles for one poll of
// each, in `rounds` without a pause.
double run_idle_worker(std::span<const Party> idle, unsigned rounds);

}  // namespace zecorx::bench
