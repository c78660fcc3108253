// What the receive and the transmit path need of a virtqueue, split or packed: acquire chains in
// avail order, complete them in the same order, publish a batch of completions in one step.
//
// A path is instantiated for each kind of ring and the kind is looked at once a burst, so the hot
// path has neither a virtual call nor a branch on it inside its loops.
#pragma once

#include <concepts>
#include <cstdint>

#include "zecorx/chain.h"
#include "zecorx/dirty_log.h"
#include "zecorx/guest_memory.h"

namespace zecorx {

// What has to be kept of an acquired chain to complete it.
struct Head {
    std::uint16_t id = 0;       // split: its first descriptor; packed: its buffer id
    std::uint16_t entries = 0;  // descriptors of the ring (not of indirect tables) it occupies
};

// The one word of a virtqueue that the driver writes when it makes the next chain available.
struct RingWatch {
    const std::uint16_t* word = nullptr;
    std::uint16_t mask = 0;
    std::uint16_t value = 0;
    bool news_if_equal = false;

    // A look without ordering.
    bool has_news() const {
        const std::uint16_t now = __atomic_load_n(word, __ATOMIC_RELAXED);
        return ((now & mask) == value) == news_if_equal;
    }
};

// Thread rule: one thread at a time; the driver is the other party. All memory ordering lives in
// the rings.
template <class Ring>
concept DeviceRing = requires(Ring ring, const Ring& unchanged, const GuestMemory& memory,
                              Chain& chain, Head& head, const GuestLog& log) {
    // Looks for what the driver has made available. False: the ring is broken.
    { ring.refresh() } -> std::same_as<bool>;
    // What to look at for whether refresh() would find more than it did last, until it is called
    // again or chains are acquired or completed.
    { unchanged.watch() } -> std::same_as<RingWatch>;
    // Chains the driver has made available and nobody acquired, as of the last refresh(); at
    // least kLookAhead of them are counted.
    { unchanged.available() } -> std::convertible_to<std::uint32_t>;
    // The next chain in avail order. REQUIRES: available() > 0.
    { ring.acquire(memory, Direction::kDeviceWritable, chain, head) } -> std::same_as<RingError>;
    // Writes the next used entry; the driver sees it after publish(). REQUIRES: the chain
    // acquired longest ago and not completed.
    ring.complete(head, std::uint32_t{});
    // One step for everything completed since the last call.
    ring.publish();
    // The same, logging what was written to the ring: the used entries before the driver sees them,
    // what shows them to it right after that is written.
    ring.publish(log);
    // Whether the driver wants to be told of what was published since this was last asked.
    { ring.call_wanted() } -> std::same_as<bool>;
    // Tells the driver not to kick: this device polls. A hint, without ordering.
    ring.suppress_kicks(log);
    // Acquired chains hold so many entries that the driver cannot post another as long as this.
    { unchanged.exhausted(head) } -> std::same_as<bool>;
    // Gives every held chain back: they are acquired again, in the same order.
    ring.rewind();
    // Where the next attachment resumes, in the form of the frontend's vring base.
    { unchanged.base() } -> std::same_as<std::uint16_t>;
};

// A refill of the NIC never asks for more chains at once.
inline constexpr std::uint32_t kLookAhead = 64;

}  // namespace zecorx
