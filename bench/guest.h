// Real guest drivers in the benchmark's process, which take their turn on the benchmark's core.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "guest/rx_layout.h"
#include "rig.h"

namespace zecorx::bench {

enum class Driver { kFake, kVirtioUser };
const char* name_of(Driver driver);

struct GuestOptions {
    Driver driver = Driver::kFake;
    std::uint16_t ring = 256;  // receiveq, descriptors
    bool packed = false;
    bool mergeable = true;
    // What the fake driver posts.
    test::RxLayout buffers = test::RxLayout::linux_mergeable();
    std::size_t memory = std::size_t{16} << 20;  // bytes of the fake driver's guest, in huge pages
    std::uint32_t mtu = kDefaultMtu;             // virtio-user: its mbufs hold such a frame
};

// A driver with a session on a lane's socket, from construction to destruction. Throws
// std::runtime_error.
class Guest {
  public:
    Guest() = default;
    virtual ~Guest() = default;
    Guest(const Guest&) = delete;
    Guest& operator=(const Guest&) = delete;

    // Takes back what the device completed and posts as many buffers again. Returns the frames.
    virtual std::uint64_t turn() = 0;
    // Like turn(), for one frame whose bytes must be these.
    virtual bool received(std::span<const std::byte> frame) = 0;
};

std::unique_ptr<Guest> connect(const std::string& socket, const GuestOptions& options);

// Waits until the lane serves the guest that just connected.
void await_running(Lane& lane);
// Waits until it has noticed that the last guest is gone.
void await_vacant(Lane& lane);

}  // namespace zecorx::bench
