#include <sys/stat.h>

#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "guest/frontend.h"
#include "support/open_descriptors.h"
#include "support/temp_dir.h"
#include "support/wait.h"
#include "support/watching_host.h"
#include "vhost_user/server.h"

namespace zecorx::test {
namespace {

using namespace std::chrono_literals;
namespace vu = vhost_user;

constexpr Timeout kLong = 10s;

class ServerBed {
  public:
    ServerBed() : server(mutex) {}
    ~ServerBed() {
        sockets.clear();
        for (const auto& host : hosts) {
            CHECK(host->violations == std::vector<std::string>{});
            CHECK(host->sessions() == 0);
        }
    }

    std::string path(const std::string& name) const { return (directory.path() / name).string(); }
    std::string add(const std::string& name, bool client = false) {
        hosts.push_back(std::make_unique<WatchingHost>());
        sockets.push_back(std::make_unique<vu::Socket>(server, path(name), client, *hosts.back()));
        return path(name);
    }
    std::size_t sessions(std::size_t host) {
        const std::lock_guard lock(mutex);
        return hosts.at(host)->sessions();
    }

    TempDir directory;
    vu::ControlMutex mutex;
    std::vector<std::unique_ptr<WatchingHost>> hosts;
    vu::Server server;
    std::vector<std::unique_ptr<vu::Socket>> sockets;
};

void require_served(Frontend& frontend) { CHECK(frontend.get_features() == vu::kOfferedFeatures); }

}  // namespace

TEST_CASE("half a message keeps neither the neighbours nor the other frontends waiting") {
    ServerBed bed;
    const UnixSocket slow = UnixSocket::connect(bed.add("vm0"));
    const MessageHeader request{1, kMessageVersion, 0};  // GET_FEATURES
    const auto bytes = std::as_bytes(std::span(&request, 1));
    slow.send(bytes.first(5));
    Frontend same = Frontend::connect(bed.path("vm0"));
    Frontend neighbour = Frontend::connect(bed.add("vm1"));
    for (int round = 0; round < 10; ++round) {
        require_served(same);
        require_served(neighbour);
    }

    slow.send(bytes.subspan(5));
    MessageHeader reply{};
    slow.receive(std::as_writable_bytes(std::span(&reply, 1)), kLong);
    CHECK(reply.request == 1);
    CHECK(reply.size == 8);
}

TEST_CASE("a frontend that never reads its replies is dropped, and others are served") {
    ServerBed bed;
    Frontend deaf = Frontend::connect(bed.add("vm0"));
    Frontend neighbour = Frontend::connect(bed.add("vm1"));
    bool dropped = false;
    try {
        for (int i = 0; i < 1'000'000; ++i) {
            deaf.send_message(Request::kGetFeatures, 0, {});
            if (i % 100 == 0) require_served(neighbour);
        }
    } catch (const SocketClosed&) {
        dropped = true;
    }
    CHECK(dropped);
    CHECK(wait_until([&] { return bed.sessions(0) == 0; }, kLong));
    require_served(neighbour);
}

TEST_CASE("no more than eight frontends are connected to a socket, and one that goes makes room") {
    ServerBed bed;
    const std::string path = bed.add("vm0");
    std::vector<Frontend> frontends;
    for (int i = 0; i < 8; ++i) {
        frontends.push_back(Frontend::connect(path));
        require_served(frontends.back());
    }
    Frontend ninth = Frontend::connect(path);
    CHECK(ninth.wait_closed(kLong));
    for (Frontend& frontend : frontends) require_served(frontend);

    frontends.front().disconnect();
    REQUIRE(wait_until([&] { return bed.sessions(0) == 7; }, kLong));
    Frontend next = Frontend::connect(path);
    require_served(next);
}

TEST_CASE("a refused message is answered where that was asked for, and ends the session else") {
    ServerBed bed;
    Frontend polite = Frontend::connect(bed.add("vm0"));
    polite.negotiate();
    CHECK_FALSE(polite.set_vring_num(0, 3));
    CHECK(polite.set_vring_num(0, 4));

    polite.send_message(Request::kSetInflightFd, kMessageNeedReply, std::vector<std::byte>(24));
    CHECK(polite.receive_reply().payload.at(0) == std::byte{1});
    require_served(polite);
    polite.send_message(Request::kSetInflightFd, 0, std::vector<std::byte>(24));
    CHECK(polite.wait_closed(kLong));
}

TEST_CASE("what cannot be a message ends the connection, and the next frontend is served") {
    ServerBed bed;
    const std::string path = bed.add("vm0");
    for (const std::uint32_t size : {265U, 0x10000U, ~0U}) {
        Frontend frontend = Frontend::connect(path);
        frontend.negotiate();
        frontend.send_message(Request::kSetMemTable, kMessageNeedReply, {}, {}, size);
        CHECK(frontend.wait_closed(kLong));
    }
    Frontend frontend = Frontend::connect(path);
    require_served(frontend);
    const std::lock_guard lock(bed.mutex);
    CHECK(bed.hosts[0]->refusals.size() == 3);
}

TEST_CASE("a frontend that sends without a pause leaves the control mutex to others") {
    ServerBed bed;
    const std::string path = bed.add("vm0");
    std::jthread flood([&](const std::stop_token& stop) {
        Frontend frontend = Frontend::connect(path);
        while (!stop.stop_requested()) frontend.send_message(Request::kSetOwner, 0, {});
    });
    Frontend neighbour = Frontend::connect(bed.add("vm1"));
    for (int i = 0; i < 200; ++i) {
        require_served(neighbour);
        const std::lock_guard lock(bed.mutex);
        CHECK(bed.hosts[0]->violations.empty());
    }
}

TEST_CASE("in client mode the server comes to whoever listens, whenever that is, again and again") {
    ServerBed bed;
    const std::string path = bed.add("vm0", true);
    std::this_thread::sleep_for(200ms);  // some attempts find nobody
    for (int round = 0; round < 3; ++round) {
        const UnixListener listener(path);
        Frontend frontend = Frontend::accept(listener, kLong);
        require_served(frontend);
        if (round == 1) {  // hangs up and goes on listening
            frontend.disconnect();
            frontend = Frontend::accept(listener, kLong);
            require_served(frontend);
        }
    }
    CHECK(wait_until([&] { return bed.sessions(0) == 0; }, kLong));
}

TEST_CASE("in client mode a listener that never accepts keeps no neighbour waiting") {
    ServerBed bed;
    const UnixListener listener(bed.path("vm0"));
    bed.add("vm0", true);
    Frontend neighbour = Frontend::connect(bed.add("vm1"));
    for (int round = 0; round < 10; ++round) require_served(neighbour);
}

TEST_CASE("a listening socket's file goes with it, and so do the connections") {
    ServerBed bed;
    const std::string path = bed.add("vm0");
    Frontend neighbour = Frontend::connect(bed.add("vm1"));
    Frontend frontend = Frontend::connect(path);
    require_served(frontend);
    require_served(neighbour);

    bed.sockets.erase(bed.sockets.begin());

    CHECK_FALSE(std::filesystem::exists(path));
    CHECK(frontend.wait_closed(kLong));
    require_served(neighbour);
}

TEST_CASE("a path that is too long or taken is refused before anything is served on it") {
    ServerBed bed;
    const std::size_t before = open_descriptors();
    WatchingHost host;
    const std::string taken = bed.add("vm0");
    CHECK_THROWS_AS(vu::Socket(bed.server, taken, false, host), std::runtime_error);
    CHECK_THROWS_AS(vu::Socket(bed.server, bed.path(std::string(120, 'x')), false, host),
                    std::runtime_error);
    CHECK_THROWS_AS(vu::Socket(bed.server, bed.path(std::string(120, 'x')), true, host),
                    std::runtime_error);
    Frontend frontend = Frontend::connect(taken);
    require_served(frontend);
    frontend.disconnect();
    CHECK(wait_until([&] { return open_descriptors() == before + 1; }, kLong));
}

TEST_CASE("sessions of every kind come and go and leave no descriptor behind") {
    ServerBed bed;
    const std::string path = bed.add("vm0");
    const std::size_t before = open_descriptors();
    FakeMemory memory(2_MiB);
    for (int round = 0; round < 50; ++round) {
        Frontend frontend = Frontend::connect(path);
        frontend.negotiate();
        const EventFd event;
        REQUIRE(frontend.set_mem_table(memory.regions()));
        REQUIRE(frontend.set_vring_kick(0, event.get()));
        REQUIRE(frontend.set_vring_call(1, event.get()));
        REQUIRE(frontend.set_log_base(memory.regions()[0].fd, 4096));
        const std::array fds{event.get(), event.get(), event.get()};
        switch (round % 4) {
            case 0:  // in the middle of a message, with descriptors
                frontend.send_message(Request::kSetMemTable, 0, {}, fds, 104);
                break;
            case 1:  // refused with descriptors
                frontend.send_message(Request::kSetVringKick, 0, {}, fds);
                break;
            case 2:
                frontend.reset_owner();
                break;
            default:
                break;
        }
        frontend.disconnect();
    }
    // The file of `memory` is the test's own.
    CHECK(wait_until([&] { return open_descriptors() <= before + 1; }, kLong));
    CHECK(wait_until([&] { return bed.sessions(0) == 0; }, kLong));
}

TEST_CASE("descriptors that come with any message do not stay open, however often they come") {
    constexpr int kTimes = 10'000, kAtOnce = 10;
    ServerBed bed;
    Frontend frontend = Frontend::connect(bed.add("vm0"));
    frontend.negotiate();
    const EventFd event;
    const std::vector<int> eight(8, event.get());
    const std::size_t before = open_descriptors();
    for (std::uint32_t request = 0; request <= 41; ++request) {
        for (int i = 0; i < kTimes / kAtOnce; ++i) {
            for (int j = 0; j < kAtOnce; ++j) {
                frontend.send_message(Request{request}, kMessageNeedReply,
                                      std::vector<std::byte>(8), eight);
            }
            for (int j = 0; j < kAtOnce; ++j) {
                REQUIRE(frontend.receive_reply().payload.at(0) == std::byte{1});  // refused
            }
        }
        // The last message's go when the next one comes.
        REQUIRE(frontend.set_owner());
        CHECK(open_descriptors() == before);
    }
}

TEST_CASE("descriptors that a message needs do not stay open when it comes again and again") {
    ServerBed bed;
    Frontend frontend = Frontend::connect(bed.add("vm0"));
    frontend.negotiate();
    const EventFd event;
    const std::vector<RegionSpec> specs = FakeMemory::equal_regions(8, 64_KiB, 4_KiB);
    const FakeMemory memory{std::span(specs)};
    std::vector<MemoryRegion> regions = memory.regions();
    std::size_t before = 0;
    for (int i = 0; i < 10'000; ++i) {
        std::swap(regions[0], regions[1 + i % 7]);
        REQUIRE(frontend.set_mem_table(regions));
        REQUIRE(frontend.set_vring_num(0, 1U << i % 16));
        REQUIRE(frontend.set_vring_kick(0, event.get()));
        REQUIRE(frontend.set_vring_call(0, event.get()));
        REQUIRE(frontend.set_vring_err(0, event.get()));
        REQUIRE(frontend.set_log_base(regions[0].fd, 4096));
        REQUIRE(frontend.remove_mem_region(regions[2]));
        REQUIRE(frontend.add_mem_region(regions[2]));
        if (i == 0) before = open_descriptors();
    }
    CHECK(open_descriptors() == before);
}

TEST_CASE("a server that ends with messages under way joins its thread") {
    for (int round = 0; round < 20; ++round) {
        ServerBed bed;
        Frontend frontend = Frontend::connect(bed.add("vm0"));
        for (int i = 0; i < round; ++i) frontend.send_message(Request::kSetOwner, 0, {});
        require_served(frontend);
    }
}

}  // namespace zecorx::test
