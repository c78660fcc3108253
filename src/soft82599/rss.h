// Receive side scaling (section 7.1.2.8): the Toeplitz hash and the queue it selects.
#pragma once

#include <cstdint>

#include "frame.h"
#include "register_file.h"

namespace zecorx::soft82599 {

struct RssResult {
    std::uint32_t hash = 0;
    std::uint32_t type = 0;  // RSS type of the receive descriptor; 0 = no hash
};

// No hash unless MRQC selects an RSS mode and enables the frame's protocol.
RssResult rss_hash(const RegisterFile& registers, FrameView frame, const FrameLayout& layout);

// The redirection table's entry for this hash.
unsigned rss_queue(const RegisterFile& registers, std::uint32_t hash);

}  // namespace zecorx::soft82599
