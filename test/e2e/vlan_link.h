#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "net_namespace.h"

namespace zecorx::test {

// The host's end of the wire in one VLAN: an interface whose frames have the VLAN's tag on the
// wire. It does what a VLAN interface of the kernel does, which not every kernel has: a TAP
// interface, and a thread that moves frames between it and the wire.
//
// Thread rule: all methods on the test's main thread.
class VlanLink {
  public:
    VlanLink(const NetNamespace& netns, const std::string& wire, std::uint16_t vlan,
             const std::string& address);
    ~VlanLink();
    VlanLink(const VlanLink&) = delete;
    VlanLink& operator=(const VlanLink&) = delete;

    const std::string& interface() const { return name_; }

  private:
    void run();
    void from_wire();
    void to_wire();

    const std::uint16_t vlan_;
    const std::string name_;
    UniqueFd tap_;
    UniqueFd wire_;
    std::vector<std::uint8_t> frame_;
    std::atomic<bool> stop_ = false;
    std::thread thread_;
};

}  // namespace zecorx::test
