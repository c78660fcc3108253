#include "frontend.h"

#include <cstring>
#include <type_traits>

namespace zecorx::test {

namespace {

constexpr std::size_t kMaxReply = 4096;  // bytes; the largest real reply is far below

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    return std::as_bytes(std::span(&value, 1));
}

template <typename T>
T payload_as(const Frontend::Reply& reply) {
    if (reply.payload.size() != sizeof(T)) {
        throw FrontendError("reply to request " + std::to_string(reply.header.request) + " has " +
                            std::to_string(reply.payload.size()) + " bytes of payload instead of " +
                            std::to_string(sizeof(T)));
    }
    T value;
    std::memcpy(&value, reply.payload.data(), sizeof(T));
    return value;
}

MemRegionPayload payload_of(const MemoryRegion& region) {
    return {region.gpa, region.size, region.user_addr, region.mmap_offset};
}

void append(std::vector<std::byte>& payload, std::span<const std::byte> bytes) {
    payload.insert(payload.end(), bytes.begin(), bytes.end());
}

// What SET_VRING_BASE carries: for a packed ring the available side in the low half, the used side
// in the high one. They are the same, since a device that completes in order holds nothing when it
// stops.
std::uint32_t vring_base(const QueueDriver& queue, std::uint16_t base) {
    return queue.is_packed() ? base | static_cast<std::uint32_t>(base) << 16 : base;
}

void require(bool accepted, const char* what) {
    if (!accepted) throw FrontendError(std::string("the backend refused ") + what);
}

}  // namespace

std::uint64_t Frontend::negotiate(const Negotiation& wanted) {
    require(set_owner(), "SET_OWNER");
    const std::uint64_t offered = get_features();
    if ((offered & wanted.features & kFeatureVhostUserProtocol) != 0) {
        const std::uint64_t protocol = get_protocol_features() & wanted.protocol_features;
        require(set_protocol_features(protocol), "SET_PROTOCOL_FEATURES");
    }
    require(set_features(offered & wanted.features), "SET_FEATURES");
    report_status(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
    return features_;
}

// A backend that knows the status waits for DRIVER_OK before it touches a ring.
void Frontend::report_status(std::uint64_t status) {
    if ((protocol_features_ & kProtocolStatus) == 0) return;
    require(set_status(status), "SET_STATUS");
}

void Frontend::start_device(const FakeMemory& memory, std::span<QueueDriver* const> queues,
                            const VringBases& bases) {
    require(set_mem_table(memory.regions()), "SET_MEM_TABLE");
    start_vrings(memory, queues, bases);
}

void Frontend::start_vrings(const FakeMemory& memory, std::span<QueueDriver* const> queues,
                            const VringBases& bases) {
    for (std::uint32_t i = 0; i < queues.size(); ++i) {
        const std::uint16_t base = bases.empty() ? queues[i]->used_idx() : bases.at(i);
        start_vring(i, memory, *queues[i], base);
    }
    started_ = static_cast<std::uint32_t>(queues.size());
    report_status(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
    // Without this feature a ring is enabled from the start and the request does not exist.
    if ((features_ & kFeatureVhostUserProtocol) == 0) return;
    for (std::uint32_t i = 0; i < started_; ++i) {
        require(set_vring_enable(i, true), "SET_VRING_ENABLE");
    }
}

void Frontend::start_vring(std::uint32_t index, const FakeMemory& memory, const QueueDriver& queue,
                           std::uint16_t base) {
    const auto fd_index = static_cast<std::uint8_t>(index);
    require(set_vring_num(index, queue.size()), "SET_VRING_NUM");
    require(set_vring_base(index, vring_base(queue, base)), "SET_VRING_BASE");
    const bool log = (features_ & kFeatureLogAll) != 0;
    require(set_vring_addr(index, memory, queue, log), "SET_VRING_ADDR");
    require(set_vring_kick(fd_index, queue.kick_fd()), "SET_VRING_KICK");
    require(set_vring_call(fd_index, queue.call_fd()), "SET_VRING_CALL");
}

VringBases Frontend::stop_device() {
    if ((features_ & kFeatureVhostUserProtocol) != 0) {
        for (std::uint32_t i = 0; i < started_; ++i) {
            require(set_vring_enable(i, false), "SET_VRING_ENABLE");
        }
    }
    VringBases bases;
    for (std::uint32_t i = 0; i < started_; ++i) {
        bases.push_back(static_cast<std::uint16_t>(get_vring_base(i)));
    }
    started_ = 0;
    report_status(0);
    return bases;
}

std::uint64_t Frontend::get_features() { return get_u64(Request::kGetFeatures); }

bool Frontend::set_features(std::uint64_t features) {
    const bool accepted = set_u64(Request::kSetFeatures, features);
    if (accepted) features_ = features;
    return accepted;
}

bool Frontend::set_owner() { return set(Request::kSetOwner, {}); }
bool Frontend::reset_owner() { return set(Request::kResetOwner, {}); }

bool Frontend::set_mem_table(std::span<const MemoryRegion> regions) {
    std::vector<std::byte> payload;
    std::vector<int> fds;
    append(payload, bytes_of(MemTableHead{static_cast<std::uint32_t>(regions.size()), 0}));
    for (const MemoryRegion& region : regions) {
        append(payload, bytes_of(payload_of(region)));
        fds.push_back(region.fd);
    }
    return set(Request::kSetMemTable, payload, fds);
}

// The one set request that always has a reply once LOG_SHMFD is negotiated: an empty one, or an
// acknowledgement if it failed and one was asked for.
bool Frontend::set_log_base(int fd, std::uint64_t size, std::uint64_t mmap_offset) {
    const LogPayload log{size, mmap_offset};
    const bool acked = (protocol_features_ & kProtocolReplyAck) != 0;
    send_message(Request::kSetLogBase, acked ? kMessageNeedReply : 0, bytes_of(log), {&fd, 1});
    if (!acked && (protocol_features_ & kProtocolLogShmfd) == 0) return true;
    const Reply reply = reply_to(Request::kSetLogBase);
    return reply.payload.empty() || payload_as<std::uint64_t>(reply) == 0;
}

bool Frontend::set_vring_num(std::uint32_t index, std::uint32_t size) {
    return set(Request::kSetVringNum, bytes_of(VringState{index, size}));
}

bool Frontend::set_vring_addr(std::uint32_t index, const FakeMemory& memory,
                              const QueueDriver& queue, bool log) {
    return set_vring_addr({.index = index,
                           .flags = log ? kVringAddrLog : 0,
                           .desc = memory.user_addr(queue.descriptor_area()),
                           .used = memory.user_addr(queue.device_area()),
                           .avail = memory.user_addr(queue.driver_area()),
                           .log = queue.device_area()});
}

bool Frontend::set_vring_addr(const VringAddr& addr) {
    return set(Request::kSetVringAddr, bytes_of(addr));
}

bool Frontend::set_vring_base(std::uint32_t index, std::uint32_t base) {
    return set(Request::kSetVringBase, bytes_of(VringState{index, base}));
}

std::uint32_t Frontend::get_vring_base(std::uint32_t index) {
    send_message(Request::kGetVringBase, 0, bytes_of(VringState{index, 0}));
    const auto state = payload_as<VringState>(reply_to(Request::kGetVringBase));
    if (state.index != index) throw FrontendError("GET_VRING_BASE answered for another vring");
    return state.num;
}

bool Frontend::set_vring_fd(Request request, std::uint8_t index, std::optional<int> fd) {
    if (!fd) return set_u64(request, index | kVringNoFd);
    return set_u64(request, index, {&*fd, 1});
}

bool Frontend::set_vring_kick(std::uint8_t index, std::optional<int> fd) {
    return set_vring_fd(Request::kSetVringKick, index, fd);
}

bool Frontend::set_vring_call(std::uint8_t index, std::optional<int> fd) {
    return set_vring_fd(Request::kSetVringCall, index, fd);
}

bool Frontend::set_vring_err(std::uint8_t index, std::optional<int> fd) {
    return set_vring_fd(Request::kSetVringErr, index, fd);
}

std::uint64_t Frontend::get_protocol_features() { return get_u64(Request::kGetProtocolFeatures); }

bool Frontend::set_protocol_features(std::uint64_t features) {
    const bool accepted = set_u64(Request::kSetProtocolFeatures, features);
    if (accepted) protocol_features_ = features;
    return accepted;
}

std::uint64_t Frontend::get_queue_num() { return get_u64(Request::kGetQueueNum); }

bool Frontend::set_vring_enable(std::uint32_t index, bool enable) {
    return set(Request::kSetVringEnable, bytes_of(VringState{index, enable ? 1U : 0U}));
}

bool Frontend::send_rarp(const MacAddress& mac) {
    std::uint64_t value = 0;
    std::memcpy(&value, mac.bytes.data(), mac.bytes.size());
    return set_u64(Request::kSendRarp, value);
}

bool Frontend::set_mtu(std::uint64_t mtu) { return set_u64(Request::kNetSetMtu, mtu); }

std::uint64_t Frontend::get_max_mem_slots() { return get_u64(Request::kGetMaxMemSlots); }

bool Frontend::add_mem_region(const MemoryRegion& region) {
    return set(Request::kAddMemReg, bytes_of(SingleMemRegion{0, payload_of(region)}),
               {&region.fd, 1});
}

bool Frontend::remove_mem_region(const MemoryRegion& region) {
    return set(Request::kRemMemReg, bytes_of(SingleMemRegion{0, payload_of(region)}));
}

bool Frontend::set_status(std::uint64_t status) { return set_u64(Request::kSetStatus, status); }

std::uint64_t Frontend::get_status() { return get_u64(Request::kGetStatus); }

bool Frontend::set(Request request, std::span<const std::byte> payload, std::span<const int> fds) {
    const bool acked = (protocol_features_ & kProtocolReplyAck) != 0;
    send_message(request, acked ? kMessageNeedReply : 0, payload, fds);
    return !acked || payload_as<std::uint64_t>(reply_to(request)) == 0;
}

bool Frontend::set_u64(Request request, std::uint64_t value, std::span<const int> fds) {
    return set(request, bytes_of(value), fds);
}

std::uint64_t Frontend::get_u64(Request request) {
    send_message(request, 0, {});
    return payload_as<std::uint64_t>(reply_to(request));
}

void Frontend::send_message(Request request, std::uint32_t flags,
                            std::span<const std::byte> payload, std::span<const int> fds) {
    send_message(request, flags, payload, fds, static_cast<std::uint32_t>(payload.size()));
}

void Frontend::send_message(Request request, std::uint32_t flags,
                            std::span<const std::byte> payload, std::span<const int> fds,
                            std::uint32_t payload_size) {
    const MessageHeader header{static_cast<std::uint32_t>(request), flags | kMessageVersion,
                               payload_size};
    std::vector<std::byte> message;
    append(message, bytes_of(header));
    append(message, payload);
    socket_.send(message, fds);
}

Frontend::Reply Frontend::receive_reply() {
    Reply reply;
    socket_.receive(std::as_writable_bytes(std::span(&reply.header, 1)), timeout_, &reply.fds);
    if (reply.header.size > kMaxReply) throw FrontendError("reply with an absurd payload size");
    reply.payload.resize(reply.header.size);
    socket_.receive(reply.payload, timeout_, &reply.fds);
    return reply;
}

Frontend::Reply Frontend::reply_to(Request request) {
    Reply reply = receive_reply();
    if (reply.header.request != static_cast<std::uint32_t>(request) ||
        (reply.header.flags & kMessageReply) == 0) {
        throw FrontendError("the backend answered request " +
                            std::to_string(static_cast<std::uint32_t>(request)) + " with message " +
                            std::to_string(reply.header.request));
    }
    return reply;
}

}  // namespace zecorx::test
