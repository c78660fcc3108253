// The driver side of a transmitq: sends frames in any descriptor layout and checks that the
// device only read them.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <span>
#include <vector>

#include "split_queue_driver.h"
#include "zecorx/virtio.h"

namespace zecorx::test {

// How one frame is cut into descriptors.
struct TxLayout {
    bool header_apart = false;  // the header has a descriptor of its own
    std::uint32_t max_piece = std::numeric_limits<std::uint32_t>::max();  // bytes of frame in one
    DescForm form = DescForm::kDirect;
};

// Thread rule of SplitQueueDriver.
class NetTransmitter {
  public:
    NetTransmitter(FakeMemory& memory, std::uint16_t queue_size, std::uint64_t features,
                   std::uint16_t first_index = 0);

    SplitQueueDriver& queue() { return queue_; }
    const SplitQueueDriver& queue() const { return queue_; }

    // Puts a frame on the ring, unpublished; false when the ring is full.
    bool enqueue(std::span<const std::byte> frame, const TxLayout& layout = {},
                 const NetHeader& header = {});
    void flush();  // publishes and kicks
    bool send(std::span<const std::byte> frame, const TxLayout& layout = {},
              const NetHeader& header = {});

    // Takes back the buffers the device is done with; returns how many.
    std::size_t reap_transmitted();

    const ViolationLog& violations() const { return violations_; }

  private:
    struct Slot {
        Gpa gpa;
        std::size_t capacity;
        std::vector<std::byte> sent;  // header and frame as the driver wrote them
    };

    Slot* take_slot(std::size_t bytes);
    std::vector<Piece> cut(Gpa gpa, std::size_t frame_len, const TxLayout& layout) const;

    FakeMemory& memory_;
    const std::uint32_t header_size_;
    SplitQueueDriver queue_;
    std::deque<Slot> slots_;  // never shrinks: others point into it
    std::vector<Slot*> idle_;
    std::vector<Slot*> posted_;  // by head
    ViolationLog violations_;
};

}  // namespace zecorx::test
