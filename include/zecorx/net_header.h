// Writing virtio-net headers in guest memory (VIRTIO 5.1.6).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "zecorx/virtio.h"

namespace zecorx {

// The header of a received frame that lies in `num_buffers` chains; 1 also without MRG_RXBUF
// (VIRTIO 5.1.6.4.1).
//
// As the two words that it is in memory: a header put together by its fields and then copied would
// wait for each of their stores to be complete.
class ReceivedHeader {
  public:
    constexpr explicit ReceivedHeader(std::uint8_t flags, std::uint16_t num_buffers = 1)
        : low_(flags | std::uint64_t{kNetHeaderGsoNone} << 8),
          high_(std::uint32_t{num_buffers} << 16) {}

    // REQUIRES: header_size bytes at `at`; header_size is kHeaderSize or kLegacyHeaderSize.
    void write(std::byte* at, std::uint32_t header_size) const {
        std::memcpy(at, &low_, sizeof low_);
        if (header_size == kHeaderSize) {
            std::memcpy(at + sizeof low_, &high_, sizeof high_);
        } else {
            std::memcpy(at + sizeof low_, &high_, kLegacyHeaderSize - sizeof low_);
        }
    }

    // At the front of a buffer that nothing was received in yet: writes kFront bytes, of which
    // those behind the header are about to be written over.
    static constexpr std::size_t kFront = 16;
    void write_front(std::byte* at) const {
        const std::uint64_t words[] = {low_, high_};
        std::memcpy(at, words, kFront);
    }

  private:
    std::uint64_t low_;   // flags, GSO type, and four fields that are 0
    std::uint32_t high_;  // csum_offset, which is 0, and num_buffers
};

static_assert(offsetof(NetHeader, flags) == 0 && offsetof(NetHeader, gso_type) == 1 &&
              offsetof(NetHeader, num_buffers) == 10 && sizeof(NetHeader) == kHeaderSize);

}  // namespace zecorx
