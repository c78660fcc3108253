#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "net_namespace.h"
#include "qemu_guest.h"

namespace zecorx::test {

struct FloodShape {
    // Up to so many datagrams a millisecond. The default is about as many as a guest without
    // hardware virtualization can take when it does nothing else.
    unsigned rate = 32;
    std::size_t shortest = 18;  // bytes of payload; the longest fill a frame of 1514
};

// Sends UDP datagrams of changing sizes to a guest's discard port for as long as the object lives,
// whether it takes them or not.
// REQUIRES: a static neighbour entry for the guest, or no frame leaves while it is down.
class UdpFlood {
  public:
    UdpFlood(const NetNamespace& netns, const std::string& ip, FloodShape shape = {});
    ~UdpFlood();
    UdpFlood(const UdpFlood&) = delete;
    UdpFlood& operator=(const UdpFlood&) = delete;

    std::uint64_t sent() const { return sent_; }

  private:
    void run();

    const FloodShape shape_;
    UniqueFd socket_;
    std::atomic<bool> stop_ = false;
    std::atomic<std::uint64_t> sent_ = 0;
    std::thread thread_;
};

// Sends random bytes over one TCP connection to the guest, which keeps them in kTransferFile, from
// construction to finish(), as slowly as a guest's memory allows. The guest may move meanwhile.
class TcpStream {
  public:
    TcpStream(const NetNamespace& netns, QemuGuest& guest, const std::string& guest_ip);
    ~TcpStream();
    TcpStream(const TcpStream&) = delete;
    TcpStream& operator=(const TcpStream&) = delete;

    // Ends the connection. Returns the SHA-256 of what was sent; throws if not all could be.
    std::string finish();
    // The SHA-256 of what the guest, wherever it is now, has received. REQUIRES: finish().
    static std::string received(QemuGuest& guest);

  private:
    std::string run();

    UniqueFd socket_;
    std::atomic<bool> stop_ = false;
    std::future<std::string> hash_;
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

// Has guest `from` send kTransferFile over TCP to guest `to`, which keeps it in its own. Returns
// the SHA-256 that `to` finds.
std::string send_between_guests(QemuGuest& from, QemuGuest& to, const std::string& to_ip);

// Puts `size` random bytes into the guest's kTransferFile. Returns their SHA-256.
std::string make_transfer_file(QemuGuest& guest, std::size_t size);

// Sends UDP datagrams of these sizes to a port of the guest where nobody listens.
void send_datagrams(const NetNamespace& netns, const std::string& ip,
                    const std::vector<std::size_t>& sizes);

inline constexpr const char* kTransferFile = "/tmp/transfer";
inline constexpr std::chrono::seconds kTransferTimeout{120};

}  // namespace zecorx::test
