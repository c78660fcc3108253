#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <cstring>
#include <set>
#include <string>

#include "frames.h"
#include "test_device.h"

using namespace zecorx;
using namespace zecorx::test;

namespace {

using Violations = std::vector<std::string>;

constexpr std::uint64_t kMergeable = kFeatureVersion1 | kFeatureNetMrgRxbuf;
constexpr std::uint64_t kPacked = kMergeable | kFeatureRingPacked;

struct NetFixture {
    FakeMemory memory{FakeMemory::equal_regions(4, 16_MiB, 0)};
    NetDriver net;
    TestNetDevice device;

    explicit NetFixture(RxLayout layout = RxLayout::dpdk(), std::uint64_t features = kMergeable,
                        std::uint16_t size = 64)
        : net(memory, {.features = features,
                       .rx_size = size,
                       .tx_size = size,
                       .layout = std::move(layout)}),
          device(memory, net, features) {}

    // For tests of both kinds of ring.
    explicit NetFixture(std::uint64_t features, RxLayout layout = RxLayout::dpdk())
        : NetFixture(std::move(layout), features) {}

    void deliver(const Frame& frame) {
        REQUIRE(device.deliver(frame));
        device.rx.publish();
    }
    // In the receiveq's descriptor table.
    Gpa piece_of(std::uint16_t head, std::size_t index = 0) {
        std::uint16_t desc = head;
        for (; index > 0; --index) desc = net.receiveq().desc(desc).next;
        return net.receiveq().desc(desc).addr;
    }
};

Frame frame_of(std::uint32_t seq, std::size_t size) {
    return make_frame({.seq = seq, .size = size});
}

}  // namespace

TEST_CASE("frames sent come back through every layout, on either kind of ring") {
    const RxLayout layout = GENERATE(from_range(RxLayout::all_layouts()));
    const std::uint64_t features =
        GENERATE(as<std::uint64_t>(), 0, kFeatureVersion1, kMergeable,
                 kFeatureVersion1 | kFeatureRingPacked, kPacked, kPacked | kFeatureInOrder,
                 kMergeable | kFeatureInOrder, kPacked | kFeatureEventIdx) |
        kFeatureIndirectDesc;
    CAPTURE(layout.name(), features);
    if (!layout.suits(features)) SUCCEED("not a layout of such guests");
    if (!layout.suits(features)) return;
    NetFixture guest(features, layout);
    guest.net.refill();

    for (std::uint32_t seq = 0; seq < 200; ++seq) {
        REQUIRE(guest.net.send(frame_of(seq, 60 + seq * 1454 / 199)));
        REQUIRE(guest.device.echo() == 1);
        const auto frames = guest.net.receive();
        REQUIRE(frames.size() == 1);
        CHECK(check_frame(frames[0].bytes) == seq);
        CHECK(guest.net.reap_transmitted() == 1);
    }
    CHECK(guest.net.violations() == Violations{});
    CHECK(guest.net.order_violations() == 0);
}

TEST_CASE("layouts hold jumbo frames where the guest's MTU has them do so") {
    constexpr std::uint32_t kMtu = 9000;
    const std::uint64_t features = kFeatureVersion1 | kFeatureIndirectDesc |
                                   GENERATE(as<std::uint64_t>(), 0, kFeatureRingPacked);
    std::size_t served = 0;
    for (const RxLayout& layout : RxLayout::all_layouts(kMtu)) {
        if (!layout.suits(features) || layout.frame_room(kHeaderSize) < kMtu + 14) continue;
        CAPTURE(layout.name());
        NetFixture guest(features, layout);
        guest.net.refill();
        guest.deliver(frame_of(7, kMtu + 14));
        const auto frames = guest.net.receive();
        REQUIRE(frames.size() == 1);
        CHECK(check_frame(frames[0].bytes) == 7);
        CHECK(frames[0].used_lens == std::vector<std::uint32_t>{kMtu + 14 + 12});
        CHECK(guest.net.violations() == Violations{});
        ++served;
    }
    CHECK(served == 7);  // linux_big thrice, ipxe, netkvm twice, jumbo
}

TEST_CASE("rings of every size serve, packed ones of any number") {
    struct Case {
        std::uint64_t features;
        std::uint16_t size;
    };
    const auto [features, size] =
        GENERATE(Case{kMergeable, 16}, Case{kMergeable, 32768}, Case{kPacked, 16},
                 Case{kPacked, 24}, Case{kPacked, 1000}, Case{kPacked, 32768});
    CAPTURE(features, size);
    NetFixture guest(RxLayout::tiny(200), features, size);
    guest.net.rx().set_refill_threshold(NetReceiver::kRefillFrozen);  // no memory for 32768
    guest.net.rx().refill(1000);
    for (std::uint32_t seq = 0; seq < 100; ++seq) {
        guest.deliver(frame_of(seq, 600));
        const auto frames = guest.net.receive();
        REQUIRE(frames.size() == 1);
        CHECK(check_frame(frames[0].bytes) == seq);
        CHECK(frames[0].used_lens.size() == 4);
        CHECK(guest.net.rx().refill(4) == 4);
    }
    CHECK(guest.net.violations() == Violations{});
}

TEST_CASE("a frame over several buffers is put together") {
    NetFixture guest(GENERATE(kMergeable, kPacked), RxLayout::tiny(512));
    guest.net.refill();
    guest.deliver(frame_of(4, 1514));
    const auto frames = guest.net.receive();
    REQUIRE(frames.size() == 1);
    CHECK(check_frame(frames[0].bytes) == 4);
    CHECK(frames[0].header.num_buffers == 3);
    CHECK(frames[0].heads.size() == 3);
    CHECK(frames[0].used_lens == std::vector<std::uint32_t>{512, 512, 1514 + 12 - 1024});
    CHECK(guest.net.violations() == Violations{});
}

TEST_CASE("a frame published in two steps is a violation, but arrives") {
    NetFixture guest(GENERATE(kMergeable, kPacked), RxLayout::tiny(512));
    guest.net.refill();
    REQUIRE(guest.device.deliver(frame_of(4, 600)));
    guest.device.rx.publish(1);
    CHECK(guest.net.receive().empty());
    CHECK(guest.net.violations().size() == 1);
    guest.device.rx.publish();
    CHECK(guest.net.receive().size() == 1);
}

TEST_CASE("a write next to a piece is noticed at either end of any piece") {
    NetFixture guest(RxLayout::linux_old());
    guest.net.refill();
    const std::uint32_t lens[] = {12, 1518};
    const std::size_t piece = GENERATE(as<std::size_t>(), 0, 1);
    const bool before = GENERATE(false, true);
    const Gpa start = guest.piece_of(0, piece);
    *guest.memory.at(before ? start - 1 : start + lens[piece], 1) ^= std::byte{0xFF};
    guest.deliver(frame_of(1, 100));
    CHECK(guest.net.receive().size() == 1);
    CHECK(guest.net.violations().size() == 1);
}

TEST_CASE("a write past used.len is noticed wherever it is in the buffer") {
    NetFixture guest(RxLayout::dpdk());
    guest.net.refill();
    const std::size_t at = GENERATE(as<std::size_t>(), 0, 1, 900, 2060 - 113);
    guest.deliver(frame_of(1, 100));
    *guest.memory.at(guest.piece_of(0) + 112 + at, 1) ^= std::byte{1};
    CHECK(guest.net.receive().size() == 1);
    CHECK(guest.net.violations().size() == 1);
}

TEST_CASE("scratch use past used.len is accepted as far as a test allows") {
    NetFixture guest(RxLayout::dpdk());
    guest.net.rx().tolerate_scratch(12);
    guest.net.refill();
    guest.deliver(frame_of(1, 100));
    const std::size_t at = GENERATE(as<std::size_t>(), 11, 12);
    *guest.memory.at(guest.piece_of(0) + 112 + at, 1) ^= std::byte{1};
    guest.net.receive();
    CHECK(guest.net.violations().size() == (at < 12 ? 0U : 1U));
}

TEST_CASE("scratch use of the whole buffer is accepted, but nothing next to it") {
    NetFixture guest(RxLayout::dpdk());
    guest.net.rx().tolerate_scratch();
    guest.net.refill();
    guest.deliver(frame_of(1, 100));
    const std::size_t at = GENERATE(as<std::size_t>(), 112, 2059, 2060);
    *guest.memory.at(guest.piece_of(0) + at, 1) ^= std::byte{1};
    guest.net.receive();
    CHECK(guest.net.violations().size() == (at < 2060 ? 0U : 1U));
}

TEST_CASE("an overrun into the adjacent buffer of an EDK2 guest is noticed") {
    NetFixture guest(RxLayout::edk2());
    guest.net.refill();
    guest.deliver(frame_of(1, 1514));
    CHECK(guest.piece_of(0, 1) + 1514 == guest.piece_of(2, 0));
    *guest.memory.at(guest.piece_of(2, 1), 1) ^= std::byte{1};
    guest.net.receive();
    CHECK(guest.net.violations() == Violations{});
    guest.device.rx.complete(2, 0);
    guest.device.rx.publish();
    guest.net.receive();
    CHECK(guest.net.violations().size() == 1);
}

TEST_CASE("a write into a buffer the device has returned is noticed when it is posted again") {
    NetFixture guest(RxLayout::dpdk());
    guest.net.rx().set_refill_threshold(NetReceiver::kRefillFrozen);
    guest.net.refill();
    guest.deliver(frame_of(1, 100));
    guest.net.receive();
    *guest.memory.at(guest.piece_of(0) + 20, 1) ^= std::byte{1};
    CHECK(guest.net.violations() == Violations{});
    guest.net.refill();
    CHECK(guest.net.violations().size() == 1);
}

TEST_CASE("a write into or next to poisoned buffers is noticed") {
    const std::uint32_t offset = GENERATE(0U, 11U, 12U, 2059U, 2060U);
    NetFixture guest(RxLayout::single(2048));
    guest.net.refill();
    guest.net.rx().poison();
    guest.net.rx().check_poison("untouched");
    CHECK(guest.net.violations() == Violations{});
    *guest.memory.at(guest.piece_of(7) + offset, 1) ^= std::byte{1};
    guest.net.rx().check_poison("touched");
    CHECK(guest.net.violations().size() == 1);
}

TEST_CASE("a wrong used.len is a violation") {
    NetFixture guest(GENERATE(kMergeable, kPacked));
    guest.net.refill();
    const auto chain = guest.device.rx.acquire();
    guest.device.rx.complete(chain->head, GENERATE(11U, 2061U, 0xffff'ffffU));
    guest.device.rx.publish();
    guest.net.receive();
    CHECK_FALSE(guest.net.violations().empty());
}

TEST_CASE("used.len 0 returns a buffer without a frame") {
    NetFixture guest(GENERATE(kMergeable, kPacked));
    guest.net.refill();
    guest.device.rx.complete(guest.device.rx.acquire()->head, 0);
    guest.device.rx.publish();
    CHECK(guest.net.receive().empty());
    CHECK(guest.net.rx().empty_completions() == 1);
    CHECK(guest.net.violations() == Violations{});
}

TEST_CASE("the refill threshold decides when buffers go back") {
    NetFixture guest(RxLayout::dpdk(), GENERATE(kMergeable, kPacked), 8);
    QueueDriver& receiveq = guest.net.rx().queue();
    guest.net.rx().set_refill_threshold(3);
    CHECK(guest.net.refill() == 8);
    for (std::size_t returned = 1; returned <= 3; ++returned) {
        guest.deliver(frame_of(1, 60));
        guest.net.receive();
        CHECK(receiveq.outstanding() == (returned < 3 ? 8 - returned : 8));
    }

    guest.net.rx().set_refill_threshold(NetReceiver::kRefillFrozen);
    for (int i = 0; i < 8; ++i) guest.deliver(frame_of(1, 60));
    guest.net.receive();
    CHECK(receiveq.outstanding() == 0);
    CHECK(guest.net.rx().refill(2) == 2);
}

TEST_CASE("a changed layout holds for buffers posted from then on") {
    NetFixture guest(RxLayout::dpdk(), kMergeable, 8);
    guest.net.refill();
    guest.net.rx().set_layout(RxLayout::single(1514));
    for (int i = 0; i < 8; ++i) guest.deliver(frame_of(1, 60));
    CHECK(guest.net.receive().size() == 8);
    CHECK(guest.device.rx.acquire()->pieces[0].len == 1526);
    CHECK(guest.net.violations() == Violations{});
}

TEST_CASE("the memory digest shows a write to any buffer") {
    NetFixture guest(RxLayout::dpdk());
    guest.net.refill();
    const std::uint64_t before = guest.net.rx().memory_digest();
    CHECK(guest.net.rx().memory_digest() == before);
    *guest.memory.at(guest.piece_of(5) + 1000, 1) ^= std::byte{1};
    CHECK(guest.net.rx().memory_digest() != before);
}

TEST_CASE("layouts have the shape their guests post") {
    FakeMemory memory(FakeMemory::equal_regions(2, 16_MiB, 0));
    const auto place = [&](RxLayout&& layout, std::size_t ordinal = 0) {
        return layout.place(memory, kHeaderSize, ordinal);
    };
    CHECK(place(RxLayout::linux_mergeable(), 19).capacity() == 1536);
    CHECK(place(RxLayout::linux_mergeable(), 20).capacity() == 2048);
    CHECK(place(RxLayout::linux_small()).capacity() == 1530);
    CHECK((place(RxLayout::dpdk()).pieces[0].gpa + kHeaderSize) % 64 == 0);
    CHECK(place(RxLayout::page()).pieces[0].gpa % 4096 == 0);
    CHECK(place(RxLayout::odd_address()).pieces[0].gpa % 2 == 1);
    CHECK(place(RxLayout::linux_big()).pieces.size() == 19);
    CHECK(place(RxLayout::linux_big()).form == DescForm::kIndirect);
    CHECK(place(RxLayout::split_header(5)).pieces.size() == 4);
    CHECK(place(RxLayout::straddled_header(6)).pieces[1].len == 6 + 1518);
    CHECK(place(RxLayout::linux_xdp()).pieces[0].gpa % 4096 == 256);
    CHECK(place(RxLayout::linux_xdp()).capacity() == 3520);
    CHECK(place(RxLayout::linux_big(DescForm::kDirect)).form == DescForm::kDirect);
    CHECK(place(RxLayout::linux_big_mtu(9000)).pieces.size() == 5);
    CHECK(place(RxLayout::linux_big_mtu(9000)).pieces[1].len == 4064);
    CHECK(place(RxLayout::netkvm()).pieces.size() == 18);
    CHECK(place(RxLayout::netkvm(true)).pieces.size() == 17);
    CHECK(place(RxLayout::jumbo()).pieces[0].len == 12 + 9234);
    CHECK(RxLayout::ipxe(9000).frame_room(kHeaderSize) == 9018);
    CHECK(RxLayout::edk2().frame_room(kLegacyHeaderSize) == 1514);

    RxLayout ipxe = RxLayout::ipxe();
    const Gpa shared_header = ipxe.place(memory, kHeaderSize, 0).pieces[0].gpa;
    CHECK(ipxe.place(memory, kHeaderSize, 1).pieces[0].gpa == shared_header);

    const Piece crossing = place(RxLayout::page_crossing()).pieces[0];
    CHECK(crossing.gpa / 4096 != (crossing.gpa + crossing.len - 1) / 4096);

    const Piece across = place(RxLayout::region_crossing()).pieces[0];
    CHECK_THROWS_AS(memory.at(across.gpa, across.len), std::out_of_range);
    const Piece after = place(RxLayout::region_crossing()).pieces[0];
    CHECK_NOTHROW(memory.at(after.gpa, after.len));
}

TEST_CASE("the layouts have names of their own") {
    std::set<std::string> names;
    for (const std::uint32_t mtu : {1500, 9000}) {
        names.clear();
        const auto layouts = RxLayout::all_layouts(mtu);
        for (const RxLayout& layout : layouts) names.insert(layout.name());
        CHECK(names.size() == layouts.size());
    }
}

TEST_CASE("a layout suits the sessions its guests negotiate") {
    CHECK(RxLayout::dpdk().suits(0));
    CHECK(RxLayout::dpdk().suits(kMergeable));
    CHECK_FALSE(RxLayout::tiny().suits(kFeatureVersion1));
    CHECK(RxLayout::tiny().suits(kMergeable));
    CHECK_FALSE(RxLayout::edk2().suits(kMergeable));
    CHECK(RxLayout::edk2().suits(0));
    CHECK_FALSE(RxLayout::linux_big().suits(kFeatureVersion1));
    CHECK(RxLayout::linux_big().suits(kFeatureVersion1 | kFeatureIndirectDesc));
    CHECK(RxLayout::linux_big(DescForm::kDirect).suits(kFeatureVersion1));
}

TEST_CASE("a sent frame is cut as asked and reads back whole") {
    NetFixture guest(GENERATE(kMergeable, kPacked));
    const Frame frame = frame_of(8, 300);
    const DescForm form = GENERATE(DescForm::kDirect, DescForm::kIndirect);
    const std::uint32_t gap = GENERATE(0U, 1U, 64U);
    struct Case {
        bool header_apart;
        std::uint32_t max_piece;
        std::uint32_t header_piece;
        std::size_t pieces;
    };
    for (const Case& c :
         {Case{false, 1000, 12, 1}, Case{true, 1000, 12, 2}, Case{false, 100, 12, 3},
          Case{true, 100, 12, 4}, Case{true, 100, 5, 6}, Case{false, 300, 1, 13}}) {
        REQUIRE(guest.net.send(frame, {c.header_apart, c.max_piece, form, gap, c.header_piece}));
        const auto chain = guest.device.tx.acquire();
        REQUIRE(chain);
        REQUIRE(chain->pieces.size() == c.pieces);
        for (std::size_t i = 1; i < c.pieces; ++i) {
            const Piece& before = chain->pieces[i - 1];
            CHECK(chain->pieces[i].gpa == before.gpa + before.len + gap);
        }
        const auto bytes = guest.device.tx.gather(*chain);
        CHECK(check_frame(std::span(bytes).subspan(kHeaderSize)) == 8);
    }
}

TEST_CASE("a frame of 64 KiB is sent with the header it was given") {
    const std::uint64_t features = GENERATE(kMergeable, kPacked);
    const DescForm form = GENERATE(DescForm::kDirect, DescForm::kIndirect);
    NetFixture guest(features);
    const NetHeader header{.flags = kNetHeaderNeedsCsum,
                           .gso_type = 1,
                           .hdr_len = 54,
                           .gso_size = 1448,
                           .csum_start = 34,
                           .csum_offset = 16,
                           .num_buffers = 0};
    const Frame frame = frame_of(3, 65535 + 14);
    for (int i = 0; i < 10; ++i) {
        REQUIRE(guest.net.tx().send(frame, {.max_piece = 4096, .form = form, .gap = 64}, header));
        const auto chain = guest.device.tx.acquire();
        REQUIRE(chain);
        CHECK(chain->pieces.size() == 17);
        const auto bytes = guest.device.tx.gather(*chain);
        CHECK(std::memcmp(bytes.data(), &header, sizeof(header)) == 0);
        CHECK(check_frame(std::span(bytes).subspan(kHeaderSize)) == 3);
        guest.device.tx.complete(chain->head, 0);
        guest.device.tx.publish();
        CHECK(guest.net.reap_transmitted() == 1);
    }
    CHECK(guest.net.violations() == Violations{});
}

TEST_CASE("a full transmitq refuses frames until some are reaped") {
    NetFixture guest(RxLayout::dpdk(), kMergeable, 4);
    guest.net.refill();
    for (std::uint32_t i = 0; i < 4; ++i) CHECK(guest.net.send(frame_of(i, 60)));
    CHECK_FALSE(guest.net.send(frame_of(4, 60)));
    guest.device.echo();
    CHECK(guest.net.reap_transmitted() == 4);
    CHECK(guest.net.send(frame_of(4, 9000)));
}

TEST_CASE("a device that writes into a transmit buffer, or between its pieces, is noticed") {
    NetFixture guest(GENERATE(kMergeable, kPacked));
    guest.net.send(frame_of(1, 60), {.header_apart = true, .gap = 8});
    const auto chain = guest.device.tx.acquire();
    const Gpa at = GENERATE(as<Gpa>(), 0, 11, 12, 19, 20, 79, 80);
    *guest.memory.at(chain->pieces[0].gpa + at, 1) ^= std::byte{1};
    guest.device.tx.complete(chain->head, 0);
    guest.device.tx.publish();
    guest.net.reap_transmitted();
    CHECK(guest.net.violations().size() == 1);
}
