// A software 82599 on a bench: the device core with a fake memory, and the driver's side of its
// rings. No EAL.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "soft82599/checksum.h"
#include "soft82599/device.h"
#include "soft82599/registers.h"

namespace zecorx::test {

namespace nic = zecorx::soft82599;

// Memory in pages of 4 KiB, each at an IOVA of its own. What was never mapped faults.
class FakeDma : public nic::DmaSpace {
  public:
    static constexpr std::size_t kPage = 4096;

    std::span<std::byte> translate(std::uint64_t iova, std::size_t length) override {
        if (on_access) on_access();
        const auto page = pages_.find(iova / kPage);
        if (page == pages_.end()) return {};
        const std::size_t offset = iova % kPage;
        return std::span(page->second).subspan(offset, std::min(length, kPage - offset));
    }

    void map(std::uint64_t iova, std::size_t length) {
        for (std::uint64_t page = iova / kPage; page <= (iova + length - 1) / kPage; ++page) {
            pages_.try_emplace(page).first->second.fill(kCanary);
        }
    }
    void unmap(std::uint64_t iova) { pages_.erase(iova / kPage); }

    nic::Frame bytes(std::uint64_t iova, std::size_t length) {
        nic::Frame copy;
        for (std::size_t i = 0; i < length; ++i) copy.push_back(translate(iova + i, 1)[0]);
        return copy;
    }
    void store(std::uint64_t iova, nic::FrameView bytes) {
        for (std::size_t i = 0; i < bytes.size(); ++i) translate(iova + i, 1)[0] = bytes[i];
    }

    static constexpr std::byte kCanary{0xA5};

    std::function<void()> on_access;  // runs in the middle of every DMA access

  private:
    std::map<std::uint64_t, std::array<std::byte, kPage>> pages_;
};

// A frame a test builds: Ethernet, optionally a tag, then whatever payload.
class FrameBuilder {
  public:
    FrameBuilder() : frame_(12) { source({{0x02, 0, 0, 0, 0, 0x99}}); }

    FrameBuilder& to(const MacAddress& mac) { return address(0, mac); }
    FrameBuilder& source(const MacAddress& mac) { return address(6, mac); }
    FrameBuilder& tag(std::uint16_t tci) { return be16(0x8100).be16(tci); }
    FrameBuilder& be16(std::uint16_t value) {
        frame_.resize(frame_.size() + 2);
        nic::store_be16(frame_, frame_.size() - 2, value);
        return *this;
    }
    FrameBuilder& be32(std::uint32_t value) {
        return be16(static_cast<std::uint16_t>(value >> 16))
            .be16(static_cast<std::uint16_t>(value & 0xFFFF));
    }
    // Counting bytes up to a total length.
    FrameBuilder& fill_to(std::size_t length) {
        while (frame_.size() < length) frame_.push_back(static_cast<std::byte>(frame_.size()));
        return *this;
    }
    // IPv4 header of 20 bytes with a right checksum in front of `payload` bytes of `protocol`.
    FrameBuilder& ipv4(std::uint8_t protocol, std::uint16_t payload) {
        be16(0x0800);
        const std::size_t start = frame_.size();
        be16(0x4500).be16(static_cast<std::uint16_t>(20 + payload)).be16(0x1234).be16(0);
        be16(static_cast<std::uint16_t>(64 << 8 | protocol)).be16(0);
        be32(0x0A000001).be32(0x0A000002);
        const auto sum = nic::sum_bytes(nic::FrameView(frame_).subspan(start, 20));
        nic::store_be16(frame_, start + 10, static_cast<std::uint16_t>(~nic::fold(sum)));
        return *this;
    }
    FrameBuilder& ipv6(std::uint8_t protocol, std::uint16_t payload) {
        be16(0x86DD).be32(0x60000000).be16(payload);
        be16(static_cast<std::uint16_t>(protocol << 8 | 64));
        for (int i = 0; i < 2; ++i) be32(0xFD000000).be32(0).be32(0).be32(1u + i);
        return *this;
    }
    // UDP with `length` bytes of payload; checksum 0.
    FrameBuilder& udp(std::uint16_t length) {
        be16(1000).be16(2000).be16(static_cast<std::uint16_t>(8 + length)).be16(0);
        return fill_to(frame_.size() + length);
    }
    FrameBuilder& tcp(std::uint32_t sequence, std::uint8_t flags, std::size_t length) {
        be16(1000).be16(2000).be32(sequence).be32(0);
        be16(static_cast<std::uint16_t>(5 << 12 | flags)).be16(0xFFFF).be16(0).be16(0);
        return fill_to(frame_.size() + length);
    }

    nic::Frame build() const { return frame_; }

  private:
    FrameBuilder& address(std::ptrdiff_t offset, const MacAddress& mac) {
        std::memcpy(frame_.data() + offset, mac.bytes.data(), mac.bytes.size());
        return *this;
    }

    nic::Frame frame_;
};

inline constexpr MacAddress kPortMac{{0x52, 0x54, 0x00, 0x82, 0x59, 0x00}};
inline constexpr MacAddress kBroadcast{{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}};

constexpr MacAddress guest_mac(std::uint8_t number) {
    return MacAddress{{0x52, 0x54, 0x00, 0x00, 0x01, number}};
}

inline nic::Frame frame_of(const MacAddress& to, std::size_t length) {
    return FrameBuilder().to(to).be16(0x88B5).fill_to(length).build();
}

// What a driver puts in front of a frame to say how its offloads are to be done.
inline constexpr std::uint64_t kIpv4Context = 1u << 10;
inline constexpr std::uint64_t kTcpContext = 1u << 11;

inline nic::Descriptor context(unsigned mac_length, unsigned ip_length, std::uint64_t flags,
                               std::uint16_t vlan = 0, unsigned l4_length = 0,
                               std::uint16_t mss = 0) {
    return {ip_length | mac_length << 9 | std::uint64_t{vlan} << 16,
            nic::tx_desc::kExtended | nic::tx_desc::kTypeContext | flags |
                std::uint64_t{l4_length} << 40 | std::uint64_t{mss} << 48};
}

// Puts what a driver puts there before L4 checksum offload: the sum of the pseudo header.
inline void seed_l4_checksum(nic::Frame& frame, std::size_t field, bool with_length) {
    const nic::FrameLayout layout = nic::parse_frame(frame, 0x8100);
    nic::PartialSum sum = nic::pseudo_header_sum(frame, layout);
    if (!with_length) sum -= layout.l4_length;
    nic::store_be16(frame, field, nic::fold(sum));
}

inline bool checksums_good(const nic::Frame& frame) {
    const auto report = nic::check_received(frame, nic::parse_frame(frame, 0x8100));
    return report.l4_checked && !report.l4_bad && !report.ip_bad;
}

class NicRig {
  public:
    static constexpr unsigned kRing = 8;  // descriptors: 7 can be posted
    static constexpr std::uint64_t kBuffer = 16 * 1024;

    NicRig()
        : words_(nic::kBarWords),
          device_(words_, dma_, kPortMac, {[this] { ++interrupts_; }, [](const std::string&) {}}) {
        write(nic::reg::kFctrl, nic::bits::kFctrlBroadcastAccept);
        write(nic::reg::kRxctrl, nic::bits::kRxctrlEnable);
        write(nic::reg::kDmatxctl, 0x81000000 | nic::bits::kDmatxctlEnable);
    }

    nic::Device& device() { return device_; }
    FakeDma& dma() { return dma_; }
    int interrupts() const { return interrupts_; }
    nic::PortCounters counters() const { return device_.counters(); }

    std::uint32_t read(std::uint32_t offset) { return device_.read_register(offset); }
    void write(std::uint32_t offset, std::uint32_t value) { device_.write_register(offset, value); }
    // The driver's access to a doorbell page, which the device does not notice.
    std::uint32_t peek(std::uint32_t offset) const { return words_[offset / 4]; }
    void poke(std::uint32_t offset, std::uint32_t value) { words_[offset / 4] = value; }

    // Starts receive queues in the driver's order and posts a full ring of buffers.
    void start_rx(unsigned queue, unsigned kib = 2, bool drop = true) {
        const std::uint32_t base = nic::reg::rx_queue(queue);
        dma_.map(rx_ring(queue), kRing * 16);
        poke(base + nic::reg::kRdbal, static_cast<std::uint32_t>(rx_ring(queue)));
        poke(base + nic::reg::kRdbah, static_cast<std::uint32_t>(rx_ring(queue) >> 32));
        poke(base + nic::reg::kRdlen, kRing * 16);
        poke(base + nic::reg::kSrrctl, kib | (drop ? nic::bits::kSrrctlDropEnable : 0));
        for (unsigned slot = 0; slot < kRing; ++slot) post(queue, slot, rx_buffer(queue, slot));
        poke(base + nic::reg::kRxdctl, nic::bits::kQueueEnable);
        poke(base + nic::reg::kRdh, 0);
        poke(base + nic::reg::kRdt, kRing - 1);
    }
    void stop_rx(unsigned queue) { poke(nic::reg::rx_queue(queue) + nic::reg::kRxdctl, 0); }
    void post(unsigned queue, unsigned slot, std::uint64_t buffer) {
        dma_.map(rx_buffer(queue, slot), kBuffer);
        write_descriptor(rx_ring(queue) + slot * 16, {buffer, 0});
    }
    void set_tail(unsigned queue, std::uint32_t tail) {
        poke(nic::reg::rx_queue(queue) + nic::reg::kRdt, tail);
    }

    struct Received {
        bool done;
        bool end;
        std::uint32_t status;
        std::uint32_t type;
        std::uint16_t length;
        std::uint16_t vlan;
    };
    Received received(unsigned queue, unsigned slot) {
        const auto d = read_descriptor(rx_ring(queue) + slot * 16);
        const auto status = static_cast<std::uint32_t>(d.high);
        return {(status & nic::rx_desc::kDone) != 0,
                (status & nic::rx_desc::kEndOfPacket) != 0,
                status,
                static_cast<std::uint32_t>(d.low),
                static_cast<std::uint16_t>(d.high >> 32),
                static_cast<std::uint16_t>(d.high >> 48)};
    }
    // Descriptors of the ring that are done.
    unsigned done_count(unsigned queue) {
        unsigned count = 0;
        for (unsigned slot = 0; slot < kRing; ++slot) count += received(queue, slot).done ? 1 : 0;
        return count;
    }
    nic::Frame payload(unsigned queue, unsigned slot, std::size_t length) {
        return dma_.bytes(rx_buffer(queue, slot), length);
    }

    // VMDq as the ixgbe driver programs it: 64 pools, VLAN filter on, every tag let in.
    void enable_vmdq(std::uint32_t control = nic::bits::kVtCtlNoDefaultPool) {
        write(nic::reg::kMrqc, 8);
        write(nic::reg::kVtCtl, nic::bits::kVtCtlEnable | nic::bits::kVtCtlReplication | control);
        write(nic::reg::kVlnctrl, 0x8100 | nic::bits::kVlnctrlFilterEnable);
        for (unsigned i = 0; i < 128; ++i) write(nic::reg::kVfta + 4 * i, ~0u);
        for (unsigned i = 0; i < 2; ++i) write(nic::reg::kVfre + 4 * i, ~0u);
        for (unsigned i = 0; i < 2; ++i) write(nic::reg::kVfte + 4 * i, ~0u);
        for (unsigned pool = 0; pool < 64; ++pool) {
            write(nic::reg::kVmolr + 4 * pool,
                  nic::bits::kVmolrAcceptUntagged | nic::bits::kVmolrBroadcast);
        }
    }
    void add_mac(unsigned index, const MacAddress& mac, std::uint64_t pools) {
        const auto& b = mac.bytes;
        write(nic::reg::kRal + 8 * index, b[0] | static_cast<std::uint32_t>(b[1]) << 8 |
                                              static_cast<std::uint32_t>(b[2]) << 16 |
                                              static_cast<std::uint32_t>(b[3]) << 24);
        write(nic::reg::kRah + 8 * index,
              b[4] | static_cast<std::uint32_t>(b[5]) << 8 | nic::bits::kRahValid);
        write(nic::reg::kMpsar + 8 * index, static_cast<std::uint32_t>(pools));
        write(nic::reg::kMpsar + 8 * index + 4, static_cast<std::uint32_t>(pools >> 32));
    }

    void start_tx(unsigned queue) {
        const std::uint32_t base = nic::reg::tx_queue(queue);
        dma_.map(tx_ring(queue), kTxRing * 16);
        poke(base + nic::reg::kTdbal, static_cast<std::uint32_t>(tx_ring(queue)));
        poke(base + nic::reg::kTdbah, static_cast<std::uint32_t>(tx_ring(queue) >> 32));
        poke(base + nic::reg::kTdlen, kTxRing * 16);
        poke(base + nic::reg::kTdh, 0);
        poke(base + nic::reg::kTxdctl, nic::bits::kQueueEnable);
        poke(base + nic::reg::kTdt, 0);
    }
    // Posts one descriptor and rings the doorbell.
    void post_tx(unsigned queue, const nic::Descriptor& descriptor) {
        const std::uint32_t tail = nic::reg::tx_queue(queue) + nic::reg::kTdt;
        write_descriptor(tx_ring(queue) + peek(tail) * 16, descriptor);
        poke(tail, (peek(tail) + 1) % kTxRing);
    }
    // Posts a frame in pieces of at most `piece` bytes; `flags` go into every descriptor.
    void post_tx_frame(unsigned queue, nic::FrameView frame, std::uint64_t flags = 0,
                       std::size_t piece = 0) {
        const std::uint64_t buffer = 0x5'0000'0000 + next_tx_buffer_;
        next_tx_buffer_ += 0x10000;
        dma_.map(buffer, frame.size());
        dma_.store(buffer, frame);
        if (piece == 0) piece = frame.size();
        for (std::size_t at = 0; at < frame.size(); at += piece) {
            const std::size_t length = std::min(piece, frame.size() - at);
            const bool last = at + length == frame.size();
            const std::uint64_t end = nic::tx_desc::kEndOfPacket | nic::tx_desc::kReportStatus;
            post_tx(queue, {buffer + at, length | kData | flags | (last ? end : 0)});
        }
    }
    bool tx_done(unsigned queue, unsigned slot) {
        return (read_descriptor(tx_ring(queue) + slot * 16).high & nic::tx_desc::kDone) != 0;
    }
    std::vector<nic::Frame> transmit(unsigned budget = 32) {
        std::vector<nic::Frame> wire;
        device_.transmit(budget, wire);
        return wire;
    }

    static constexpr unsigned kTxRing = 64;
    static constexpr std::uint64_t kData =
        nic::tx_desc::kExtended | std::uint64_t{0x3} << 20;  // advanced data descriptor

    static std::uint64_t rx_ring(unsigned queue) { return 0x1'0000'0000 + queue * 0x1000; }
    static std::uint64_t tx_ring(unsigned queue) { return 0x2'0000'0000 + queue * 0x1000; }
    static std::uint64_t rx_buffer(unsigned queue, unsigned slot) {
        return 0x3'0000'0080 + (queue * kRing + slot) * 0x10000;
    }

  private:
    nic::Descriptor read_descriptor(std::uint64_t iova) {
        nic::Descriptor descriptor;
        const auto bytes = dma_.bytes(iova, sizeof(descriptor));
        std::memcpy(&descriptor, bytes.data(), sizeof(descriptor));
        return descriptor;
    }
    void write_descriptor(std::uint64_t iova, const nic::Descriptor& descriptor) {
        std::array<std::byte, sizeof(descriptor)> bytes;
        std::memcpy(bytes.data(), &descriptor, sizeof(descriptor));
        dma_.store(iova, bytes);
    }

    std::vector<std::uint32_t> words_;
    FakeDma dma_;
    int interrupts_ = 0;
    nic::Device device_;
    std::uint64_t next_tx_buffer_ = 0;
};

}  // namespace zecorx::test
