// Taking frames off one transmitq: each chain is checked, copied once and completed at once.
//
// Thread rule: one thread at a time. Nothing here allocates, locks, throws or logs.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <variant>

#include "zecorx/any_ring.h"
#include "zecorx/chain.h"
#include "zecorx/counters.h"
#include "zecorx/geometry.h"
#include "zecorx/guest_memory.h"

namespace zecorx {

class TransmitPath {
  public:
    explicit TransmitPath(std::uint32_t max_frame, VmCounters& counters)
        : max_frame_(max_frame), counters_(counters) {}

    // Serves a transmitq of a session that negotiated `features`. `memory` outlives the
    // attachment.
    void attach(const AnyRing& ring, const GuestMemory& memory, std::uint64_t features) {
        ring_ = ring;
        memory_ = &memory;
        header_size_ = net_header_size(features);
        error_ = RingError::kNone;
        broken_ = false;
        std::visit([](auto& each) { each.suppress_kicks(); }, ring_);
    }

    // Returns the used index, where the next attachment resumes (vring base).
    std::uint16_t detach() {
        memory_ = nullptr;
        return std::visit([](const auto& ring) { return ring.base(); }, ring_);
    }

    // How many chains wait, at most `limit`.
    std::uint32_t waiting(std::uint32_t limit) {
        if (memory_ == nullptr || broken_) return 0;
        return std::visit([&](auto& ring) { return waiting(ring, limit); }, ring_);
    }

    // Copies the next frame to `out` and completes its chain. Returns its length in bytes, padded
    // to the Ethernet minimum; 0: dropped and counted, or the ring broke.
    // REQUIRES: waiting() > 0 since the last call that used one up; out holds max_frame bytes.
    std::uint32_t next(std::span<std::byte> out) {
        assert(out.size() >= max_frame_);
        if (broken_) return 0;
        return std::visit([&](auto& ring) { return next(ring, out); }, ring_);
    }

    // One step of used.idx for every chain of the burst.
    void publish() {
        std::visit([](auto& ring) { ring.publish(); }, ring_);
    }
    bool call_wanted() {
        return std::visit([](auto& ring) { return ring.call_wanted(); }, ring_);
    }

    bool attached() const { return memory_ != nullptr; }
    bool broken() const { return broken_; }
    RingError error() const { return error_; }

  private:
    std::uint32_t waiting(DeviceRing auto& ring, std::uint32_t limit) {
        if (!ring.refresh()) {
            set_broken(RingError::kAvailIndex);
            return 0;
        }
        return std::min<std::uint32_t>(ring.available(), limit);
    }

    std::uint32_t next(DeviceRing auto& ring, std::span<std::byte> out) {
        Head head;
        const RingError error = ring.acquire(*memory_, Direction::kDeviceReadable, chain_, head);
        if (error != RingError::kNone) {
            set_broken(error);
            return 0;
        }
        const std::uint32_t length = copy(out);
        ring.complete(head, 0);
        return length;
    }

    std::uint32_t copy(std::span<std::byte> out) {
        Gather gather{chain_.pieces()};
        NetHeader header{};
        if (chain_.capacity() < header_size_) return dropped(DropReason::kTxHeader);
        gather.take({reinterpret_cast<std::byte*>(&header), header_size_});
        // No transmit offload is offered, so a request for one is a driver's error.
        if ((header.flags & kNetHeaderNeedsCsum) || header.gso_type != kNetHeaderGsoNone) {
            return dropped(DropReason::kTxHeader);
        }
        const std::uint32_t length = chain_.capacity() - header_size_;
        if (length < kEthernetHeader || length > max_frame_ || !chain_.whole()) {
            return dropped(DropReason::kTxLength);
        }
        gather.take(out.first(length));
        counters_.tx_packets.add(1);
        counters_.tx_bytes.add(length);
        return pad(out, length);
    }

    static std::uint32_t pad(std::span<std::byte> out, std::uint32_t length) {
        if (length >= kMinFrame) return length;
        std::ranges::fill(out.subspan(length, kMinFrame - length), std::byte{0});
        return kMinFrame;
    }

    std::uint32_t dropped(DropReason reason) {
        counters_.drop(reason);
        return 0;
    }

    // Takes bytes of the pieces in order, each byte of guest memory once.
    struct Gather {
        std::span<const Piece> from;
        std::uint32_t taken = 0;  // bytes of from.front()

        void take(std::span<std::byte> to) {
            while (!to.empty()) {
                const std::size_t n = std::min<std::size_t>(to.size(), from.front().length - taken);
                std::memcpy(to.data(), from.front().hva + taken, n);
                to = to.subspan(n);
                taken += static_cast<std::uint32_t>(n);
                if (taken == from.front().length) {
                    from = from.subspan(1);
                    taken = 0;
                }
            }
        }
    };

    void set_broken(RingError error) {
        broken_ = true;
        error_ = error;
        counters_.broken_rings.add(1);
    }

    const std::uint32_t max_frame_;
    VmCounters& counters_;
    AnyRing ring_;
    const GuestMemory* memory_ = nullptr;
    std::uint32_t header_size_ = kHeaderSize;
    bool broken_ = false;
    RingError error_ = RingError::kNone;
    Chain chain_;
};

}  // namespace zecorx
