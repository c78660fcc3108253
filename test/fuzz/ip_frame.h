// Frames of Ethernet, IP and TCP or UDP that a driver might send, some of them damaged.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "input.h"
#include "zecorx/frame_headers.h"
#include "zecorx/virtio.h"

namespace zecorx::fuzz {

using Bytes = std::vector<std::byte>;

struct SentFrame {
    NetHeader header{};
    Bytes bytes;
};

class SentFrameWriter {
  public:
    explicit SentFrameWriter(Input& input) : input_(input) {}

    SentFrame write() {
        raw(12);
        if (input_.one_in(3))
            be16(kVlanEthertype), be16(input_.any_of<unsigned>({5, 0xf005, 6, 0}));
        ipv6_ = input_.flag();
        be16(input_.one_in(16) ? input_.word() : ipv6_ ? kIpv6Ethertype : kIpv4Ethertype);
        const bool tcp = input_.flag();
        const unsigned protocol = tcp ? kProtocolTcp : kProtocolUdp;
        ipv6_ ? ipv6(protocol) : ipv4(protocol);
        ask(out_.bytes.size(), tcp);
        const unsigned words = input_.any_of({5u, 5u, 8u, 15u, 4u});
        if (tcp) {
            raw(12), byte(words << 4), raw(7);
            raw(words > 5 ? 4 * (words - 5) : 0);
        } else {
            raw(8);
        }
        pay();
        damage();
        return std::move(out_);
    }

  private:
    void byte(unsigned value) { out_.bytes.push_back(static_cast<std::byte>(value)); }
    void be16(unsigned value) { byte(value >> 8), byte(value & 0xff); }
    void raw(std::size_t size) {
        out_.bytes.resize(out_.bytes.size() + size);
        input_.fill(std::span(out_.bytes).last(size));
    }

    void ipv4(unsigned protocol) {
        const unsigned words = input_.any_of({5u, 5u, 5u, 15u});
        byte(4u << 4 | words), byte(0), be16(0), be16(0);
        be16(input_.one_in(8) ? input_.word() : 0x4000);
        byte(64), byte(protocol), be16(0);
        raw(8 + 4 * (words - 5));
    }
    void ipv6(unsigned protocol) {
        const bool extended = input_.one_in(4);
        const unsigned extension = input_.any_of({0u, 43u, 60u, 44u});
        byte(0x60), byte(0), be16(0), be16(0), byte(extended ? extension : protocol), byte(64);
        raw(32);
        if (!extended) return;
        const unsigned units = input_.any_of({0u, 1u, 63u, 255u});
        byte(protocol), byte(units), raw(6 + 8 * std::size_t{units});
    }

    // An offload that mostly fits the frame.
    void ask(std::size_t l4, bool tcp) {
        NetHeader& header = out_.header;
        header.flags = input_.one_in(4) ? input_.byte() : kNetHeaderNeedsCsum;
        header.csum_start = static_cast<std::uint16_t>(input_.one_in(8) ? input_.word() : l4);
        header.csum_offset = static_cast<std::uint16_t>(input_.one_in(8) ? input_.word()
                                                        : tcp            ? 16
                                                                         : 6);
        if (input_.flag()) return;
        header.gso_type = ipv6_ ? kNetHeaderGsoTcp6 : kNetHeaderGsoTcp4;
        if (input_.one_in(8)) header.gso_type = input_.byte();
        header.gso_size = input_.any_of<std::uint16_t>({1440, 1460, 1, 0, 536, 1461, 65535});
        header.hdr_len = input_.byte();
    }

    // Mostly a little; now and then up to and beyond what may be segmented.
    void pay() {
        std::size_t size = input_.byte();
        if (input_.one_in(4)) size = 1500 - input_.any_of({39u, 40u, 41u, 60u});
        if (input_.one_in(16)) size = input_.flag() ? input_.word() : 70000;
        out_.bytes.resize(out_.bytes.size() + size, std::byte{0x5a});
    }
    void damage() {
        Bytes& bytes = out_.bytes;
        for (unsigned n = input_.below(3); n > 0; --n)
            bytes[input_.word() % bytes.size()] = static_cast<std::byte>(input_.byte());
        if (input_.one_in(8)) bytes.resize(1 + input_.byte());
        if (input_.one_in(8)) bytes.resize(bytes.size() - input_.word() % bytes.size());
    }

    Input& input_;
    SentFrame out_;
    bool ipv6_ = false;
};

}  // namespace zecorx::fuzz
