// The mempool behind a VM's NIC RX queue: its "objects" are the guest's avail ring.
//
// The PMD refills its descriptor ring with rte_mempool_get(_bulk) and frees what it still holds
// with rte_mempool_put when the queue stops; the handler here hands both to the VM's ReceivePath.
// Every mbuf has its own host room of the NIC's buffer size, so the same object serves as G (aimed
// at guest memory) and as H (aimed at its own room).
#pragma once

#include <rte_mbuf.h>
#include <rte_mempool.h>

#include <cstdint>
#include <memory>
#include <string>

#include "zecorx/receive_path.h"

namespace zecorx {

// Aims mbufs; the PMD tells the NIC buf_iova + RTE_PKTMBUF_HEADROOM, whatever else is in the mbuf.
struct MbufBuffers {
    static void aim_at_guest(void* buffer, std::byte* data, std::uint64_t iova) noexcept {
        auto* mbuf = static_cast<rte_mbuf*>(buffer);
        mbuf->buf_addr = data - RTE_PKTMBUF_HEADROOM;
        mbuf->buf_iova = iova - RTE_PKTMBUF_HEADROOM;
    }
    static void aim_at_host(void* buffer) noexcept {
        auto* mbuf = static_cast<rte_mbuf*>(buffer);
        constexpr std::size_t kRoomOffset = sizeof(rte_mbuf);  // the pool has no private area
        std::byte* const room = static_cast<std::byte*>(buffer) + kRoomOffset;
        mbuf->packet_type = 0;  // see take_verdict()
        // The room's IOVA lies in a cache line that is not needed else.
        if (mbuf->buf_addr == room) return;
        mbuf->buf_addr = room;
        mbuf->buf_iova = rte_mempool_virt2iova(mbuf) + kRoomOffset;
    }
    // Whether the NIC found the L4 checksum of a frame right. The PMD reports as good whatever the
    // NIC has no complaint of, also what it did not look at: it looked at TCP and UDP that is no
    // fragment, which is what gets an L4 type. The NIC states the type with the last piece.
    static bool checksum_verified(const rte_mbuf& first, const rte_mbuf& last) noexcept {
        const std::uint32_t type = last.packet_type & RTE_PTYPE_L4_MASK;
        return (first.ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_GOOD &&
               (type == RTE_PTYPE_L4_TCP || type == RTE_PTYPE_L4_UDP);
    }
    static bool take_verdict(rte_mbuf& first, rte_mbuf& last) noexcept {
        const bool verified = checksum_verified(first, last);
        // The PMD's scalar function leaves the type of a last piece as it was.
        first.packet_type = last.packet_type = 0;
        return verified;
    }
    static bool take_verdict(void* buffer) noexcept {
        auto& whole = *static_cast<rte_mbuf*>(buffer);
        return take_verdict(whole, whole);
    }
    static bool whole(const void* buffer) noexcept {
        return static_cast<const rte_mbuf*>(buffer)->nb_segs == 1;
    }
    static std::uint32_t length(const void* buffer) noexcept {
        return static_cast<const rte_mbuf*>(buffer)->data_len;
    }
    static std::byte* data(void* buffer) noexcept {
        return static_cast<std::byte*>(static_cast<rte_mbuf*>(buffer)->buf_addr) +
               RTE_PKTMBUF_HEADROOM;
    }
};

using MbufReceivePath = ReceivePath<MbufBuffers>;

struct MempoolFree {
    void operator()(rte_mempool* pool) const { rte_mempool_free(pool); }
};
using Mempool = std::unique_ptr<rte_mempool, MempoolFree>;

// A pktmbuf pool of `mbufs` mbufs with `nic_buffer` bytes of room each, fed by `path`, which holds
// every mbuf after the call and outlives the pool: freeing it takes the mbufs out again. Throws
// std::runtime_error.
Mempool make_rx_pool(const std::string& name, std::uint32_t mbufs, std::uint32_t nic_buffer,
                     MbufReceivePath& path, int socket);

// An ordinary pool of host mbufs.
Mempool make_host_pool(const std::string& name, std::uint32_t mbufs, std::uint32_t room,
                       int socket);

// Refills of this size come from the PMD's vector receive function only: it asks for 32 mbufs at
// a time (RTE_IXGBE_RXQ_REARM_THRESH) and goes on delivering when refused, while the scalar
// function asks for one and the bulk function for rx_free_thresh, and both stall.
inline constexpr std::uint32_t kVectorRefill = 32;
// Chosen different from kVectorRefill, so that the size of a refill tells who asks.
inline constexpr std::uint16_t kBulkRefill = 64;

}  // namespace zecorx
