// Whether what a guest receives is what somebody sent: every byte, in the order of each sender.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>

#include "zecorx/mac_address.h"

namespace zecorx::soak {

class FrameCheck {
  public:
    explicit FrameCheck(const MacAddress& own) : own_(own) {}

    // What is wrong, in words; nothing if nothing is.
    std::optional<std::string> check(std::span<const std::byte> frame);

    // Numbers between what came that did not: frames that were dropped on the way to this VM.
    // Of the wire only, since other VMs send to others in between.
    std::uint64_t lost() const { return lost_; }

    // Transmitted frames that a killed daemon had sent but not returned yet are sent again.
    void forget_vms();

  private:
    const MacAddress own_;
    std::unordered_map<std::uint64_t, std::uint32_t> last_;  // by sender's address
    std::uint64_t lost_ = 0;
};

// The wire's address while a generation of the daemon lives: a new one's generator counts anew.
MacAddress wire_address(std::uint32_t generation);
bool is_wire(std::uint64_t address);
MacAddress vm_address(std::size_t vm);

}  // namespace zecorx::soak
