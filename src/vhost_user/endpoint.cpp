#include "endpoint.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <utility>

namespace zecorx::vhost_user {
namespace {

using namespace std::chrono_literals;

// A turn of one connection, so that none keeps the others waiting.
constexpr int kMessagesAtOnce = 16;

// Between attempts to connect, doubled each time.
constexpr auto kFirstPause = 50ms;
constexpr auto kLongestPause = 1000ms;

UniqueFd make_socket() {
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) {
        throw std::runtime_error(fmt::format(
            "cannot create a unix socket: {}; raise the limit of open files (ulimit -n)",
            std::strerror(errno)));
    }
    return socket;
}

sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        throw std::runtime_error(
            fmt::format("the path of the vhost-user socket {} is longer than {} "
                        "characters; use a shorter one",
                        path, sizeof address.sun_path - 1));
    }
    path.copy(address.sun_path, path.size());
    return address;
}

const sockaddr* generic(const sockaddr_un& address) {
    return reinterpret_cast<const sockaddr*>(&address);
}

}  // namespace

bool Connection::serve() {
    for (int i = 0; i < kMessagesAtOnce; ++i) {
        switch (reader_.read(socket_.get())) {
            case MessageReader::Result::kNothing:
                return true;
            case MessageReader::Result::kClosed:
                return false;
            case MessageReader::Result::kMessage:
                if (!handle(reader_.message())) return false;
                reader_.message().fds.clear();  // what nobody took
        }
    }
    return true;
}

// A frontend that asked to be told hears of a refusal and may go on; any other could only go wrong.
bool Connection::handle(Message& message) {
    try {
        const std::optional<Reply> reply = session_.handle(message);
        return reply ? send_reply(socket_.get(), *reply) : acknowledge(message, true);
    } catch (const std::exception& reason) {
        host_.refused(fmt::format("the frontend's {} is refused: {}",
                                  name_of(message.header.request), reason.what()));
        return acknowledge(message, false) && message.needs_reply();
    }
}

// Spec, "REPLY_ACK": 0 for success.
bool Connection::acknowledge(const Message& message, bool done) {
    const Negotiated& negotiated = session_.negotiated();
    if (!message.needs_reply() || (negotiated.protocol_features & kProtocolReplyAck) == 0) {
        return done;
    }
    return send_reply(socket_.get(), Reply(message.request(), std::uint64_t{done ? 0U : 1U}));
}

Endpoint::Endpoint(std::string path, bool client, SessionHost& host)
    : path_(std::move(path)), client_(client), host_(host), pause_(kFirstPause) {
    address_of(path_);
    if (!client_) listen();
}

Endpoint::~Endpoint() {
    connections_.clear();
    if (listener_) ::unlink(path_.c_str());
}

void Endpoint::listen() {
    UniqueFd socket = make_socket();
    const sockaddr_un address = address_of(path_);
    if (::bind(socket.get(), generic(address), sizeof address) != 0) {
        throw std::runtime_error(fmt::format(
            "cannot listen on the vhost-user socket {}: {}; use another iface= or free the path",
            path_, std::strerror(errno)));
    }
    if (::listen(socket.get(), SOMAXCONN) != 0) {
        throw std::runtime_error(fmt::format("cannot listen on the vhost-user socket {}: {}", path_,
                                             std::strerror(errno)));
    }
    listener_ = std::move(socket);
}

void Endpoint::append_to(std::vector<pollfd>& fds) const {
    if (listener_ && !accept_again_) fds.push_back({listener_.get(), POLLIN, 0});
    for (const auto& connection : connections_) fds.push_back({connection->fd(), POLLIN, 0});
}

std::optional<Clock::time_point> Endpoint::next_attempt() const {
    if (accept_again_) return accept_again_;
    return client_ && connections_.empty() ? std::optional(next_attempt_) : std::nullopt;
}

void Endpoint::serve(std::span<const pollfd> ready) {
    for (const pollfd& fd : ready) {
        if (fd.revents == 0 || (listener_ && fd.fd == listener_.get())) continue;
        const auto found = std::ranges::find(
            connections_, fd.fd, [](const auto& connection) { return connection->fd(); });
        if (found == connections_.end()) continue;
        bool goes_on = false;
        try {
            goes_on = (*found)->serve();
        } catch (const Refusal& reason) {
            host_.refused(fmt::format("the frontend's message is refused: {}", reason.what()));
        }
        if (!goes_on) {
            connections_.erase(found);
            connection_over();
        }
    }
    if (listener_ && std::ranges::any_of(ready, [&](const pollfd& fd) {
            return fd.fd == listener_.get() && fd.revents != 0;
        })) {
        accept();
    }
    if (accept_again_ && Clock::now() >= *accept_again_) accept_again_.reset();
    if (client_ && connections_.empty() && Clock::now() >= next_attempt_) connect();
}

void Endpoint::accept() {
    UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
        // Out of descriptors, the connection stays in the queue and would wake us for ever.
        if (errno != EAGAIN) accept_again_ = Clock::now() + kLongestPause;
        return;
    }
    if (connections_.size() == kMaxConnections) {
        host_.refused(fmt::format("another frontend is refused: {} are connected to {} already",
                                  kMaxConnections, path_));
        return;
    }
    connections_.push_back(std::make_unique<Connection>(std::move(socket), host_));
}

void Endpoint::connect() {
    UniqueFd socket = make_socket();
    const sockaddr_un address = address_of(path_);
    if (::connect(socket.get(), generic(address), sizeof address) != 0) return retry_later();
    pause_ = kFirstPause;
    connections_.push_back(std::make_unique<Connection>(std::move(socket), host_));
}

void Endpoint::retry_later() {
    next_attempt_ = Clock::now() + pause_;
    pause_ = std::min<std::chrono::milliseconds>(2 * pause_, kLongestPause);
}

// A frontend that hangs up at once must not make us connect in a tight loop.
void Endpoint::connection_over() {
    if (client_) next_attempt_ = Clock::now() + kFirstPause;
}

}  // namespace zecorx::vhost_user
