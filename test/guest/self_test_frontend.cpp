#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <thread>

#include "fake_guest.h"
#include "test_device.h"

using namespace zecorx;
using namespace zecorx::test;
using namespace std::chrono_literals;

namespace {

// Answers a frontend by the protocol on a thread of its own and writes down what it was asked.
class ScriptedBackend {
  public:
    struct Seen {
        Request request;
        std::uint32_t flags;
        std::vector<std::byte> payload;
        std::size_t fds;
    };

    ScriptedBackend() {
        int ends[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        frontend_end_.reset(ends[0]);
        thread_ = std::thread([this, fd = ends[1]] { serve(UnixSocket(UniqueFd(fd))); });
    }
    ~ScriptedBackend() {
        frontend_end_.reset();
        stop_ = true;
        thread_.join();
    }

    Frontend frontend(Timeout timeout = 5s) {
        return Frontend(UnixSocket(std::move(frontend_end_)), timeout);
    }

    std::uint64_t features = kFeatureVersion1 | kFeatureNetMrgRxbuf | kFeatureVhostUserProtocol;
    std::uint64_t protocol_features = kProtocolReplyAck | kProtocolLogShmfd;
    std::atomic<Request> refused{};  // answered with failure
    std::atomic<Request> ignored{};  // not answered
    std::atomic<Request> fatal{};    // answered by closing

    std::vector<Seen> seen() {
        const std::scoped_lock lock(mutex_);
        return seen_;
    }
    template <typename T>
    std::vector<T> payloads(Request request) {
        std::vector<T> all;
        for (const Seen& message : seen()) {
            if (message.request != request) continue;
            std::memcpy(&all.emplace_back(), message.payload.data(), sizeof(T));
        }
        return all;
    }
    std::vector<Request> requests() {
        std::vector<Request> all;
        for (const Seen& message : seen()) all.push_back(message.request);
        return all;
    }

  private:
    void serve(const UnixSocket& socket) {
        while (!stop_) {
            try {
                MessageHeader header{};
                std::vector<UniqueFd> fds;
                socket.receive(std::as_writable_bytes(std::span(&header, 1)), 10ms, &fds);
                std::vector<std::byte> payload(header.size);
                socket.receive(payload, 1s, &fds);
                note(header, payload, fds.size());
                if (Request{header.request} == fatal) return;
                answer(socket, header, payload);
            } catch (const SocketTimeout&) {
            } catch (const SocketClosed&) {
                return;
            }
        }
    }

    void note(const MessageHeader& header, const std::vector<std::byte>& payload, std::size_t fds) {
        const std::scoped_lock lock(mutex_);
        seen_.push_back({Request{header.request}, header.flags, payload, fds});
    }

    void answer(const UnixSocket& socket, const MessageHeader& header,
                const std::vector<std::byte>& payload) {
        const Request request{header.request};
        if (request == ignored) return;
        if (request == Request::kGetFeatures) return reply_u64(socket, header, features);
        if (request == Request::kGetProtocolFeatures) {
            return reply_u64(socket, header, protocol_features);
        }
        if (request == Request::kGetQueueNum) return reply_u64(socket, header, 3);
        if (request == Request::kGetVringBase) {
            VringState state{};
            std::memcpy(&state, payload.data(), sizeof(state));
            state.num = 100 + state.index;
            return reply(socket, header, std::as_bytes(std::span(&state, 1)));
        }
        if (request == Request::kSetLogBase && request != refused) {
            return reply(socket, header, {});
        }
        if ((header.flags & kMessageNeedReply) != 0) {
            reply_u64(socket, header, request == refused ? 1 : 0);
        }
    }

    static void reply_u64(const UnixSocket& socket, const MessageHeader& to, std::uint64_t value) {
        reply(socket, to, std::as_bytes(std::span(&value, 1)));
    }
    static void reply(const UnixSocket& socket, const MessageHeader& to,
                      std::span<const std::byte> payload) {
        const MessageHeader header{to.request, kMessageVersion | kMessageReply,
                                   static_cast<std::uint32_t>(payload.size())};
        socket.send(std::as_bytes(std::span(&header, 1)));
        socket.send(payload);
    }

    UniqueFd frontend_end_;
    std::atomic<bool> stop_ = false;
    std::mutex mutex_;
    std::vector<Seen> seen_;
    std::thread thread_;  // last: it uses the others
};

class TempDir {
  public:
    TempDir() {
        std::string pattern = "/tmp/zecorx-guest-XXXXXX";
        REQUIRE(::mkdtemp(pattern.data()) != nullptr);
        path_ = pattern;
    }
    ~TempDir() { std::filesystem::remove_all(path_); }
    std::string file(const char* name) const { return path_ / name; }

  private:
    std::filesystem::path path_;
};

}  // namespace

TEST_CASE("a device starts and stops in QEMU's order") {
    ScriptedBackend backend;
    FakeMemory memory(4_MiB);
    FakeGuest guest = connect_device(backend.frontend(), memory);
    const VringBases bases = guest.stop_device();

    using enum Request;
    CHECK(backend.requests() ==
          std::vector{kSetOwner,       kGetFeatures,    kGetProtocolFeatures, kSetProtocolFeatures,
                      kSetFeatures,    kSetMemTable,    kSetVringNum,         kSetVringBase,
                      kSetVringAddr,   kSetVringKick,   kSetVringCall,        kSetVringNum,
                      kSetVringBase,   kSetVringAddr,   kSetVringKick,        kSetVringCall,
                      kSetVringEnable, kSetVringEnable, kSetVringEnable,      kSetVringEnable,
                      kGetVringBase,   kGetVringBase});
    CHECK(bases == VringBases{100, 101});
    CHECK(guest.frontend.features() == backend.features);
}

TEST_CASE("a backend with STATUS is told when the driver is ready and when it is gone") {
    ScriptedBackend backend;
    backend.protocol_features |= kProtocolStatus;
    FakeMemory memory(4_MiB);
    connect_device(backend.frontend(), memory).stop_device();

    std::vector<std::uint64_t> statuses;
    for (const auto& message : backend.seen()) {
        if (message.request != Request::kSetStatus) continue;
        std::uint64_t status = 0;
        std::memcpy(&status, message.payload.data(), sizeof(status));
        statuses.push_back(status);
    }
    CHECK(statuses == std::vector<std::uint64_t>{11, 15, 0});
}

TEST_CASE("a memory table carries one fd for each region") {
    ScriptedBackend backend;
    FakeMemory memory(FakeMemory::equal_regions(3, 64_KiB, 4_KiB));
    Frontend frontend = backend.frontend();
    frontend.negotiate();
    CHECK(frontend.set_mem_table(memory.regions()));

    const auto seen = backend.seen();
    CHECK(seen.back().fds == 3);
    CHECK(seen.back().payload.size() == 8 + 3 * 32);
    CHECK((seen.back().flags & kMessageNeedReply) != 0);
}

TEST_CASE("a refusal is reported with REPLY_ACK") {
    ScriptedBackend backend;
    backend.refused = Request::kNetSetMtu;
    Frontend frontend = backend.frontend();
    frontend.negotiate();
    CHECK_FALSE(frontend.set_mtu(10));
    CHECK(frontend.set_status(1));
}

TEST_CASE("without REPLY_ACK nothing waits for an acknowledgement") {
    ScriptedBackend backend;
    backend.protocol_features = 0;
    backend.refused = Request::kNetSetMtu;
    Frontend frontend = backend.frontend();
    frontend.negotiate();
    CHECK(frontend.set_mtu(10));
    CHECK(frontend.get_queue_num() == 3);
}

TEST_CASE("a log base is answered by an empty reply or by a refusal") {
    ScriptedBackend backend;
    Frontend frontend = backend.frontend();
    frontend.negotiate();
    const EventFd any_fd;
    CHECK(frontend.set_log_base(any_fd.get(), 4096));
    backend.refused = Request::kSetLogBase;
    CHECK_FALSE(frontend.set_log_base(any_fd.get(), 4096));
}

TEST_CASE("a start that the backend refuses says what was refused") {
    ScriptedBackend backend;
    backend.refused = Request::kSetVringAddr;
    FakeMemory memory(4_MiB);
    CHECK_THROWS_AS(connect_device(backend.frontend(), memory), FrontendError);
}

TEST_CASE("a silent backend is a timeout, not a hang") {
    ScriptedBackend backend;
    backend.ignored = Request::kGetFeatures;
    Frontend frontend = backend.frontend(20ms);
    CHECK_THROWS_AS(frontend.get_features(), SocketTimeout);
}

TEST_CASE("a backend that closes is noticed by the next answer") {
    ScriptedBackend backend;
    backend.fatal = Request::kGetFeatures;
    Frontend frontend = backend.frontend();
    CHECK_THROWS_AS(frontend.get_features(), SocketClosed);
    CHECK(frontend.wait_closed(5s));
}

TEST_CASE("a raw message arrives byte for byte, with any fds") {
    ScriptedBackend backend;
    Frontend frontend = backend.frontend();
    const EventFd any_fd;
    const std::vector<int> fds(8, any_fd.get());
    const std::array payload{std::byte{1}, std::byte{2}, std::byte{3}};
    frontend.send_message(Request{77}, 0x40, payload, fds);
    frontend.get_queue_num();

    const auto seen = backend.seen();
    CHECK(seen.at(0).request == Request{77});
    CHECK(seen.at(0).flags == (0x40 | kMessageVersion));
    CHECK(seen.at(0).payload == std::vector(payload.begin(), payload.end()));
    CHECK(seen.at(0).fds == 8);
}

TEST_CASE("a frontend can be the listening side") {
    const TempDir dir;
    UnixSocket backend(UniqueFd(-1));
    {
        const UnixListener listener(dir.file("s0"));
        backend = UnixSocket::connect(listener.path());
        Frontend frontend = Frontend::accept(listener);
        CHECK(frontend.set_owner());
        MessageHeader header{};
        backend.receive(std::as_writable_bytes(std::span(&header, 1)), 5s);
        CHECK(Request{header.request} == Request::kSetOwner);
        CHECK_THROWS_AS(listener.accept(1ms), SocketTimeout);
        frontend.disconnect();
        CHECK_FALSE(frontend.is_connected());
    }
    CHECK(backend.wait_closed(5s));
    CHECK_THROWS_AS(UnixSocket::connect(dir.file("s0"), 10ms), SocketTimeout);
}

TEST_CASE("a guest whose connection died goes on where its used rings stand") {
    ScriptedBackend first;
    ScriptedBackend second;
    FakeMemory memory(4_MiB);
    FakeGuest guest = connect_device(first.frontend(), memory, {.first_index = 40});
    guest.frontend.disconnect();
    guest.reconnect(second.frontend());
    CHECK(second.payloads<VringState>(Request::kSetVringBase).at(0).num == 40);
}

TEST_CASE("a packed ring is handed over with its areas and wrap counters") {
    ScriptedBackend first;
    ScriptedBackend second;
    first.features |= kFeatureRingPacked;
    second.features |= kFeatureRingPacked;
    const Negotiation packed{.features = first.features};
    FakeMemory memory(4_MiB);
    FakeGuest guest =
        connect_device(first.frontend(), memory, {.rx_size = 24, .tx_size = 100}, packed);
    REQUIRE(guest.net.rx().queue().is_packed());
    CHECK(first.payloads<VringState>(Request::kSetVringNum).at(0).num == 24);
    CHECK(first.payloads<VringState>(Request::kSetVringBase).at(1).num == 0x8000'8000);
    const auto addr = first.payloads<VringAddr>(Request::kSetVringAddr).at(0);
    PackedQueueDriver& queue = guest.net.packed_receiveq();
    CHECK(addr.desc == reinterpret_cast<std::uintptr_t>(&queue.desc(0)));
    CHECK(addr.avail == reinterpret_cast<std::uintptr_t>(&queue.driver_event()));
    CHECK(addr.used == reinterpret_cast<std::uintptr_t>(&queue.device_event()));
    CHECK_THROWS_AS(guest.net.receiveq(), std::bad_cast);

    // What the device has used counts, whether the driver has seen it or not.
    guest.net.refill();
    PackedTestDevice device(memory, queue);
    for (int i = 0; i < 30; ++i) {
        if (i == 24) guest.net.receive();
        device.complete(device.acquire()->head, 0);
        device.publish();
    }
    guest.frontend.disconnect();
    guest.reconnect(second.frontend());
    CHECK(second.payloads<VringState>(Request::kSetVringBase).at(0).num == 0x0006'0006);
    guest.start_device({0x8003, 5});
    CHECK(second.payloads<VringState>(Request::kSetVringBase).at(2).num == 0x8003'8003);
    CHECK(second.payloads<VringState>(Request::kSetVringBase).at(3).num == 0x0005'0005);
}
