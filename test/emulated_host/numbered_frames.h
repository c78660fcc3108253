#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "guest/frames.h"
#include "wire.h"

namespace zecorx::test {

// Every size from the shortest to the longest frame, in an order that mixes short and long.
constexpr std::size_t size_of_numbered(std::uint32_t seq) {
    return kMinFrame + seq * 377 % (kMaxUntaggedFrame - kMinFrame + 1);
}
// Of frames `first` to `first + count - 1`.
std::size_t bytes_of_numbered(std::uint32_t first, std::uint32_t count);

// Frame `seq` as it is sent to a VM, each one's turn.
Frame numbered_frame(std::span<const MacAddress> vms, std::uint32_t seq);
// Whether it is a test's frame, and not what a host says by itself.
bool is_numbered(const Frame& frame);
// The number of a frame that a VM has sent back as it was but for its swapped addresses; nothing if
// it is any other frame.
std::optional<std::uint32_t> check_echo(std::span<const MacAddress> vms, const Frame& frame);

struct EchoResult {
    std::uint32_t sent = 0;
    std::uint32_t returned = 0;    // every byte as it was sent, with the addresses swapped
    std::uint32_t damaged = 0;     // with other bytes
    std::uint32_t unexpected = 0;  // a second time, or never asked for

    std::uint32_t answers() const { return returned + damaged; }
};

// Sends numbered frames from the wire to VMs that send them back, to each in turn, with at most
// `window` of them on the way, and takes what comes back. Gives up when nothing does for a while.
EchoResult exchange(Wire& wire, std::span<const MacAddress> vms, std::uint32_t first,
                    std::uint32_t count, std::uint32_t window = 32);

}  // namespace zecorx::test
