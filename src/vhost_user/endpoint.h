// One VM's socket and the frontends connected by it.
//
// Thread rule: under the control mutex.
#pragma once

#include <poll.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "message.h"
#include "session.h"
#include "zecorx/unique_fd.h"

namespace zecorx::vhost_user {

using Clock = std::chrono::steady_clock;

// A connected frontend.
class Connection {
  public:
    Connection(UniqueFd socket, SessionHost& host)
        : host_(host), socket_(std::move(socket)), session_(host) {}

    int fd() const { return socket_.get(); }
    // Acts on what has arrived, a bounded part of it. False: the connection is over.
    bool serve();

  private:
    bool handle(Message& message);
    bool acknowledge(const Message& message, bool done);

    SessionHost& host_;
    UniqueFd socket_;
    MessageReader reader_;
    Session session_;
};

class Endpoint {
  public:
    // Throws std::runtime_error with the remedy.
    Endpoint(std::string path, bool client, SessionHost& host);
    ~Endpoint();
    Endpoint(const Endpoint&) = delete;
    Endpoint& operator=(const Endpoint&) = delete;

    const std::string& path() const { return path_; }

    // What to wait for: descriptors, and the time of the next attempt after one that failed.
    void append_to(std::vector<pollfd>& fds) const;
    std::optional<Clock::time_point> next_attempt() const;

    // After the wait. `ready` are those that append_to() gave, with their events.
    void serve(std::span<const pollfd> ready);

  private:
    // More than a frontend and its successors need, and a bound to what they can make us hold.
    static constexpr std::size_t kMaxConnections = 8;

    void listen();
    void accept();
    void connect();
    void connection_over();
    void retry_later();

    const std::string path_;
    const bool client_;
    SessionHost& host_;
    UniqueFd listener_;
    std::vector<std::unique_ptr<Connection>> connections_;
    Clock::time_point next_attempt_{};
    std::optional<Clock::time_point> accept_again_;  // after a failure
    std::chrono::milliseconds pause_;
};

}  // namespace zecorx::vhost_user
