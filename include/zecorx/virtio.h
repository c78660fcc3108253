// Wire layouts and feature bits of virtio 1.2 that the backend and its test driver share.
//
// All fields are little-endian; the project supports little-endian hosts only. "VIRTIO" below is
// the OASIS Virtual I/O Device specification, version 1.2.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace zecorx {

static_assert(std::endian::native == std::endian::little, "virtio fields are little-endian");

// Feature bits (VIRTIO 5.1.3, 6; vhost-user "Feature bits").
enum Feature : std::uint64_t {
    kFeatureNetCsum = 1ULL << 0,
    kFeatureNetGuestCsum = 1ULL << 1,
    kFeatureNetMtu = 1ULL << 3,
    kFeatureNetGso = 1ULL << 6,
    kFeatureNetGuestOffloads = 0xfULL << 7,  // GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_UFO
    kFeatureNetHostTso4 = 1ULL << 11,
    kFeatureNetHostTso6 = 1ULL << 12,
    kFeatureNetHostEcn = 1ULL << 13,
    kFeatureNetHostUfo = 1ULL << 14,
    kFeatureNetMrgRxbuf = 1ULL << 15,
    kFeatureNetGuestAnnounce = 1ULL << 21,
    kFeatureNetMq = 1ULL << 22,
    kFeatureLogAll = 1ULL << 26,
    kFeatureIndirectDesc = 1ULL << 28,
    kFeatureEventIdx = 1ULL << 29,
    kFeatureVhostUserProtocol = 1ULL << 30,
    kFeatureVersion1 = 1ULL << 32,
    kFeatureAccessPlatform = 1ULL << 33,
    kFeatureRingPacked = 1ULL << 34,
    kFeatureInOrder = 1ULL << 35,
    kFeatureRingReset = 1ULL << 40,
};

// Split virtqueue (VIRTIO 2.7).

inline constexpr std::uint16_t kDescNext = 1;      // VIRTQ_DESC_F_NEXT
inline constexpr std::uint16_t kDescWrite = 2;     // VIRTQ_DESC_F_WRITE: device-writable
inline constexpr std::uint16_t kDescIndirect = 4;  // VIRTQ_DESC_F_INDIRECT

inline constexpr std::uint16_t kAvailNoInterrupt = 1;  // VIRTQ_AVAIL_F_NO_INTERRUPT
inline constexpr std::uint16_t kUsedNoNotify = 1;      // VIRTQ_USED_F_NO_NOTIFY

inline constexpr std::uint32_t kMaxRingSize = 32768;  // VIRTIO 2.7: queue size limit

struct Desc {
    std::uint64_t addr;  // GPA
    std::uint32_t len;   // bytes
    std::uint16_t flags;
    std::uint16_t next;
};
static_assert(sizeof(Desc) == 16 && offsetof(Desc, len) == 8 && offsetof(Desc, next) == 14);

struct UsedElem {
    std::uint32_t id;   // head
    std::uint32_t len;  // bytes written
};
static_assert(sizeof(UsedElem) == 8);

// Avail ring: flags, idx, ring[size], used_event. Used ring: flags, idx, UsedElem ring[size],
// avail_event. Their variable length keeps them from being C++ types; these are the offsets.
inline constexpr std::size_t kRingFlagsOffset = 0;
inline constexpr std::size_t kRingIdxOffset = 2;
inline constexpr std::size_t kRingEntriesOffset = 4;

// Sizes in bytes (VIRTIO 2.7, table of alignment and size), with or without the event word.
constexpr std::size_t desc_table_size(std::uint32_t ring_size) { return 16UL * ring_size; }
constexpr std::size_t avail_ring_size(std::uint32_t ring_size, bool event_idx = true) {
    return kRingEntriesOffset + 2UL * ring_size + (event_idx ? 2 : 0);
}
constexpr std::size_t used_ring_size(std::uint32_t ring_size, bool event_idx = true) {
    return kRingEntriesOffset + 8UL * ring_size + (event_idx ? 2 : 0);
}

// Packed virtqueue (VIRTIO 2.8). One ring carries both directions; kDescNext, kDescWrite and
// kDescIndirect keep their values, and an indirect table is an array of PackedDesc in order,
// without kDescNext (VIRTIO 2.8.7).

inline constexpr std::uint16_t kPackedDescAvail = 1 << 7;  // VIRTQ_DESC_F_AVAIL
inline constexpr std::uint16_t kPackedDescUsed = 1 << 15;  // VIRTQ_DESC_F_USED

struct PackedDesc {
    std::uint64_t addr;  // GPA
    std::uint32_t len;   // bytes; in a used descriptor: bytes written
    std::uint16_t id;    // buffer id, in the last descriptor of a chain
    std::uint16_t flags;
};
static_assert(sizeof(PackedDesc) == 16 && offsetof(PackedDesc, len) == 8 &&
              offsetof(PackedDesc, id) == 12 && offsetof(PackedDesc, flags) == 14);

// Event suppression structure (VIRTIO 2.8.14). The driver's says which used descriptors it wants
// calls for, the device's which available ones it wants kicks for.
struct EventSuppress {
    std::uint16_t off_wrap;  // position in the ring, kPackedWrap its wrap counter
    std::uint16_t flags;
};
static_assert(sizeof(EventSuppress) == 4 && offsetof(EventSuppress, flags) == 2);

inline constexpr std::uint16_t kEventEnable = 0;     // RING_EVENT_FLAGS_ENABLE
inline constexpr std::uint16_t kEventDisable = 1;    // RING_EVENT_FLAGS_DISABLE
inline constexpr std::uint16_t kEventDesc = 2;       // RING_EVENT_FLAGS_DESC, with EVENT_IDX only
inline constexpr std::uint16_t kEventFlagsMask = 3;  // the other bits are reserved

// In off_wrap and, by the same rule, in each half of a packed vring's base: bits 0..14 are a
// position in the ring, bit 15 its wrap counter.
inline constexpr std::uint16_t kPackedWrap = 1 << 15;

// Sizes in bytes (VIRTIO 2.8, table of alignment and size). The ring is aligned to 16, each event
// suppression structure to 4. A ring size need not be a power of two.
constexpr std::size_t packed_ring_size(std::uint32_t ring_size) {
    return sizeof(PackedDesc) * ring_size;
}

// struct virtio_net_hdr (VIRTIO 5.1.6). num_buffers is present with VERSION_1 or MRG_RXBUF.
struct NetHeader {
    std::uint8_t flags;
    std::uint8_t gso_type;
    std::uint16_t hdr_len;
    std::uint16_t gso_size;
    std::uint16_t csum_start;
    std::uint16_t csum_offset;
    std::uint16_t num_buffers;
};
static_assert(sizeof(NetHeader) == 12 && offsetof(NetHeader, num_buffers) == 10);

inline constexpr std::uint8_t kNetHeaderNeedsCsum = 1;
inline constexpr std::uint8_t kNetHeaderDataValid = 2;  // only with GUEST_CSUM
inline constexpr std::uint8_t kNetHeaderGsoNone = 0;
inline constexpr std::uint8_t kNetHeaderGsoTcp4 = 1;
inline constexpr std::uint8_t kNetHeaderGsoUdp = 3;
inline constexpr std::uint8_t kNetHeaderGsoTcp6 = 4;
inline constexpr std::uint8_t kNetHeaderGsoEcn = 0x80;  // beside a TCP type

inline constexpr std::uint32_t kLegacyHeaderSize = 10;
inline constexpr std::uint32_t kHeaderSize = 12;

// Header length on every queue of a session that negotiated `features` (VIRTIO 5.1.6.1).
constexpr std::uint32_t net_header_size(std::uint64_t features) {
    return (features & (kFeatureVersion1 | kFeatureNetMrgRxbuf)) ? kHeaderSize : kLegacyHeaderSize;
}

}  // namespace zecorx
