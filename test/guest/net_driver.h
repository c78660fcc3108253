// A guest's virtio-net driver: one receiveq and one transmitq in guest memory.
//
// It needs no backend: unit tests of ring code take the rings' addresses from receiveq() and
// transmitq() and play the device on the same FakeMemory.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "net_receiver.h"
#include "net_transmitter.h"
#include "packed_queue_driver.h"
#include "split_queue_driver.h"

namespace zecorx::test {

struct NetDriverOptions {
    // As negotiated: RING_PACKED decides the kind of both rings, IN_ORDER and EVENT_IDX their use.
    std::uint64_t features = kFeatureVersion1 | kFeatureNetMrgRxbuf;
    std::uint16_t rx_size = 256;  // a power of two, unless the ring is packed
    std::uint16_t tx_size = 256;
    std::uint16_t first_index = 0;  // as the drivers of the rings take it
    RxLayout layout = RxLayout::linux_mergeable();
};

// Thread rule of QueueDriver.
class NetDriver {
  public:
    explicit NetDriver(FakeMemory& memory, NetDriverOptions options = {});

    // The queues of either kind are rx().queue() and tx().queue(). For what only one kind has,
    // these name the kind, and throw std::bad_cast if it is the other.
    SplitQueueDriver& receiveq() { return dynamic_cast<SplitQueueDriver&>(rx_.queue()); }
    SplitQueueDriver& transmitq() { return dynamic_cast<SplitQueueDriver&>(tx_.queue()); }
    PackedQueueDriver& packed_receiveq() { return dynamic_cast<PackedQueueDriver&>(rx_.queue()); }
    PackedQueueDriver& packed_transmitq() { return dynamic_cast<PackedQueueDriver&>(tx_.queue()); }
    NetReceiver& rx() { return rx_; }
    NetTransmitter& tx() { return tx_; }

    std::size_t refill() { return rx_.refill(); }
    std::vector<ReceivedFrame> receive() { return rx_.receive(); }
    bool send(std::span<const std::byte> frame, const TxLayout& layout = {}) {
        return tx_.send(frame, layout);
    }
    std::size_t reap_transmitted() { return tx_.reap_transmitted(); }

    // Polls until `count` frames are there or the timeout passes; reaps transmitted buffers too.
    std::vector<ReceivedFrame> receive_until(std::size_t count, std::chrono::milliseconds timeout);

    // All that either queue saw go wrong, after an audit of both: empty after a good run.
    std::vector<std::string> violations();
    // Of both queues.
    std::uint64_t order_violations() const {
        return rx_.queue().order_violations() + tx_.queue().order_violations();
    }

  private:
    NetReceiver rx_;
    NetTransmitter tx_;
};

}  // namespace zecorx::test
