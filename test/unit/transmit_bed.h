// A transmit path between a fake guest's driver and rooms that a test looks into.
#pragma once

#include <algorithm>
#include <array>
#include <catch2/catch_test_macros.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "guest/ip_packets.h"
#include "ring_bed.h"
#include "zecorx/transmit_path.h"

namespace zecorx::test {

// Collects what would go to the NIC. Every room is an allocation of its own, so that a sanitizer
// sees the first byte beyond it.
class RoomSink {
  public:
    struct Sent {
        TransmitRequest request;
        Frame frame;
    };

    RoomSink() {
        for (auto& room : rooms_) room = std::make_unique<Room>();
    }

    bool ready() { return frames_left_ > 0; }
    std::span<std::byte, kTransmitRoom> room(std::size_t i) {
        if (on_room) on_room(i);
        return *rooms_.at(i);
    }
    void send(const TransmitRequest& request) {
        --frames_left_;
        Frame frame(request.length);
        for (std::size_t done = 0; done < frame.size(); done += kTransmitRoom) {
            const Room& room = *rooms_.at(done / kTransmitRoom);
            std::copy_n(room.begin(), std::min(kTransmitRoom, frame.size() - done),
                        frame.begin() + static_cast<std::ptrdiff_t>(done));
        }
        sent_.push_back({request, std::move(frame)});
    }

    std::vector<Sent> take() { return std::exchange(sent_, {}); }
    void limit(std::size_t frames) { frames_left_ = frames; }
    void fill(std::byte value) {
        for (auto& room : rooms_) room->fill(value);
    }

    std::function<void(std::size_t)> on_room;  // before the room is filled

  private:
    using Room = std::array<std::byte, kTransmitRoom>;
    std::array<std::unique_ptr<Room>, kMaxTransmitRooms> rooms_;
    std::vector<Sent> sent_;
    std::size_t frames_left_ = SIZE_MAX;
};
static_assert(TransmitSink<RoomSink>);

inline constexpr std::uint64_t kTransmitFeatures =
    kFeatureVersion1 | kFeatureNetCsum | kFeatureNetHostTso4 | kFeatureNetHostTso6;

struct TransmitBedOptions {
    std::uint64_t features = kTransmitFeatures;
    std::uint32_t mtu = kDefaultMtu;
    VlanPolicy vlan{};
    std::uint16_t tx_size = 256;
};

struct TransmitBed {
    explicit TransmitBed(const TransmitBedOptions& options = {}, FakeMemory ram = FakeMemory(8_MiB))
        : memory(std::move(ram)),
          driver(memory, {.features = options.features, .tx_size = options.tx_size}),
          view(memory),
          path(options.mtu, options.vlan, counters) {
        path.attach(view.ring(driver.tx().queue(), memory), view.guest(), options.features);
    }

    // What becomes of one frame; nothing: dropped.
    std::optional<RoomSink::Sent> pass(const Frame& frame, const NetHeader& header = {},
                                       const TxLayout& layout = {}) {
        REQUIRE(driver.tx().send(frame, layout, header));
        return next();
    }
    std::optional<RoomSink::Sent> next() {
        REQUIRE(path.burst(1, sink) == 1);
        driver.reap_transmitted();
        auto sent = sink.take();
        if (sent.empty()) return std::nullopt;
        return std::move(sent.front());
    }
    std::uint64_t dropped(DropReason reason) const {
        return counters.dropped[static_cast<std::size_t>(reason)].get();
    }
    // Why the last frame of pass() was dropped; nothing: it was not.
    std::optional<DropReason> reason() {
        for (std::size_t i = 0; i < kDropReasons; ++i) {
            const std::uint64_t now = counters.dropped[i].get();
            if (std::exchange(seen_[i], now) != now) return static_cast<DropReason>(i);
        }
        return std::nullopt;
    }
    std::optional<DropReason> fate(const Frame& frame, const NetHeader& header = {}) {
        const bool sent = pass(frame, header).has_value();
        const auto dropped = reason();
        CHECK(sent != dropped.has_value());
        return dropped;
    }

    FakeMemory memory;
    NetDriver driver;
    DeviceView view;
    VmCounters counters;
    TransmitPath path;
    RoomSink sink;

  private:
    std::array<std::uint64_t, kDropReasons> seen_{};
};

// A request for a checksum anywhere.
inline NetHeader checksum_at(std::size_t start, std::size_t offset) {
    NetHeader header{};
    header.flags = kNetHeaderNeedsCsum;
    header.csum_start = static_cast<std::uint16_t>(start);
    header.csum_offset = static_cast<std::uint16_t>(offset);
    return header;
}

// What the 82599 makes of a checksum request (datasheet 7.2.5).
inline Frame insert_checksum(const RoomSink::Sent& sent) {
    using Offload = TransmitRequest::Offload;
    Frame frame = sent.frame;
    const TransmitRequest& request = sent.request;
    if (request.offload == Offload::kNone) return frame;
    const std::size_t start = std::size_t{request.link_length} + request.network_length;
    const std::size_t field = start + (request.offload == Offload::kUdpChecksum ? 6 : 16);
    const std::uint16_t sum = internet_checksum(std::span(frame).subspan(start));
    frame.at(field) = static_cast<std::byte>(sum >> 8);
    frame.at(field + 1) = static_cast<std::byte>(sum & 0xff);
    return frame;
}

}  // namespace zecorx::test
