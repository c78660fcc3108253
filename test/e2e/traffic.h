#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "net_namespace.h"
#include "qemu_guest.h"

namespace zecorx::test {

// Sends UDP datagrams of changing sizes to a guest's discard port for as long as the object lives,
// about as many as a guest without hardware virtualization can take, whether it takes them or not.
// REQUIRES: a static neighbour entry for the guest, or no frame leaves while it is down.
class UdpFlood {
  public:
    UdpFlood(const NetNamespace& netns, const std::string& ip);
    ~UdpFlood();
    UdpFlood(const UdpFlood&) = delete;
    UdpFlood& operator=(const UdpFlood&) = delete;

    std::uint64_t sent() const { return sent_; }

  private:
    void run();

    UniqueFd socket_;
    std::atomic<bool> stop_ = false;
    std::atomic<std::uint64_t> sent_ = 0;
    std::thread thread_;
};

std::vector<std::uint8_t> random_bytes(std::size_t size);
std::string sha256(const std::vector<std::uint8_t>& bytes);  // as sha256sum prints it

// Sends `bytes` over TCP to the guest, which keeps them in kTransferFile. Returns the SHA-256 that
// the guest finds.
std::string send_to_guest(const NetNamespace& netns, QemuGuest& guest, const std::string& guest_ip,
                          const std::vector<std::uint8_t>& bytes);

// Has the guest send kTransferFile over TCP. Returns the SHA-256 of what arrived.
std::string receive_from_guest(const NetNamespace& netns, QemuGuest& guest,
                               const std::string& our_ip);

inline constexpr const char* kTransferFile = "/tmp/transfer";
inline constexpr std::chrono::seconds kTransferTimeout{120};

}  // namespace zecorx::test
