// A vhost-user frontend as QEMU is one: it shares guest RAM with a backend and hands it the
// virtqueues of its drivers.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "guest_memory.h"
#include "queue_driver.h"
#include "unix_socket.h"
#include "vhost_user_protocol.h"
#include "zecorx/mac_address.h"

namespace zecorx::test {

// The backend answered against the protocol, or refused what a start or stop needs.
struct FrontendError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// What to ask for. Only what the backend offers as well is acknowledged.
struct Negotiation {
    std::uint64_t features = kFeatureVersion1 | kFeatureNetMrgRxbuf | kFeatureVhostUserProtocol;
    std::uint64_t protocol_features = kProtocolMq | kProtocolLogShmfd | kProtocolRarp |
                                      kProtocolReplyAck | kProtocolNetMtu |
                                      kProtocolConfigureMemSlots | kProtocolStatus;
};

// Where the rings stand, by vring index: split, the index; packed, the ring position of the next
// available descriptor and kPackedWrap for its wrap counter.
using VringBases = std::vector<std::uint16_t>;

// Not thread-safe. fds and memory passed in stay the caller's.
//
// Each set_*() asks for an acknowledgement once REPLY_ACK is negotiated and returns false when the
// backend refused; without REPLY_ACK it returns true and a refusal shows as a closed connection.
// Everything throws SocketClosed or SocketTimeout rather than wait for ever.
class Frontend {
  public:
    explicit Frontend(UnixSocket socket, Timeout timeout = kDefaultTimeout)
        : socket_(std::move(socket)), timeout_(timeout) {}

    static Frontend connect(const std::string& path, Timeout timeout = kDefaultTimeout) {
        return Frontend(UnixSocket::connect(path, timeout), timeout);
    }
    // For a backend in client mode.
    static Frontend accept(const UnixListener& listener, Timeout timeout = kDefaultTimeout) {
        return Frontend(listener.accept(timeout), timeout);
    }

    // The orders a test usually wants, as QEMU has them.

    // Owner, protocol features, features. Returns the virtio features now in force.
    std::uint64_t negotiate(const Negotiation& wanted = {});
    // Memory table, the vrings queues[0..], DRIVER_OK and their enabling. `bases` is what
    // stop_device() returned; without it every queue starts where its used side stands, as QEMU
    // does for split rings when the backend vanished. Throws FrontendError if anything is refused.
    void start_device(const FakeMemory& memory, std::span<QueueDriver* const> queues,
                      const VringBases& bases = {});
    // The same behind a memory table that was sent already.
    void start_vrings(const FakeMemory& memory, std::span<QueueDriver* const> queues,
                      const VringBases& bases = {});
    // Disables every started vring, takes its base back and resets the status.
    VringBases stop_device();
    // Vanishes as a killed frontend does.
    void disconnect() { socket_.close(); }

    // Single requests, in the protocol's order.

    std::uint64_t get_features();
    bool set_features(std::uint64_t features);
    bool set_owner();
    bool reset_owner();
    bool set_mem_table(std::span<const MemoryRegion> regions);
    // `size` bytes of dirty bitmap in `fd`, one bit for each 4 KiB page.
    bool set_log_base(int fd, std::uint64_t size, std::uint64_t mmap_offset = 0);
    bool set_vring_num(std::uint32_t index, std::uint32_t size);
    // With `log`, writes to the used ring are to be logged too.
    bool set_vring_addr(std::uint32_t index, const FakeMemory& memory, const QueueDriver& queue,
                        bool log = false);
    bool set_vring_addr(const VringAddr& addr);
    bool set_vring_base(std::uint32_t index, std::uint32_t base);
    std::uint32_t get_vring_base(std::uint32_t index);
    bool set_vring_kick(std::uint8_t index, std::optional<int> fd);
    bool set_vring_call(std::uint8_t index, std::optional<int> fd);
    bool set_vring_err(std::uint8_t index, std::optional<int> fd);
    std::uint64_t get_protocol_features();
    bool set_protocol_features(std::uint64_t features);
    std::uint64_t get_queue_num();
    bool set_vring_enable(std::uint32_t index, bool enable);
    bool send_rarp(const MacAddress& mac);
    bool set_mtu(std::uint64_t mtu);
    std::uint64_t get_max_mem_slots();
    bool add_mem_region(const MemoryRegion& region);
    bool remove_mem_region(const MemoryRegion& region);
    bool set_status(std::uint64_t status);
    std::uint64_t get_status();

    // For hostile tests: exactly these bytes and fds behind a header that says `payload_size`.
    void send_message(Request request, std::uint32_t flags, std::span<const std::byte> payload,
                      std::span<const int> fds, std::uint32_t payload_size);
    void send_message(Request request, std::uint32_t flags, std::span<const std::byte> payload,
                      std::span<const int> fds = {});
    struct Reply {
        MessageHeader header;
        std::vector<std::byte> payload;
        std::vector<UniqueFd> fds;
    };
    Reply receive_reply();
    bool wait_closed(Timeout timeout) const { return socket_.wait_closed(timeout); }

    bool is_connected() const { return socket_.is_open(); }
    std::uint64_t features() const { return features_; }
    std::uint64_t protocol_features() const { return protocol_features_; }

  private:
    bool set(Request request, std::span<const std::byte> payload, std::span<const int> fds = {});
    bool set_u64(Request request, std::uint64_t value, std::span<const int> fds = {});
    bool set_vring_fd(Request request, std::uint8_t index, std::optional<int> fd);
    std::uint64_t get_u64(Request request);
    Reply reply_to(Request request);
    void report_status(std::uint64_t status);
    void start_vring(std::uint32_t index, const FakeMemory& memory, const QueueDriver& queue,
                     std::uint16_t base);

    UnixSocket socket_;
    Timeout timeout_;
    std::uint64_t features_ = 0;           // acknowledged
    std::uint64_t protocol_features_ = 0;  // acknowledged
    std::uint32_t started_ = 0;            // vrings
};

}  // namespace zecorx::test
