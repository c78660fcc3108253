#include "queue_driver.h"

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>

#include "packed_queue_driver.h"
#include "split_queue_driver.h"

namespace zecorx::test {

QueueDriver::QueueDriver(FakeMemory& memory, std::uint16_t size, const Areas& areas)
    : memory_(memory),
      size_(size),
      descriptor_area_(areas.descriptor),
      driver_area_(areas.driver),
      device_area_(areas.device),
      chains_(size) {}

std::optional<std::uint16_t> QueueDriver::add(std::span<const Piece> pieces, DescForm form) {
    assert(!pieces.empty());
    const bool indirect = form == DescForm::kIndirect;
    if (free_descriptors() < (indirect ? 1 : pieces.size())) return std::nullopt;
    const std::uint16_t head = write_chain(pieces, form);
    Chain& chain = chains_[head];
    chain.state = ChainState::kAdded;
    chain.indirect = indirect;
    chain.writable = 0;
    for (const Piece& piece : pieces) chain.writable += piece.device_writable ? piece.len : 0;
    avail_order_.push_back(head);
    ++unpublished_;
    return head;
}

void QueueDriver::publish() {
    for (std::size_t i = published(); i < avail_order_.size(); ++i) {
        chains_[avail_order_[i]].state = ChainState::kPublished;
        unkicked_ = true;
    }
    unpublished_ = 0;
    make_visible();
}

bool QueueDriver::kick() {
    if (!std::exchange(unkicked_, false)) return false;
    if (!device_wants_kick()) {
        ++kicks_suppressed_;
        return false;
    }
    kick_.signal();
    ++kicks_sent_;
    return true;
}

void QueueDriver::use_event_idx() {
    event_idx_ = true;
    want_calls(calls_wanted_);
}

Gpa QueueDriver::write_table(std::uint16_t head, std::span<const std::byte> entries) {
    Chain& chain = chains_[head];
    if (chain.table_room < entries.size()) {
        chain.table = memory_.allocate(entries.size());
        chain.table_room = entries.size();
    }
    chain.table_bytes.assign(entries.begin(), entries.end());
    memory_.write(chain.table, entries);
    return chain.table;
}

bool QueueDriver::device_holds(std::uint32_t head) const {
    return head < size_ && chains_[head].state == ChainState::kPublished;
}

std::size_t QueueDriver::batch_size(std::uint32_t head) const {
    if (!batches_accepted_ || !device_holds(head)) return 1;
    const auto last = std::find(avail_order_.begin(), avail_order_.end(), head);
    return static_cast<std::size_t>(last - avail_order_.begin()) + 1;
}

bool QueueDriver::take_back(std::uint32_t head, std::uint32_t len, std::vector<UsedHead>& taken) {
    if (!device_holds(head)) {
        violations_.add("used entry names chain " + std::to_string(head) +
                        ", which the device does not hold");
        return false;
    }
    for (std::size_t ahead = batch_size(head) - 1; ahead > 0; --ahead) {
        const std::uint16_t skipped = avail_order_.front();
        take_one(skipped, chains_[skipped].writable, taken);
    }
    take_one(static_cast<std::uint16_t>(head), len, taken);
    return true;
}

void QueueDriver::take_one(std::uint16_t head, std::uint64_t len, std::vector<UsedHead>& taken) {
    Chain& chain = chains_[head];
    if (len > chain.writable) {
        violations_.add("used length " + std::to_string(len) + " exceeds the " +
                        std::to_string(chain.writable) + " bytes that were posted");
    }
    check_table(head);
    note_order(head);
    chain.state = ChainState::kFree;
    release(head);
    taken.push_back({head, static_cast<std::uint32_t>(len)});
}

void QueueDriver::check_table(std::uint16_t head) {
    const Chain& chain = chains_[head];
    if (!chain.indirect) return;
    std::vector<std::byte> now(chain.table_bytes.size());
    memory_.read(chain.table, now);
    if (now != chain.table_bytes) {
        violations_.add("the indirect table of chain " + std::to_string(head) + " was changed");
    }
}

void QueueDriver::note_order(std::uint16_t head) {
    if (avail_order_.front() != head) {
        ++order_violations_;
        if (in_order_) {
            violations_.add("chain " + std::to_string(head) + " came back before chain " +
                            std::to_string(avail_order_.front()) + ", with IN_ORDER negotiated");
        }
    }
    avail_order_.erase(std::find(avail_order_.begin(), avail_order_.end(), head));
}

std::unique_ptr<QueueDriver> make_queue_driver(FakeMemory& memory, std::uint16_t size,
                                               std::uint64_t features, std::uint16_t first_index) {
    std::unique_ptr<QueueDriver> queue;
    if ((features & kFeatureRingPacked) != 0) {
        queue = std::make_unique<PackedQueueDriver>(memory, size, first_index);
    } else {
        queue = std::make_unique<SplitQueueDriver>(memory, size, first_index);
    }
    if ((features & kFeatureInOrder) != 0) queue->use_in_order();
    if ((features & kFeatureEventIdx) != 0) queue->use_event_idx();
    return queue;
}

}  // namespace zecorx::test
