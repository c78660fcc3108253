// The software 82599's core against a PMD that writes any register and any descriptor, and frames
// of any kind. Its memory is a few windows, each an allocation of its own.
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "input.h"
#include "soft82599/descriptor.h"
#include "soft82599/device.h"
#include "soft82599/registers.h"

namespace zecorx::fuzz {
namespace {

namespace nic = zecorx::soft82599;
namespace reg = nic::reg;
namespace bits = nic::bits;

// What the device can reach: window i begins at IOVA (i + 1) << 32.
class Windows : public nic::DmaSpace {
  public:
    static constexpr std::array<std::size_t, 4> kSizes{16 * 64, 16 * 64, 20000, 3000};

    Windows() {
        for (std::size_t i = 0; i < kSizes.size(); ++i)
            memory_[i] = std::make_unique<std::byte[]>(kSizes[i]);
    }

    std::span<std::byte> translate(std::uint64_t iova, std::size_t length) override {
        ++accesses_;
        const std::uint64_t window = (iova >> 32) - 1;
        const std::uint64_t offset = iova & 0xFFFF'FFFF;
        if (window >= kSizes.size() || offset >= kSizes[window]) return {};
        const std::size_t page_left = kPage - offset % kPage;
        return {&memory_[window][offset], std::min({length, kSizes[window] - offset, page_left})};
    }

    static std::uint64_t base(std::size_t window) { return (window + 1) << 32; }
    void store(std::size_t window, std::size_t at, const nic::Descriptor& descriptor) {
        if (at + sizeof descriptor > kSizes[window]) return;
        std::memcpy(&memory_[window][at], &descriptor, sizeof descriptor);
    }
    void clear() {
        for (std::size_t i = 0; i < kSizes.size(); ++i) std::memset(memory_[i].get(), 0, kSizes[i]);
    }
    // Of the device, to anything.
    std::uint64_t accesses() const { return accesses_; }

  private:
    static constexpr std::size_t kPage = 4096;

    std::array<std::unique_ptr<std::byte[]>, kSizes.size()> memory_;
    std::uint64_t accesses_ = 0;
};

constexpr MacAddress kPortMac{{0x52, 0x54, 0x00, 0x82, 0x59, 0x00}};

// A reset of the device takes as long as hundreds of inputs, so it lives on: what an input can
// have changed is put back.
class Nic {
  public:
    static constexpr std::array<unsigned, 3> kRxQueues{0, 2, 127};
    static constexpr std::array<unsigned, 2> kTxQueues{0, 126};

    static Nic& only() {
        static Nic nic;
        return nic;
    }

    void put_back() {
        for (unsigned queue = 0; queue < nic::kQueues; ++queue) {
            poke(reg::rx_queue(queue) + reg::kRxdctl, 0);
            poke(reg::tx_queue(queue) + reg::kTxdctl, 0);
            device.rx_queue(queue).interrupt_frames_after(0);
            device.rx_queue(queue).guard_buffers_at_stop(false);
        }
        device.write_register(reg::kEimc, ~0u);
        device.write_register(reg::kRxctrl, bits::kRxctrlEnable);
        device.retry_held_frames();  // no queue runs: what waits is dropped
        for (const unsigned queue : drop_enabled_)
            device.write_register(reg::kQde, bits::kQdeWrite | queue << bits::kQdeIndexShift);
        drop_enabled_.clear();
        device.set_link(true);
        if (was_reset_) remember_pages();
        for (const std::size_t page : pages_)
            std::memcpy(&words[page * kPageWords], &fresh_[page * kPageWords], 4096);
        pages_ = device_pages();
        was_reset_ = false;
        dma.clear();
    }

    void write(std::uint32_t offset, std::uint32_t value) {
        pages_.push_back(offset >> 12);
        pages_.push_back(nic::canonical_offset(offset) >> 12);
        if (offset == reg::kQde && (value & bits::kQdeWrite) != 0)
            drop_enabled_.push_back(value >> bits::kQdeIndexShift & 0x7F);
        if (offset == reg::kCtrl && (value & (bits::kCtrlReset | bits::kCtrlLinkReset)) != 0)
            was_reset_ = true;
        device.write_register(offset, value);
    }
    std::uint32_t read(std::uint32_t offset) { return device.read_register(offset); }
    // The driver's access to a doorbell page, which the device does not notice.
    std::uint32_t peek(std::uint32_t offset) const { return words[offset / 4]; }
    void poke(std::uint32_t offset, std::uint32_t value) { words[offset / 4] = value; }

    std::vector<std::uint32_t> words = std::vector<std::uint32_t>(nic::kBarWords);
    Windows dma;
    std::uint64_t interrupts = 0;
    nic::Device device{words, dma, kPortMac, {[this] { ++interrupts; }, {}}};

  private:
    static constexpr std::size_t kPageWords = 1024;

    Nic() : fresh_(words), pages_(device_pages()) {}

    // Those that the device writes without being told to: queues, statistics, interrupts, EEPROM.
    static std::vector<std::size_t> device_pages() {
        return {0x00, 0x01, 0x03, 0x04, 0x06, 0x07, 0x08, 0x0D, 0x10};
    }
    void remember_pages() {
        for (std::size_t page = 0; page < nic::kBarWords / kPageWords; ++page)
            pages_.push_back(page);
    }

    std::vector<std::uint32_t> fresh_;  // the registers after a reset
    std::vector<std::size_t> pages_;    // of registers that may differ from them
    std::vector<unsigned> drop_enabled_;
    bool was_reset_ = false;
};

class NicBench {
  public:
    explicit NicBench(Input& input) : input_(input), nic_(Nic::only()), dma_(nic_.dma) {
        nic_.write(reg::kFctrl, bits::kFctrlBroadcastAccept | bits::kFctrlUnicastPromiscuous);
        nic_.write(reg::kRxctrl, bits::kRxctrlEnable);
        nic_.write(reg::kDmatxctl, 0x81000000 | bits::kDmatxctlEnable);
        if (input.flag()) enable_pools();
        for (const unsigned queue : Nic::kRxQueues) start_rx(queue);
        for (const unsigned queue : Nic::kTxQueues) start_tx(queue);
    }
    ~NicBench() { nic_.put_back(); }

    void run() {
        for (int steps = 0; steps < 100 && !input_.ended(); ++steps) step();
        stop_everything();
    }

  private:
    static constexpr unsigned kRing = 16;  // descriptors of a queue

    void step() {
        switch (input_.below(12)) {
            case 0:
                return write_any();
            case 1:
                (void)nic_.read(any_offset());
                return;
            case 2:
                return poke_queue();
            case 3:
            case 4:
                return receive();
            case 5:
            case 6:
                return post_tx();
            case 7:
                return transmit();
            case 8:
                return post_rx();
            case 9:
                nic_.device.retry_held_frames();
                nic_.device.rx_queue(any_rx()).finish_frame();
                nic_.device.rx_queue(any_rx()).interrupt_frames_after(input_.below(4));
                return;
            case 10:
                return input_.one_in(4) ? stop_queue() : receive();
            default:
                nic_.device.set_link(!input_.one_in(4));
                return;
        }
    }

    unsigned any_rx() { return Nic::kRxQueues[input_.below(3)]; }
    unsigned any_tx() { return Nic::kTxQueues[input_.below(2)]; }
    std::uint64_t any_iova() {
        if (input_.one_in(16)) return input_.take<std::uint64_t>();
        const std::size_t window = input_.one_in(8) ? input_.below(5) : 2;
        return Windows::base(window) + input_.word() % 20100;
    }

    // --- Registers ---

    // One that the model acts on, or any.
    std::uint32_t any_offset() {
        if (input_.one_in(8)) return input_.take<std::uint32_t>() % nic::kBarSize & ~3u;
        const auto table = nic::register_table();
        const auto& block = table[input_.below(static_cast<std::uint32_t>(table.size()))];
        return block.offset + input_.below(block.count) * block.stride;
    }
    void write_any() {
        const std::uint32_t offset = any_offset();
        auto value = input_.take<std::uint32_t>();
        // A reset is slow: one an input, at most.
        if (offset == reg::kCtrl && std::exchange(reset_, true)) value = 0;
        nic_.write(offset, value);
    }
    void poke_queue() {
        const bool rx = input_.flag();
        const std::uint32_t base = rx ? reg::rx_queue(any_rx()) : reg::tx_queue(any_tx());
        const std::uint32_t value = input_.flag() ? input_.byte() : input_.take<std::uint32_t>();
        nic_.poke(base + 4 * input_.below(16), value);
    }
    void enable_pools() {
        nic_.write(reg::kMrqc, input_.any_of({8u, 0xAu, 0xBu}));
        nic_.write(reg::kVtCtl, bits::kVtCtlEnable | bits::kVtCtlReplication);
        nic_.write(reg::kMtqc, bits::kMtqcVirtualization);
        nic_.write(reg::kPfdtxgswc, bits::kPfdtxgswcLoopback);
        for (const unsigned half : {0u, 4u}) {
            nic_.write(reg::kVfre + half, ~0u);
            nic_.write(reg::kVfte + half, ~0u);
        }
        for (const unsigned pool : {0u, 1u, 63u}) {
            nic_.write(reg::kVmolr + 4 * pool, bits::kVmolrAcceptUntagged | bits::kVmolrBroadcast);
        }
        nic_.write(reg::kMpsar, input_.flag() ? 3 : 1);
    }

    // --- Receive ---

    // Rings of all queues share a window: a PMD may do worse.
    void start_rx(unsigned queue) {
        const std::uint32_t base = reg::rx_queue(queue);
        nic_.poke(base + reg::kRdbal, 0);
        nic_.poke(base + reg::kRdbah, 1);
        nic_.poke(base + reg::kRdlen, kRing * 16);
        nic_.poke(base + reg::kSrrctl,
                  1 + input_.below(3) + (input_.flag() ? bits::kSrrctlDropEnable : 0));
        for (unsigned slot = 0; slot < kRing; ++slot)
            dma_.store(0, 16 * slot, {Windows::base(2) + 1024 * slot, 0});
        nic_.poke(base + reg::kRdh, 0);
        nic_.poke(base + reg::kRxdctl, bits::kQueueEnable);
        nic_.poke(base + reg::kRdt, kRing - 1);
    }
    void post_rx() {
        dma_.store(0, 16 * input_.below(kRing), {any_iova(), 0});
        nic_.poke(reg::rx_queue(any_rx()) + reg::kRdt, input_.below(kRing + 1));
    }

    void receive() {
        const nic::Frame frame = any_frame();
        const nic::PortCounters before = nic_.device.counters();
        const nic::RxResult result = nic_.device.receive(frame);
        const nic::PortCounters& after = nic_.device.counters();
        expect(result != nic::RxResult::kDelivered || after.rx_delivered > before.rx_delivered,
               "a delivered frame is counted");
        expect(after.rx_delivered - before.rx_delivered <= nic::kPools + after.rx_held,
               "a frame is delivered to each pool once");
        check_heads();
    }

    nic::Frame any_frame() {
        std::uint32_t size = input_.byte();
        if (input_.one_in(4)) size = input_.word() % 16000;
        nic::Frame frame(size, std::byte{0x5a});
        std::array<std::byte, 64> headers{};
        const std::size_t given = input_.below(65);
        input_.fill(std::span(headers).first(given));
        std::copy_n(headers.begin(), std::min<std::size_t>(given, frame.size()), frame.begin());
        if (frame.size() < 60) return frame;
        if (input_.flag()) std::memcpy(frame.data(), kPortMac.bytes.data(), 6);
        if (input_.one_in(8)) std::fill_n(frame.begin(), 6, std::byte{0xFF});
        std::size_t type = 12;
        if (input_.one_in(4)) {
            nic::store_be16(frame, 12, 0x8100);
            type = 16;
        }
        set_headers(frame, type);
        return frame;
    }
    void set_headers(nic::Frame& frame, std::size_t type) {
        const std::byte protocol{input_.any_of<std::uint8_t>({6, 17, 132, 44, 0})};
        switch (input_.below(3)) {
            case 0:
                nic::store_be16(frame, type, 0x0800);
                frame[type + 2] = std::byte{input_.any_of<std::uint8_t>({0x45, 0x4F, 0x44})};
                frame[type + 11] = protocol;
                return;
            case 1:
                nic::store_be16(frame, type, 0x86DD);
                frame[type + 2] = std::byte{0x60};
                frame[type + 8] = protocol;
                return;
            default:
                return;
        }
    }

    // --- Transmit ---

    void start_tx(unsigned queue) {
        const std::uint32_t base = reg::tx_queue(queue);
        nic_.poke(base + reg::kTdbal, 0);
        nic_.poke(base + reg::kTdbah, 2);
        nic_.poke(base + reg::kTdlen, kRing * 16);
        nic_.poke(base + reg::kTdh, 0);
        nic_.poke(base + reg::kTxdctl, bits::kQueueEnable);
        nic_.poke(base + reg::kTdt, 0);
    }

    void post_tx() {
        const std::uint32_t tail = reg::tx_queue(any_tx()) + reg::kTdt;
        const std::uint32_t slot = nic_.peek(tail) % kRing;
        dma_.store(1, std::size_t{16} * slot, input_.one_in(4) ? any_context() : any_data());
        nic_.poke(tail, (slot + 1) % kRing);
    }
    nic::Descriptor any_context() {
        using namespace nic::tx_desc;
        const std::uint64_t mac = input_.one_in(8) ? input_.byte() & 0x7F : 14;
        const std::uint64_t ip = input_.one_in(8) ? input_.word() & 0x1FF : 20;
        const std::uint64_t kind = input_.byte() & 7;  // IPv4, L4 type
        return {ip | mac << 9 | std::uint64_t{input_.word()} << 16,
                kExtended | kTypeContext | kind << 10 | std::uint64_t{input_.byte()} << 40 |
                    std::uint64_t{input_.word()} << 48 |
                    std::uint64_t{input_.byte() & 1u} << kContextIndexShift};
    }
    nic::Descriptor any_data() {
        using namespace nic::tx_desc;
        if (input_.one_in(16)) return {any_iova(), input_.take<std::uint64_t>()};
        std::uint64_t high = input_.one_in(8) ? input_.word() : input_.byte();
        const std::uint8_t choice = input_.byte();
        if ((choice & 3) != 0) high |= kEndOfPacket;
        if ((choice & 4) != 0) high |= kReportStatus;
        if ((choice & 8) == 0) high |= kExtended | 3u << 20;
        if ((choice & 16) != 0) high |= kSegment;
        if ((choice & 32) != 0) high |= kInsertL4Checksum | kInsertIpChecksum;
        if ((choice & 64) != 0) high |= kVlanInsert;
        if ((choice & 128) != 0) high |= std::uint64_t{1} << kContextIndexShift;
        return {any_iova(), high};
    }

    void transmit() {
        wire_.clear();
        const unsigned budget = 1 + input_.below(32);
        expect(nic_.device.transmit(budget, wire_) <= budget, "no more is sent than was asked for");
        for (const nic::Frame& frame : wire_) {
            expect(frame.size() >= nic::kEthernetHeader, "what is sent has an Ethernet header");
            expect(frame.size() + nic::kCrc <= nic::kMaxJumboFrame + nic::kVlanTag,
                   "what is sent is no longer than the hardware sends");
        }
        check_heads();
    }

    // --- What always holds ---

    // The device leaves its position to be read there, within the ring unless the driver wrote it.
    void check_heads() const {
        expect(nic_.device.counters().writes_after_stop == 0, "a disabled queue is not written to");
    }

    void stop_queue() {
        const unsigned queue = any_rx();
        start_rx(queue);
        nic_.poke(reg::rx_queue(queue) + reg::kRdt, 2);  // the more buffers, the slower
        (void)nic_.read(reg::kStatus);
        nic_.device.rx_queue(queue).guard_buffers_at_stop(true);
        nic_.poke(reg::rx_queue(queue) + reg::kRxdctl, 0);
        (void)nic_.read(reg::kStatus);
        const auto changed = nic_.device.rx_queue(queue).verify_stopped();
        expect(!changed || *changed == 0, "a stop changes no buffer");
        if (input_.flag()) start_rx(queue);
    }

    // After any register access, what is disabled uses no descriptor and no buffer.
    void stop_everything() {
        for (unsigned queue = 0; queue < nic::kQueues; ++queue) {
            nic_.poke(reg::rx_queue(queue) + reg::kRxdctl, 0);
            nic_.poke(reg::tx_queue(queue) + reg::kTxdctl, 0);
        }
        (void)nic_.read(reg::kStatus);
        const std::uint64_t before = dma_.accesses();
        nic_.device.receive(any_frame());
        transmit();
        nic_.device.retry_held_frames();
        expect(dma_.accesses() == before, "a stopped device touches no memory");
    }

    Input& input_;
    Nic& nic_;
    Windows& dma_;
    bool reset_ = false;
    std::vector<nic::Frame> wire_;
};

}  // namespace
}  // namespace zecorx::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    zecorx::fuzz::Input input(data, size);
    zecorx::fuzz::NicBench(input).run();
    return 0;
}
