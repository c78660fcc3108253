#include "geometry_table.h"

#include <fmt/format.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "receive_bed.h"

namespace zecorx::test {
namespace {

constexpr std::uint32_t kRounds = 50;          // of one frame of each size
constexpr std::uint32_t kNicRing = 128;        // descriptors
constexpr std::size_t kPosted = 2 * kNicRing;  // buffers the guest keeps on its ring
constexpr std::uint32_t kAuto = 0;             // rxbuf=auto

struct Guest {
    std::string description;
    RxLayout layout;
    bool mergeable;
};

std::vector<Guest> guests(std::uint32_t mtu) {
    return {{"Linux: 1536, every 21st 2048", RxLayout::linux_mergeable(), true},
            {"Linux with XDP: 3520", RxLayout::linux_xdp(), true},
            {"old Linux, Windows: a page", RxLayout::page(), true},
            {"DPDK: 2048 and header", RxLayout::dpdk(), true},
            {"9234 and header in one piece", RxLayout::jumbo(), true},
            {"Linux: 1518 and header", RxLayout::linux_small(), false},
            {"old Linux: header apart, 1518", RxLayout::linux_old(), false},
            {"Linux, large frames: header apart, 18 pages", RxLayout::linux_big(), false},
            {"DPDK: 2048 and header", RxLayout::dpdk(), false},
            {"EDK2: header apart, 1514", RxLayout::edk2(), false},
            {"iPXE: one header for all, MTU + 18", RxLayout::ipxe(mtu), false},
            {"Windows: header apart, 17 pages", RxLayout::netkvm(false), false},
            {"Windows: header in the first of 17 pages", RxLayout::netkvm(true), false}};
}

struct Setting {
    std::uint32_t mtu;
    std::vector<std::uint32_t> rxbufs;
    std::vector<std::uint32_t> sizes;  // of frames, bytes without CRC
};

const std::vector<Setting> kSettings{
    {1500, {kAuto, 1024}, {64, 512, 1514}},
    {9000, {kAuto, 4096, 3072, 2048, 1024}, {64, 512, 1514, 9014}},
};

QueueGeometry geometry_of(std::uint32_t mtu, std::uint32_t rxbuf) {
    const std::uint32_t max_frame = PortGeometry{mtu}.max_frame(false);  // no trunk=
    return rxbuf == kAuto ? QueueGeometry::whole(max_frame) : QueueGeometry{max_frame, rxbuf};
}

std::string rxbuf_name(std::uint32_t mtu, std::uint32_t rxbuf) {
    if (rxbuf != kAuto) return std::to_string(rxbuf);
    return fmt::format("auto ({})", geometry_of(mtu, rxbuf).nic_buffer);
}

ReceiveBedOptions options_for(const Guest& guest, const QueueGeometry& geometry) {
    ReceiveBedOptions options;
    options.driver.features = kFeatureVersion1 | kFeatureIndirectDesc;
    if (guest.mergeable) options.driver.features |= kFeatureNetMrgRxbuf;
    options.driver.rx_size = 1024;
    options.driver.layout = guest.layout;
    options.geometry = geometry;
    options.nic_ring = kNicRing;
    return options;
}

// Percent of frames that took no copy, and what the processor moved for each frame.
std::string cell(const Guest& guest, const Setting& setting, std::uint32_t rxbuf) {
    FakeMemory memory(64_MiB);
    ReceiveBed bed(memory, options_for(guest, geometry_of(setting.mtu, rxbuf)));
    NetReceiver& rx = bed.driver().rx();
    rx.disable_canaries();
    rx.set_refill_threshold(NetReceiver::kRefillFrozen);
    rx.refill(kPosted);
    bed.start();
    std::uint64_t sent = 0;
    for (std::uint32_t round = 0; round < kRounds; ++round) {
        for (const std::uint32_t size : setting.sizes) {
            ++sent;
            if (!bed.arrive(make_frame({.size = size}))) throw std::logic_error("the NIC is full");
            bed.poll();
            bed.driver().receive();
            rx.refill(kPosted - rx.queue().outstanding());
        }
    }
    const std::uint64_t lost = sent - bed.counters().rx_packets.get();
    std::string text = fmt::format("{} %, {} B", bed.counters().zero_copied.get() * 100 / sent,
                                   bed.counters().moved_bytes.get() / sent);
    if (lost > 0) text += fmt::format(", {} % lost", lost * 100 / sent);
    return text;
}

std::string descriptors_row(const Setting& setting) {
    std::string row = "| *descriptors per frame* | |";
    for (const std::uint32_t rxbuf : setting.rxbufs) {
        const std::uint32_t nic_buffer = geometry_of(setting.mtu, rxbuf).nic_buffer;
        std::uint32_t descriptors = 0;
        for (const std::uint32_t size : setting.sizes)
            descriptors += (size + nic_buffer - 1) / nic_buffer;
        row += fmt::format(" *{:.2f}* |", descriptors / static_cast<double>(setting.sizes.size()));
    }
    return row + '\n';
}

std::string table(const Setting& setting) {
    std::string text = fmt::format("MTU {}, as many frames of {} bytes each:\n\n", setting.mtu,
                                   fmt::join(setting.sizes, ", "));
    text += "| buffers the guest posts, bytes | MRG_RXBUF |";
    for (const std::uint32_t rxbuf : setting.rxbufs)
        text += fmt::format(" rxbuf={} |", rxbuf_name(setting.mtu, rxbuf));
    text += "\n|---|---|";
    for (std::size_t i = 0; i < setting.rxbufs.size(); ++i) text += "---|";
    text += '\n' + descriptors_row(setting);
    for (const Guest& guest : guests(setting.mtu)) {
        text += fmt::format("| {} | {} |", guest.description, guest.mergeable ? "yes" : "no");
        for (const std::uint32_t rxbuf : setting.rxbufs)
            text += fmt::format(" {} |", cell(guest, setting, rxbuf));
        text += '\n';
    }
    return text;
}

}  // namespace

std::string geometry_tables() {
    std::string text;
    for (const Setting& setting : kSettings) text += (text.empty() ? "" : "\n") + table(setting);
    return text;
}

}  // namespace zecorx::test
