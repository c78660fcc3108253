#include "server.h"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <utility>

#include "endpoint.h"

namespace zecorx::vhost_user {
namespace {

// poll(2) wants whole milliseconds, and -1 for ever.
int milliseconds_until(const std::optional<Clock::time_point>& time) {
    if (!time) return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*time - Clock::now());
    return static_cast<int>(std::max<std::int64_t>(left.count(), 0));
}

// What the thread waits for; which descriptors are whose follows from the order.
struct Waiting {
    std::vector<pollfd> fds;
    std::vector<std::size_t> ends;  // of each endpoint's part
    std::optional<Clock::time_point> until;
};

Waiting what_to_wait_for(int wake, const std::vector<Endpoint*>& endpoints) {
    Waiting waiting;
    waiting.fds.push_back({wake, POLLIN, 0});
    for (const Endpoint* endpoint : endpoints) {
        endpoint->append_to(waiting.fds);
        waiting.ends.push_back(waiting.fds.size());
        const auto attempt = endpoint->next_attempt();
        if (attempt && (!waiting.until || *attempt < *waiting.until)) waiting.until = attempt;
    }
    return waiting;
}

void serve(const std::vector<Endpoint*>& endpoints, const Waiting& waiting) {
    std::size_t begin = 1;
    for (std::size_t i = 0; i < endpoints.size(); ++i) {
        const std::span ready = std::span(waiting.fds).subspan(begin, waiting.ends[i] - begin);
        try {
            endpoints[i]->serve(ready);
        } catch (const std::exception& error) {
            spdlog::error("vhost-user socket {}: {}", endpoints[i]->path(), error.what());
        }
        begin = waiting.ends[i];
    }
}

}  // namespace

Server::Server(ControlMutex& mutex)
    : mutex_(mutex), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!wake_) {
        throw std::runtime_error(fmt::format("cannot create an eventfd: {}", std::strerror(errno)));
    }
    thread_ = std::thread([this] { run(); });
    ::pthread_setname_np(thread_.native_handle(), "vhost-user");
}

Server::~Server() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    wake();
    thread_.join();
}

void Server::wake() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof one);
}

void Server::add(Endpoint& endpoint) {
    {
        const std::lock_guard lock(mutex_);
        endpoints_.push_back(&endpoint);
        ++changes_;
    }
    wake();
}

// The thread is woken because a socket that is closed while it is waited for stays open until then,
// and its frontend would not hear of the end.
void Server::remove(Endpoint& endpoint) {
    {
        const std::lock_guard lock(mutex_);
        std::erase(endpoints_, &endpoint);
        ++changes_;
    }
    wake();
}

void Server::run() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
        Waiting waiting = what_to_wait_for(wake_.get(), endpoints_);
        const std::uint64_t known = changes_;
        lock.unlock();
        ::poll(waiting.fds.data(), waiting.fds.size(), milliseconds_until(waiting.until));
        std::uint64_t woken = 0;
        [[maybe_unused]] const ssize_t size = ::read(wake_.get(), &woken, sizeof woken);
        lock.lock();
        // A descriptor waited for may have become another one's meanwhile.
        if (changes_ == known) serve(endpoints_, waiting);
    }
}

Socket::Socket(Server& server, std::string path, bool client, SessionHost& host)
    : server_(server), endpoint_(std::make_unique<Endpoint>(std::move(path), client, host)) {
    server_.add(*endpoint_);
}

Socket::~Socket() {
    server_.remove(*endpoint_);
    const std::lock_guard lock(server_.mutex_);
    endpoint_.reset();
}

const std::string& Socket::path() const { return endpoint_->path(); }

}  // namespace zecorx::vhost_user
