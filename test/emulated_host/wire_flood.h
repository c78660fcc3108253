#pragma once

#include <atomic>
#include <cstdint>
#include <future>
#include <span>
#include <vector>

#include "wire.h"

namespace zecorx::test {

// Sends numbered frames to VMs until it is stopped, whether they take them or not, and takes what
// comes back. The wire is the flood's until then.
class WireFlood {
  public:
    WireFlood(Wire& wire, std::span<const MacAddress> vms, std::uint32_t first);
    ~WireFlood() { stop_ = true; }  // and waits for the wire to be quiet
    WireFlood(const WireFlood&) = delete;
    WireFlood& operator=(const WireFlood&) = delete;

    // Returns the number that was not sent any more, once the wire is quiet. Throws if it could not
    // go on sending. REQUIRES: called once.
    std::uint32_t stop();

    std::uint32_t returned() const { return returned_; }  // frames that came back
    std::uint32_t damaged() const { return damaged_; }    // of these

  private:
    std::uint32_t run(std::uint32_t next);
    bool take(std::chrono::milliseconds timeout);

    Wire& wire_;
    const std::vector<MacAddress> vms_;
    std::atomic<bool> stop_ = false;
    std::atomic<std::uint32_t> returned_ = 0, damaged_ = 0;
    std::future<std::uint32_t> sender_;
};

}  // namespace zecorx::test
