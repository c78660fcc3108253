#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "qemu_guest.h"

namespace zecorx::test {

inline constexpr std::size_t kGuestPage = 4096;

// All of a guest's RAM, read where its QEMU has it. GPAs count from its start, as QEMU's q35 has
// them below 2 GiB.
class GuestRam {
  public:
    explicit GuestRam(const QemuGuest& guest);
    ~GuestRam();
    GuestRam(const GuestRam&) = delete;
    GuestRam& operator=(const GuestRam&) = delete;

    std::span<const std::byte> bytes() const { return bytes_; }
    // REQUIRES: it lies in RAM.
    template <typename T>
    T read(std::uint64_t gpa) const;

  private:
    std::span<const std::byte> bytes_;
};

// The numbers of the pages in which the two differ. REQUIRES: they are of one size.
std::vector<std::size_t> differing_pages(std::span<const std::byte> a,
                                         std::span<const std::byte> b);

// Where a guest's driver has put one of eth0's virtqueues (split: descriptor table, avail and used
// ring; packed: descriptor ring, driver and device area). GPAs.
struct QueuePlace {
    std::uint16_t size = 0;  // entries
    std::uint64_t desc = 0;
    std::uint64_t avail = 0;
    std::uint64_t used = 0;
};
// REQUIRES: the driver has set it up, and the guest does not run: QEMU asks the backend where the
// ring stands, which stops it.
QueuePlace queue_place(QemuGuest& guest, unsigned queue);

// What the receiveq and the transmitq use pages of guest memory for, for messages and to know that
// a comparison saw what it is about. REQUIRES: as queue_place().
class PageUses {
  public:
    PageUses(QemuGuest& guest, const GuestRam& ram);

    bool is_receive_buffer(std::size_t page) const { return uses_.at(page) & kReceiveBuffer; }
    // "page 17: receiveq buffer", for the first of them a line each.
    std::string describe(const std::vector<std::size_t>& pages) const;

  private:
    enum Use : std::uint8_t {
        kReceiveBuffer = 1,
        kReceiveq = 2,
        kTransmitBuffer = 4,
        kTransmitq = 8
    };

    void note(std::uint64_t gpa, std::uint64_t length, Use use);

    std::vector<std::uint8_t> uses_;  // by page
};

}  // namespace zecorx::test
