#include "frame_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "guest/frames.h"

namespace zecorx::soak {
namespace {

constexpr std::size_t kSource = 6;  // offset, IEEE 802.3 3.1.1
constexpr std::uint8_t kWirePrefix = 0x02;
constexpr std::uint8_t kVmPrefix = 0x52;

std::uint64_t number_of(std::span<const std::byte> address) {
    std::uint64_t number = 0;
    for (const std::byte byte : address.first(6))
        number = number << 8 | std::to_integer<unsigned>(byte);
    return number;
}

}  // namespace

MacAddress wire_address(std::uint32_t generation) {
    return {{kWirePrefix, 0, static_cast<std::uint8_t>(generation >> 24),
             static_cast<std::uint8_t>(generation >> 16),
             static_cast<std::uint8_t>(generation >> 8), static_cast<std::uint8_t>(generation)}};
}

bool is_wire(std::uint64_t address) { return address >> 40 == kWirePrefix; }

MacAddress vm_address(std::size_t vm) {
    return {{kVmPrefix, 0x54, 0, 0, 2, static_cast<std::uint8_t>(vm)}};
}

std::optional<std::string> FrameCheck::check(std::span<const std::byte> frame) {
    const auto seq = test::check_frame(frame);
    if (!seq) return fmt::format("a frame of {} bytes arrived damaged", frame.size());
    const MacAddress to = MacAddress::from_wire(frame);
    if (to != own_ && to != test::kBroadcast) {
        return fmt::format("a frame to {} arrived at {}", to.to_string(), own_.to_string());
    }
    const std::uint64_t from = number_of(frame.subspan(kSource));
    const auto [last, is_new] = last_.try_emplace(from, *seq);
    if (is_new) return std::nullopt;
    const std::uint32_t before = std::exchange(last->second, *seq);
    if (*seq <= before) {
        return fmt::format("frame {} of {} arrived after its frame {}", *seq,
                           MacAddress::from_wire(frame.subspan(kSource)).to_string(), before);
    }
    if (is_wire(from)) lost_ += *seq - before - 1;
    return std::nullopt;
}

void FrameCheck::forget_vms() {
    std::erase_if(last_, [](const auto& entry) { return !is_wire(entry.first); });
}

}  // namespace zecorx::soak
