// Wire layouts and numbers of the vhost-user protocol (QEMU, docs/interop/vhost-user.rst),
// backend's view. "Spec" below is that document.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace zecorx::vhost_user {

// Spec, "Front-end message types".
enum class Request : std::uint32_t {
    kGetFeatures = 1,
    kSetFeatures = 2,
    kSetOwner = 3,
    kResetOwner = 4,
    kSetMemTable = 5,
    kSetLogBase = 6,
    kSetLogFd = 7,
    kSetVringNum = 8,
    kSetVringAddr = 9,
    kSetVringBase = 10,
    kGetVringBase = 11,
    kSetVringKick = 12,
    kSetVringCall = 13,
    kSetVringErr = 14,
    kGetProtocolFeatures = 15,
    kSetProtocolFeatures = 16,
    kSetVringEnable = 18,
    kSendRarp = 19,
    kNetSetMtu = 20,
    kGetMaxMemSlots = 36,
    kAddMemReg = 37,
    kRemMemReg = 38,
    kSetStatus = 39,
    kGetStatus = 40,
};

// Spec, "Protocol features".
enum ProtocolFeature : std::uint64_t {
    kProtocolLogShmfd = 1ULL << 1,
    kProtocolRarp = 1ULL << 2,
    kProtocolReplyAck = 1ULL << 3,
    kProtocolMtu = 1ULL << 4,
    kProtocolConfigureMemSlots = 1ULL << 15,
    kProtocolStatus = 1ULL << 16,
};

// Device status bits (VIRTIO 2.1).
inline constexpr std::uint64_t kStatusDriverOk = 4;
inline constexpr std::uint64_t kMostStatus = 0xff;

// Spec, "Header": 32-bit request, flags, size of the payload in bytes.
struct Header {
    std::uint32_t request = 0;
    std::uint32_t flags = 0;
    std::uint32_t size = 0;
};
static_assert(sizeof(Header) == 12);

inline constexpr std::uint32_t kVersionMask = 3;
inline constexpr std::uint32_t kVersion = 1;
inline constexpr std::uint32_t kFlagReply = 1U << 2;
inline constexpr std::uint32_t kFlagNeedReply = 1U << 3;

// KICK, CALL and ERR: bits 0-7 of the payload are the vring, bit 8 says that no descriptor follows.
inline constexpr std::uint64_t kVringIndexMask = 0xff;
inline constexpr std::uint64_t kVringNoFd = 1ULL << 8;

// Queue pairs one, so two vrings: receiveq and transmitq, by virtqueue number (VIRTIO 5.1.2).
inline constexpr std::size_t kVrings = 2;

struct VringState {
    std::uint32_t index;
    std::uint32_t value;
};
static_assert(sizeof(VringState) == 8);

// Ring addresses are the frontend's own. `log` is not needed: where the used ring lies in guest
// memory follows from the memory table.
struct VringAddress {
    std::uint32_t index;
    std::uint32_t flags;
    std::uint64_t desc;
    std::uint64_t used;   // packed: the device area
    std::uint64_t avail;  // packed: the driver area
    std::uint64_t log;
};
static_assert(sizeof(VringAddress) == 40 && offsetof(VringAddress, used) == 16);

struct RegionDescription {
    std::uint64_t gpa;
    std::uint64_t size;  // bytes
    std::uint64_t user_address;
    std::uint64_t file_offset;  // bytes

    bool operator==(const RegionDescription&) const = default;
};
static_assert(sizeof(RegionDescription) == 32);

inline constexpr std::size_t kMaxTableRegions = 8;  // spec, "Memory regions description"

struct MemTable {
    std::uint32_t count;
    std::uint32_t padding;
    std::array<RegionDescription, kMaxTableRegions> regions;
};
static_assert(sizeof(MemTable) == 8 + kMaxTableRegions * sizeof(RegionDescription));

struct SingleRegion {
    std::uint64_t padding;
    RegionDescription region;
};
static_assert(sizeof(SingleRegion) == 40);

struct LogDescription {
    std::uint64_t size;  // bytes
    std::uint64_t file_offset;
};
static_assert(sizeof(LogDescription) == 16);

// The largest payload is a full memory table.
inline constexpr std::size_t kMaxPayload = sizeof(MemTable);
inline constexpr std::size_t kMaxFds = kMaxTableRegions;

}  // namespace zecorx::vhost_user
