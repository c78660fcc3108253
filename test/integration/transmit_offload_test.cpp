// Checksums, segmentation and VLAN tags that guests leave to the NIC.

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <string>

#include "guest/ip_packets.h"
#include "test_host.h"

namespace zecorx::test {
namespace {

constexpr std::uint64_t kOffloads = kFeatureNetCsum | kFeatureNetHostTso4 | kFeatureNetHostTso6;
constexpr Negotiation kWithOffloads{.features = kOffloads | kFeatureVersion1 | kFeatureNetMrgRxbuf |
                                                kFeatureVhostUserProtocol};

constexpr std::uint16_t kVlan = 100;
enum VmIndex : std::size_t { kPlain, kPlainPeer, kAccess, kTrunk, kAccessPeer, kVms };

// A VM and what its frames look like on the wire.
struct Sender {
    std::size_t vm = kPlain;
    std::optional<std::uint16_t> own_tag{};   // by the guest
    std::optional<std::uint16_t> wire_tag{};  // when they leave
};
const std::vector<Sender> kSenders{
    {kPlain}, {kAccess, std::nullopt, kVlan}, {kTrunk, kVlan, kVlan}, {kTrunk}};

PacketSpec random_kind(std::uint32_t seed, const Sender& sender) {
    return {.src = TestHost::mac(sender.vm),
            .vlan = sender.own_tag,
            .ipv6 = (seed & 1) != 0,
            .tcp = (seed & 2) != 0,
            .ip_extra = (seed & 4) != 0 ? 16u : 0u,
            .tcp_extra = (seed & 8) != 0 ? 12u : 0u,
            .seed = seed};
}

void send(TestHost& host, FakeGuest& guest, const Packet& packet, const NetHeader& header,
          const TxLayout& layout = {}) {
    REQUIRE(host.eventually([&] {
        guest.net.reap_transmitted();
        return guest.net.tx().send(packet.frame, layout, header);
    }));
}

// What the port sends until `count` frames are there.
std::vector<Frame> sent_frames(TestHost& host, std::size_t count) {
    std::vector<Frame> frames;
    host.eventually([&] {
        for (Frame& frame : host.sent()) frames.push_back(std::move(frame));
        return frames.size() >= count;
    });
    return frames;
}

constexpr std::uint8_t kFin = 0x01, kPsh = 0x08, kAck = 0x10;

// The frames are the packet cut into segments (datasheet 7.2.4): what differs between them is
// their place in the stream.
void check_segments(const std::vector<Frame>& frames, const PacketSpec& spec, std::size_t mss,
                    std::optional<std::uint16_t> tag) {
    const std::size_t count = (spec.payload + mss - 1) / mss;
    REQUIRE(frames.size() == count);
    const Packet whole = make_packet(spec);
    const std::vector<std::byte> stream(whole.frame.begin() + whole.payload, whole.frame.end());
    std::vector<std::byte> together;
    for (std::size_t i = 0; i < count; ++i) {
        CAPTURE(i, count);
        const auto segment = parse_packet(frames[i]);
        REQUIRE(segment.has_value());
        CHECK(segment->vlan == tag);
        CHECK(segment->tcp_seq == spec.tcp_seq + static_cast<std::uint32_t>(together.size()));
        if (!spec.ipv6) CHECK(segment->ip_id == static_cast<std::uint16_t>(spec.ip_id + i));
        const bool last = i + 1 == count;
        CHECK(segment->tcp_flags == (kAck | (last ? kFin | kPsh : 0)));
        if (!last) CHECK(segment->payload.size() == mss);
        together.insert(together.end(), segment->payload.begin(), segment->payload.end());
    }
    CHECK(together == stream);
}

void finish(TestHost& host, FakeGuest& guest, std::size_t vm) {
    CHECK(host.eventually([&] {
        guest.net.reap_transmitted();
        return guest.net.tx().queue().outstanding() == 0;
    }));
    CHECK(guest.net.violations().empty());
    CHECK(host.nic().counters().tx_malformed == 0);
    guest.stop_device();
    host.require_stopped(vm);
}

}  // namespace

HostSetup host_setup() {
    HostSetup setup;
    for (std::size_t i = 0; i < kVms; ++i) {
        VmOptions vm{.name = "net_vhost" + std::to_string(i)};
        vm.macs = {TestHost::mac(i)};
        if (i == kAccess || i == kAccessPeer) vm.vlan = kVlan;
        if (i == kTrunk) vm.trunk = {kVlan, kVlan + 1};
        setup.vms.push_back(vm);
    }
    return setup;
}

TEST_CASE("the device offers checksum and TCP segmentation, and neither ECN nor UDP") {
    TestHost& host = TestHost::instance();
    Frontend frontend = Frontend::connect(host.socket(kPlain));
    const std::uint64_t offered = frontend.get_features();
    CHECK((offered & kOffloads) == kOffloads);
    CHECK((offered & (kFeatureNetHostEcn | kFeatureNetHostUfo | kFeatureNetGso)) == 0);
}

TEST_CASE("checksums are right on the wire, with any headers and any tag") {
    TestHost& host = TestHost::instance();
    for (const Sender& sender : kSenders) {
        CAPTURE(sender.vm);
        FakeMemory memory(16_MiB);
        FakeGuest guest = host.connect(sender.vm, memory, {}, kWithOffloads);
        REQUIRE((guest.frontend.features() & kOffloads) == kOffloads);
        host.sent();
        for (std::uint32_t seed = 0; seed < 64; ++seed) {
            PacketSpec spec = random_kind(seed, sender);
            spec.payload = seed < 16 ? seed % 3 : 1 + seed * 21;
            const Packet packet = make_packet(spec);
            send(host, guest, packet, packet.checksum_header(), {.header_apart = seed % 2 == 0});
            const auto frames = sent_frames(host, 1);
            REQUIRE(frames.size() == 1);
            const auto received = parse_packet(frames[0]);
            REQUIRE(received.has_value());
            CHECK(received->vlan == sender.wire_tag);
            CHECK(std::equal(packet.frame.begin() + packet.payload, packet.frame.end(),
                             received->payload.begin(), received->payload.end()));
        }
        finish(host, guest, sender.vm);
    }
}

TEST_CASE("a place for a checksum that the NIC does not know is served too") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(16_MiB);
    FakeGuest guest = host.connect(kPlain, memory, {}, kWithOffloads);
    host.sent();
    const Frame frame = make_frame({.src = host.mac(kPlain), .seq = 1, .size = 501});
    NetHeader header{};
    header.flags = kNetHeaderNeedsCsum;
    header.csum_start = 33;
    header.csum_offset = 11;
    REQUIRE(guest.net.tx().send(frame, {}, header));
    const auto frames = sent_frames(host, 1);
    REQUIRE(frames.size() == 1);
    // The sum over the finished bytes and what stood in the field before.
    const std::uint16_t sum = internet_checksum(std::span(frame).subspan(33));
    Frame expected = frame;
    expected[44] = static_cast<std::byte>(sum >> 8);
    expected[45] = static_cast<std::byte>(sum & 0xff);
    CHECK(frames[0] == expected);
    finish(host, guest, kPlain);
}

TEST_CASE("TCP frames leave as segments, with any headers, any tag and any ring") {
    TestHost& host = TestHost::instance();
    Negotiation wanted = kWithOffloads;
    wanted.features |= GENERATE(std::uint64_t{0}, std::uint64_t{kFeatureRingPacked});
    for (const Sender& sender : kSenders) {
        FakeMemory memory(32_MiB);
        FakeGuest guest = host.connect(sender.vm, memory, {}, wanted);
        host.sent();
        for (std::uint32_t seed = 0; seed < 32; ++seed) {
            PacketSpec spec = random_kind(seed | 2, sender);
            spec.tcp_flags = kFin | kPsh | kAck;
            spec.payload = std::array{1u, 1400u, 1401u, 10000u, 40000u, 65000u}[seed % 6];
            const std::uint16_t mss = seed % 5 == 0 ? 536 : 1400;
            CAPTURE(sender.vm, seed, spec.payload, mss);
            const Packet packet = make_packet(spec);
            // As a Linux guest lays it out: the header, then pages.
            send(host, guest, packet, packet.segment_header(mss),
                 {.header_apart = true, .max_piece = 4096});
            check_segments(sent_frames(host, (spec.payload + mss - 1) / mss), spec, mss,
                           sender.wire_tag);
        }
        finish(host, guest, sender.vm);
    }
}

TEST_CASE("many large frames wait for mbufs and descriptors without loss or reordering") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(64_MiB);
    FakeGuest guest = host.connect(kPlain, memory, {}, kWithOffloads);
    host.sent();
    const std::uint64_t before = dropped(host.status(kPlain));
    constexpr std::uint32_t kFrames = 200;
    constexpr std::uint16_t kMss = 1440;
    std::vector<Frame> arrived;
    std::size_t expected = 0;
    std::vector<PacketSpec> specs;
    for (std::uint32_t i = 0; i < kFrames; ++i) {
        PacketSpec spec{.src = host.mac(kPlain), .ipv6 = i % 2 == 0, .payload = 64000, .seed = i};
        spec.tcp_flags = kFin | kPsh | kAck;
        if (i % 5 == 4) spec.payload = 100;
        specs.push_back(spec);
        expected += (spec.payload + kMss - 1) / kMss;
        const Packet packet = make_packet(spec);
        // The NIC stands still until the driver's ring is full.
        if (!guest.net.tx().send(packet.frame, {}, packet.segment_header(kMss))) {
            for (Frame& frame : host.sent()) arrived.push_back(std::move(frame));
            send(host, guest, packet, packet.segment_header(kMss));
        }
    }
    for (Frame& frame : sent_frames(host, expected - arrived.size())) {
        arrived.push_back(std::move(frame));
    }
    REQUIRE(arrived.size() == expected);
    auto at = arrived.begin();
    for (const PacketSpec& spec : specs) {
        const auto count = static_cast<std::ptrdiff_t>((spec.payload + kMss - 1) / kMss);
        check_segments({at, at + count}, spec, kMss, std::nullopt);
        at += count;
    }
    CHECK(dropped(host.status(kPlain)) == before);
    finish(host, guest, kPlain);
}

TEST_CASE("offloaded frames reach a neighbour on the same port, and only on the same VLAN") {
    struct Way {
        Sender from;
        std::size_t to;
        bool reached;
        std::optional<std::uint16_t> seen_tag;
    };
    const Way way =
        GENERATE(Way{{kPlain}, kPlainPeer, true, {}}, Way{{kAccess}, kAccessPeer, true, {}},  //
                 Way{{kAccess}, kTrunk, true, kVlan}, Way{{kTrunk, kVlan}, kAccess, true, {}},
                 Way{{kTrunk}, kPlain, true, {}},  //
                 Way{{kPlain}, kAccess, false, {}}, Way{{kAccess}, kPlain, false, {}},
                 Way{{kTrunk, kVlan + 1}, kAccess, false, {}});
    CAPTURE(way.from.vm, way.to);
    TestHost& host = TestHost::instance();
    FakeMemory memory0(32_MiB), memory1(32_MiB);
    FakeGuest sender = host.connect(way.from.vm, memory0, {}, kWithOffloads);
    FakeGuest receiver = host.connect(way.to, memory1);
    receiver.net.refill();
    host.sent();
    for (std::uint32_t seed = 0; seed < 16; ++seed) {
        PacketSpec spec = random_kind(seed, way.from);
        spec.dst = host.mac(way.to);
        spec.payload = 1000;
        const Packet small = make_packet(spec);
        send(host, sender, small, small.checksum_header());
        spec.tcp = true;
        spec.payload = 20000;
        spec.tcp_flags = kFin | kPsh | kAck;
        const Packet large = make_packet(spec);
        send(host, sender, large, large.segment_header(1408));
        if (!way.reached) continue;
        std::vector<Frame> frames;
        for (const ReceivedFrame& frame : host.receive(receiver, 16)) {
            frames.push_back(frame.bytes);
        }
        REQUIRE(frames.size() == 16);
        const auto first = parse_packet(frames.front());
        REQUIRE(first.has_value());
        CHECK(first->vlan == way.seen_tag);
        check_segments({frames.begin() + 1, frames.end()}, spec, 1408, way.seen_tag);
    }
    finish(host, sender, way.from.vm);
    CHECK(receiver.net.receive().empty());
    CHECK(receiver.net.violations().empty());
    receiver.stop_device();
    host.require_stopped(way.to);
}

TEST_CASE("refused requests are counted, and what comes after them is sent") {
    TestHost& host = TestHost::instance();
    FakeMemory memory(16_MiB);
    FakeGuest guest = host.connect(kPlain, memory, {}, kWithOffloads);
    host.sent();
    const std::uint64_t headers = dropped(host.status(kPlain), DropReason::kTxHeader);
    const std::uint64_t lengths = dropped(host.status(kPlain), DropReason::kTxLength);
    const std::uint64_t vlans = dropped(host.status(kPlain), DropReason::kTxVlan);

    const Packet packet = make_packet({.src = host.mac(kPlain), .payload = 3000});
    NetHeader wild = packet.checksum_header();
    wild.csum_start = 65535;
    send(host, guest, make_packet({}), wild);
    NetHeader ecn = packet.segment_header(1000);
    ecn.gso_type |= kNetHeaderGsoEcn;
    send(host, guest, packet, ecn);
    send(host, guest, packet, packet.segment_header(1461));
    send(host, guest, packet, packet.checksum_header());
    send(host, guest, make_packet({.vlan = kVlan}), {});
    const Packet good = make_packet({.src = host.mac(kPlain)});
    send(host, guest, good, good.checksum_header());

    const auto frames = sent_frames(host, 1);
    REQUIRE(frames.size() == 1);
    CHECK(parse_packet(frames[0]).has_value());
    CHECK(dropped(host.status(kPlain), DropReason::kTxHeader) == headers + 2);
    CHECK(dropped(host.status(kPlain), DropReason::kTxLength) == lengths + 2);
    CHECK(dropped(host.status(kPlain), DropReason::kTxVlan) == vlans + 1);
    finish(host, guest, kPlain);
}

}  // namespace zecorx::test
