// Offload requests: what reaches the NIC, what is done in software, what is refused.

#include "zecorx/transmit_offload.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <random>

#include "transmit_bed.h"

namespace zecorx::test {
namespace {

using Offload = TransmitRequest::Offload;

constexpr std::array<std::uint16_t, 1> kTrunk{7};

std::vector<PacketSpec> all_kinds(std::size_t payload = 100) {
    std::vector<PacketSpec> specs;
    for (const bool ipv6 : {false, true}) {
        for (const bool tcp : {false, true}) {
            for (const std::size_t extra : {0, 8, 40}) {
                for (const std::optional<std::uint16_t> vlan :
                     {std::optional<std::uint16_t>{}, std::optional<std::uint16_t>{7}}) {
                    specs.push_back({.vlan = vlan,
                                     .ipv6 = ipv6,
                                     .tcp = tcp,
                                     .ip_extra = extra,
                                     .tcp_extra = extra,
                                     .payload = payload});
                }
            }
        }
    }
    return specs;
}

void check_lengths(const TransmitRequest& request, const Packet& packet) {
    CHECK(request.ipv6 == packet.ipv6);
    CHECK(request.link_length == packet.network);
    CHECK(request.network_length == packet.transport - packet.network);
}

// The checksum field as VIRTIO 5.1.6.2 wants it, by other code than the path's.
Frame with_checksum(Frame frame, std::size_t start, std::size_t field) {
    const std::uint16_t sum = internet_checksum(std::span(frame).subspan(start));
    const std::uint16_t stored = sum == 0 ? 0xffff : sum;
    // In the byte order of the words it sums, which begin at `start`.
    frame.at(field) = static_cast<std::byte>(stored >> 8);
    frame.at(field + 1) = static_cast<std::byte>(stored & 0xff);
    return frame;
}

}  // namespace

TEST_CASE("TCP and UDP checksums are left to the NIC, with the lengths of the headers") {
    TransmitBed bed({.vlan = VlanPolicy::trunk(kTrunk)});
    for (const PacketSpec& spec : all_kinds(GENERATE(0, 1, 100, 1400))) {
        const Packet packet = make_packet(spec);
        const auto sent = bed.pass(packet.frame, packet.checksum_header());
        if (packet.frame.size() > (spec.vlan ? 1518u : 1514u)) {
            CHECK_FALSE(sent.has_value());
            continue;
        }
        REQUIRE(sent.has_value());
        CHECK(sent->request.offload == (spec.tcp ? Offload::kTcpChecksum : Offload::kUdpChecksum));
        check_lengths(sent->request, packet);
        CHECK(sent->request.segment_size == 0);
        const auto received = parse_packet(insert_checksum(*sent));
        REQUIRE(received.has_value());
        CHECK(received->payload.size() == spec.payload);
    }
}

TEST_CASE("segmentation is left to the NIC, with the pseudo header it needs") {
    TransmitBed bed({.vlan = VlanPolicy::trunk(kTrunk)});
    for (const PacketSpec& spec : all_kinds(30000)) {
        if (!spec.tcp) continue;
        const Packet packet = make_packet(spec);
        const auto sent = bed.pass(packet.frame, packet.segment_header(1360));
        REQUIRE(sent.has_value());
        CHECK(sent->request.offload == Offload::kTcpSegmentation);
        check_lengths(sent->request, packet);
        CHECK(sent->request.transport_length == packet.payload - packet.transport);
        CHECK(sent->request.segment_size == 1360);
        // The driver's sum less the length of the whole segment, in ones' complement.
        const auto field = [&](const Frame& frame) {
            return load_be16(frame, packet.transport + 16u);
        };
        const std::size_t tcp_bytes = packet.frame.size() - packet.transport;
        const std::uint64_t with_length = field(sent->frame) + tcp_bytes;
        CHECK(with_length % 0xffff == field(packet.frame) % 0xffff);
        if (!spec.ipv6) CHECK(load_be16(sent->frame, packet.network + 10u) == 0);
        Frame expected = packet.frame;
        const std::size_t ip_sum = packet.network + 10u;
        if (!spec.ipv6) expected[ip_sum] = expected[ip_sum + 1] = std::byte{0};
        std::copy_n(sent->frame.begin() + packet.transport + 16, 2,
                    expected.begin() + packet.transport + 16);
        CHECK(sent->frame == expected);
    }
}

TEST_CASE("a short frame to segment is not padded, which would lengthen its payload") {
    TransmitBed bed;
    const Packet packet = make_packet({.payload = 1});
    REQUIRE(packet.frame.size() < 60);
    const auto sent = bed.pass(packet.frame, packet.segment_header(1400));
    REQUIRE(sent.has_value());
    CHECK(sent->frame.size() == packet.frame.size());
    CHECK(bed.pass(packet.frame, packet.checksum_header()).value().frame.size() == 60);
}

TEST_CASE("the longest frame to segment fills every room, one more byte is refused") {
    TransmitBed bed({.vlan = VlanPolicy::trunk(kTrunk)}, FakeMemory(32_MiB));
    Packet packet = make_packet({.vlan = 7, .ipv6 = true, .payload = 65535 - 20});
    REQUIRE(packet.frame.size() == kMaxSegmentable);
    const auto sent = bed.pass(packet.frame, packet.segment_header(1400),
                               {.header_apart = true, .max_piece = 4096});
    REQUIRE(sent.has_value());
    CHECK(std::equal(packet.frame.begin() + packet.payload, packet.frame.end(),
                     sent->frame.begin() + packet.payload, sent->frame.end()));
    packet.frame.push_back({});
    CHECK(bed.fate(packet.frame, packet.segment_header(1400)) == DropReason::kTxLength);
    // Without segmentation a frame of that length has no business here.
    CHECK(bed.fate(packet.frame, packet.checksum_header()) == DropReason::kTxLength);
}

TEST_CASE("a request is granted only where its feature was negotiated") {
    const Packet four = make_packet({.payload = 3000});
    const Packet six = make_packet({.ipv6 = true, .payload = 3000});
    const Packet small = make_packet({});
    const std::uint64_t csum = GENERATE(0, kFeatureNetCsum);
    const std::uint64_t tso4 = GENERATE(0, kFeatureNetHostTso4);
    const std::uint64_t tso6 = GENERATE(0, kFeatureNetHostTso6);
    TransmitBed bed({.features = kFeatureVersion1 | csum | tso4 | tso6});
    const auto granted = [&](const Frame& frame, const NetHeader& header) {
        const auto reason = bed.fate(frame, header);
        if (reason) CHECK(reason == DropReason::kTxHeader);
        return !reason;
    };
    CHECK(granted(small.frame, {}));
    CHECK(granted(small.frame, small.checksum_header()) == (csum != 0));
    CHECK(granted(four.frame, four.segment_header(1000)) == (csum && tso4));
    CHECK(granted(six.frame, six.segment_header(1000)) == (csum && tso6));
}

TEST_CASE("every value of the header's bytes is judged as the specification says") {
    TransmitBed bed;
    const Packet packet = make_packet({.payload = 3000});
    const NetHeader good = packet.segment_header(1400);
    REQUIRE(bed.fate(packet.frame, good) == std::nullopt);
    for (unsigned value = 0; value < 256; ++value) {
        CAPTURE(value);
        NetHeader header = good;
        header.flags = static_cast<std::uint8_t>(value);
        // Unknown flags are ignored (VIRTIO 5.1.6.2.2), the needed one is not.
        CHECK(bed.fate(packet.frame, header).has_value() == ((value & kNetHeaderNeedsCsum) == 0));
        header = good;
        header.gso_type = static_cast<std::uint8_t>(value);
        const auto fate = bed.fate(packet.frame, header);
        if (value == kNetHeaderGsoTcp4) {
            CHECK(fate == std::nullopt);
        } else {
            // As an ordinary frame it is too long.
            CHECK(fate ==
                  (value == kNetHeaderGsoNone ? DropReason::kTxLength : DropReason::kTxHeader));
        }
    }
}

TEST_CASE("every gso_size makes segments that fit the port, or none") {
    TransmitBed bed;
    const Packet packet = make_packet({.tcp_extra = 12, .payload = 1000});
    NetHeader header = packet.segment_header(0);
    for (unsigned size = 0; size <= 0xffff; ++size) {
        header.gso_size = static_cast<std::uint16_t>(size);
        const auto fate = bed.fate(packet.frame, header);
        const auto expected = size == 0                ? std::optional(DropReason::kTxHeader)
                              : size + 20 + 32 <= 1500 ? std::nullopt
                                                       : std::optional(DropReason::kTxLength);
        if (fate != expected) FAIL("gso_size " << size);
    }
}

TEST_CASE("hdr_len is a hint that nothing is done with") {
    TransmitBed bed;
    const Packet packet = make_packet({.payload = 3000});
    NetHeader header = packet.segment_header(1000);
    for (unsigned length = 0; length <= 0xffff; length += 97) {
        header.hdr_len = static_cast<std::uint16_t>(length);
        const auto sent = bed.pass(packet.frame, header);
        REQUIRE(sent.has_value());
        CHECK(sent->request.transport_length == 20);
    }
}

TEST_CASE("every csum_start is done by the NIC, here, or refused") {
    TransmitBed bed;
    const Packet packet = make_packet({.payload = 41});
    const std::size_t size = packet.frame.size();
    for (unsigned start = 0; start <= 0xffff; ++start) {
        NetHeader header = packet.checksum_header();
        header.csum_start = static_cast<std::uint16_t>(start);
        const auto sent = bed.pass(packet.frame, header);
        const auto reason = bed.reason();
        const bool inside = start >= 14 && start + 16 + 2 <= size;
        if (sent.has_value() != inside) FAIL("csum_start " << start);
        if (!sent) {
            if (reason != DropReason::kTxHeader) FAIL("csum_start " << start);
        } else if (start == packet.transport) {
            CHECK(sent->request.offload == Offload::kTcpChecksum);
        } else if (sent->request.offload != Offload::kNone ||
                   sent->frame != with_checksum(packet.frame, start, start + 16)) {
            FAIL("csum_start " << start);
        }
    }
}

TEST_CASE("every csum_offset is done by the NIC, here, or refused") {
    TransmitBed bed;
    const Packet packet = make_packet({.payload = 41});
    for (unsigned offset = 0; offset <= 0xffff; ++offset) {
        NetHeader header = packet.checksum_header();
        header.csum_offset = static_cast<std::uint16_t>(offset);
        const std::size_t field = std::size_t{packet.transport} + offset;
        const auto sent = bed.pass(packet.frame, header);
        if (sent.has_value() != (field + 2 <= packet.frame.size())) FAIL("csum_offset " << offset);
        if (!sent) continue;
        if (offset == 16) {
            CHECK(sent->request.offload == Offload::kTcpChecksum);
        } else if (sent->frame != with_checksum(packet.frame, packet.transport, field)) {
            FAIL("csum_offset " << offset);
        }
    }
}

TEST_CASE("a segmentation's checksum must be the TCP header's") {
    TransmitBed bed;
    const Packet packet = make_packet({.payload = 3000});
    for (const std::uint16_t delta : {1, 2, 20, 65535, 65534, 30000}) {
        NetHeader header = packet.segment_header(1000);
        header.csum_start = static_cast<std::uint16_t>(header.csum_start + delta);
        CHECK(bed.fate(packet.frame, header) == DropReason::kTxHeader);
        header = packet.segment_header(1000);
        header.csum_offset = static_cast<std::uint16_t>(header.csum_offset + delta);
        CHECK(bed.fate(packet.frame, header) == DropReason::kTxHeader);
    }
}

TEST_CASE("software checksums are right at any place of any frame, over any number of rooms") {
    TransmitBed bed({.mtu = 9000});
    std::mt19937 random(1);
    const auto below = [&](std::size_t n) { return random() % n; };
    for (int i = 0; i < 3000; ++i) {
        Frame frame = make_frame({.seq = static_cast<std::uint32_t>(i), .size = 60 + below(8900)});
        const std::size_t start = 14 + below(frame.size() - 16);
        const std::size_t field = start + below(frame.size() - 1 - start);
        const auto sent = bed.pass(frame, checksum_at(start, field - start));
        REQUIRE(sent.has_value());
        if (sent->frame != with_checksum(frame, start, field)) {
            FAIL("start " << start << " field " << field << " of " << frame.size());
        }
    }
}

TEST_CASE("a checksum that comes out as 0 is stored in its other representation") {
    TransmitBed bed;
    Frame frame = make_frame({.size = 60});
    std::fill(frame.begin() + 30, frame.end(), std::byte{0});
    frame[30] = frame[31] = std::byte{0xff};
    const auto sent = bed.pass(frame, checksum_at(30, 6));
    REQUIRE(sent.has_value());
    CHECK(load_be16(sent->frame, 36) == 0xffff);
}

TEST_CASE("a frame cut short anywhere is never segmented, and its checksum is done here") {
    TransmitBed bed({.vlan = VlanPolicy::trunk(kTrunk)});
    for (const PacketSpec& spec : all_kinds(4)) {
        const Packet packet = make_packet(spec);
        for (std::size_t size = packet.network; size < packet.frame.size(); ++size) {
            const Frame frame(packet.frame.begin(),
                              packet.frame.begin() + static_cast<std::ptrdiff_t>(size));
            CAPTURE(size, packet.network, packet.transport, packet.payload);
            if (spec.tcp) {
                const auto fate = bed.fate(frame, packet.segment_header(1));
                CHECK(fate == (size > packet.payload ? std::nullopt
                                                     : std::optional(DropReason::kTxHeader)));
            }
            const auto sent = bed.pass(frame, packet.checksum_header());
            const std::size_t field = packet.transport + (spec.tcp ? 16u : 6u);
            CHECK(sent.has_value() == (field + 2 <= size));
            const std::size_t needed = packet.transport + (spec.tcp ? 20u : 8u);
            if (sent) CHECK((sent->request.offload != Offload::kNone) == (size >= needed));
        }
    }
}

TEST_CASE("what the NIC cannot take apart is refused for segmentation") {
    TransmitBed bed;
    const auto fate = [&](const Packet& packet) {
        return bed.fate(packet.frame, packet.segment_header(1000));
    };
    Packet four = make_packet({.payload = 3000});
    Packet six = make_packet({.ipv6 = true, .ip_extra = 8, .payload = 3000});
    REQUIRE(fate(four) == std::nullopt);
    REQUIRE(fate(six) == std::nullopt);
    const auto set = [](Packet& packet, std::size_t at, unsigned value) {
        packet.frame[packet.network + at] = static_cast<std::byte>(value);
    };
    SECTION("a wrong version") {
        set(four, 0, 0x65);
        set(six, 0, 0x40);
    }
    SECTION("a header length below the least") {
        set(four, 0, 0x44);
        set(six, 48 + 12, 0x40);  // of the TCP header
    }
    SECTION("a header length beyond the TCP header named") {
        set(four, 0, 0x4f);
        set(six, 41, 1);
    }
    SECTION("another protocol") {
        set(four, 9, 17);
        set(six, 40, 17);
    }
    SECTION("a fragment") {
        set(four, 6, 0x20);
        set(six, 6, 44);
    }
    SECTION("a later fragment, and a routing header whose way is not done") {
        set(four, 7, 1);
        set(six, 6, 43);
        set(six, 43, 1);
    }
    SECTION("the other version's gso_type") {
        four.ipv6 = true;
        six.ipv6 = false;
    }
    SECTION("another ethertype") {
        set(four, std::size_t(-2), 0x86);
        set(six, std::size_t(-1), 0);
    }
    CHECK(fate(four) == DropReason::kTxHeader);
    CHECK(fate(six) == DropReason::kTxHeader);
}

TEST_CASE("extension headers without end are followed to a bound") {
    TransmitBed bed({.mtu = 9000});
    const Packet inner = make_packet({.ipv6 = true, .payload = 500});
    for (std::size_t count = 0; count < 200; ++count) {
        Frame frame = inner.frame;
        Frame extensions(8 * count);
        for (std::size_t i = 0; i < count; ++i) {
            extensions[8 * i] = i + 1 == count ? std::byte{6} : std::byte{60};
        }
        if (count > 0) frame[14 + 6] = std::byte{60};
        frame.insert(frame.begin() + 14 + 40, extensions.begin(), extensions.end());
        NetHeader header = inner.segment_header(100);
        header.csum_start = static_cast<std::uint16_t>(54 + 8 * count);
        CAPTURE(count);
        CHECK(bed.fate(frame, header).has_value() == (count > 8));
    }
}

TEST_CASE("an IPv6 header longer than the NIC can be told is not given to it") {
    TransmitBed bed;
    for (std::size_t extra = 8; extra <= 900; extra += 8) {
        const Packet packet = make_packet({.ipv6 = true, .ip_extra = extra, .payload = 200});
        const auto sent = bed.pass(packet.frame, packet.checksum_header());
        REQUIRE(sent.has_value());
        const bool by_nic = sent->request.offload != Offload::kNone;
        CHECK(by_nic == (40 + extra <= 511));
        CHECK(parse_packet(insert_checksum(*sent)).has_value());
        CHECK(bed.fate(packet.frame, packet.segment_header(100)).has_value() != by_nic);
    }
}

TEST_CASE("random headers on damaged packets give requests that lie inside the frame") {
    const std::uint32_t mtu = GENERATE(1500, 9000);
    TransmitBed bed({.mtu = mtu, .vlan = VlanPolicy::trunk(kTrunk)}, FakeMemory(32_MiB));
    std::mt19937 random(mtu);
    const auto below = [&](std::size_t n) { return random() % n; };
    const auto kinds = all_kinds();
    unsigned granted = 0;
    for (int i = 0; i < 20'000; ++i) {
        PacketSpec spec = kinds[below(kinds.size())];
        spec.payload = below(8) == 0 ? below(65000) : below(1600);
        Packet packet = make_packet(spec);
        for (std::size_t damage = below(4); damage > 0; --damage) {
            packet.frame[12 + below(70) % (packet.frame.size() - 12)] =
                static_cast<std::byte>(random());
        }
        if (below(4) == 0) packet.frame.resize(below(packet.frame.size()));
        NetHeader header = below(2) == 0
                               ? packet.checksum_header()
                               : packet.segment_header(static_cast<std::uint16_t>(below(1600)));
        auto* raw = reinterpret_cast<std::uint8_t*>(&header);
        for (std::size_t damage = below(3); damage > 0; --damage) {
            raw[below(10)] = static_cast<std::uint8_t>(random());
        }
        const auto sent = bed.pass(packet.frame, header);
        if (!sent) continue;
        const auto& [request, frame] = *sent;
        const std::size_t ip = request.link_length;
        const std::size_t l4 = ip + request.network_length;
        bool sound = (frame.size() >= 60 || request.offload == Offload::kTcpSegmentation) &&
                     frame.size() <= kMaxSegmentable;
        switch (request.offload) {
            case Offload::kNone:
                sound = sound && frame.size() <= mtu + ip;
                break;
            case Offload::kTcpChecksum:
            case Offload::kUdpChecksum:
                sound = sound && frame.size() <= mtu + ip && request.network_length >= 20 &&
                        l4 + (request.offload == Offload::kTcpChecksum ? 20 : 8) <= frame.size();
                break;
            case Offload::kTcpSegmentation:
                sound = sound && request.segment_size > 0 && request.transport_length >= 20 &&
                        request.transport_length <= 60 && request.network_length <= 511 &&
                        l4 + request.transport_length < frame.size() &&
                        l4 - ip + request.transport_length + request.segment_size <= mtu;
                break;
        }
        granted += request.offload != Offload::kNone;
        if (!sound) FAIL("iteration " << i);
    }
    CHECK(granted > 1000);
    CHECK_FALSE(bed.path.broken());
    CHECK(bed.driver.violations().empty());
}

TEST_CASE("a sum over pieces is the sum over the whole, however it is cut") {
    std::mt19937 random(7);
    std::vector<std::byte> bytes(3001);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    const std::uint16_t expected = static_cast<std::uint16_t>(~internet_checksum(bytes));
    for (int i = 0; i < 1000; ++i) {
        InternetSum sum;
        for (std::span<const std::byte> rest(bytes); !rest.empty();) {
            const std::size_t n = std::min<std::size_t>(rest.size(), 1 + random() % 700);
            sum.add(rest.first(n));
            rest = rest.subspan(n);
        }
        CHECK(__builtin_bswap16(sum.value()) == expected);
    }
}

}  // namespace zecorx::test
