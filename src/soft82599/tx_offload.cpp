#include "tx_offload.h"

#include <algorithm>
#include <utility>

#include "checksum.h"

namespace zecorx::soft82599 {
namespace {

using L4Type = TxContext::L4Type;

constexpr std::size_t kIpv4Header = 20;
constexpr std::size_t kIpv6Header = 40;
constexpr std::size_t kTcpHeader = 20;

std::size_t l4_header_size(L4Type type) {
    switch (type) {
        case L4Type::kTcp:
            return kTcpHeader;
        case L4Type::kUdp:
            return 8;
        case L4Type::kSctp:
            return 12;
        case L4Type::kReserved:
            break;
    }
    return 0;
}

std::size_t l4_offset(const TxContext& context) {
    return std::size_t{context.mac_length} + context.ip_length;
}

bool ip_fits(const Frame& frame, const TxContext& context) {
    return context.ip_length >= (context.ipv4 ? kIpv4Header : kIpv6Header) &&
           context.mac_length >= kEthernetHeader && l4_offset(context) <= frame.size();
}

bool l4_fits(const Frame& frame, const TxContext& context) {
    return context.mac_length >= kEthernetHeader && context.l4 != L4Type::kReserved &&
           l4_offset(context) + l4_header_size(context.l4) <= frame.size();
}

void insert_ip_checksum(Frame& frame, const TxContext& context) {
    const std::size_t field = std::size_t{context.mac_length} + 10;
    store_be16(frame, field, 0);
    const FrameView header = FrameView(frame).subspan(context.mac_length, context.ip_length);
    store_be16(frame, field, static_cast<std::uint16_t>(~fold(sum_bytes(header))));
}

// The driver has put the sum of the pseudo header into the checksum field, so summing the whole
// segment with the field in place is the complete sum. `missing` is what it could not include.
void insert_tcp_udp_checksum(Frame& frame, const TxContext& context, PartialSum missing) {
    const std::size_t offset = l4_offset(context);
    const std::size_t field = offset + (context.l4 == L4Type::kTcp ? 16 : 6);
    auto checksum =
        static_cast<std::uint16_t>(~fold(sum_bytes(FrameView(frame).subspan(offset)) + missing));
    // In UDP 0 means "no checksum"; its other representation is sent instead (RFC 768).
    if (context.l4 == L4Type::kUdp && checksum == 0) checksum = 0xFFFF;
    store_be16(frame, field, checksum);
}

void insert_l4_checksum(Frame& frame, const TxContext& context) {
    if (context.l4 != L4Type::kSctp) {
        insert_tcp_udp_checksum(frame, context, 0);
        return;
    }
    const std::size_t offset = l4_offset(context);
    const std::uint32_t crc = sctp_crc(FrameView(frame).subspan(offset));
    store_be32(frame, offset + 8, __builtin_bswap32(crc));
}

// One TCP segmentation (section 7.2.4): every segment gets a copy of the headers, adjusted.
class Segmenter {
  public:
    Segmenter(const TxPacket& packet, const TxSettings& settings)
        : packet_(packet),
          settings_(settings),
          context_(packet.context),
          header_length_(l4_offset(context_) + context_.l4_length) {}

    bool valid() const {
        return context_.segment_size != 0 && context_.l4 == L4Type::kTcp &&
               context_.l4_length >= kTcpHeader && ip_fits(packet_.bytes, context_) &&
               header_length_ < packet_.bytes.size();
    }

    // REQUIRES: valid().
    std::vector<Frame> segments() const {
        std::vector<Frame> frames;
        const std::size_t payload = packet_.bytes.size() - header_length_;
        for (std::size_t done = 0; done < payload; done += context_.segment_size) {
            const std::size_t length = std::min<std::size_t>(context_.segment_size, payload - done);
            frames.push_back(segment(done, length, done + length == payload));
        }
        return frames;
    }

  private:
    Frame segment(std::size_t done, std::size_t length, bool last) const {
        const auto from = packet_.bytes.begin();
        const auto header = static_cast<std::ptrdiff_t>(header_length_);
        Frame frame(from, from + header);
        const auto payload = from + header + static_cast<std::ptrdiff_t>(done);
        frame.insert(frame.end(), payload, payload + static_cast<std::ptrdiff_t>(length));
        set_ip_header(frame, done / context_.segment_size);
        set_tcp_header(frame, done, last);
        return frame;
    }

    void set_ip_header(Frame& frame, std::size_t index) const {
        const std::size_t ip = context_.mac_length;
        const std::size_t length = frame.size() - ip;
        if (!context_.ipv4) {
            store_be16(frame, ip + 4, static_cast<std::uint16_t>(length - kIpv6Header));
            return;
        }
        store_be16(frame, ip + 2, static_cast<std::uint16_t>(length));
        store_be16(frame, ip + 4, static_cast<std::uint16_t>(load_be16(frame, ip + 4) + index));
        insert_ip_checksum(frame, context_);
    }

    void set_tcp_header(Frame& frame, std::size_t done, bool last) const {
        const std::size_t tcp = l4_offset(context_);
        store_be32(frame, tcp + 4, load_be32(frame, tcp + 4) + static_cast<std::uint32_t>(done));
        const std::uint16_t kept = flags_kept(done == 0, last);
        const std::uint16_t offset_and_flags = load_be16(frame, tcp + 12);
        store_be16(frame, tcp + 12, static_cast<std::uint16_t>(offset_and_flags & (0xF000 | kept)));
        // The pseudo header sum of a segmented packet leaves out the length.
        insert_tcp_udp_checksum(frame, context_, frame.size() - tcp);
    }

    std::uint16_t flags_kept(bool first, bool last) const {
        if (first && last) return 0xFFF;
        if (first) return settings_.first_flags;
        return last ? settings_.last_flags : settings_.middle_flags;
    }

    const TxPacket& packet_;
    const TxSettings& settings_;
    const TxContext& context_;
    std::size_t header_length_;
};

// Checksums of a packet that is one frame. False: the headers are not inside it.
bool insert_checksums(TxPacket& packet) {
    if (packet.insert_ip_checksum) {
        if (!ip_fits(packet.bytes, packet.context)) return false;
        if (packet.context.ipv4) insert_ip_checksum(packet.bytes, packet.context);
    }
    if (packet.insert_l4_checksum) {
        if (!l4_fits(packet.bytes, packet.context)) return false;
        insert_l4_checksum(packet.bytes, packet.context);
    }
    return true;
}

bool sendable(const Frame& frame) {
    return frame.size() >= kEthernetHeader && frame.size() + kCrc <= kMaxJumboFrame;
}

}  // namespace

std::vector<Frame> apply_offloads(TxPacket packet, const TxSettings& settings) {
    std::vector<Frame> frames;
    if (packet.segment) {
        const Segmenter segmenter(packet, settings);
        if (!segmenter.valid()) return {};
        frames = segmenter.segments();
    } else {
        if (!insert_checksums(packet)) return {};
        frames.push_back(std::move(packet.bytes));
    }
    for (Frame& frame : frames) {
        if (!sendable(frame)) return {};
        if (packet.vlan) frame = with_vlan_tag(frame, settings.vlan_ethertype, *packet.vlan);
        if (settings.pad && frame.size() < kMinFrame) frame.resize(kMinFrame);
    }
    return frames;
}

}  // namespace zecorx::soft82599
