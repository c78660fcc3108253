#pragma once

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "guest/frames.h"
#include "zecorx/unique_fd.h"

namespace zecorx::test {

// The far end of a NIC's wire in QEMU: a pair of unix datagram sockets, one frame a datagram.
//
// Thread rule: all methods on one thread.
class Wire {
  public:
    // REQUIRES: `directory` exists and QEMU has not been started.
    explicit Wire(const std::filesystem::path& directory);

    // What QEMU's -netdev has to say, without its id.
    std::string netdev() const;

    // Waits while QEMU has too many frames that it has not taken yet. Throws when it takes none.
    void send(std::span<const std::byte> frame);
    // The next frame that left the NIC; nothing when none does in time.
    std::optional<Frame> receive(std::chrono::milliseconds timeout);

  private:
    std::filesystem::path ours_;
    std::filesystem::path theirs_;
    UniqueFd fd_;
};

}  // namespace zecorx::test
