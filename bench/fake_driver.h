// The fake guest's rings without its checks of every byte, which would be the cache's contents when
// the device's turn comes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "guest.h"
#include "guest/frontend.h"
#include "guest/guest_memory.h"
#include "guest/queue_driver.h"

namespace zecorx::bench {

// Guest memory in huge pages, all of them there already. Throws std::runtime_error.
std::shared_ptr<test::FakeMemory> make_memory(std::size_t bytes);

class FakeDriver final : public Guest {
  public:
    // Connects, negotiates, and posts its buffers. Throws std::runtime_error.
    FakeDriver(std::shared_ptr<test::FakeMemory> memory, const std::string& socket,
               const GuestOptions& options);

    // The messages from the memory table to the enabling of the rings.
    void start();
    // Takes the rings back, and goes.
    void stop();
    // Connects and negotiates again after stop(). REQUIRES: the ring is split, as a packed one does
    // not say where it stands.
    void reconnect();

    std::uint64_t turn() override;
    bool received(std::span<const std::byte> frame) override;

  private:
    void fill(test::RxLayout layout);
    void post(std::vector<test::Piece> pieces);
    std::uint16_t buffers_of(std::uint16_t head) const;
    void append(std::vector<std::byte>& bytes, const test::UsedHead& used) const;

    const std::string socket_;
    const std::uint64_t features_;
    const std::uint32_t header_;
    std::shared_ptr<test::FakeMemory> memory_;
    test::Frontend frontend_;
    std::unique_ptr<test::QueueDriver> receiveq_;
    std::unique_ptr<test::QueueDriver> transmitq_;
    std::vector<std::vector<test::Piece>> buffers_;  // by head
};

}  // namespace zecorx::bench
