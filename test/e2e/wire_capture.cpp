#include "wire_capture.h"

#include <linux/filter.h>
#include <linux/if_packet.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <stdexcept>

#include "guest/event_fd.h"
#include "packet_socket.h"

namespace zecorx::test {
namespace {

constexpr std::size_t kKept = 14;  // the Ethernet header

// What follows the header is not copied, so that a capture does not slow the transfer down.
void keep_headers_only(int fd) {
    sock_filter accept{.code = BPF_RET | BPF_K, .jt = 0, .jf = 0, .k = kKept};
    const sock_fprog program{.len = 1, .filter = &accept};
    if (::setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0) {
        throw_errno("attach a packet filter");
    }
}

void require_nothing_lost(int fd) {
    tpacket_stats stats{};
    socklen_t size = sizeof stats;
    if (::getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size) != 0) {
        throw_errno("read a capture's statistics");
    }
    if (stats.tp_drops != 0) {
        throw std::runtime_error("the capture lost " + std::to_string(stats.tp_drops) + " frames");
    }
}

MacAddress parse(const std::string& mac) {
    const auto address = MacAddress::parse(mac);
    if (!address) throw std::invalid_argument("not a MAC address: " + mac);
    return *address;
}

}  // namespace

WireCapture::WireCapture(const NetNamespace& netns, const std::string& interface)
    : socket_(packet_socket(netns, interface)) {
    keep_headers_only(socket_.get());
    enable_auxiliary_data(socket_.get());
    thread_ = std::thread([this] { run(); });
}

WireCapture::~WireCapture() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
}

std::vector<WireFrame> WireCapture::stop() {
    stop_ = true;
    thread_.join();
    if (failure_) std::rethrow_exception(failure_);
    require_nothing_lost(socket_.get());
    return std::move(frames_);
}

void WireCapture::run() {
    constexpr std::chrono::milliseconds kInterval{20};
    constexpr unsigned kMostWaiting = 1 << 16;  // more than the socket's buffer holds
    const auto arrives_within = [this](std::chrono::milliseconds time) {
        return poll_fd(socket_.get(), POLLIN, time);
    };
    try {
        while (!stop_) {
            if (arrives_within(kInterval)) note_next();
        }
        // What had arrived when the end was asked for still counts.
        for (unsigned n = 0; n < kMostWaiting && arrives_within({}); ++n) note_next();
    } catch (...) {
        failure_ = std::current_exception();
    }
}

void WireCapture::note_next() {
    std::array<std::uint8_t, kKept> header{};
    const ReceivedFrame received = receive_frame(socket_.get(), header);
    if (received.kept == 0) return;
    const auto bytes = std::as_bytes(std::span(header));
    frames_.push_back({.destination = MacAddress::from_wire(bytes),
                       .source = MacAddress::from_wire(bytes.subspan(6)),
                       .vlan = received.vlan,
                       .size = received.size});
}

std::size_t longest(const std::vector<WireFrame>& frames) {
    std::size_t size = 0;
    for (const WireFrame& frame : frames) size = std::max(size, frame.size);
    return size;
}

std::size_t count(const std::vector<WireFrame>& frames, const std::string& source,
                  const std::string& destination) {
    const MacAddress from = parse(source);
    const MacAddress to = parse(destination.empty() ? source : destination);
    return static_cast<std::size_t>(std::ranges::count_if(frames, [&](const WireFrame& frame) {
        return frame.source == from && (destination.empty() || frame.destination == to);
    }));
}

}  // namespace zecorx::test
