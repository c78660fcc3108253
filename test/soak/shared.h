// What the checker and the guests' processes tell each other, in memory that outlives any of them.
//
// Thread rule: each member has one writing process, named by its comment; everybody reads.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "guest/guest_memory.h"

namespace zecorx::soak {

inline constexpr std::size_t kMostVms = 16;

// What happens to a VM by its own doing.
enum class Event : std::uint8_t {
    kDisconnect,  // the socket closes without a word, and the guest connects again
    kStop,        // GET_VRING_BASE of both rings, then the same rings again
    kReset,       // the driver starts anew: other features, buffers, fresh rings
    kResize,      // likewise, with rings of another size
    kDisable,     // a vring is disabled and enabled again
    kTable,       // SET_MEM_TABLE with another layout of the same memory
    kPlug,        // a region is added, and the driver posts buffers in it
    kUnplug,      // it is removed
    kKickFd,      // SET_VRING_KICK under traffic
    kCallFd,      // SET_VRING_CALL under traffic
    kStarve,      // the driver posts nothing for a while
};
inline constexpr std::array kEventNames{"disconnect",       "stop and start", "guest reset",
                                        "ring resize",      "vring disable",  "memory layout",
                                        "memory added",     "memory removed", "kick fd replaced",
                                        "call fd replaced", "starvation"};
inline constexpr std::size_t kEvents = kEventNames.size();

using Count = std::atomic<std::uint64_t>;
static_assert(Count::is_always_lock_free);

// Where a split receiveq lies, for the checker to look at when its driver is dead.
struct RingPlace {
    std::uint64_t avail = 0;  // GPA; 0: none, or a packed ring
    std::uint64_t used = 0;
    std::uint32_t size = 0;
};

// Written by the guest's process; by the checker only while there is none.
struct GuestReport {
    std::array<Count, kEvents> events{};
    Count sessions{0};   // started
    Count rx_frames{0};  // complete and right
    Count rx_bytes{0};
    Count rx_lost{0};  // numbers of the wire's that were skipped
    Count tx_frames{0};
    Count tx_done{0};  // taken back
    std::atomic<std::uint32_t> next_seq{0};
    std::atomic<bool> serving{false};  // rings are up
    RingPlace receiveq;

    // The first violation of a process; the count says whether there is one.
    std::atomic<std::uint32_t> violations{0};
    std::array<char, 480> violation{};

    void add_violation(const std::string& text) {
        if (violations.load() == 0) {
            const std::size_t length = text.copy(violation.data(), violation.size() - 1);
            violation[length] = '\0';
        }
        ++violations;
    }
    void count(Event event) { ++events[static_cast<std::size_t>(event)]; }
};

// A generation is one daemon process. Written by the checker.
struct DaemonState {
    std::atomic<std::uint32_t> generation{0};  // started
    std::atomic<std::uint32_t> killed{0};      // SIGKILL or SIGTERM is about to be sent
    std::atomic<std::uint32_t> buried{0};      // it is no more
    std::atomic<pid_t> pid{0};
};

struct Shared {
    DaemonState daemon;
    std::array<GuestReport, kMostVms> guests;
};

// One Shared in a mapping that children inherit.
class SharedMemory {
  public:
    SharedMemory();
    ~SharedMemory();
    SharedMemory(const SharedMemory&) = delete;
    SharedMemory& operator=(const SharedMemory&) = delete;
    Shared& operator*() const { return *shared_; }
    Shared* operator->() const { return shared_; }

  private:
    Shared* shared_;
};

// Whether a process has the file behind one of these regions mapped or open. One that is gone has
// not.
bool holds_any(pid_t pid, const std::vector<test::MemoryRegion>& regions);

}  // namespace zecorx::soak
