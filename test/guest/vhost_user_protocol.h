// Wire layouts of the vhost-user protocol (QEMU docs/interop/vhost-user.rst), frontend's view.
#pragma once

#include <cstddef>
#include <cstdint>

namespace zecorx::test {

enum class Request : std::uint32_t {
    kGetFeatures = 1,
    kSetFeatures = 2,
    kSetOwner = 3,
    kResetOwner = 4,
    kSetMemTable = 5,
    kSetLogBase = 6,
    kSetVringNum = 8,
    kSetVringAddr = 9,
    kSetVringBase = 10,
    kGetVringBase = 11,
    kSetVringKick = 12,
    kSetVringCall = 13,
    kSetVringErr = 14,
    kGetProtocolFeatures = 15,
    kSetProtocolFeatures = 16,
    kGetQueueNum = 17,
    kSetVringEnable = 18,
    kSendRarp = 19,
    kNetSetMtu = 20,
    kGetInflightFd = 31,
    kSetInflightFd = 32,
    kGetMaxMemSlots = 36,
    kAddMemReg = 37,
    kRemMemReg = 38,
    kSetStatus = 39,
    kGetStatus = 40,
};

enum ProtocolFeature : std::uint64_t {
    kProtocolMq = 1ULL << 0,
    kProtocolLogShmfd = 1ULL << 1,
    kProtocolRarp = 1ULL << 2,
    kProtocolReplyAck = 1ULL << 3,
    kProtocolNetMtu = 1ULL << 4,
    kProtocolInflightShmfd = 1ULL << 12,
    kProtocolConfigureMemSlots = 1ULL << 15,
    kProtocolStatus = 1ULL << 16,
};

// Device status (VIRTIO 2.1), as SET_STATUS carries it.
enum DeviceStatus : std::uint64_t {
    kStatusAcknowledge = 1,
    kStatusDriver = 2,
    kStatusDriverOk = 4,
    kStatusFeaturesOk = 8,
};

inline constexpr std::uint64_t kFeatureLogAll = 1ULL << 26;  // VHOST_F_LOG_ALL

inline constexpr std::uint32_t kMessageVersion = 1;
inline constexpr std::uint32_t kMessageReply = 1U << 2;
inline constexpr std::uint32_t kMessageNeedReply = 1U << 3;
inline constexpr std::uint64_t kVringNoFd = 1ULL << 8;  // KICK, CALL, ERR: poll instead
inline constexpr std::uint32_t kVringAddrLog = 1;       // log writes to the used ring

// More would not fit one message; a backend may take fewer (librte_vhost 22.11: 8).
inline constexpr std::size_t kMaxMessageFds = 32;

struct MessageHeader {
    std::uint32_t request;
    std::uint32_t flags;
    std::uint32_t size;  // bytes of payload
};
static_assert(sizeof(MessageHeader) == 12);

struct VringState {
    std::uint32_t index;
    std::uint32_t num;
};
static_assert(sizeof(VringState) == 8);

struct VringAddr {
    std::uint32_t index;
    std::uint32_t flags;
    std::uint64_t desc;  // the three rings by the frontend's own addresses
    std::uint64_t used;
    std::uint64_t avail;
    std::uint64_t log;  // GPA of the used ring
};
static_assert(sizeof(VringAddr) == 40 && offsetof(VringAddr, used) == 16);

struct MemRegionPayload {
    std::uint64_t gpa;
    std::uint64_t size;
    std::uint64_t user_addr;
    std::uint64_t mmap_offset;
};
static_assert(sizeof(MemRegionPayload) == 32);

struct MemTableHead {  // followed by `count` MemRegionPayload
    std::uint32_t count;
    std::uint32_t padding;
};
static_assert(sizeof(MemTableHead) == 8);

struct SingleMemRegion {
    std::uint64_t padding;
    MemRegionPayload region;
};
static_assert(sizeof(SingleMemRegion) == 40);

struct LogPayload {
    std::uint64_t size;
    std::uint64_t mmap_offset;
};
static_assert(sizeof(LogPayload) == 16);

}  // namespace zecorx::test
