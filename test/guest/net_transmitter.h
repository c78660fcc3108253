// The driver side of a transmitq: sends frames in any descriptor layout and checks that the
// device only read them.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "queue_driver.h"
#include "zecorx/virtio.h"

namespace zecorx::test {

// How one frame is cut into descriptors.
struct TxLayout {
    bool header_apart = false;  // the header has a descriptor of its own
    std::uint32_t max_piece = std::numeric_limits<std::uint32_t>::max();  // bytes of frame in one
    DescForm form = DescForm::kDirect;
    std::uint32_t gap = 0;  // bytes of other memory between one descriptor's and the next one's
    // Cuts the header, too, which then lies apart: bytes of it in one descriptor.
    std::uint32_t header_piece = std::numeric_limits<std::uint32_t>::max();
};

// Thread rule of QueueDriver.
class NetTransmitter {
  public:
    NetTransmitter(FakeMemory& memory, std::uint16_t queue_size, std::uint64_t features,
                   std::uint16_t first_index = 0);

    QueueDriver& queue() { return *queue_; }
    const QueueDriver& queue() const { return *queue_; }

    // Puts a frame on the ring, unpublished; false when the ring is full. The frame may be as long
    // as segmentation offload makes it: 64 KiB and more.
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
        std::vector<std::byte> sent;  // header, frame and gaps as the driver wrote them
    };

    Slot* take_slot(std::size_t bytes);
    bool post(Slot* slot, std::span<const Piece> pieces, DescForm form);
    std::vector<std::uint32_t> cut(std::size_t frame_len, const TxLayout& layout) const;

    FakeMemory& memory_;
    const std::uint32_t header_size_;
    std::unique_ptr<QueueDriver> queue_;
    std::deque<Slot> slots_;  // never shrinks: others point into it
    std::vector<Slot*> idle_;
    std::vector<Slot*> posted_;  // by head
    ViolationLog violations_;
};

}  // namespace zecorx::test
