// Sessions of vhost-user frontends that may send anything: any message with any descriptors, whole
// or in pieces on a socket, and files that they cut off while they are mapped. A host that only
// watches checks the rules by which a data path could lie over the session.
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "input.h"
#include "support/watching_host.h"
#include "vhost_user/message.h"
#include "vhost_user/session.h"

namespace zecorx::fuzz {
namespace {

using namespace vhost_user;

constexpr std::uint64_t kSmall = 0x10000;
constexpr std::uint64_t kLarge = 1 << 24;

// The descriptors that a frontend has to give away, made once.
struct Files {
    static Files& all() {
        static Files files;
        return files;
    }
    // Grows or cuts off the last file.
    void cut(std::uint64_t size) {
        expect(::ftruncate(fds[3], static_cast<off_t>(size)) == 0, "a file can be cut off");
    }
    UniqueFd any(Input& in) const { return UniqueFd(::dup(fds[in.byte() % fds.size()])); }

    std::array<int, 7> fds{};

  private:
    Files() {
        fds = {::eventfd(0, 0), make(kSmall), make(kLarge), make(kSmall), ::eventfd(0, 0), 0, 0};
        expect(::pipe(fds.data() + 5) == 0, "a pipe can be made");
    }
    static int make(std::uint64_t size) {
        const int fd = ::memfd_create("fuzz", 0);
        expect(fd >= 0 && ::ftruncate(fd, static_cast<off_t>(size)) == 0, "a file can be made");
        return fd;
    }
};

// A number near those at which something changes.
std::uint64_t any_number(Input& in) {
    static constexpr std::array<std::uint64_t, 16> kEdges{
        0,      1,       2,          0x1000,     kSmall,     kLarge, 0xff,  0x100,
        0xffff, 0x10000, 0x80000000, 1ULL << 32, 1ULL << 63, ~0ULL,  32768, kOfferedFeatures};
    const std::uint8_t kind = in.byte();
    if (kind < 0x20) return in.take<std::uint64_t>();
    if (kind < 0x60) return in.byte() * 0x1000ULL;
    const std::uint64_t edge = kEdges[kind % kEdges.size()];
    const std::uint8_t step = kind & 0x80 ? in.byte() : 8;
    return edge + (step - 8ULL) * (step & 1 ? 1 : 0x1000);
}

RegionDescription any_region(Input& in) {
    return {any_number(in), any_number(in), any_number(in), any_number(in)};
}

// One of a few regions that go well together.
RegionDescription good_region(Input& in) {
    const std::uint64_t at = in.below(40) * std::uint64_t{0x4000};
    return {at, 0x1000ULL * (1 + in.below(4)), (1ULL << 40) + at, in.below(3) * 0x800ULL};
}

RegionDescription region(Input& in) { return in.one_in(4) ? any_region(in) : good_region(in); }

template <class Payload>
void put(Message& message, const Payload& payload) {
    std::memcpy(message.payload.data(), &payload, sizeof payload);
    message.header.size = sizeof payload;
}

std::uint32_t index(Input& in) {
    return in.one_in(8) ? static_cast<std::uint32_t>(any_number(in)) : in.below(2);
}

std::uint32_t ring_value(Input& in, Request request) {
    if (in.one_in(8)) return static_cast<std::uint32_t>(any_number(in));
    if (request == Request::kSetVringNum) return 1U << in.below(16);
    return request == Request::kSetVringEnable ? in.below(2) : in.word();
}

// As many descriptors as the message is to have, mostly of the kind it needs.
void give(Message& message, Input& in, std::size_t count, bool memory) {
    const Files& files = Files::all();
    if (in.one_in(12)) count = in.below(9);
    for (std::size_t i = 0; i < count; ++i) {
        const bool any = in.one_in(6);
        const int usual = files.fds[memory ? 1 + in.below(3) : 0];
        message.fds.push_back(any ? files.any(in) : UniqueFd(::dup(usual)));
    }
}

void fill_table(Message& message, Input& in) {
    MemTable table{};
    table.count = in.below(9);
    for (std::uint32_t i = 0; i < table.count; ++i) table.regions[i] = region(in);
    put(message, table);
    message.header.size = 8 + table.count * 32;
    give(message, in, table.count, true);
}

void fill(Message& message, Input& in) {
    using enum Request;
    const Request request = message.request();
    switch (request) {
        case kSetMemTable:
            return fill_table(message, in);
        case kAddMemReg:
            put(message, SingleRegion{0, region(in)});
            return give(message, in, 1, true);
        case kRemMemReg:
            put(message, SingleRegion{0, region(in)});
            return give(message, in, in.below(2), true);
        case kSetLogBase:
            put(message, LogDescription{any_number(in), any_number(in)});
            return give(message, in, 1, true);
        case kSetVringKick:
        case kSetVringCall:
        case kSetVringErr: {
            const bool none = in.one_in(4);
            put(message, std::uint64_t{index(in)} | (none ? kVringNoFd : 0));
            return give(message, in, none ? 0 : 1, false);
        }
        case kSetVringNum:
        case kSetVringBase:
        case kGetVringBase:
        case kSetVringEnable:
            put(message, VringState{index(in), ring_value(in, request)});
            return give(message, in, 0, false);
        case kSetVringAddr:
            put(message, VringAddress{index(in), 0, any_number(in), any_number(in), any_number(in),
                                      any_number(in)});
            return give(message, in, 0, false);
        case kSetFeatures:
            put(message, in.flag() ? in.take<std::uint64_t>() & kOfferedFeatures : any_number(in));
            return give(message, in, 0, false);
        case kSetProtocolFeatures:
            put(message, in.one_in(8) ? any_number(in)
                                      : kOfferedProtocolFeatures & ~std::uint64_t{in.below(32)});
            return give(message, in, 0, false);
        case kSetStatus:
        case kSendRarp:
        case kNetSetMtu:
            put(message, in.flag() ? in.byte() : any_number(in));
            return give(message, in, 0, false);
        default:
            return give(message, in, 0, false);
    }
}

Message any_message(Input& in) {
    Message message;
    message.header.request = in.one_in(32) ? in.take<std::uint32_t>() : in.byte() % 44;
    message.header.flags = in.one_in(32) ? in.byte() : kVersion | (in.byte() & 1 ? 8U : 0U);
    fill(message, in);
    if (in.one_in(32)) message.header.size = static_cast<std::uint32_t>(any_number(in));
    return message;
}

class Frontend {
  public:
    explicit Frontend(Input& in) : in_(in) {
        if (in.one_in(4)) socket_.emplace();
        session_.emplace(host_);
        host_.stops_at(0, in.word());
    }
    ~Frontend() {
        session_.reset();
        check_watcher();
    }

    void run() {
        for (int i = 0; i < 24 && !in_.ended() && open_; ++i) {
            if (in_.one_in(16)) Files::all().cut(0x1000ULL * in_.below(17));
            Message message = any_message(in_);
            if (socket_) {
                send_in_pieces(message);
            } else {
                handle(message);
            }
        }
    }

  private:
    struct Sockets {
        Sockets() {
            std::array<int, 2> ends{};
            expect(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) == 0, "sockets can be made");
            ours.reset(ends[0]);
            theirs.reset(ends[1]);
        }
        UniqueFd ours, theirs;
        MessageReader reader;
    };

    // What Connection does with a message, but that the session goes on.
    void handle(Message& message) {
        try {
            session_->handle(message);
        } catch (const std::runtime_error&) {
            host_.check(*session_, "a refused message");
        }
        host_.check(*session_, "a message");
        check_watcher();
        touch();
    }

    // No more than header.size bytes of payload, and all of them.
    void send_in_pieces(Message& message) {
        std::array<std::byte, sizeof(Header) + kMaxPayload> bytes{};
        const std::uint32_t payload = std::min<std::uint32_t>(message.header.size, kMaxPayload);
        std::memcpy(bytes.data(), &message.header, sizeof(Header));
        std::memcpy(bytes.data() + sizeof(Header), message.payload.data(), payload);
        std::span<const std::byte> rest = std::span(bytes).first(sizeof(Header) + payload);
        while (!rest.empty() && open_) {
            const std::size_t size = in_.flag() ? rest.size() : 1 + in_.below(40) % rest.size();
            send(rest.first(size), std::exchange(message.fds, {}));
            rest = rest.subspan(size);
            receive();
        }
    }

    void send(std::span<const std::byte> bytes, const std::vector<UniqueFd>& fds) {
        std::array<int, kMaxFds> numbers{};
        alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof numbers)> control{};
        iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
        msghdr out{};
        out.msg_iov = &piece;
        out.msg_iovlen = 1;
        if (!fds.empty()) {
            for (std::size_t i = 0; i < fds.size(); ++i) numbers[i] = fds[i].get();
            out.msg_control = control.data();
            out.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
            cmsghdr* const part = CMSG_FIRSTHDR(&out);
            part->cmsg_level = SOL_SOCKET;
            part->cmsg_type = SCM_RIGHTS;
            part->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
            std::memcpy(CMSG_DATA(part), numbers.data(), fds.size() * sizeof(int));
        }
        expect(::sendmsg(socket_->theirs.get(), &out, MSG_NOSIGNAL) ==
                   static_cast<ssize_t>(bytes.size()),
               "a socket takes a message");
    }

    void receive() {
        using Result = MessageReader::Result;
        try {
            while (socket_->reader.read(socket_->ours.get()) == Result::kMessage) {
                Message& message = socket_->reader.message();
                expect(message.fds.size() <= kMaxFds, "no message has too many descriptors");
                handle(message);
            }
        } catch (const Refusal&) {
            open_ = false;
        }
    }

    void check_watcher() {
        for (const std::string& violation : host_.violations) expect(false, violation.c_str());
    }

    // Every region and the log can be written to, whatever became of their files.
    void touch() {
        const auto write = [](std::span<std::byte> bytes) {
            if (bytes.empty()) return;
            *static_cast<volatile std::byte*>(&bytes.front()) = std::byte{1};
            *static_cast<volatile std::byte*>(&bytes.back()) = std::byte{2};
        };
        for (const auto& region : session_->regions()) {
            write(region->mapping().bytes());
            const RegionDescription& is = region->description();
            expect(session_->locate(is.user_address) == region->mapping().bytes().data(),
                   "a region is found where the frontend has it");
        }
        write(session_->log());
        for (std::size_t i = 0; i < kVrings; ++i) {
            const Vring& vring = session_->vring(i);
            expect(vring.size <= kMaxRingSize, "no ring is too long");
            expect(!vring.kick || vring.kicked, "a ring with a kick descriptor is started");
        }
        if (session_->ready()) {
            expect(session_->set_up() && !session_->stopped() && !session_->regions().empty(),
                   "what is ready is set up");
        }
    }

    Input& in_;
    test::WatchingHost host_;
    std::optional<Sockets> socket_;
    std::optional<Session> session_;
    bool open_ = true;
};

// The lowest one that is not in use: higher than before, a descriptor was left open.
int next_descriptor() {
    const int fd = ::dup(Files::all().fds[0]);
    ::close(fd);
    return fd;
}

}  // namespace
}  // namespace zecorx::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace zecorx::fuzz;
    const int before = next_descriptor();
    Files::all().cut(kSmall);
    {
        Input in(data, size);
        Frontend(in).run();
    }
    expect(next_descriptor() == before, "no descriptor is left open");
    return 0;
}
