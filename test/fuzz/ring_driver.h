// A driver of one virtqueue, split or packed: it posts well-formed chains and takes them back in
// the order it posted them, checking each, until it is told to write whatever the input says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>

#include "area.h"
#include "guest_ram.h"
#include "zecorx/any_ring.h"

namespace zecorx::fuzz {

struct Buffer {
    std::uint64_t gpa = 0;
    std::uint32_t length = 0;
};

class RingDriver {
  public:
    // A chain that came back.
    struct Used {
        std::uint16_t id = 0;
        std::uint32_t length = 0;
    };

    // REQUIRES: size is a power of two, unless packed.
    RingDriver(bool packed, std::uint32_t size, bool event_idx, Direction direction,
               std::uint16_t first)
        : packed_(packed),
          size_(size),
          event_idx_(event_idx),
          flag_(direction == Direction::kDeviceWritable ? kDescWrite : 0),
          ring_(16UL * size),  // of either kind
          driver_(packed ? sizeof(EventSuppress) : avail_ring_size(size, event_idx)),
          device_(packed ? sizeof(EventSuppress) : used_ring_size(size, event_idx)) {
        if (packed_) {
            place_ = used_ = first % (2 * size);
            base_ = place_form(used_);
        } else {
            place_ = used_ = first;
            set_avail_index(first);
            device_.store(kRingIdxOffset, first);
        }
    }

    std::uint32_t size() const { return size_; }
    std::size_t outstanding() const { return posted_.size(); }
    // Whether it has kept to the rules.
    bool honest() const { return honest_; }

    // The ring as the device sees it, going on at `base` as the frontend would say.
    AnyRing device_side() const {
        if (packed_) {
            const PackedRingLayout layout{ring_.data(), driver_.data(), device_.data(),
                                          size_,        event_idx_,     base_};
            expect(layout.valid(), "a packed ring's layout is valid");
            return PackedRing(layout);
        }
        const SplitRingLayout layout{ring_.data(), driver_.data(), device_.data(), size_,
                                     event_idx_};
        expect(layout.valid(), "a split ring's layout is valid");
        return SplitRing(layout);
    }
    // What the device said when it let the ring go.
    void resume_at(std::uint16_t base) { base_ = base; }
    std::uint16_t expected_base() const {
        return packed_ ? place_form(used_) : static_cast<std::uint16_t>(used_);
    }

    // Makes a chain available, as a table at `table` if that is given. False: it has no room.
    bool post(std::span<const Buffer> buffers, std::optional<Buffer> table = {},
              std::byte* table_bytes = nullptr) {
        const std::uint32_t entries = table ? 1 : static_cast<std::uint32_t>(buffers.size());
        if (entries == 0 || held_ + entries > size_) return false;
        if (table) write_table(buffers, table_bytes);
        const auto first = static_cast<std::uint16_t>(packed_ ? place_ % size_ : next_desc_);
        for (std::uint32_t i = 0; i < entries; ++i) {
            const bool more = i + 1 < entries;
            write(
                table ? *table : buffers[i],
                table ? kDescIndirect : static_cast<std::uint16_t>(flag_ | (more ? kDescNext : 0)),
                first);
        }
        if (!packed_) make_available(first);
        held_ += entries;
        posted_.push_back({first, entries});
        return true;
    }

    // Takes the oldest chain back, if the device has used it. REQUIRES: honest().
    std::optional<Used> reap() {
        if (posted_.empty()) return std::nullopt;
        return packed_ ? reap_packed() : reap_split();
    }

    // The device has used nothing that it was not given.
    void check_nothing_more() const {
        if (!packed_) {
            expect(device_.load<std::uint16_t>(kRingIdxOffset) == static_cast<std::uint16_t>(used_),
                   "no more chains are used than were given");
        }
    }

    // Writes something to one of the ring's areas.
    void scribble(Input& input) {
        honest_ = false;
        Area& area = *input.any_of({&ring_, &ring_, &driver_, &device_});
        const std::size_t size = area.bytes().size();
        switch (input.below(4)) {
            case 0:
                return area.store(size == 1 ? 0 : input.word() % size, input.byte());
            case 1:
                return area.store(input.word() % (size / 2) * 2, input.word());
            case 2:
                if (!packed_)
                    return set_avail_index(static_cast<std::uint16_t>(place_ + input.byte()));
                return area.store(input.word() % (size / 2) * 2, input.word());
            default:
                return write_raw(input);
        }
    }
    // A descriptor of its own making, in the place of the next one.
    void write_raw(Input& input, const Buffer& buffer) {
        honest_ = false;
        const std::uint16_t flags = input.one_in(8) ? input.word() : flag_ | (input.byte() & 5);
        const auto first = static_cast<std::uint16_t>(packed_ ? place_ % size_ : next_desc_);
        write(buffer, flags, input.one_in(8) ? input.word() : first);
        if (!packed_) make_available(input.one_in(8) ? input.word() : first);
    }

    // What the driver wants to be called for.
    void wish(Input& input) {
        if (packed_) {
            driver_.store(
                0, EventSuppress{input.word(), static_cast<std::uint16_t>(input.byte() & 3)});
            return;
        }
        driver_.store(kRingFlagsOffset, static_cast<std::uint16_t>(input.byte() & 1));
        if (event_idx_) driver_.store(avail_ring_size(size_, false), input.word());
    }

  private:
    struct Posted {
        std::uint16_t id;
        std::uint32_t entries;
    };

    // A packed place: a slot and a wrap counter; see PackedRing.
    bool wrap(std::uint32_t place) const { return place < size_; }
    std::uint16_t place_form(std::uint32_t place) const {
        return static_cast<std::uint16_t>(place % size_ | (wrap(place) ? kPackedWrap : 0));
    }

    // The next descriptor. `id` is a packed chain's.
    void write(const Buffer& buffer, std::uint16_t flags, std::uint16_t id) {
        if (packed_) {
            flags |= wrap(place_) ? kPackedDescAvail : kPackedDescUsed;
            ring_.store(16UL * (place_ % size_), PackedDesc{buffer.gpa, buffer.length, id, flags});
            place_ = (place_ + 1) % (2 * size_);
            return;
        }
        const auto next = static_cast<std::uint16_t>((next_desc_ + 1) % size_);
        ring_.store(16UL * next_desc_, Desc{buffer.gpa, buffer.length, flags, next});
        next_desc_ = next;
    }

    void make_available(std::uint16_t head) {
        driver_.store(kRingEntriesOffset + 2UL * (place_ % size_), head);
        set_avail_index(static_cast<std::uint16_t>(place_ + 1));
    }
    void set_avail_index(std::uint16_t index) {
        place_ = index;
        driver_.store(kRingIdxOffset, index);
    }

    void write_table(std::span<const Buffer> buffers, std::byte* to) {
        for (std::size_t i = 0; i < buffers.size(); ++i, to += 16) {
            const bool more = !packed_ && i + 1 < buffers.size();
            const auto flags = static_cast<std::uint16_t>(flag_ | (more ? kDescNext : 0));
            const Desc split{buffers[i].gpa, buffers[i].length, flags,
                             static_cast<std::uint16_t>(i + 1)};
            const PackedDesc packed{buffers[i].gpa, buffers[i].length, 0, flags};
            if (packed_) {
                std::memcpy(to, &packed, sizeof packed);
            } else {
                std::memcpy(to, &split, sizeof split);
            }
        }
    }

    std::optional<Used> reap_split() {
        if (device_.load<std::uint16_t>(kRingIdxOffset) == static_cast<std::uint16_t>(used_))
            return std::nullopt;
        const auto entry = device_.load<UsedElem>(kRingEntriesOffset + 8UL * (used_ % size_));
        used_ = static_cast<std::uint16_t>(used_ + 1);
        return take_back(entry.id, entry.len);
    }

    std::optional<Used> reap_packed() {
        const auto entry = ring_.load<PackedDesc>(16UL * (used_ % size_));
        const std::uint16_t both = kPackedDescAvail | kPackedDescUsed;
        if ((entry.flags & both) != (wrap(used_) ? both : 0)) return std::nullopt;
        expect(((entry.flags & kDescWrite) != 0) == (entry.len > 0),
               "WRITE of a used descriptor says that bytes were written");
        used_ = (used_ + posted_.front().entries) % (2 * size_);
        return take_back(entry.id, entry.len);
    }

    Used take_back(std::uint32_t id, std::uint32_t length) {
        expect(posted_.front().id == id, "used chains are the available ones, in their order");
        held_ -= posted_.front().entries;
        posted_.pop_front();
        return {static_cast<std::uint16_t>(id), length};
    }

    void write_raw(Input& input) {
        write_raw(input, {input.take<std::uint64_t>(), input.take<std::uint32_t>()});
    }

    const bool packed_;
    const std::uint32_t size_;
    const bool event_idx_;
    const std::uint16_t flag_;
    Area ring_;
    Area driver_;
    Area device_;
    std::uint32_t place_ = 0;      // split: avail index; packed: where it posts next
    std::uint32_t used_ = 0;       // split: used index; packed: where it reaps next
    std::uint16_t base_ = 0;       // packed
    std::uint16_t next_desc_ = 0;  // split
    std::uint32_t held_ = 0;       // descriptors of posted_
    std::deque<Posted> posted_;
    bool honest_ = true;
};

}  // namespace zecorx::fuzz
