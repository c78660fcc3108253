// What every message must look like before anybody acts on it: the part of the checks that needs no
// more than the message and what was negotiated.
#pragma once

#include <cstdint>
#include <string>

#include "message.h"

namespace zecorx::vhost_user {

// What the frontend has acknowledged so far.
struct Negotiated {
    std::uint64_t features = 0;
    std::uint64_t protocol_features = 0;
};

// The request's name in the spec, or its number.
std::string name_of(std::uint32_t request);

// Checks version, length, number of descriptors, that the request was offered, vring numbers and
// the values that are wrong in any state. Throws Refusal.
void check_message(const Message& message, const Negotiated& negotiated);

}  // namespace zecorx::vhost_user
