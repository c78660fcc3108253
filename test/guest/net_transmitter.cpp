#include "net_transmitter.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace zecorx::test {

namespace {

constexpr std::byte kGapFill{0xEE};

}  // namespace

NetTransmitter::NetTransmitter(FakeMemory& memory, std::uint16_t queue_size, std::uint64_t features,
                               std::uint16_t first_index)
    : memory_(memory),
      header_size_(net_header_size(features)),
      queue_(make_queue_driver(memory, queue_size, features, first_index)),
      posted_(queue_size, nullptr) {}

bool NetTransmitter::enqueue(std::span<const std::byte> frame, const TxLayout& layout,
                             const NetHeader& header) {
    std::vector<std::byte> bytes(header_size_);
    std::memcpy(bytes.data(), &header, header_size_);
    bytes.insert(bytes.end(), frame.begin(), frame.end());

    const std::vector<std::uint32_t> lens = cut(frame.size(), layout);
    Slot* slot = take_slot(bytes.size() + layout.gap * lens.size());
    slot->sent.clear();
    std::vector<Piece> pieces;
    for (std::span<const std::byte> rest(bytes); const std::uint32_t len : lens) {
        pieces.push_back({slot->gpa + slot->sent.size(), len});
        slot->sent.insert(slot->sent.end(), rest.begin(), rest.begin() + len);
        slot->sent.resize(slot->sent.size() + layout.gap, kGapFill);
        rest = rest.subspan(len);
    }
    memory_.write(slot->gpa, slot->sent);
    return post(slot, pieces, layout.form);
}

bool NetTransmitter::post(Slot* slot, std::span<const Piece> pieces, DescForm form) {
    const auto head = queue_->add(pieces, form);
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

// Lengths of the pieces of header and frame.
std::vector<std::uint32_t> NetTransmitter::cut(std::size_t frame_len,
                                               const TxLayout& layout) const {
    std::vector<std::uint32_t> lens;
    for (std::uint32_t left = header_size_; left > 0; left -= lens.back()) {
        lens.push_back(std::min(left, layout.header_piece));
    }
    std::size_t left = frame_len;
    if (!layout.header_apart && lens.size() == 1) {
        const std::size_t with_header = std::min<std::size_t>(left, layout.max_piece);
        lens.back() += static_cast<std::uint32_t>(with_header);
        left -= with_header;
    }
    for (; left > 0; left -= lens.back()) {
        lens.push_back(static_cast<std::uint32_t>(std::min<std::size_t>(left, layout.max_piece)));
    }
    return lens;
}

void NetTransmitter::flush() {
    queue_->publish();
    queue_->kick();
}

bool NetTransmitter::send(std::span<const std::byte> frame, const TxLayout& layout,
                          const NetHeader& header) {
    const bool queued = enqueue(frame, layout, header);
    if (queued) flush();
    return queued;
}

std::size_t NetTransmitter::reap_transmitted() {
    const std::vector<UsedHead> reaped = queue_->reap();
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
