// Everything that looks for headers in a frame from the wire or from a guest: each frame lies in
// allocations of exactly its size, and what comes out keeps to what was promised.
#include "zecorx/decapsulation.h"

#include <array>
#include <vector>

#include "input.h"
#include "zecorx/announcement.h"
#include "zecorx/frame_headers.h"

namespace zecorx::fuzz {
namespace {

using Bytes = std::vector<std::byte>;

// A frame, mostly of headers that mean something.
class FrameWriter {
  public:
    explicit FrameWriter(Input& input) : input_(input) {}

    Bytes write() {
        raw(12);
        if (input_.flag())
            be16(kVlanEthertype), be16(input_.any_of<std::uint16_t>({5, 0xf005, 6, 0}));
        switch (input_.below(8)) {
            case 0:
                raw(input_.byte());
                break;
            case 1:
                arp();
                break;
            case 2:
                be16(kIpv6Ethertype), ipv6(input_.byte());
                break;
            case 3:
                be16(kIpv4Ethertype), ipv4(input_.byte());
                break;
            default:
                vxlan();
        }
        raw(input_.byte());
        damage();
        return std::move(frame_);
    }

  private:
    void byte(unsigned value) { frame_.push_back(static_cast<std::byte>(value)); }
    void be16(unsigned value) { byte(value >> 8), byte(value & 0xff); }
    void raw(std::size_t size) {
        frame_.resize(frame_.size() + size);
        input_.fill(std::span(frame_).last(size));
    }

    void arp() {
        be16(input_.flag() ? 0x0806 : 0x8035);
        for (const unsigned value : {1, 0x0800, 0x0604}) be16(value);
        be16(input_.below(5));
        const auto source = Bytes(frame_.begin() + 6, frame_.begin() + 12);
        if (input_.flag()) frame_.insert(frame_.end(), source.begin(), source.end());
    }
    void ipv4(unsigned protocol) {
        const unsigned words = input_.any_of({5u, 5u, 6u, 15u, 4u});
        byte(4u << 4 | words), byte(0), be16(input_.word());
        be16(0), be16(input_.one_in(4) ? input_.word() : 0), byte(64), byte(protocol), be16(0);
        raw(8 + (words > 5 ? 4 * (words - 5) : 0));
    }
    void ipv6(unsigned next) {
        byte(0x60), byte(0), be16(0), be16(input_.word()), byte(next), byte(255);
        raw(32);
    }
    void vxlan() {
        const bool six = input_.one_in(4);
        be16(six ? kIpv6Ethertype : kIpv4Ethertype);
        six ? ipv6(kProtocolUdp) : ipv4(kProtocolUdp);
        be16(input_.word()), be16(input_.one_in(4) ? input_.word() : wire::kVxlanPort);
        be16(input_.one_in(2) ? input_.word() : 8 + 8 + 14 + input_.byte()), be16(0);
        byte(input_.one_in(8) ? input_.byte() : wire::kVxlanVniValid);
        raw(3), byte(0), byte(0), byte(input_.any_of({7, 7, 8})), byte(0);
    }
    void damage() {
        for (unsigned n = input_.below(3); n > 0; --n)
            frame_[input_.word() % frame_.size()] = static_cast<std::byte>(input_.byte());
        if (input_.one_in(4)) frame_.resize(1 + input_.word() % frame_.size());
    }

    Input& input_;
    Bytes frame_;
};

void check_headers(const Bytes& frame) {
    const HeaderBytes bytes(frame);
    const auto link = parse_link(bytes);
    expect(link.has_value() || frame.size() < kEthernetHeader + kVlanTag,
           "what is long enough has an Ethernet header");
    (void)announces_address(bytes);
    if (!link) return;
    expect(link->length == kEthernetHeader + (link->tci ? kVlanTag : 0) &&
               link->length <= frame.size(),
           "an Ethernet header is 14 bytes and a tag 4");
    const HeaderBytes packet = bytes.subspan(link->length);
    const auto network = parse_network(packet, link->ethertype);
    if (!network) return;
    expect(network->length <= packet.size(), "a network header lies in its frame");
    expect(network->length >= (network->ipv6 ? 40 : 20), "a network header is a whole one");
    const HeaderBytes segment = packet.subspan(network->length);
    const std::uint16_t tcp = tcp_header_length(segment);
    expect(tcp == 0 || (tcp >= kTcpHeader && tcp <= segment.size()),
           "a TCP header lies in its frame");
}

const Decapsulation& any_decapsulation(Input& input) {
    static const std::array<Decapsulation, 5> kAll{
        Decapsulation({.vlans = {5}}), Decapsulation({.vlans = {5}, .drop_unlisted = true}),
        Decapsulation({.vlans = {}, .vnis = {7, 9}}),
        Decapsulation({.vlans = {5}, .vnis = {7, 9}, .drop_unlisted = true}),
        Decapsulation({.vlans = {0, 5}, .vnis = {7}})};
    return kAll[input.below(kAll.size())];
}

// In one to four pieces, each an allocation of its own.
void check_cut(Input& input, const Bytes& frame) {
    std::vector<Bytes> pieces;
    for (std::size_t at = 0; at < frame.size();) {
        const std::size_t rest = frame.size() - at;
        const std::size_t n = pieces.size() < 3 && input.one_in(3) ? 1 + input.word() % rest : rest;
        pieces.emplace_back(frame.begin() + static_cast<std::ptrdiff_t>(at),
                            frame.begin() + static_cast<std::ptrdiff_t>(at + n));
        at += n;
    }
    std::vector<FramePiece> spans(pieces.begin(), pieces.end());
    const Cut cut = any_decapsulation(input)(spans);
    if (cut.drop) return;
    expect(cut.front < spans.front().size(), "less is cut off the front than the first piece has");
    expect(cut.back < spans.back().size(), "less is cut off the end than the last piece has");
    const std::size_t left = frame.size() - cut.front - cut.back;
    expect(frame.size() >= std::size_t{cut.front} + cut.back, "no more is cut than there is");
    expect(cut == Cut{} || cut.front == kVlanTag || left >= kEthernetHeader,
           "what was unwrapped has an Ethernet header");
    // The addresses move in front of the type when a tag goes; nothing else is written.
    Bytes after;
    for (const Bytes& piece : pieces) after.insert(after.end(), piece.begin(), piece.end());
    Bytes wanted = frame;
    if (cut.front == kVlanTag && cut.keeps_checksum)
        std::copy_n(frame.begin(), 12, wanted.begin() + kVlanTag);
    expect(after == wanted, "of a frame only the addresses move");
}

}  // namespace
}  // namespace zecorx::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace zecorx::fuzz;
    Input input(data, size);
    const Bytes frame = FrameWriter(input).write();
    check_headers(frame);
    check_cut(input, frame);
    return 0;
}
