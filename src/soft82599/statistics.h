// The statistics registers (section 8.2.3.23) and the queue counters among them.
//
// QPRC, QBRC, QPTC and QPRDC clear on read, but they share pages with the doorbells, which are
// plain memory: a read of them cannot be seen. So they are counted here, shown in their registers
// when the driver starts to read statistics, and the amount shown is taken off and the registers
// are zeroed when it has passed them. The ixgbe driver reads HLREG0, CRCERRS, ..., the queue
// counters, MLFC, ... in this order, all of it from one thread, so CRCERRS and MLFC, which trap,
// are the two marks. Frames that arrive in between are in the next reading.
//
// Thread rule: used under the device's lock.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "frame.h"
#include "register_file.h"

namespace zecorx::soft82599 {

class Statistics {
  public:
    explicit Statistics(RegisterFile registers) : regs_(registers) {}

    // `frame_length` is without CRC throughout.
    void count_arrival(std::size_t frame_length);  // good or not
    void count_good_receive(const MacAddress& destination, std::size_t frame_length);
    void count_oversize() { regs_.add(reg::kRoc); }
    void count_missed() { regs_.add(reg::kMpc); }
    void count_queue_receive(unsigned queue, std::size_t written_length);
    void count_queue_drop(unsigned queue);
    void count_transmit(unsigned queue, const MacAddress& destination, std::size_t frame_length);

    void publish_queue_counters();   // at the read of CRCERRS
    void withdraw_queue_counters();  // at the read of MLFC
    void reset();

  private:
    struct QueueCounters {
        std::uint32_t received = 0;        // QPRC
        std::uint64_t received_bytes = 0;  // QBRC
        std::uint32_t dropped = 0;         // QPRDC
        std::uint32_t sent = 0;            // QPTC
    };
    using AllQueueCounters = std::array<QueueCounters, kQueueStatistics>;

    std::size_t crc_in_receive_counters() const;
    unsigned counter_of(std::uint32_t map, unsigned queue) const;
    void show(const AllQueueCounters& counters);

    RegisterFile regs_;
    AllQueueCounters counted_{};  // since the last withdrawal
    AllQueueCounters shown_{};    // part of counted_ that the registers show
};

}  // namespace zecorx::soft82599
