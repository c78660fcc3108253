// Reading and writing virtio-net headers in guest memory (VIRTIO 5.1.6).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "zecorx/virtio.h"

namespace zecorx {

// The header of a frame that no offload touched. num_buffers is 1 also without MRG_RXBUF
// (VIRTIO 5.1.6.4.1).
inline constexpr NetHeader kPlainHeader{0, kNetHeaderGsoNone, 0, 0, 0, 0, 1};

// REQUIRES: header_size bytes at `at`; header_size is kHeaderSize or kLegacyHeaderSize.
inline void write_header(std::byte* at, std::uint32_t header_size) {
    // Two constant sizes, so that each is a couple of stores instead of a call.
    if (header_size == kHeaderSize) {
        std::memcpy(at, &kPlainHeader, kHeaderSize);
    } else {
        std::memcpy(at, &kPlainHeader, kLegacyHeaderSize);
    }
}

}  // namespace zecorx
