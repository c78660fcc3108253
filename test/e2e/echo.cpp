#include "echo.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <stdexcept>

#include "guest/event_fd.h"
#include "packet_socket.h"

namespace zecorx::test {
namespace {

constexpr std::size_t kIpv4Header = 20;
constexpr std::size_t kIcmpHeader = 8;
constexpr std::size_t kIcmpType = kEthernetHeader + kIpv4Header;
constexpr std::size_t kIcmpNumber = kIcmpType + kIcmpHeader;
constexpr std::size_t kShortestFrame = 60;
constexpr std::uint8_t kIcmpEchoRequest = 8;
constexpr std::uint8_t kIcmpEchoReply = 0;
// IEEE 802 local experimental EtherType: nobody else's traffic.
constexpr std::uint16_t kExperimental = 0x88B5;

Frame parse_mac(const std::string& text) {
    std::array<unsigned, 6> parts{};
    if (std::sscanf(text.c_str(), "%x:%x:%x:%x:%x:%x", &parts[0], &parts[1], &parts[2], &parts[3],
                    &parts[4], &parts[5]) != 6) {
        throw std::invalid_argument("not a MAC address: " + text);
    }
    return Frame(parts.begin(), parts.end());
}

Frame parse_ip(const std::string& text) {
    Frame bytes(4);
    if (::inet_pton(AF_INET, text.c_str(), bytes.data()) != 1) {
        throw std::invalid_argument("not an IPv4 address: " + text);
    }
    return bytes;
}

void append(Frame& frame, const Frame& bytes) {
    frame.insert(frame.end(), bytes.begin(), bytes.end());
}

void append16(Frame& frame, std::size_t value) {
    append(frame, {static_cast<std::uint8_t>(value >> 8), static_cast<std::uint8_t>(value)});
}

void append32(Frame& frame, std::uint32_t value) {
    append16(frame, value >> 16);
    append16(frame, value & 0xFFFF);
}

std::uint32_t read32(std::span<const std::uint8_t> bytes) {
    return static_cast<std::uint32_t>(bytes[0]) << 24 | static_cast<std::uint32_t>(bytes[1]) << 16 |
           static_cast<std::uint32_t>(bytes[2]) << 8 | bytes[3];
}

// RFC 1071, over bytes `from` to the end, put at `at`.
void put_checksum(Frame& frame, std::size_t from, std::size_t end, std::size_t at) {
    std::uint32_t sum = 0;
    for (std::size_t i = from; i < end; ++i) {
        sum += (i - from) % 2 == 0 ? frame[i] << 8 : frame[i];
    }
    while (sum > 0xFFFF) sum = (sum & 0xFFFF) + (sum >> 16);
    frame[at] = static_cast<std::uint8_t>(~sum >> 8);
    frame[at + 1] = static_cast<std::uint8_t>(~sum);
}

// Every size from the shortest to the longest frame, in an order that mixes short and long.
std::size_t frame_size(std::uint32_t number, std::size_t longest) {
    return kShortestFrame + number * 377 % (longest - kShortestFrame + 1);
}

void append_pattern(Frame& frame, std::size_t size, std::uint32_t seed) {
    std::uint32_t state = seed * 2654435761U | 1;
    while (frame.size() < size) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        frame.push_back(static_cast<std::uint8_t>(state));
    }
}

bool starts_with(std::span<const std::uint8_t> frame, std::size_t at, const Frame& bytes) {
    return frame.size() >= at + bytes.size() &&
           std::equal(bytes.begin(), bytes.end(), frame.begin() + static_cast<std::ptrdiff_t>(at));
}

// The next frame that came from the wire, empty if there is none.
std::span<std::uint8_t> receive(int fd, std::span<std::uint8_t> buffer) {
    const ssize_t size = ::recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
    return buffer.first(static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
}

}  // namespace

IcmpPeer::IcmpPeer(const std::string& mac, const std::string& ip, const std::string& our_mac,
                   const std::string& our_ip, std::size_t longest)
    : mac_(parse_mac(mac)),
      ip_(parse_ip(ip)),
      our_mac_(parse_mac(our_mac)),
      our_ip_(parse_ip(our_ip)),
      longest_(longest) {}

Frame IcmpPeer::make(std::uint32_t number, std::uint8_t icmp_type) const {
    const bool request = icmp_type == kIcmpEchoRequest;
    const std::size_t size = frame_size(number, longest_);
    Frame frame;
    append(frame, request ? mac_ : our_mac_);
    append(frame, request ? our_mac_ : mac_);
    append16(frame, ETH_P_IP);
    append(frame, {0x45, 0});
    append16(frame, size - kEthernetHeader);
    append32(frame, 0x4000);       // no identification, do not fragment
    append(frame, {64, 1, 0, 0});  // time to live, ICMP, checksum
    append(frame, request ? our_ip_ : ip_);
    append(frame, request ? ip_ : our_ip_);
    put_checksum(frame, kEthernetHeader, kEthernetHeader + kIpv4Header, kEthernetHeader + 10);
    append(frame, {icmp_type, 0, 0, 0});
    append32(frame, number);  // identifier and sequence number: any
    append32(frame, number);
    append_pattern(frame, size, number ^ read32(std::span(mac_).last(4)));
    put_checksum(frame, kIcmpType, size, kIcmpType + 2);
    return frame;
}

Frame IcmpPeer::request(std::uint32_t number) const { return make(number, kIcmpEchoRequest); }

// The IP header's identification, flags and checksum are the peer's own choice.
bool IcmpPeer::is_right_reply(std::uint32_t number, std::span<const std::uint8_t> frame) const {
    constexpr std::size_t kIdentification = kEthernetHeader + 4;
    constexpr std::size_t kTimeToLive = kEthernetHeader + 8;
    constexpr std::size_t kIpChecksum = kEthernetHeader + 10;
    constexpr std::size_t kSourceIp = kEthernetHeader + 12;
    const auto equal = [&](const Frame& right, std::size_t from, std::size_t end) {
        return std::ranges::equal(frame.subspan(from, end - from),
                                  std::span(right).subspan(from, end - from));
    };
    const Frame right = make(number, kIcmpEchoReply);
    return frame.size() == right.size() && equal(right, 0, kIdentification) &&
           equal(right, kTimeToLive, kIpChecksum) && equal(right, kSourceIp, right.size());
}

bool IcmpPeer::is_reply(std::span<const std::uint8_t> frame) const {
    return frame.size() >= kShortestFrame && starts_with(frame, 0, our_mac_) &&
           starts_with(frame, 6, mac_) && starts_with(frame, kIcmpType, {kIcmpEchoReply}) &&
           starts_with(frame, kEthernetHeader + 9, {1});
}

std::uint32_t IcmpPeer::number(std::span<const std::uint8_t> frame) const {
    return read32(frame.subspan(kIcmpNumber));
}

MacSwapPeer::MacSwapPeer(const std::string& mac, const std::string& our_mac, std::size_t longest)
    : mac_(parse_mac(mac)), our_mac_(parse_mac(our_mac)), longest_(longest) {}

Frame MacSwapPeer::request(std::uint32_t number) const {
    Frame frame = reply(number);
    std::swap_ranges(frame.begin(), frame.begin() + 6, frame.begin() + 6);
    return frame;
}

Frame MacSwapPeer::reply(std::uint32_t number) const {
    Frame frame;
    append(frame, our_mac_);
    append(frame, mac_);
    append16(frame, kExperimental);
    append32(frame, number);
    append_pattern(frame, frame_size(number, longest_), number);
    return frame;
}

bool MacSwapPeer::is_right_reply(std::uint32_t number, std::span<const std::uint8_t> frame) const {
    return std::ranges::equal(frame, reply(number));
}

bool MacSwapPeer::is_reply(std::span<const std::uint8_t> frame) const {
    return frame.size() >= kShortestFrame && starts_with(frame, 0, our_mac_) &&
           starts_with(frame, 6, mac_) && starts_with(frame, 12, {0x88, 0xB5});
}

std::uint32_t MacSwapPeer::number(std::span<const std::uint8_t> frame) const {
    return read32(frame.subspan(kEthernetHeader));
}

EchoResult exchange(const NetNamespace& netns, const std::string& interface, const EchoPeer& peer,
                    unsigned count, unsigned window, std::chrono::milliseconds silence) {
    const UniqueFd fd = packet_socket(netns, interface);
    EchoResult result;
    std::vector<bool> answered(count);
    std::vector<std::uint8_t> buffer(1 << 16);
    unsigned outstanding = 0;
    auto last_reply = std::chrono::steady_clock::now();
    while (result.sent < count || outstanding > 0) {
        for (; outstanding < window && result.sent < count; ++outstanding, ++result.sent) {
            const Frame frame = peer.request(result.sent);
            if (::send(fd.get(), frame.data(), frame.size(), 0) < 0) throw_errno("send a frame");
        }
        const auto left = last_reply + silence - std::chrono::steady_clock::now();
        if (!poll_fd(fd.get(), POLLIN, std::chrono::ceil<std::chrono::milliseconds>(left))) break;
        for (auto frame = receive(fd.get(), buffer); !frame.empty();
             frame = receive(fd.get(), buffer)) {
            if (!peer.is_reply(frame)) continue;
            const std::uint32_t number = peer.number(frame);
            if (number >= result.sent || answered[number]) {
                ++result.unexpected;
                continue;
            }
            last_reply = std::chrono::steady_clock::now();
            answered[number] = true;
            --outstanding;
            ++(peer.is_right_reply(number, frame) ? result.returned : result.damaged);
        }
    }
    return result;
}

}  // namespace zecorx::test
