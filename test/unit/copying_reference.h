// What a receive queue must do with each frame, told by a backend that copies and knows no timing.
//
// It shares no code with the receive path: it reads the driver's rings itself and places frames by
// the rule alone. The NIC cuts a frame into pieces. With MRG_RXBUF header and frame together are
// cut into as many portions, each as long as the NIC's buffer but the last, which has what is left.
// Every portion takes the next chains until they hold it, each filled before the next, and never
// shares one. Without, the frame takes one chain. A frame that can never be placed is dropped, and
// the chains it took return empty.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "guest/fake_guest.h"
#include "guest/frames.h"

namespace zecorx::test {

// A chain the driver made available.
struct PostedChain {
    std::uint16_t head = 0;
    std::uint16_t entries = 0;   // descriptors of the ring it occupies
    std::uint32_t capacity = 0;  // bytes
    std::vector<GuestRange> pieces{};

    void add(GuestRange piece) {
        pieces.push_back(piece);
        capacity += static_cast<std::uint32_t>(piece.len);
    }
};

// Reads a virtqueue as the driver published it (VIRTIO 2.7, 2.8).
class PostedChains {
  public:
    // From here on: what is on the ring already is not told.
    PostedChains(const FakeMemory& memory, const QueueDriver& queue)
        : memory_(memory),
          split_(dynamic_cast<const SplitQueueDriver*>(&queue)),
          packed_(dynamic_cast<const PackedQueueDriver*>(&queue)),
          next_(published()) {}

    // Those published since the last call, in avail order.
    std::vector<PostedChain> fresh() {
        std::vector<PostedChain> chains;
        while (next_ != published()) chains.push_back(packed_ ? next_packed() : next_split());
        return chains;
    }

  private:
    std::uint16_t published() const {
        return packed_ ? packed_->next_avail() : split_->avail_idx();
    }

    PostedChain next_split() {
        const Gpa slot = split_->avail_ring() + kRingEntriesOffset + 2UL * (next_ % split_->size());
        ++next_;
        const auto head = *memory_.as<std::uint16_t>(slot);
        Desc desc = split_->desc(head);
        PostedChain chain{head, 1};
        add_buffers(desc, chain);
        for (; (desc.flags & kDescNext) != 0; ++chain.entries) {
            desc = split_->desc(desc.next);
            chain.add({desc.addr, desc.len});
        }
        return chain;
    }

    // The last descriptor of a chain names it, and all lie behind each other (VIRTIO 2.8.6).
    PostedChain next_packed() {
        PostedChain chain;
        PackedDesc desc{};
        do {
            desc = packed_->desc(next_);
            add_buffers(desc, chain);
            ++chain.entries;
            step_packed();
        } while ((desc.flags & kDescNext) != 0);
        chain.head = desc.id;
        return chain;
    }

    void step_packed() {
        const auto position = static_cast<std::uint16_t>((next_ & ~kPackedWrap) + 1);
        const bool turn = position == packed_->size();
        const std::uint16_t wrap = (next_ & kPackedWrap) ^ (turn ? kPackedWrap : 0);
        next_ = static_cast<std::uint16_t>((turn ? 0 : position) | wrap);
    }

    // Of one descriptor of the ring; those of both kinds have address and length in the same place.
    void add_buffers(const auto& desc, PostedChain& chain) const {
        if ((desc.flags & kDescIndirect) == 0) return chain.add({desc.addr, desc.len});
        for (Gpa at = desc.addr; at < desc.addr + desc.len; at += sizeof(Desc)) {
            const auto* entry = memory_.as<Desc>(at);
            chain.add({entry->addr, entry->len});
        }
    }

    const FakeMemory& memory_;
    const SplitQueueDriver* split_;  // one of the two is null
    const PackedQueueDriver* packed_;
    std::uint16_t next_;  // split: avail index; packed: position and wrap counter
};

class CopyingReference {
  public:
    struct Setup {
        std::uint32_t header_size = 12;
        bool mergeable = true;
        bool guest_csum = false;
        std::uint32_t nic_buffer = 0;   // bytes
        std::uint32_t max_frame = 0;    // F, bytes
        std::uint32_t pending_cap = 0;  // pieces
        std::uint32_t ring_size = 0;    // descriptors
    };

    // A frame as the guest must find it.
    struct Expected {
        Frame bytes;
        std::uint8_t flags = 0;
        std::vector<std::uint16_t> heads;
        std::vector<std::uint32_t> used_lens;
    };

    explicit CopyingReference(const Setup& setup) : setup_(setup) {}

    void posted(const std::vector<PostedChain>& chains) {
        chains_.insert(chains_.end(), chains.begin(), chains.end());
    }

    // The NIC wrote the frame to its buffers.
    void arrived(Frame bytes, bool checksum_verified) {
        wire_.push_back({std::move(bytes), checksum_verified});
    }

    // The PMD delivered the oldest `frames` of them.
    void delivered(std::uint32_t frames) {
        for (; frames > 0; --frames) {
            pending_pieces_ += pieces(wire_.front());
            pending_.push_back(std::move(wire_.front()));
            wire_.pop_front();
        }
    }

    // Completes what the posted chains allow, at most `limit` frames; returns how many.
    std::uint32_t complete(std::uint32_t limit) {
        std::uint32_t frames = 0;
        for (; frames < limit && !pending_.empty(); ++frames) {
            const std::optional<Placement> placement = place(pending_.front());
            if (!placement) break;
            finish(*placement);
        }
        return frames;
    }

    // Chains the oldest frame would complete with, were it completed now; 0: it has to wait.
    std::size_t ready_chains() const {
        if (pending_.empty()) return 0;
        const std::optional<Placement> placement = place(pending_.front());
        return placement ? placement->lengths.size() : 0;
    }

    // Drops the newest frames above the cap; the oldest waits for the driver however long it is.
    void enforce_cap() {
        while (pending_pieces_ > setup_.pending_cap && pending_.size() > 1) {
            pending_pieces_ -= pieces(pending_.back());
            pending_.pop_back();
            ++no_buffer_;
        }
    }

    // Everything that has not been completed is lost; the chains stay the driver's.
    void stop() {
        stopped_ += pending_.size();
        pending_.clear();
        pending_pieces_ = 0;
        wire_.clear();
    }

    std::size_t pending() const { return pending_.size(); }
    std::size_t on_wire() const { return wire_.size(); }
    std::deque<Expected>& expected() { return expected_; }

    std::uint64_t completed_chains() const { return completed_chains_; }
    std::uint64_t completed_frames() const { return completed_frames_; }
    std::uint64_t completed_bytes() const { return completed_bytes_; }
    std::uint64_t too_big() const { return too_big_; }
    std::uint64_t no_buffer() const { return no_buffer_; }
    std::uint64_t stopped() const { return stopped_; }
    std::uint64_t empty_heads() const { return empty_heads_; }

  private:
    struct Waiting {
        Frame bytes;
        bool checksum_verified;
    };

    // How many bytes go to each of the next chains; nothing placed if the frame does not fit.
    struct Placement {
        bool fits = true;
        std::vector<std::uint32_t> lengths;
    };

    // Chains a frame may take from the first one on that is too short for any piece.
    static constexpr std::uint32_t kMaxShortRun = 128;

    std::uint32_t pieces(const Waiting& frame) const {
        const auto size = static_cast<std::uint32_t>(frame.bytes.size());
        return (size + setup_.nic_buffer - 1) / setup_.nic_buffer;
    }

    std::optional<Placement> place(const Waiting& frame) const {
        return setup_.mergeable ? place_merged(frame) : place_single(frame);
    }

    std::optional<Placement> place_single(const Waiting& frame) const {
        if (chains_.empty()) return std::nullopt;
        const auto needed = static_cast<std::uint32_t>(setup_.header_size + frame.bytes.size());
        const bool fits = chains_.front().capacity >= needed;
        return Placement{fits, {fits ? needed : 0}};
    }

    std::optional<Placement> place_merged(const Waiting& frame) const {
        const std::uint32_t any_piece =
            setup_.header_size + std::min(setup_.nic_buffer, setup_.max_frame);
        Placement placement;
        std::uint32_t short_run = 0;
        std::uint32_t descriptors = 0;
        std::uint32_t longest = 0;  // of the chains, in descriptors
        for (std::uint32_t rest : portions(frame)) {
            while (rest > 0) {
                const std::size_t next = placement.lengths.size();
                const bool never =
                    short_run == kMaxShortRun || (next == chains_.size() && next > 0 &&
                                                  descriptors + longest > setup_.ring_size);
                if (never) return unplaceable(placement);
                if (next == chains_.size()) return std::nullopt;
                const PostedChain& chain = chains_[next];
                if (short_run > 0 || chain.capacity < any_piece) ++short_run;
                descriptors += chain.entries;
                longest = std::max<std::uint32_t>(longest, chain.entries);
                placement.lengths.push_back(std::min(rest, chain.capacity));
                rest -= placement.lengths.back();
            }
        }
        if (chains_.front().capacity < setup_.header_size) return unplaceable(placement);
        return placement;
    }

    static Placement unplaceable(const Placement& tried) {
        return {false, std::vector<std::uint32_t>(tried.lengths.size())};
    }

    // Bytes of each portion of header and frame.
    std::vector<std::uint32_t> portions(const Waiting& frame) const {
        std::vector<std::uint32_t> lengths(pieces(frame), setup_.nic_buffer);
        const auto whole = static_cast<std::uint32_t>(setup_.header_size + frame.bytes.size());
        lengths.back() = whole - (pieces(frame) - 1) * setup_.nic_buffer;
        return lengths;
    }

    void finish(const Placement& placement) {
        Waiting frame = std::move(pending_.front());
        pending_.pop_front();
        pending_pieces_ -= pieces(frame);
        Expected result;
        for (const std::uint32_t length : placement.lengths) {
            result.heads.push_back(chains_.front().head);
            result.used_lens.push_back(length);
            chains_.pop_front();
            ++completed_chains_;
        }
        if (!placement.fits) {
            ++too_big_;
            empty_heads_ += placement.lengths.size();
            return;
        }
        ++completed_frames_;
        completed_bytes_ += frame.bytes.size();
        const bool valid = setup_.guest_csum && frame.checksum_verified;
        result.flags = valid ? kNetHeaderDataValid : 0;
        result.bytes = std::move(frame.bytes);
        expected_.push_back(std::move(result));
    }

    const Setup setup_;
    std::deque<PostedChain> chains_;  // posted, not completed
    std::deque<Waiting> wire_;        // written by the NIC, not delivered by the PMD
    std::deque<Waiting> pending_;     // delivered, not completed
    std::uint32_t pending_pieces_ = 0;
    std::deque<Expected> expected_;  // completed, for the test to take
    std::uint64_t completed_chains_ = 0;
    std::uint64_t completed_frames_ = 0;
    std::uint64_t completed_bytes_ = 0;
    std::uint64_t too_big_ = 0;
    std::uint64_t no_buffer_ = 0;
    std::uint64_t stopped_ = 0;
    std::uint64_t empty_heads_ = 0;
};

}  // namespace zecorx::test
