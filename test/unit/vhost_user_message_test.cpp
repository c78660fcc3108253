#include <sys/uio.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <optional>
#include <vector>

#include "support/open_descriptors.h"
#include "vhost_user/message_rules.h"
#include "vhost_user_bed.h"
#include "zecorx/virtio.h"

namespace zecorx::test {
namespace {

using Result = vu::MessageReader::Result;

std::vector<std::byte> wire(const vu::Header& header, std::span<const std::byte> payload = {}) {
    std::vector<std::byte> bytes(sizeof header + payload.size());
    std::ranges::copy(bytes_of(header), bytes.begin());
    std::ranges::copy(payload, bytes.begin() + sizeof header);
    return bytes;
}

vu::Header header(vu::Request request, std::uint32_t size) {
    return {static_cast<std::uint32_t>(request), vu::kVersion, size};
}

// With `fd_count` descriptors, all of the same file, on the first byte.
void send(const UniqueFd& socket, std::span<const std::byte> bytes, std::size_t fd_count = 0) {
    const UniqueFd file = make_eventfd();
    const std::vector<int> fds(fd_count, file.get());
    std::vector<std::byte> control(CMSG_SPACE(fd_count * sizeof(int)));
    iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr out{};
    out.msg_iov = &piece;
    out.msg_iovlen = 1;
    if (fd_count > 0) {
        out.msg_control = control.data();
        out.msg_controllen = control.size();
        cmsghdr* const part = CMSG_FIRSTHDR(&out);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        std::memcpy(CMSG_DATA(part), fds.data(), fd_count * sizeof(int));
    }
    REQUIRE(::sendmsg(socket.get(), &out, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()));
}

// What a request is in the specification: its payload, its descriptors and its protocol feature.
struct Shape {
    vu::Request request;
    std::uint32_t size;
    std::vector<std::size_t> fds;
    std::uint64_t protocol_feature = 0;
};

const std::vector<Shape>& shapes() {
    using enum vu::Request;
    static const std::vector<Shape> all{
        {kGetFeatures, 0, {0}},
        {kSetFeatures, 8, {0}},
        {kSetOwner, 0, {0}},
        {kResetOwner, 0, {0}},
        {kSetMemTable, 8 + 2 * 32, {2}},
        {kSetLogBase, 16, {1}, vu::kProtocolLogShmfd},
        {kSetLogFd, 0, {0, 1}},
        {kSetVringNum, 8, {0}},
        {kSetVringAddr, 40, {0}},
        {kSetVringBase, 8, {0}},
        {kGetVringBase, 8, {0}},
        {kSetVringKick, 8, {1}},
        {kSetVringCall, 8, {1}},
        {kSetVringErr, 8, {1}},
        {kGetProtocolFeatures, 0, {0}},
        {kSetProtocolFeatures, 8, {0}},
        {kSetVringEnable, 8, {0}},
        {kSendRarp, 8, {0}, vu::kProtocolRarp},
        {kNetSetMtu, 8, {0}, vu::kProtocolMtu},
        {kGetMaxMemSlots, 0, {0}, vu::kProtocolConfigureMemSlots},
        {kAddMemReg, 40, {1}, vu::kProtocolConfigureMemSlots},
        {kRemMemReg, 40, {0, 1}, vu::kProtocolConfigureMemSlots},
        {kSetStatus, 8, {0}, vu::kProtocolStatus},
        {kGetStatus, 0, {0}, vu::kProtocolStatus},
    };
    return all;
}

// Of this shape, for vring 0 and in every value as it should be.
vu::Message well_formed(const Shape& shape) {
    vu::Message made = message(shape.request);
    made.header.size = shape.size;
    if (shape.request == vu::Request::kSetMemTable) made.payload[0] = std::byte{2};
    if (shape.request == vu::Request::kSetVringNum) made.payload[5] = std::byte{1};  // 256
    return made;
}

const vu::Negotiated kAll{kFeatureVersion1, ~0ULL};

bool accepted(const vu::Message& checked, const vu::Negotiated& negotiated = kAll) {
    try {
        vu::check_message(checked, negotiated);
        return true;
    } catch (const vu::Refusal&) {
        return false;
    }
}

bool accepted_with(vu::Message checked, std::size_t fds) {
    for (std::size_t i = 0; i < fds; ++i) checked.fds.push_back(make_eventfd());
    return accepted(checked);
}

}  // namespace

// --- The reader ---

TEST_CASE("a message is put together from any pieces, however its bytes arrive") {
    const SocketPair sockets;
    vu::MessageReader reader;
    const vu::VringState state{1, 0x12345678};
    const auto bytes = wire(header(vu::Request::kSetVringBase, sizeof state), bytes_of(state));
    const auto piece = GENERATE_COPY(range(std::size_t{1}, bytes.size() + 1));
    for (int round = 0; round < 3; ++round) {
        for (std::size_t at = 0; at < bytes.size(); at += piece) {
            CHECK(reader.read(sockets.ours.get()) == Result::kNothing);
            send(sockets.theirs,
                 std::span(bytes).subspan(at).first(std::min(piece, bytes.size() - at)));
        }
        REQUIRE(reader.read(sockets.ours.get()) == Result::kMessage);
        CHECK(reader.message().request() == vu::Request::kSetVringBase);
        CHECK(reader.message().payload_as<vu::VringState>().value == state.value);
        CHECK(reader.message().fds.empty());
    }
    CHECK(reader.read(sockets.ours.get()) == Result::kNothing);
}

TEST_CASE("messages that arrive together are read one by one, and none sees the other's bytes") {
    const SocketPair sockets;
    vu::MessageReader reader;
    const std::uint64_t word = ~0ULL;
    auto bytes = wire(header(vu::Request::kSetFeatures, sizeof word), bytes_of(word));
    const auto second = wire(header(vu::Request::kGetFeatures, 0));
    bytes.insert(bytes.end(), second.begin(), second.end());
    send(sockets.theirs, bytes);

    REQUIRE(reader.read(sockets.ours.get()) == Result::kMessage);
    CHECK(reader.message().payload_as<std::uint64_t>() == word);
    REQUIRE(reader.read(sockets.ours.get()) == Result::kMessage);
    CHECK(reader.message().request() == vu::Request::kGetFeatures);
    CHECK(reader.message().payload_as<std::uint64_t>() == 0);
    CHECK(reader.read(sockets.ours.get()) == Result::kNothing);
}

TEST_CASE("a frontend that hangs up is noticed, between messages and in the middle of one") {
    SocketPair sockets;
    vu::MessageReader reader;
    const auto bytes = wire(header(vu::Request::kSetOwner, 0));
    const auto sent = GENERATE(std::size_t{0}, std::size_t{1}, std::size_t{11});
    if (sent > 0) send(sockets.theirs, std::span(bytes).first(sent), 1);
    CHECK(reader.read(sockets.ours.get()) == Result::kNothing);
    sockets.theirs.reset();
    CHECK(reader.read(sockets.ours.get()) == Result::kClosed);
}

TEST_CASE("the longest payload is read, and a longer one is refused by its header alone") {
    const SocketPair sockets;
    vu::MessageReader reader;
    const std::vector<std::byte> payload(vu::kMaxPayload, std::byte{0x5a});
    send(sockets.theirs, wire(header(vu::Request::kSetMemTable, vu::kMaxPayload), payload));
    REQUIRE(reader.read(sockets.ours.get()) == Result::kMessage);
    CHECK(std::ranges::all_of(reader.message().payload,
                              [](std::byte byte) { return byte == std::byte{0x5a}; }));

    const std::uint32_t size =
        GENERATE(as<std::uint32_t>{}, vu::kMaxPayload + 1, 0x1000, 0x7fffffff, 0xfffffff4, ~0U);
    send(sockets.theirs, wire(header(vu::Request::kSetMemTable, size)));
    CHECK_THROWS_AS(reader.read(sockets.ours.get()), vu::Refusal);
}

TEST_CASE("descriptors are taken at whatever byte of a message they come, and closed again") {
    const std::size_t before = open_descriptors();
    {
        const SocketPair sockets;
        vu::MessageReader reader;
        const std::uint64_t word = 7;
        const auto bytes = wire(header(vu::Request::kSetVringKick, sizeof word), bytes_of(word));
        for (std::size_t at = 0; at < bytes.size(); ++at) {
            for (std::size_t fds = 0; fds <= vu::kMaxFds; ++fds) {
                if (at > 0) send(sockets.theirs, std::span(bytes).first(at));
                send(sockets.theirs, std::span(bytes).subspan(at), fds);
                REQUIRE(reader.read(sockets.ours.get()) == Result::kMessage);
                REQUIRE(reader.message().fds.size() == fds);
            }
        }
        CHECK(reader.read(sockets.ours.get()) == Result::kNothing);
        CHECK(open_descriptors() == before + 2);  // those of the last message went, too
    }
    CHECK(open_descriptors() == before);
}

TEST_CASE("more descriptors than any message has are refused and closed") {
    const std::size_t before = open_descriptors();
    const auto at = GENERATE(std::size_t{0}, std::size_t{3}, std::size_t{12}, std::size_t{19});
    const auto fds = GENERATE(range(vu::kMaxFds + 1, std::size_t{31}));
    {
        const SocketPair sockets;
        vu::MessageReader reader;
        const std::uint64_t word = 7;
        const auto bytes = wire(header(vu::Request::kSetVringKick, sizeof word), bytes_of(word));
        if (at > 0) send(sockets.theirs, std::span(bytes).first(at));
        send(sockets.theirs, std::span(bytes).subspan(at), fds);
        CHECK_THROWS_AS(reader.read(sockets.ours.get()), vu::Refusal);
    }
    CHECK(open_descriptors() == before);
}

TEST_CASE("descriptors that come a few with each byte are refused when they are too many") {
    const std::size_t before = open_descriptors();
    {
        const SocketPair sockets;
        vu::MessageReader reader;
        const auto bytes = wire(header(vu::Request::kSetOwner, 0));
        for (std::size_t at = 0; at < 4; ++at) {
            send(sockets.theirs, std::span(bytes).subspan(at, 1), 2);
            REQUIRE(reader.read(sockets.ours.get()) == Result::kNothing);
        }
        send(sockets.theirs, std::span(bytes).subspan(4, 1), 1);
        CHECK_THROWS_AS(reader.read(sockets.ours.get()), vu::Refusal);
    }
    CHECK(open_descriptors() == before);
}

TEST_CASE("a reply to a frontend that does not read fails instead of waiting") {
    const SocketPair sockets;
    const vu::Reply reply(vu::Request::kGetFeatures, std::uint64_t{1});
    int sent = 0;
    while (sent < 1'000'000 && vu::send_reply(sockets.ours.get(), reply)) ++sent;
    CHECK(sent > 0);
    CHECK(sent < 1'000'000);
}

TEST_CASE("a reply to a frontend that is gone fails and raises no signal") {
    SocketPair sockets;
    sockets.theirs.reset();
    CHECK_FALSE(
        vu::send_reply(sockets.ours.get(), vu::Reply(vu::Request::kGetStatus, std::uint64_t{1})));
}

// --- What every message must look like ---

TEST_CASE("every request of the backend is accepted in its own form") {
    for (const Shape& shape : shapes()) {
        INFO(vu::name_of(static_cast<std::uint32_t>(shape.request)));
        for (const std::size_t fds : shape.fds) CHECK(accepted_with(well_formed(shape), fds));
    }
}

TEST_CASE("every request is refused with a payload of any other size") {
    for (const Shape& shape : shapes()) {
        INFO(vu::name_of(static_cast<std::uint32_t>(shape.request)));
        for (std::uint32_t size = 0; size <= vu::kMaxPayload; ++size) {
            vu::Message changed = well_formed(shape);
            changed.header.size = size;
            REQUIRE(accepted_with(std::move(changed), shape.fds[0]) == (size == shape.size));
        }
    }
}

TEST_CASE("every request is refused with any other number of descriptors") {
    for (const Shape& shape : shapes()) {
        INFO(vu::name_of(static_cast<std::uint32_t>(shape.request)));
        for (std::size_t fds = 0; fds <= vu::kMaxFds; ++fds) {
            const bool right = std::ranges::find(shape.fds, fds) != shape.fds.end();
            REQUIRE(accepted_with(well_formed(shape), fds) == right);
        }
    }
}

TEST_CASE("every request is refused in another version, as a reply and without its feature") {
    for (const Shape& shape : shapes()) {
        INFO(vu::name_of(static_cast<std::uint32_t>(shape.request)));
        for (const std::uint32_t flags : {0U, 2U, 3U, vu::kVersion | vu::kFlagReply}) {
            vu::Message changed = well_formed(shape);
            changed.header.flags = flags;
            CHECK_FALSE(accepted_with(std::move(changed), shape.fds[0]));
        }
        if (shape.protocol_feature == 0) continue;
        vu::Message changed = well_formed(shape);
        for (std::size_t i = 0; i < shape.fds[0]; ++i) changed.fds.push_back(make_eventfd());
        CHECK_FALSE(accepted(changed, {kFeatureVersion1, ~shape.protocol_feature}));
    }
}

// Among them GET_INFLIGHT_FD, SET_INFLIGHT_FD, the crypto sessions, the IOTLB and postcopy.
TEST_CASE("requests that are not offered are refused, whatever they carry") {
    const auto offered = [](std::uint32_t number) {
        return std::ranges::any_of(shapes(), [number](const Shape& shape) {
            return static_cast<std::uint32_t>(shape.request) == number;
        });
    };
    std::vector<std::uint32_t> numbers{0xff, 0x100, 0x10000, 0x80000000, ~0U};
    for (std::uint32_t number = 0; number < 64; ++number) numbers.push_back(number);
    for (const std::uint32_t number : numbers) {
        if (offered(number)) continue;
        INFO(number);
        for (const std::uint32_t size : {0U, 8U, 16U, 24U, 40U}) {
            for (const std::size_t fds : {0U, 1U, 8U}) {
                vu::Message unknown = message(static_cast<vu::Request>(number));
                unknown.header.size = size;
                CHECK_FALSE(accepted_with(std::move(unknown), fds));
            }
        }
    }
}

TEST_CASE("a vring number above 1 is refused in every message, also where it is cut to 16 bits") {
    using enum vu::Request;
    const std::uint32_t index =
        GENERATE(2U, 3U, 0xffU, 0x100U, 0xffffU, 0x10000U, 0x10001U, 0x80000000U, 0xffff0000U, ~0U);
    for (const auto request : {kSetVringNum, kSetVringBase, kGetVringBase, kSetVringEnable}) {
        INFO(vu::name_of(static_cast<std::uint32_t>(request)));
        CHECK_FALSE(accepted(message_with(request, vu::VringState{index, 256})));
    }
    CHECK_FALSE(accepted(message_with(kSetVringAddr, vu::VringAddress{index, 0, 0, 0, 0, 0})));
    // One word, of which bit 8 is a flag: 0x100 is vring 0 without a descriptor.
    if (index == 0x100) return;
    for (const auto request : {kSetVringKick, kSetVringCall, kSetVringErr}) {
        INFO(vu::name_of(static_cast<std::uint32_t>(request)));
        CHECK_FALSE(accepted(message_with(request, std::uint64_t{index}, fds_of(make_eventfd()))));
        CHECK_FALSE(accepted(message_with(request, index | vu::kVringNoFd)));
    }
}

TEST_CASE("a vring number that is right in its low half only is refused for descriptors") {
    using enum vu::Request;
    const std::uint64_t high = GENERATE(1ULL << 9, 1ULL << 16, 1ULL << 32, 1ULL << 63);
    for (const auto request : {kSetVringKick, kSetVringCall, kSetVringErr}) {
        CHECK(accepted(message_with(request, std::uint64_t{1}, fds_of(make_eventfd()))));
        CHECK_FALSE(accepted(message_with(request, high | 1, fds_of(make_eventfd()))));
        CHECK_FALSE(accepted(message_with(request, high | 1 | vu::kVringNoFd)));
    }
}

TEST_CASE("a descriptor that is announced as missing must be missing, and the other way round") {
    using enum vu::Request;
    for (const auto request : {kSetVringKick, kSetVringCall, kSetVringErr}) {
        CHECK(accepted(message_with(request, std::uint64_t{vu::kVringNoFd})));
        CHECK_FALSE(accepted(message_with(request, std::uint64_t{0})));
        CHECK_FALSE(
            accepted(message_with(request, std::uint64_t{vu::kVringNoFd}, fds_of(make_eventfd()))));
    }
}

TEST_CASE("ring sizes that are none are refused, for split and packed rings") {
    const auto size_accepted = [](std::uint32_t size, std::uint64_t features) {
        return accepted(message_with(vu::Request::kSetVringNum, vu::VringState{0, size}),
                        {features, 0});
    };
    for (const std::uint32_t size : {1U, 2U, 256U, 32768U}) {
        CHECK(size_accepted(size, kFeatureVersion1));
        CHECK(size_accepted(size, kFeatureRingPacked));
    }
    for (const std::uint32_t size : {3U, 255U, 32767U}) {
        CHECK_FALSE(size_accepted(size, kFeatureVersion1));
        CHECK(size_accepted(size, kFeatureRingPacked));
    }
    for (const std::uint32_t size : {0U, 32769U, 65535U, 65536U, 0x10001U, 0x10100U, 1U << 31}) {
        CHECK_FALSE(size_accepted(size, kFeatureVersion1));
        CHECK_FALSE(size_accepted(size, kFeatureRingPacked));
    }
}

TEST_CASE("a memory table has as many regions as its payload and its descriptors") {
    const auto table_accepted = [](std::uint32_t count, std::uint32_t size, std::size_t fds) {
        vu::MemTable table{};
        table.count = count;
        vu::Message changed = message_with(vu::Request::kSetMemTable, table);
        changed.header.size = size;
        return accepted_with(std::move(changed), fds);
    };
    for (std::uint32_t count = 0; count <= 8; ++count) {
        CHECK(table_accepted(count, 8 + 32 * count, count));
        CHECK_FALSE(table_accepted(count, 8 + 32 * count, count + 1));
        CHECK_FALSE(table_accepted(count, 8 + 32 * count + 1, count));
        if (count == 8) continue;
        CHECK_FALSE(table_accepted(count + 1, 8 + 32 * count, count));
        CHECK_FALSE(table_accepted(count, 8 + 32 * (count + 1), count));
    }
    for (const std::uint32_t count : {9U, 0x100U, 0x08000000U, 0x80000000U, ~0U}) {
        for (const std::uint32_t size : {8U, 40U, 264U}) {
            CHECK_FALSE(table_accepted(count, size, 8));
            CHECK_FALSE(table_accepted(count, size, 0));
        }
    }
}

TEST_CASE("a device status of more than eight bits is refused") {
    const auto status_accepted = [](std::uint64_t status) {
        return accepted(message_with(vu::Request::kSetStatus, status));
    };
    CHECK(status_accepted(0));
    CHECK(status_accepted(0xff));
    CHECK_FALSE(status_accepted(0x100));
    CHECK_FALSE(status_accepted(1ULL << 63));
}

TEST_CASE("a message is named in the words of the specification, an unknown one by its number") {
    CHECK(vu::name_of(5) == "SET_MEM_TABLE");
    CHECK(vu::name_of(32) == "message 32");
}

}  // namespace zecorx::test
