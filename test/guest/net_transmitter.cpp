#include "net_transmitter.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace zecorx::test {

NetTransmitter::NetTransmitter(FakeMemory& memory, std::uint16_t queue_size, std::uint64_t features,
                               std::uint16_t first_index)
    : memory_(memory),
      header_size_(net_header_size(features)),
      queue_(memory, queue_size, first_index),
      posted_(queue_size, nullptr) {
    if ((features & kFeatureEventIdx) != 0) queue_.use_event_idx();
}

bool NetTransmitter::enqueue(std::span<const std::byte> frame, const TxLayout& layout,
                             const NetHeader& header) {
    Slot* slot = take_slot(header_size_ + frame.size());
    slot->sent.resize(header_size_ + frame.size());
    std::memcpy(slot->sent.data(), &header, header_size_);
    std::copy(frame.begin(), frame.end(), slot->sent.begin() + header_size_);
    memory_.write(slot->gpa, slot->sent);

    const auto head = queue_.add(cut(slot->gpa, frame.size(), layout), layout.form);
    if (!head) {
        idle_.push_back(slot);
        return false;
    }
    posted_[*head] = slot;
    return true;
}

NetTransmitter::Slot* NetTransmitter::take_slot(std::size_t bytes) {
    constexpr std::size_t kUsualCapacity = 2048;
    const auto fits = std::find_if(idle_.rbegin(), idle_.rend(),
                                   [bytes](const Slot* slot) { return slot->capacity >= bytes; });
    if (fits != idle_.rend()) {
        Slot* slot = *fits;
        idle_.erase(std::next(fits).base());
        return slot;
    }
    const std::size_t capacity = std::max(bytes, kUsualCapacity);
    slots_.push_back({memory_.allocate(capacity), capacity, {}});
    return &slots_.back();
}

std::vector<Piece> NetTransmitter::cut(Gpa gpa, std::size_t frame_len,
                                       const TxLayout& layout) const {
    std::vector<Piece> pieces;
    pieces.push_back({gpa, header_size_});
    std::size_t done = 0;
    if (!layout.header_apart) {
        done = std::min<std::size_t>(frame_len, layout.max_piece);
        pieces.back().len += static_cast<std::uint32_t>(done);
    }
    while (done < frame_len) {
        const std::size_t len = std::min<std::size_t>(frame_len - done, layout.max_piece);
        pieces.push_back({gpa + header_size_ + done, static_cast<std::uint32_t>(len)});
        done += len;
    }
    return pieces;
}

void NetTransmitter::flush() {
    queue_.publish();
    queue_.kick();
}

bool NetTransmitter::send(std::span<const std::byte> frame, const TxLayout& layout,
                          const NetHeader& header) {
    const bool queued = enqueue(frame, layout, header);
    if (queued) flush();
    return queued;
}

std::size_t NetTransmitter::reap_transmitted() {
    const std::vector<UsedHead> reaped = queue_.reap();
    std::vector<std::byte> now;
    for (const UsedHead& used : reaped) {
        Slot* slot = std::exchange(posted_[used.head], nullptr);
        now.resize(slot->sent.size());
        memory_.read(slot->gpa, now);
        if (now != slot->sent) violations_.add("the device wrote into a device-readable buffer");
        idle_.push_back(slot);
    }
    return reaped.size();
}

}  // namespace zecorx::test
