#include "numbered_frames.h"

#include <algorithm>
#include <vector>

namespace zecorx::test {
namespace {

using namespace std::chrono_literals;

constexpr auto kSilence = 10s;

MacAddress destination(std::span<const MacAddress> vms, std::uint32_t seq) {
    return vms[seq % vms.size()];
}

}  // namespace

std::size_t bytes_of_numbered(std::uint32_t first, std::uint32_t count) {
    std::size_t bytes = 0;
    for (std::uint32_t seq = first; seq != first + count; ++seq) bytes += size_of_numbered(seq);
    return bytes;
}

Frame numbered_frame(std::span<const MacAddress> vms, std::uint32_t seq) {
    return make_frame(
        {.dst = destination(vms, seq), .src = kPeerMac, .seq = seq, .size = size_of_numbered(seq)});
}

bool is_numbered(const Frame& frame) {
    constexpr std::size_t kEtherType = 12;
    return frame.size() >= kMinFrame && frame[kEtherType] == std::byte{kTestEtherType >> 8} &&
           frame[kEtherType + 1] == std::byte{kTestEtherType & 0xFF};
}

std::optional<std::uint32_t> check_echo(std::span<const MacAddress> vms, const Frame& frame) {
    const auto seq = check_frame(frame);
    if (!seq) return std::nullopt;
    const Frame right = make_frame({.dst = kPeerMac,
                                    .src = destination(vms, *seq),
                                    .seq = *seq,
                                    .size = size_of_numbered(*seq)});
    return frame == right ? seq : std::nullopt;
}

EchoResult exchange(Wire& wire, std::span<const MacAddress> vms, std::uint32_t first,
                    std::uint32_t count, std::uint32_t window) {
    EchoResult result;
    std::vector<bool> answered(count);
    while (result.answers() < count) {
        for (; result.sent < std::min(count, result.answers() + window); ++result.sent) {
            wire.send(numbered_frame(vms, first + result.sent));
        }
        const auto frame = wire.receive(kSilence);
        if (!frame) break;
        if (!is_numbered(*frame)) continue;
        const auto seq = check_echo(vms, *frame);
        if (!seq) {
            ++result.damaged;
        } else if (*seq - first >= result.sent || answered[*seq - first]) {
            ++result.unexpected;
        } else {
            answered[*seq - first] = true;
            ++result.returned;
        }
    }
    return result;
}

}  // namespace zecorx::test
