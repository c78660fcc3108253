#include "rss.h"

#include <array>
#include <cstring>

namespace zecorx::soft82599 {
namespace {

// RSS types of the receive descriptor (table 7-15).
constexpr std::uint32_t kTypeTcpIpv4 = 1;
constexpr std::uint32_t kTypeIpv4 = 2;
constexpr std::uint32_t kTypeTcpIpv6 = 3;
constexpr std::uint32_t kTypeIpv6 = 5;
constexpr std::uint32_t kTypeUdpIpv4 = 7;
constexpr std::uint32_t kTypeUdpIpv6 = 8;

constexpr std::size_t kKeyBytes = 40;
constexpr std::size_t kMaxInput = 36;  // two IPv6 addresses and two ports

bool rss_mode(std::uint32_t mrqc) {
    const std::uint32_t mode = mrqc & bits::kMrqcModeMask;
    return mode == bits::kMrqcRss || mode == bits::kMrqcVmdq32Rss || mode == bits::kMrqcVmdq64Rss;
}

std::array<std::byte, kKeyBytes> load_key(const RegisterFile& registers) {
    std::array<std::byte, kKeyBytes> key;
    for (unsigned i = 0; i < kKeyBytes; ++i) {
        key[i] = static_cast<std::byte>(registers.get(reg::kRssrk + i / 4 * 4) >> (8 * (i % 4)));
    }
    return key;
}

std::uint32_t toeplitz(const std::array<std::byte, kKeyBytes>& key, FrameView input) {
    std::uint32_t window = load_be32(key, 0);
    std::uint32_t hash = 0;
    for (std::size_t i = 0; i < input.size(); ++i) {
        const auto next_key = std::to_integer<std::uint32_t>(key[i + 4]);
        const auto value = std::to_integer<std::uint32_t>(input[i]);
        for (int bit = 7; bit >= 0; --bit) {
            if ((value >> bit & 1) != 0) hash ^= window;
            window = window << 1 | (next_key >> bit & 1);
        }
    }
    return hash;
}

// The RSS type, preferring the hash that includes ports; 0 = none enabled for this frame.
std::uint32_t select_type(std::uint32_t mrqc, const FrameLayout& layout) {
    const auto enabled = [mrqc](std::uint32_t bit) { return (mrqc & bit) != 0; };
    if (layout.l3 == L3::kIpv4) {
        if (layout.l4 == L4::kTcp && enabled(bits::kMrqcTcpIpv4)) return kTypeTcpIpv4;
        if (layout.l4 == L4::kUdp && enabled(bits::kMrqcUdpIpv4)) return kTypeUdpIpv4;
        return enabled(bits::kMrqcIpv4) ? kTypeIpv4 : 0;
    }
    if (layout.l3 == L3::kIpv6) {
        if (layout.l4 == L4::kTcp && enabled(bits::kMrqcTcpIpv6)) return kTypeTcpIpv6;
        if (layout.l4 == L4::kUdp && enabled(bits::kMrqcUdpIpv6)) return kTypeUdpIpv6;
        return enabled(bits::kMrqcIpv6) ? kTypeIpv6 : 0;
    }
    return 0;
}

}  // namespace

RssResult rss_hash(const RegisterFile& registers, FrameView frame, const FrameLayout& layout) {
    const std::uint32_t mrqc = registers.get(reg::kMrqc);
    if (!rss_mode(mrqc)) return {};
    const std::uint32_t type = select_type(mrqc, layout);
    if (type == 0) return {};
    const bool v4 = layout.l3 == L3::kIpv4;
    const FrameView addresses = frame.subspan(layout.l3_offset + (v4 ? 12 : 8), v4 ? 8 : 32);
    std::array<std::byte, kMaxInput> input;
    std::memcpy(input.data(), addresses.data(), addresses.size());
    std::size_t length = addresses.size();
    if (type != kTypeIpv4 && type != kTypeIpv6) {
        std::memcpy(input.data() + length, frame.data() + layout.l4_offset, 4);
        length += 4;
    }
    return {toeplitz(load_key(registers), FrameView(input).first(length)), type};
}

unsigned rss_queue(const RegisterFile& registers, std::uint32_t hash) {
    const unsigned entry = hash & 0x7F;
    return registers.get(reg::kReta + entry / 4 * 4) >> (8 * (entry % 4)) & 0xF;
}

}  // namespace zecorx::soft82599
