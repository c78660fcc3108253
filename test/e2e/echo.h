#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "net_namespace.h"

namespace zecorx::test {

using Frame = std::vector<std::uint8_t>;

inline constexpr std::size_t kEthernetHeader = 14;
// Without CRC and VLAN tag.
constexpr std::size_t longest_frame(std::size_t mtu) { return kEthernetHeader + mtu; }
inline constexpr std::size_t kLongestStandardFrame = longest_frame(1500);

// Something beyond the wire that answers every frame with one that can be predicted.
class EchoPeer {
  public:
    virtual ~EchoPeer() = default;
    // The request with this number; its size is part of the pattern.
    virtual Frame request(std::uint32_t number) const = 0;
    // True if `frame` is, byte for byte, what must come back for it.
    virtual bool is_right_reply(std::uint32_t number,
                                std::span<const std::uint8_t> frame) const = 0;
    // True for frames that are replies to this peer's requests and not others' traffic.
    virtual bool is_reply(std::span<const std::uint8_t> frame) const = 0;
    // The number in a frame for which is_reply() is true.
    virtual std::uint32_t number(std::span<const std::uint8_t> frame) const = 0;
};

// A host that answers ICMP echo requests. Payload and sizes depend on the guest's MAC too, so that
// a frame of one guest cannot pass for another's.
class IcmpPeer : public EchoPeer {
  public:
    IcmpPeer(const std::string& mac, const std::string& ip, const std::string& our_mac,
             const std::string& our_ip, std::size_t longest = kLongestStandardFrame);
    Frame request(std::uint32_t number) const override;
    bool is_right_reply(std::uint32_t number, std::span<const std::uint8_t> frame) const override;
    bool is_reply(std::span<const std::uint8_t> frame) const override;
    std::uint32_t number(std::span<const std::uint8_t> frame) const override;

  private:
    Frame make(std::uint32_t number, std::uint8_t icmp_type) const;

    Frame mac_, ip_, our_mac_, our_ip_;
    std::size_t longest_;
};

// A forwarder that sends each frame back with its MAC addresses swapped.
class MacSwapPeer : public EchoPeer {
  public:
    MacSwapPeer(const std::string& mac, const std::string& our_mac,
                std::size_t longest = kLongestStandardFrame);
    Frame request(std::uint32_t number) const override;
    bool is_right_reply(std::uint32_t number, std::span<const std::uint8_t> frame) const override;
    bool is_reply(std::span<const std::uint8_t> frame) const override;
    std::uint32_t number(std::span<const std::uint8_t> frame) const override;

  private:
    Frame reply(std::uint32_t number) const;

    Frame mac_, our_mac_;
    std::size_t longest_;
};

struct EchoResult {
    unsigned sent = 0;
    unsigned returned = 0;    // exactly as predicted
    unsigned damaged = 0;     // with other bytes
    unsigned unexpected = 0;  // a second time, or never asked for
};

// Sends `count` requests on the interface with at most `window` unanswered, and collects the
// replies. Gives up when no reply comes for `silence`.
EchoResult exchange(const NetNamespace& netns, const std::string& interface, const EchoPeer& peer,
                    unsigned count, unsigned window = 32,
                    std::chrono::milliseconds silence = std::chrono::seconds(10));

}  // namespace zecorx::test
