#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "net_namespace.h"

namespace zecorx::test {

// A raw socket that sends frames on the interface and receives those that arrive there from the
// other end, but not those that others send on it.
UniqueFd packet_socket(const NetNamespace& netns, const std::string& interface);

// Makes receive_frame() work on a packet socket: the kernel takes a frame's VLAN tag out and then
// hands it over beside the frame.
void enable_auxiliary_data(int fd);

struct ReceivedFrame {
    std::size_t kept = 0;               // bytes in the buffer; 0: no frame is waiting
    std::size_t size = 0;               // of the frame, without VLAN tag
    std::optional<std::uint16_t> vlan;  // VLAN identifier
};

// The next frame that came from the other end, without its VLAN tag. Does not wait.
ReceivedFrame receive_frame(int fd, std::span<std::uint8_t> buffer);

}  // namespace zecorx::test
