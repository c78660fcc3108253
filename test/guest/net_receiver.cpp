#include "net_receiver.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace zecorx::test {

namespace {

std::string hex(std::uint64_t value) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    do {
        text.insert(text.begin(), kDigits[value & 15]);
        value >>= 4;
    } while (value != 0);
    return "0x" + text;
}

}  // namespace

NetReceiver::NetReceiver(FakeMemory& memory, std::uint16_t queue_size, std::uint64_t features,
                         std::uint16_t first_index)
    : memory_(memory),
      header_size_(net_header_size(features)),
      mergeable_((features & kFeatureNetMrgRxbuf) != 0),
      queue_(make_queue_driver(memory, queue_size, features, first_index)),
      posted_(queue_size, nullptr) {}

void NetReceiver::set_layout(RxLayout layout) {
    layout_ = std::move(layout);
    ++generation_;
    placed_ = 0;
    idle_.clear();
}

std::size_t NetReceiver::refill(std::size_t limit) {
    std::size_t posted = 0;
    while (posted < limit) {
        Slot* slot = take_slot();
        if (slot == nullptr || !post(*slot)) break;
        ++posted;
    }
    returned_ = 0;
    queue_->publish();
    queue_->kick();
    return posted;
}

// An idle buffer, or a new one while the ring has room for any.
NetReceiver::Slot* NetReceiver::take_slot() {
    if (queue_->free_descriptors() == 0) return nullptr;
    if (!idle_.empty()) {
        Slot* slot = idle_.front();
        idle_.pop_front();
        return slot;
    }
    slots_.push_back({layout_.place(memory_, header_size_, placed_++), generation_});
    fill_canaries(slots_.back());
    return &slots_.back();
}

bool NetReceiver::post(Slot& slot) {
    if (canaries_) check_pieces(slot, 0, "a buffer the device had returned");
    const auto head = queue_->add(slot.buffer.pieces, slot.buffer.form);
    if (!head) {
        idle_.push_front(&slot);
        return false;
    }
    posted_[*head] = &slot;
    return true;
}

std::vector<ReceivedFrame> NetReceiver::receive() {
    std::vector<ReceivedFrame> frames;
    for (const UsedHead& used : queue_->reap()) accept(used, frames);
    if (missing_ > 0) {
        violations_.add("the used entries of one frame were not published in one step");
    }
    if (returned_ >= threshold_) refill();
    return frames;
}

void NetReceiver::accept(const UsedHead& used, std::vector<ReceivedFrame>& frames) {
    Slot& slot = *std::exchange(posted_[used.head], nullptr);
    std::vector<std::byte> bytes = take_bytes(slot, used);
    recycle(slot);
    if (missing_ > 0) {
        extend_frame(used, bytes);
    } else if (used.len == 0) {
        ++empty_completions_;
        return;
    } else if (bytes.size() < header_size_) {
        violations_.add("used.len " + std::to_string(used.len) + " is shorter than the header");
        return;
    } else {
        start_frame(used, std::move(bytes));
    }
    if (missing_ == 0) frames.push_back(std::exchange(frame_, {}));
}

// What the device wrote into a returned buffer, once it is checked that it wrote nothing else.
std::vector<std::byte> NetReceiver::take_bytes(const Slot& slot, const UsedHead& used) {
    const std::uint32_t len = std::min(used.len, slot.buffer.capacity());
    if (canaries_) {
        check_guards(slot);
        check_pieces(slot, std::size_t{len} + scratch_,
                     "past used.len " + std::to_string(used.len));
    }
    std::vector<std::byte> bytes(len);
    std::span<std::byte> rest(bytes);
    for (const Piece& piece : slot.buffer.pieces) {
        const std::size_t share = std::min<std::size_t>(rest.size(), piece.len);
        memory_.read(piece.gpa, rest.first(share));
        rest = rest.subspan(share);
    }
    return bytes;
}

void NetReceiver::recycle(Slot& slot) {
    ++returned_;
    if (slot.generation != generation_) return;
    fill_canaries(slot);
    idle_.push_back(&slot);
}

void NetReceiver::start_frame(const UsedHead& used, std::vector<std::byte> bytes) {
    std::memcpy(&frame_.header, bytes.data(), header_size_);
    bytes.erase(bytes.begin(), bytes.begin() + header_size_);
    frame_.bytes = std::move(bytes);
    frame_.heads = {used.head};
    frame_.used_lens = {used.len};
    missing_ = static_cast<std::uint16_t>(buffers_announced() - 1);
}

std::uint16_t NetReceiver::buffers_announced() {
    if (!mergeable_) return 1;
    if (frame_.header.num_buffers != 0) return frame_.header.num_buffers;
    violations_.add("num_buffers is 0");
    return 1;
}

void NetReceiver::extend_frame(const UsedHead& used, const std::vector<std::byte>& bytes) {
    frame_.bytes.insert(frame_.bytes.end(), bytes.begin(), bytes.end());
    frame_.heads.push_back(used.head);
    frame_.used_lens.push_back(used.len);
    --missing_;
}

void NetReceiver::fill_canaries(const Slot& slot) {
    if (!canaries_) return;
    // A shared piece may be the device's right now, through another buffer.
    const std::size_t first = slot.buffer.shared_first_piece ? 1 : 0;
    for (const Piece& piece : std::span(slot.buffer.pieces).subspan(first)) {
        memory_.fill_canary({piece.gpa, piece.len});
    }
    for (const GuestRange& guard : slot.buffer.guards) memory_.fill_canary(guard);
}

void NetReceiver::check_guards(const Slot& slot) {
    for (const GuestRange& guard : slot.buffer.guards) report_damage("next to a buffer", guard);
}

// Checks the buffer's bytes from offset `from` on, counted through its pieces.
void NetReceiver::check_pieces(const Slot& slot, std::size_t from, const std::string& what) {
    std::size_t skip = from;
    bool checked = !slot.buffer.shared_first_piece;
    for (const Piece& piece : slot.buffer.pieces) {
        const std::size_t skipped = std::min<std::size_t>(skip, piece.len);
        skip -= skipped;
        if (checked) report_damage(what, {piece.gpa + skipped, piece.len - skipped});
        checked = true;
    }
}

void NetReceiver::report_damage(const std::string& what, GuestRange range) {
    const auto damage = memory_.find_damage(range);
    if (damage) violations_.add("write " + what + ", at GPA " + hex(*damage));
}

void NetReceiver::poison() {
    for (const Slot& slot : slots_) fill_canaries(slot);
}

void NetReceiver::check_poison(const std::string& when) {
    for (const Slot& slot : slots_) {
        check_guards(slot);
        check_pieces(slot, 0, "into a buffer " + when);
    }
}

// FNV-1a.
std::uint64_t NetReceiver::memory_digest() const {
    std::uint64_t digest = 0xcbf2'9ce4'8422'2325;
    std::vector<std::byte> bytes;
    for (const Slot& slot : slots_) {
        for (const Piece& piece : slot.buffer.pieces) {
            bytes.resize(piece.len);
            memory_.read(piece.gpa, bytes);
            for (const std::byte byte : bytes) {
                digest = (digest ^ std::to_integer<std::uint64_t>(byte)) * 0x100'0000'01b3;
            }
        }
    }
    return digest;
}

}  // namespace zecorx::test
