// 32-bit access to an 82599's registers (BAR 0), for what the PMD has no call for.
//
// Thread rule: control side only. The PMD drives the same device, so only registers that it leaves
// alone while the port runs are written here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "zecorx/mac_address.h"

namespace zecorx {

class NicRegisters {
  public:
    // Opens the BAR of the device that EAL probed at `bdf`; `mac` is the address of its port.
    // Throws std::runtime_error with the remedy.
    NicRegisters(const std::string& bdf, const MacAddress& mac);
    ~NicRegisters();
    NicRegisters(const NicRegisters&) = delete;
    NicRegisters& operator=(const NicRegisters&) = delete;

    // REQUIRES: a multiple of 4 below 128 KiB.
    std::uint32_t read(std::uint32_t offset) const;
    void write(std::uint32_t offset, std::uint32_t value);

  private:
    std::byte* bar_ = nullptr;
    std::span<std::byte> mapped_;  // by this object; empty: the mapping is the PMD's
};

}  // namespace zecorx
