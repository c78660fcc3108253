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

namespace zecorx::test {

struct NetDriverOptions {
    std::uint64_t features = kFeatureVersion1 | kFeatureNetMrgRxbuf;  // as negotiated
    std::uint16_t rx_size = 256;
    std::uint16_t tx_size = 256;
    std::uint16_t first_index = 0;  // where the indices of both queues start
    RxLayout layout = RxLayout::linux_mergeable();
};

// Thread rule of SplitQueueDriver.
class NetDriver {
  public:
    explicit NetDriver(FakeMemory& memory, NetDriverOptions options = {});

    SplitQueueDriver& receiveq() { return rx_.queue(); }
    SplitQueueDriver& transmitq() { return tx_.queue(); }
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

    // All that either queue saw go wrong: empty after a good run.
    std::vector<std::string> violations() const;

  private:
    NetReceiver rx_;
    NetTransmitter tx_;
};

}  // namespace zecorx::test
