// A stand-in for /dev/uioN: EAL opens it for interrupts.
//
// It is a symbolic link to a pseudo terminal in raw mode: what the model writes to the master end,
// EAL's interrupt thread reads, and what EAL writes (interrupt enable) is swallowed. The path lies
// in the real /dev, because nothing else can make a single name appear there; it is only needed
// until EAL has opened it.
//
// Thread rule: used under the device's lock, after construction.
#pragma once

#include <cstdint>
#include <string>

#include "zecorx/unique_fd.h"

namespace zecorx::soft82599 {

class UioNode {
  public:
    UioNode();  // throws std::runtime_error
    ~UioNode();
    UioNode(const UioNode&) = delete;
    UioNode& operator=(const UioNode&) = delete;

    unsigned number() const { return number_; }
    void unlink();  // takes the name away; the open file goes on working
    void raise();   // makes the device readable once

  private:
    void drain();

    UniqueFd master_;
    UniqueFd slave_;  // keeps the terminal alive while EAL has it closed
    std::string path_;
    unsigned number_ = 0;
    std::uint32_t count_ = 0;
};

}  // namespace zecorx::soft82599
