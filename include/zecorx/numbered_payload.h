// The payload of frames that a receiver can check without knowing what was sent: a sequence number,
// the payload's own length, both big-endian, and pseudo-random bytes made from the two.
//
// The software 82599's generator sends it and the fake guest checks it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace zecorx {

inline constexpr std::size_t kNumberedHead = 8;  // bytes: sequence number and length

// xorshift32; its state must never be 0.
class NumberedStream {
  public:
    NumberedStream(std::uint32_t seq, std::uint32_t len) : state_(seq * 2654435761U ^ len) {
        if (state_ == 0) state_ = 1;
    }
    std::byte next() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 17;
        state_ ^= state_ << 5;
        return static_cast<std::byte>(state_ >> 24);
    }

  private:
    std::uint32_t state_;
};

namespace detail {

inline void store_number(std::span<std::byte> bytes, std::uint32_t value) {
    for (std::size_t i = 0; i < 4; ++i) bytes[i] = static_cast<std::byte>(value >> (24 - 8 * i));
}

inline std::uint32_t load_number(std::span<const std::byte> bytes) {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < 4; ++i)
        value = value << 8 | std::to_integer<std::uint32_t>(bytes[i]);
    return value;
}

}  // namespace detail

// Fills all of `payload`. REQUIRES: it holds at least kNumberedHead bytes.
inline void write_numbered(std::span<std::byte> payload, std::uint32_t seq) {
    const auto len = static_cast<std::uint32_t>(payload.size());
    detail::store_number(payload, seq);
    detail::store_number(payload.subspan(4), len);
    NumberedStream stream(seq, len);
    for (std::byte& byte : payload.subspan(kNumberedHead)) byte = stream.next();
}

struct Numbered {
    std::uint32_t seq;
    std::uint32_t len;
};

// Nothing if a single byte is wrong. `room` may be longer than the payload, by padding.
inline std::optional<Numbered> check_numbered(std::span<const std::byte> room) {
    if (room.size() < kNumberedHead) return std::nullopt;
    const Numbered found{detail::load_number(room), detail::load_number(room.subspan(4))};
    if (found.len < kNumberedHead || found.len > room.size()) return std::nullopt;
    NumberedStream stream(found.seq, found.len);
    for (const std::byte byte : room.subspan(kNumberedHead, found.len - kNumberedHead)) {
        if (byte != stream.next()) return std::nullopt;
    }
    return found;
}

}  // namespace zecorx
