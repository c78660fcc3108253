// The 82599 itself: registers, receive, transmit. No operating system, no DPDK.
//
// Thread rule: every member is called under one lock, except that the driver may access the
// doorbell pages of the register memory directly at any time. Invariants: after any read_register
// or write_register, no queue whose ENABLE bit was clear at that moment uses a descriptor or writes
// memory until the driver starts it again.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "counters.h"
#include "dma_engine.h"
#include "dma_space.h"
#include "filter.h"
#include "frame.h"
#include "register_file.h"
#include "rx_path.h"
#include "statistics.h"
#include "tx_offload.h"
#include "tx_queue.h"
#include "zecorx/mac_address.h"

namespace zecorx::soft82599 {

class Device {
  public:
    struct Hooks {
        std::function<void()> raise_interrupt;  // an unmasked cause became set
        LogSink log;
    };

    // `words` is the BAR; it, `dma` and what the hooks refer to outlive the device.
    // REQUIRES: words.size() == kBarWords.
    Device(std::span<std::uint32_t> words, DmaSpace& dma, const MacAddress& mac, Hooks hooks);
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    // Register access with all side effects. REQUIRES: offset < kBarSize, a multiple of 4.
    std::uint32_t read_register(std::uint32_t offset);
    void write_register(std::uint32_t offset, std::uint32_t value);

    // A frame from the wire, without CRC.
    RxResult receive(FrameView frame);
    // Offers frames that wait for descriptors to their queues again.
    void retry_held_frames() { rx_.drain_fifo(); }

    // Takes at most `budget` packets from the transmit queues, round robin, and appends what leaves
    // by the wire to `wire`. Returns how many packets were taken.
    unsigned transmit(unsigned budget, std::vector<Frame>& wire);

    void synchronize_queues();
    void set_link(bool up);
    bool link_up() const { return link_up_; }

    void write_past_cache(bool on) { dma_.write_past_cache(on); }

    RxQueue& rx_queue(unsigned index) { return rx_.queue(index); }
    const PortCounters& counters() const { return counters_; }

  private:
    static constexpr std::size_t kEepromWords = 0x800;

    void reset();
    void load_permanent_address();
    void fill_eeprom();
    void write_special(std::uint32_t offset, std::uint32_t value);
    std::uint32_t read_special(std::uint32_t offset);
    void write_control(std::uint32_t value);
    void read_eeprom(std::uint32_t command);
    std::uint32_t read_semaphore();

    void set_causes(std::uint32_t causes);
    void set_mask(std::uint32_t mask);
    void update_interrupt();

    std::optional<unsigned> transmit_pool(unsigned queue) const;
    bool may_transmit(unsigned queue) const;
    void send_packet(unsigned queue, TxPacket packet, std::vector<Frame>& wire);
    void send_frame(unsigned queue, Frame frame, std::vector<Frame>& wire);
    bool switches_locally() const;
    bool switch_locally(FrameView frame, unsigned pool);
    TxSettings tx_settings() const;

    RegisterFile regs_;
    MacAddress mac_;
    Hooks hooks_;
    PortCounters counters_;
    DmaEngine dma_;
    Statistics statistics_;
    RxPath rx_;
    ReceiveFilter filter_;
    std::vector<TxQueue> tx_queues_;
    unsigned next_tx_queue_ = 0;
    std::array<std::uint16_t, kEepromWords> eeprom_{};
    bool link_up_ = true;
    bool interrupt_pending_ = false;
};

}  // namespace zecorx::soft82599
