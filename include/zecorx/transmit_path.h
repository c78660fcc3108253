// Taking frames off one transmitq: each chain is checked, copied once and completed at once.
//
// Thread rule: one thread at a time. Nothing here allocates, locks, throws or logs.
#pragma once

#include <algorithm>
#include <cassert>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <variant>

#include "zecorx/any_ring.h"
#include "zecorx/chain.h"
#include "zecorx/counters.h"
#include "zecorx/dirty_log.h"
#include "zecorx/gather.h"
#include "zecorx/geometry.h"
#include "zecorx/guest_memory.h"
#include "zecorx/ring.h"
#include "zecorx/transmit_offload.h"
#include "zecorx/virtio.h"
#include "zecorx/vlan_policy.h"

namespace zecorx {

// Where frames are copied to and who sends them.
template <class Sink>
concept TransmitSink = requires(Sink sink, std::size_t i, const TransmitRequest& request) {
    // Whether there is room for one more frame, of any length. If not, its chain stays with the
    // driver.
    { sink.ready() } -> std::same_as<bool>;
    // The rooms of that frame, from 0 to kMaxTransmitRooms - 1. REQUIRES: ready() said so.
    { sink.room(i) } -> std::same_as<std::span<std::byte, kTransmitRoom>>;
    // Takes the frame that lies in the first rooms.
    sink.send(request);
};

class TransmitPath {
  public:
    TransmitPath(std::uint32_t mtu, const VlanPolicy& vlan, VmCounters& counters)
        : mtu_(mtu), vlan_(vlan), counters_(counters) {}

    // Serves a transmitq of a session that negotiated `features`. `memory` outlives the
    // attachment; what is written to it goes to `log`.
    void attach(const AnyRing& ring, const GuestMemory& memory, std::uint64_t features,
                const DirtyLog& log = {}) {
        ring_ = ring;
        memory_ = &memory;
        set_log(log);
        offload_ = TransmitOffload(mtu_, features);
        header_size_ = net_header_size(features);
        error_ = RingError::kNone;
        broken_ = false;
        std::visit([&](auto& each) { each.suppress_kicks(log_); }, ring_);
    }

    // Where what is written to guest memory from now on goes, until detach(). REQUIRES: attached().
    void set_log(const DirtyLog& log) {
        assert(attached());
        log_ = GuestLog(log, *memory_);
    }

    // Returns where the next attachment resumes (vring base).
    std::uint16_t detach() {
        memory_ = nullptr;
        log_ = {};
        return std::visit([](const auto& ring) { return ring.base(); }, ring_);
    }

    // Copies what the driver has made available to `sink`, at most `limit` frames and about
    // kBurstBytes, and completes and publishes the chains. Returns how many: those of frames that
    // are dropped are counted among them.
    std::uint32_t burst(std::uint32_t limit, TransmitSink auto& sink) {
        if (!attached() || broken_) return 0;
        return std::visit([&](auto& ring) { return burst(ring, limit, sink); }, ring_);
    }

    // Whether the driver wants to be told of what was published since this was last asked.
    bool call_wanted() {
        return std::visit([](auto& ring) { return ring.call_wanted(); }, ring_);
    }

    // Whether there are chains for burst() to take.
    bool has_chains() const {
        return std::visit(
            [](const auto& ring) { return ring.available() > 0 || ring.watch().has_news(); },
            ring_);
    }

    // What to look at for whether there are, once there are none.
    RingWatch watch() const {
        return std::visit([](const auto& ring) { return ring.watch(); }, ring_);
    }

    bool attached() const { return memory_ != nullptr; }
    bool broken() const { return broken_; }
    RingError error() const { return error_; }

  private:
    // Bounds the time that one VM's large frames can cost the others of its worker.
    static constexpr std::uint32_t kBurstBytes = 128 * 1024;

    std::uint32_t burst(DeviceRing auto& ring, std::uint32_t limit, TransmitSink auto& sink) {
        if (!ring.refresh()) {
            set_broken(RingError::kAvailIndex);
            return 0;
        }
        const std::uint32_t count = std::min<std::uint32_t>(ring.available(), limit);
        std::uint32_t taken = 0;
        std::uint32_t bytes = 0;
        while (taken < count && bytes < kBurstBytes && sink.ready() && next(ring, sink, bytes)) {
            ++taken;
        }
        // One step of the used index for the whole burst.
        if (taken > 0) publish(ring);
        return taken;
    }

    void publish(DeviceRing auto& ring) {
        if (log_) [[unlikely]]
            return ring.publish(log_);
        ring.publish();
    }

    // Serves the next chain. False: the ring is broken.
    bool next(DeviceRing auto& ring, TransmitSink auto& sink, std::uint32_t& bytes) {
        Head head;
        const RingError error = ring.acquire(*memory_, Direction::kDeviceReadable, chain_, head);
        if (error != RingError::kNone) [[unlikely]] {
            set_broken(error);
            return false;
        }
        TransmitRequest request;
        if (const auto reason = take_frame(sink, request); reason) [[unlikely]] {
            counters_.drop(*reason);
        } else {
            sink.send(request);
        }
        bytes += request.length;
        ring.complete(head, 0);
        return true;
    }

    // Copies the frame of chain_ and fills `request`. Nothing: it can be sent.
    std::optional<DropReason> take_frame(TransmitSink auto& sink, TransmitRequest& request) {
        if (chain_.capacity() < header_size_) return DropReason::kTxHeader;
        Gather gather(chain_.pieces());
        NetHeader header{};
        gather.take(std::as_writable_bytes(std::span(&header, 1)).first(header_size_));
        if (!offload_.negotiated(header)) return DropReason::kTxHeader;

        const std::uint32_t length = chain_.capacity() - header_size_;
        if (length < kEthernetHeader || length > offload_.max_length(header) || !chain_.whole()) {
            return DropReason::kTxLength;
        }
        CopiedFrame frame(length);
        for (std::size_t i = 0; i < frame.rooms(); ++i) {
            frame.set_room(i, sink.room(i));
            gather.take(frame.room(i));
        }
        request.length = length;
        if (const auto reason = prepare(header, frame, request); reason) return reason;
        counters_.tx_packets.add(1);
        counters_.tx_bytes.add(length);
        pad(sink, request);
        return std::nullopt;
    }

    std::optional<DropReason> prepare(const NetHeader& header, const CopiedFrame& frame,
                                      TransmitRequest& request) const {
        const auto link = parse_link(frame.front());
        if (!link) return DropReason::kTxLength;
        if (link->tci && !vlan_.admits_tag(*link->tci)) return DropReason::kTxVlan;
        request.link_length = link->length;
        request.vlan = vlan_.inserted();
        return offload_.prepare(header, *link, frame, request);
    }

    // Zeros up to the Ethernet minimum: what the room held before is nobody's business. Not into a
    // frame to segment, whose payload they would lengthen; its segments are the NIC's to pad.
    static void pad(TransmitSink auto& sink, TransmitRequest& request) {
        const std::uint32_t length = request.length;
        if (length >= kMinFrame || request.offload == TransmitRequest::Offload::kTcpSegmentation) {
            return;
        }
        std::ranges::fill(sink.room(0).subspan(length, kMinFrame - length), std::byte{0});
        request.length = kMinFrame;
    }

    void set_broken(RingError error) {
        broken_ = true;
        error_ = error;
        counters_.broken_rings.add(1);
    }

    const std::uint32_t mtu_;
    const VlanPolicy vlan_;
    VmCounters& counters_;
    TransmitOffload offload_;
    AnyRing ring_;
    const GuestMemory* memory_ = nullptr;
    GuestLog log_;  // a chain is only read: of the ring alone
    std::uint32_t header_size_ = kHeaderSize;
    bool broken_ = false;
    RingError error_ = RingError::kNone;
    Chain chain_;
};

}  // namespace zecorx
