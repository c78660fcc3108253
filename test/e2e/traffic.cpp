#include "traffic.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <future>
#include <random>
#include <span>
#include <stdexcept>

#include "guest/event_fd.h"
#include "support/wait.h"

namespace zecorx::test {
namespace {

constexpr std::uint16_t kDiscardPort = 9;
constexpr std::uint16_t kUnusedPort = 4999;
constexpr std::uint16_t kToGuestPort = 5001;
constexpr std::uint16_t kFromGuestPort = 5002;
constexpr std::uint16_t kBetweenGuestsPort = 5003;

sockaddr_in address_of(const std::string& ip, std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    if (::inet_pton(AF_INET, ip.c_str(), &address.sin_addr) != 1) {
        throw std::invalid_argument("not an IPv4 address: " + ip);
    }
    return address;
}

// Connects as soon as the peer listens.
UniqueFd connect_tcp(const NetNamespace& netns, const std::string& ip, std::uint16_t port) {
    const sockaddr_in address = address_of(ip, port);
    UniqueFd fd;
    const bool connected = wait_until(
        [&] {
            fd = netns.socket(AF_INET, SOCK_STREAM, 0);
            return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address),
                             sizeof address) == 0;
        },
        kTransferTimeout);
    if (!connected) throw_errno("connect to the guest");
    return fd;
}

UniqueFd listen_tcp(const NetNamespace& netns, const std::string& ip, std::uint16_t port) {
    UniqueFd fd = netns.socket(AF_INET, SOCK_STREAM, 0);
    constexpr int kOn = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &kOn, sizeof kOn);
    const sockaddr_in address = address_of(ip, port);
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        ::listen(fd.get(), 1) != 0) {
        throw_errno("listen for the guest");
    }
    return fd;
}

void send_all(int fd, const std::vector<std::uint8_t>& bytes) {
    for (std::size_t done = 0; done < bytes.size();) {
        if (!poll_fd(fd, POLLOUT, kTransferTimeout))
            throw std::runtime_error("the guest stopped reading");
        const ssize_t size =
            ::send(fd, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (size < 0 && errno != EAGAIN) throw_errno("send to the guest");
        done += static_cast<std::size_t>(std::max<ssize_t>(size, 0));
    }
}

std::string sha256_of_file(QemuGuest& guest) {
    return guest.must(std::string("sha256sum < ") + kTransferFile, kTransferTimeout).substr(0, 64);
}

class Sha256 {
  public:
    Sha256() { EVP_DigestInit_ex(context_, EVP_sha256(), nullptr); }
    ~Sha256() { EVP_MD_CTX_free(context_); }
    Sha256(const Sha256&) = delete;
    Sha256& operator=(const Sha256&) = delete;

    void add(std::span<const std::uint8_t> bytes) {
        EVP_DigestUpdate(context_, bytes.data(), bytes.size());
    }

    std::string finish() {
        std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
        unsigned size = 0;
        EVP_DigestFinal_ex(context_, digest.data(), &size);
        std::string text;
        constexpr const char* kDigits = "0123456789abcdef";
        for (unsigned i = 0; i < size; ++i) {
            text += kDigits[digest[i] >> 4];
            text += kDigits[digest[i] & 15];
        }
        return text;
    }

  private:
    EVP_MD_CTX* context_ = EVP_MD_CTX_new();
};

// The SHA-256 of all that one connection brings.
std::string receive_all(int listener) {
    if (!poll_fd(listener, POLLIN, kTransferTimeout))
        throw std::runtime_error("the guest did not connect");
    const UniqueFd fd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd) throw_errno("accept");
    Sha256 hash;
    std::vector<std::uint8_t> buffer(1 << 16);
    for (;;) {
        if (!poll_fd(fd.get(), POLLIN, kTransferTimeout))
            throw std::runtime_error("the guest stopped sending");
        const ssize_t size = ::recv(fd.get(), buffer.data(), buffer.size(), 0);
        if (size < 0) throw_errno("receive from the guest");
        if (size == 0) return hash.finish();
        hash.add(std::span(buffer).first(static_cast<std::size_t>(size)));
    }
}

}  // namespace

UdpFlood::UdpFlood(const NetNamespace& netns, const std::string& ip, FloodShape shape)
    : shape_(shape), socket_(netns.socket(AF_INET, SOCK_DGRAM, 0)) {
    const sockaddr_in address = address_of(ip, kDiscardPort);
    if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) !=
        0) {
        throw_errno("connect a UDP socket");
    }
    thread_ = std::thread([this] { run(); });
}

UdpFlood::~UdpFlood() {
    stop_ = true;
    thread_.join();
}

void UdpFlood::run() {
    constexpr std::chrono::milliseconds kPause{1};
    const std::vector<std::uint8_t> payload(1472, 0x5A);
    for (std::size_t n = 0; !stop_; ++n) {
        if (n % shape_.rate == 0) std::this_thread::sleep_for(kPause);
        // Refusals are expected: port unreachable from the guest, full queue of the wire.
        const std::size_t size = shape_.shortest + n * 131 % (payload.size() - shape_.shortest + 1);
        if (::send(socket_.get(), payload.data(), size, MSG_DONTWAIT) >= 0) ++sent_;
    }
}

TcpStream::TcpStream(const NetNamespace& netns, QemuGuest& guest, const std::string& guest_ip) {
    guest.must("nc -l -p " + std::to_string(kToGuestPort) + " > " + kTransferFile + " &");
    socket_ = connect_tcp(netns, guest_ip, kToGuestPort);
    hash_ = std::async(std::launch::async, [this] { return run(); });
}

TcpStream::~TcpStream() { stop_ = true; }

std::string TcpStream::finish() {
    stop_ = true;
    return hash_.get();
}

std::string TcpStream::received(QemuGuest& guest) {
    guest.must("wait", kTransferTimeout);
    return sha256_of_file(guest);
}

std::string TcpStream::run() {
    constexpr std::size_t kPiece = 8 << 10;
    constexpr std::size_t kMost = 64 << 20;  // of the guest's memory
    constexpr std::chrono::milliseconds kPause{10};
    Sha256 hash;
    auto bytes = random_bytes(kPiece);
    for (std::size_t sent = 0; !stop_ && sent < kMost; sent += kPiece) {
        ++bytes[0];  // no piece is like the one before
        send_all(socket_.get(), bytes);
        hash.add(bytes);
        std::this_thread::sleep_for(kPause);
    }
    socket_.reset();
    return hash.finish();
}

std::vector<std::uint8_t> random_bytes(std::size_t size) {
    std::mt19937_64 random(size);
    std::vector<std::uint8_t> bytes(size);
    for (std::size_t at = 0; at < size; at += sizeof(std::uint64_t)) {
        const std::uint64_t word = random();
        std::memcpy(bytes.data() + at, &word, std::min(sizeof word, size - at));
    }
    return bytes;
}

std::string sha256(const std::vector<std::uint8_t>& bytes) {
    Sha256 hash;
    hash.add(bytes);
    return hash.finish();
}

std::string send_to_guest(const NetNamespace& netns, QemuGuest& guest, const std::string& guest_ip,
                          const std::vector<std::uint8_t>& bytes) {
    guest.must("nc -l -p " + std::to_string(kToGuestPort) + " > " + kTransferFile + " &");
    {
        const UniqueFd connection = connect_tcp(netns, guest_ip, kToGuestPort);
        send_all(connection.get(), bytes);
    }
    guest.must("wait", kTransferTimeout);
    return sha256_of_file(guest);
}

std::string receive_from_guest(const NetNamespace& netns, QemuGuest& guest,
                               const std::string& our_ip) {
    const UniqueFd listener = listen_tcp(netns, our_ip, kFromGuestPort);
    auto received = std::async(std::launch::async, [&] { return receive_all(listener.get()); });
    guest.must("nc " + our_ip + " " + std::to_string(kFromGuestPort) + " < " + kTransferFile,
               kTransferTimeout);
    return received.get();
}

std::string send_between_guests(QemuGuest& from, QemuGuest& to, const std::string& to_ip) {
    const std::string port = std::to_string(kBetweenGuestsPort);
    // A program as the receiver: nc itself would close its side at once, as it has no input, which
    // ends the sender before it has sent everything.
    to.must(std::string("printf '#!/bin/sh\\ncat > ") + kTransferFile +
            "\\n' > /tmp/receive; chmod +x /tmp/receive");
    to.must("nc -l -p " + port + " -e /tmp/receive > /dev/null &");
    const bool listens = wait_until(
        [&] { return to.run("netstat -ltn | grep -q :" + port).status == 0; }, kTransferTimeout);
    if (!listens) throw std::runtime_error("the receiving guest does not listen");
    from.must("nc " + to_ip + " " + port + " < " + kTransferFile, kTransferTimeout);
    to.must("wait", kTransferTimeout);
    return sha256_of_file(to);
}

std::string make_transfer_file(QemuGuest& guest, std::size_t size) {
    guest.must("head -c " + std::to_string(size) + " /dev/urandom > " + kTransferFile,
               kTransferTimeout);
    return sha256_of_file(guest);
}

void send_datagrams(const NetNamespace& netns, const std::string& ip,
                    const std::vector<std::size_t>& sizes) {
    const UniqueFd fd = netns.socket(AF_INET, SOCK_DGRAM, 0);
    const sockaddr_in address = address_of(ip, kUnusedPort);
    for (const std::size_t size : sizes) {
        const auto payload = random_bytes(size);
        if (::sendto(fd.get(), payload.data(), size, 0, reinterpret_cast<const sockaddr*>(&address),
                     sizeof address) < 0) {
            throw_errno("send a datagram");
        }
    }
}

}  // namespace zecorx::test
