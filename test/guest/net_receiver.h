// The driver side of a receiveq: posts buffers, takes frames back, and checks that the device
// wrote nothing but header and frame.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "queue_driver.h"
#include "rx_layout.h"
#include "zecorx/virtio.h"

namespace zecorx::test {

struct ReceivedFrame {
    NetHeader header{};  // num_buffers is 0 when the session's header has no such field
    std::vector<std::byte> bytes;
    std::vector<std::uint16_t> heads;      // in used order
    std::vector<std::uint32_t> used_lens;  // of each, header included in the first
};

// Thread rule of QueueDriver. Invariant: every byte of a buffer the driver holds is canary,
// which is checked when the buffer is posted again, so a device that writes into a buffer it has
// already returned is noticed.
class NetReceiver {
  public:
    // Number of returned buffers that makes receive() refill: Linux lets about half a ring gather.
    static constexpr std::size_t kRefillAtOnce = 1;
    static constexpr std::size_t kRefillFrozen = std::numeric_limits<std::size_t>::max();

    NetReceiver(FakeMemory& memory, std::uint16_t queue_size, std::uint64_t features,
                std::uint16_t first_index = 0);

    QueueDriver& queue() { return *queue_; }
    const QueueDriver& queue() const { return *queue_; }

    // For buffers posted from here on; the device keeps what it has.
    void set_layout(RxLayout layout);
    void set_refill_threshold(std::size_t returned_buffers) { threshold_ = returned_buffers; }
    // Bytes past used.len that the device may have used as scratch; it may, by VIRTIO 2.7.8.2. By
    // default the rest of the buffer.
    void tolerate_scratch(std::uint32_t bytes = std::numeric_limits<std::uint32_t>::max()) {
        scratch_ = bytes;
    }
    // Benchmarks: filling and comparing canaries costs more than the device does.
    void disable_canaries() { canaries_ = false; }

    // Posts up to `limit` buffers, publishes and kicks; returns how many.
    std::size_t refill(std::size_t limit = std::numeric_limits<std::size_t>::max());
    // Every frame the device has completed, then refills according to the threshold.
    std::vector<ReceivedFrame> receive();

    // Buffers returned with used.len 0: nothing arrived in them.
    std::uint64_t empty_completions() const { return empty_completions_; }
    const ViolationLog& violations() const { return violations_; }

    // While the device must not write: fills every buffer with canaries, posted ones too, which
    // check_poison() wants to find unchanged. Else it records a violation.
    void poison();
    void check_poison(const std::string& when);

    // Changes when any byte of any buffer does, so that a test can show that a stopped device
    // writes no more.
    std::uint64_t memory_digest() const;

  private:
    struct Slot {
        RxBuffer buffer;
        std::uint64_t generation;  // of the layout that placed it
    };

    Slot* take_slot();
    bool post(Slot& slot);
    void accept(const UsedHead& used, std::vector<ReceivedFrame>& frames);
    std::vector<std::byte> take_bytes(const Slot& slot, const UsedHead& used);
    void recycle(Slot& slot);
    void start_frame(const UsedHead& used, std::vector<std::byte> bytes);
    void extend_frame(const UsedHead& used, const std::vector<std::byte>& bytes);
    std::uint16_t buffers_announced();

    void fill_canaries(const Slot& slot);
    void check_guards(const Slot& slot);
    void check_pieces(const Slot& slot, std::size_t from, const std::string& what);
    void report_damage(const std::string& what, GuestRange range);

    FakeMemory& memory_;
    const std::uint32_t header_size_;
    const bool mergeable_;
    std::unique_ptr<QueueDriver> queue_;

    RxLayout layout_ = RxLayout::linux_mergeable();
    std::uint64_t generation_ = 0;
    std::size_t placed_ = 0;  // buffers of this layout, its next ordinal
    std::size_t threshold_ = kRefillAtOnce;
    std::uint32_t scratch_ = 0;
    bool canaries_ = true;

    std::deque<Slot> slots_;     // never shrinks: others point into it
    std::deque<Slot*> idle_;     // of the present layout, held by the driver
    std::vector<Slot*> posted_;  // by head
    std::size_t returned_ = 0;   // buffers since the last refill

    ReceivedFrame frame_;        // being put together
    std::uint16_t missing_ = 0;  // buffers frame_ still lacks
    std::uint64_t empty_completions_ = 0;
    ViolationLog violations_;
};

}  // namespace zecorx::test
