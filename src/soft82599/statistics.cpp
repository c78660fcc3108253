#include "statistics.h"

namespace zecorx::soft82599 {
namespace {

// Index of PRCxxx and PTCxxx: 64, 65-127, 128-255, 256-511, 512-1023, 1024-max; CRC included.
unsigned size_class(std::size_t length_with_crc) {
    if (length_with_crc <= 64) return 0;
    if (length_with_crc <= 127) return 1;
    if (length_with_crc <= 255) return 2;
    if (length_with_crc <= 511) return 3;
    return length_with_crc <= 1023 ? 4 : 5;
}

bool is_broadcast(const MacAddress& address) {
    return address == MacAddress{{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}};
}

}  // namespace

void Statistics::count_arrival(std::size_t frame_length) {
    regs_.add(reg::kTpr);
    regs_.add64(reg::kTor, frame_length + kCrc);
}

void Statistics::count_good_receive(const MacAddress& destination, std::size_t frame_length) {
    regs_.add(reg::kGprc);
    regs_.add64(reg::kGorc, frame_length + crc_in_receive_counters());
    regs_.add(reg::kPrc64 + 4 * size_class(frame_length + kCrc));
    if (is_broadcast(destination)) {
        regs_.add(reg::kBprc);
    } else if (destination.is_multicast()) {
        regs_.add(reg::kMprc);
    }
}

void Statistics::count_queue_receive(unsigned queue, std::size_t written_length) {
    QueueCounters& counters = counted_[counter_of(reg::kRqsmr, queue)];
    ++counters.received;
    counters.received_bytes += written_length;
}

void Statistics::count_queue_drop(unsigned queue) {
    ++counted_[counter_of(reg::kRqsmr, queue)].dropped;
}

void Statistics::count_transmit(unsigned queue, const MacAddress& destination,
                                std::size_t frame_length) {
    const unsigned counter = counter_of(reg::kTqsm, queue);
    ++counted_[counter].sent;
    regs_.add64(reg::kQbtc + 8 * counter, frame_length + kCrc);
    regs_.add(reg::kTpt);
    regs_.add(reg::kGptc);
    regs_.add64(reg::kGotc, frame_length + kCrc);
    regs_.add(reg::kPtc64 + 4 * size_class(frame_length + kCrc));
    if (destination.is_multicast()) regs_.add(reg::kMptc);
    if (is_broadcast(destination)) regs_.add(reg::kBptc);
}

void Statistics::publish_queue_counters() {
    shown_ = counted_;
    show(shown_);
}

void Statistics::withdraw_queue_counters() {
    for (unsigned i = 0; i < kQueueStatistics; ++i) {
        counted_[i].received -= shown_[i].received;
        counted_[i].received_bytes -= shown_[i].received_bytes;
        counted_[i].dropped -= shown_[i].dropped;
        counted_[i].sent -= shown_[i].sent;
    }
    shown_ = {};
    show(shown_);
}

void Statistics::reset() {
    counted_ = {};
    shown_ = {};
}

void Statistics::show(const AllQueueCounters& counters) {
    for (unsigned i = 0; i < kQueueStatistics; ++i) {
        const std::uint32_t offset = i * reg::kQueueStatisticStride;
        regs_.set(reg::kQprc + offset, counters[i].received);
        regs_.set(reg::kQbrc + offset, static_cast<std::uint32_t>(counters[i].received_bytes));
        regs_.set(reg::kQbrc + offset + 4,
                  static_cast<std::uint32_t>(counters[i].received_bytes >> 32));
        regs_.set(reg::kQprdc + offset, counters[i].dropped);
        regs_.set(reg::kQptc + offset, counters[i].sent);
    }
}

// Receive byte counters include the CRC unless it is stripped.
std::size_t Statistics::crc_in_receive_counters() const {
    return regs_.test(reg::kHlreg0, bits::kHlreg0RxCrcStrip) ? 0 : kCrc;
}

// RQSMR and TQSM hold one byte per queue, four to a register.
unsigned Statistics::counter_of(std::uint32_t map, unsigned queue) const {
    return regs_.get(map + queue / 4 * 4) >> (8 * (queue % 4)) & 0xF;
}

}  // namespace zecorx::soft82599
