// Reading and writing virtio-net headers in guest memory (VIRTIO 5.1.6).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "zecorx/virtio.h"

namespace zecorx {

// Writes the header of a received frame that lies in `num_buffers` chains; 1 also without
// MRG_RXBUF (VIRTIO 5.1.6.4.1). REQUIRES: header_size bytes at `at`; header_size is kHeaderSize or
// kLegacyHeaderSize.
inline void write_header(std::byte* at, std::uint32_t header_size, std::uint8_t flags,
                         std::uint16_t num_buffers = 1) {
    const NetHeader header{flags, kNetHeaderGsoNone, 0, 0, 0, 0, num_buffers};
    // Two constant sizes, so that each is a couple of stores instead of a call.
    if (header_size == kHeaderSize) {
        std::memcpy(at, &header, kHeaderSize);
    } else {
        std::memcpy(at, &header, kLegacyHeaderSize);
    }
}

}  // namespace zecorx
