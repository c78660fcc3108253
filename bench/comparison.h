// Backends on one port with the same frames in turns, so that what else the machine does hits all
// of them or none.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "guest.h"
#include "lockstep.h"
#include "results.h"
#include "rig.h"

namespace zecorx::bench {

// Lanes of a bed with their guests connected, in the order given: from construction to destruction.
// One at a time on a bed.
class Parties {
  public:
    Parties(Bed& bed, std::span<const std::size_t> lanes, const GuestOptions& guests);
    Parties(const Parties&) = delete;
    Parties& operator=(const Parties&) = delete;

    std::span<const Party> all() const { return all_; }

  private:
    std::vector<std::unique_ptr<Guest>> guests_;
    std::vector<Party> all_;
};

struct Plan {
    unsigned repetitions;
    unsigned bursts;
};

// Without the point's setup.
Point compare(soft82599::Port& nic, std::span<const Party> parties, Cache cache, std::size_t size,
              const Plan& plan);

// A setup's points as a table.
void print_points(std::span<const Point> points);

}  // namespace zecorx::bench
