// An Ethernet MAC address as a value.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace zecorx {

struct MacAddress {
    std::array<std::uint8_t, 6> bytes{};

    // Six bytes in wire order. REQUIRES: wire.size() >= 6.
    static MacAddress from_wire(std::span<const std::byte> wire) {
        MacAddress mac;
        std::memcpy(mac.bytes.data(), wire.data(), mac.bytes.size());
        return mac;
    }

    // "52:54:00:12:34:56", case-insensitive; nothing else is accepted.
    static std::optional<MacAddress> parse(std::string_view text) {
        MacAddress mac;
        if (text.size() != 17) return std::nullopt;
        for (std::size_t i = 0; i < 6; ++i) {
            const int high = hex_digit(text[3 * i]);
            const int low = hex_digit(text[3 * i + 1]);
            if (high < 0 || low < 0 || (i < 5 && text[3 * i + 2] != ':')) return std::nullopt;
            mac.bytes[i] = static_cast<std::uint8_t>(high << 4 | low);
        }
        return mac;
    }

    std::string to_string() const {
        static constexpr char kHex[] = "0123456789abcdef";
        std::string text;
        for (const std::uint8_t byte : bytes) {
            if (!text.empty()) text += ':';
            text += kHex[byte >> 4];
            text += kHex[byte & 15];
        }
        return text;
    }

    bool is_multicast() const { return (bytes[0] & 1) != 0; }  // broadcast included
    bool is_zero() const { return *this == MacAddress{}; }
    // An address one station can own: the only kind that may steer frames.
    bool is_station() const { return !is_multicast() && !is_zero(); }

    friend bool operator==(const MacAddress&, const MacAddress&) = default;

  private:
    static constexpr int hex_digit(char c) {
        if (c >= '0' && c <= '9') return c - '0';
        if (c >= 'a' && c <= 'f') return c - 'a' + 10;
        if (c >= 'A' && c <= 'F') return c - 'A' + 10;
        return -1;
    }
};

}  // namespace zecorx
