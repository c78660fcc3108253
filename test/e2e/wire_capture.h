#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "net_namespace.h"
#include "zecorx/mac_address.h"

namespace zecorx::test {

// What a frame tells about itself before its payload.
struct WireFrame {
    MacAddress destination;
    MacAddress source;
    std::optional<std::uint16_t> vlan;  // VLAN identifier
    std::size_t size;                   // without CRC and VLAN tag
};

// Notes every frame that the NIC puts on the wire, from construction to stop().
//
// Thread rule: all methods on the test's main thread; frames are noted on a thread of its own.
class WireCapture {
  public:
    WireCapture(const NetNamespace& netns, const std::string& interface);
    ~WireCapture();
    WireCapture(const WireCapture&) = delete;
    WireCapture& operator=(const WireCapture&) = delete;

    // Ends the capture. Throws if it is not complete.
    std::vector<WireFrame> stop();

  private:
    void run();
    void note_next();

    UniqueFd socket_;
    std::vector<WireFrame> frames_;
    std::exception_ptr failure_;
    std::atomic<bool> stop_ = false;
    std::thread thread_;
};

// The longest of them, 0 if there is none.
std::size_t longest(const std::vector<WireFrame>& frames);
// How many of them have this source, and if one is given, this destination.
std::size_t count(const std::vector<WireFrame>& frames, const std::string& source,
                  const std::string& destination = {});

}  // namespace zecorx::test
