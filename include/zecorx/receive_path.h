// In-order late binding: which guest chain each frame of one receiveq goes to.
//
// Every buffer given to the NIC is a slot of one FIFO, in posting order; the NIC fills buffers and
// the PMD delivers them in that order. A slot is
//   G          its buffer points at a guest chain's data: the NIC's DMA lands in the guest;
//   bound H    its buffer is host memory, its frame will be copied to the chain it is bound to;
//   unbound H  host memory too, waiting for the driver to make a chain available.
// Chains are acquired strictly in avail order and bound to slots strictly in FIFO order, so the
// bound slots are always a prefix of the FIFO and a G is never posted behind an unbound H. That
// makes completion order = ring order = avail order, whatever mixture of copying and zero copy.
//
// With MRG_RXBUF a frame may take several chains. A chain too short for the longest frame is bound
// to no slot in advance, because how many such chains a frame takes shows only when it is there:
// it waits at the front of the avail ring until a frame is due for it, and meanwhile nothing
// behind it is bound either.
//
// The FIFO is one ring of slots with free-running cursors
//   complete_ <= returned_ <= posted_   and   complete_ <= bound_ <= posted_
//   [complete_, returned_)  pending: delivered by the NIC, not on the used ring yet
//   [returned_, posted_)    owned by the NIC
//   [complete_, bound_)     bound to a chain;  [bound_, posted_) unbound H
//
// Thread rule: one thread at a time (the worker while attached to it, else the control side).
// Nothing here allocates after construction, locks, throws or logs.
//
// `Buffers` says how to aim one of the NIC's buffers, an opaque void*:
//   static void aim_at_guest(void* buffer, std::byte* data, std::uint64_t iova);
//   static void aim_at_host(void* buffer);
//   static const std::byte* host_data(void* buffer);
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "zecorx/chain.h"
#include "zecorx/counters.h"
#include "zecorx/guest_memory.h"
#include "zecorx/net_header.h"
#include "zecorx/split_ring.h"

namespace zecorx {

struct ReceiveLimits {
    std::uint32_t max_frame = 0;    // F, bytes; see geometry.h
    std::uint32_t low_water = 64;   // buffers posted, below which a refill is never refused
    std::uint32_t pending_cap = 0;  // frames kept waiting for a starving driver
};

// Whether the PMD's receive function goes on delivering when a refill is refused.
enum class Refill : std::uint8_t { kMayRefuse, kMustSupply };

template <class Buffers>
class ReceivePath {
  public:
    // Room for `buffers` buffers, handed in by give_back().
    ReceivePath(std::uint32_t buffers, const ReceiveLimits& limits, VmCounters& counters)
        : limits_(limits),
          counters_(counters),
          mask_(std::bit_ceil(buffers) - 1),
          slots_(mask_ + 1),
          pieces_(std::make_unique<Piece[]>((mask_ + 1) * Chain::kMaxPieces)) {
        idle_.reserve(buffers);
    }

    ReceivePath(const ReceivePath&) = delete;
    ReceivePath& operator=(const ReceivePath&) = delete;

    // Starts serving a receiveq of a session that negotiated `features`. `memory` outlives the
    // attachment. REQUIRES: nothing is posted.
    void attach(const SplitRing& ring, const GuestMemory& memory, std::uint64_t features) {
        assert(posted_ == complete_);
        ring_ = ring;
        memory_ = &memory;
        header_size_ = net_header_size(features);
        mergeable_ = (features & kFeatureNetMrgRxbuf) != 0;
        gathered_.clear();
        error_ = RingError::kNone;
        broken_ = false;
        ring_.suppress_kicks();
    }

    // Ends serving: drops what is pending and gives every held head back to the avail ring.
    // REQUIRES: the NIC's queue is stopped and the PMD gave its buffers back.
    // Returns the used index, where the next attachment resumes (vring base).
    std::uint16_t detach() {
        counters_.drop(DropReason::kStopped, pending());
        for (; complete_ != returned_; ++complete_) idle_.push_back(slot(complete_).buffer);
        complete_ = returned_ = bound_ = posted_ = 0;
        gathered_.clear();
        ring_.rewind();
        memory_ = nullptr;
        return ring_.base();
    }

    // The PMD asks for buffers, to be posted in this order. False: all refused, none taken.
    bool dequeue(std::span<void*> out, Refill refill) {
        if (idle_.size() < out.size() || posted_ - complete_ + out.size() > slots_.size()) {
            return false;
        }
        bind();
        if (refill == Refill::kMayRefuse && !can_bind(out.size()) &&
            owned_by_nic() >= limits_.low_water) {
            return false;
        }
        for (void*& buffer : out) buffer = post();
        return true;
    }

    // A buffer that is not posted any more: fresh, or freed by the PMD when the queue stops.
    void give_back(void* buffer) { idle_.push_back(buffer); }

    // The next frame, in the order the PMD delivered it. A buffer that is not the one due breaks
    // the ring: nothing after it could be trusted to go to the right chain.
    void returned(void* buffer, std::uint32_t length) {
        Slot& due = slot(returned_);
        if (returned_ == posted_ || due.buffer != buffer) [[unlikely]] {
            set_broken(RingError::kOrder);
            return give_back(buffer);
        }
        ++returned_;
        due.length = length;
        __builtin_prefetch(due.header, 1);
    }

    // Completes every frame that has its chains, in one step of used.idx. Returns how many frames
    // left the FIFO.
    std::uint32_t complete() {
        bind();
        std::uint32_t completed = complete_bound();
        if (!gathered_.empty()) completed += complete_over_short_chains();
        if (completed > 0) ring_.publish();
        if (pending() > limits_.pending_cap) drop_newest(pending() - limits_.pending_cap);
        return completed;
    }

    bool call_wanted() { return ring_.call_wanted(); }

    std::uint32_t pending() const { return returned_ - complete_; }
    std::uint32_t owned_by_nic() const { return posted_ - returned_; }
    std::size_t idle() const { return idle_.size(); }
    bool attached() const { return memory_ != nullptr; }
    // The ring cannot be used any more; the control side stops it. error() says why.
    bool broken() const { return broken_; }
    RingError error() const { return error_; }

  private:
    enum class Kind : std::uint8_t { kGuest, kHost };

    struct Slot {
        void* buffer = nullptr;
        std::byte* header = nullptr;  // G: where the header goes; guest memory
        std::uint32_t length = 0;     // bytes of the frame, once returned
        std::uint32_t capacity = 0;   // bytes of the chain, header included
        Head head;
        std::uint8_t piece_count = 0;  // bound H: pieces to copy to
        Kind kind = Kind::kHost;
        CopyReason reason = CopyReason::kStarved;
    };

    Slot& slot(std::uint32_t cursor) { return slots_[cursor & mask_]; }
    std::span<Piece> pieces(std::uint32_t cursor, std::size_t count) {
        return {&pieces_[(cursor & mask_) * Chain::kMaxPieces], count};
    }

    // Whether chains may be bound to slots: nothing is broken and no short chain is in the way.
    bool binding() const { return attached() && !broken_ && gathered_.empty(); }

    // Whether `count` further slots can be bound at once. REQUIRES: bind() has run.
    bool can_bind(std::size_t count) const {
        return bound_ == posted_ && binding() && ring_.available() >= count;
    }

    // Binds available chains to the oldest unbound slots.
    void bind() {
        if (!attached() || broken_) [[unlikely]]
            return;
        if (!ring_.refresh()) [[unlikely]]
            return set_broken(RingError::kAvailIndex);
        while (bound_ != posted_ && take_chain()) bind_host(slot(bound_), CopyReason::kStarved);
    }

    void* post() {
        Slot& next = slot(posted_);
        next.buffer = idle_.back();
        idle_.pop_back();
        if (bound_ == posted_ && take_chain()) {
            bind_posted(next);
        } else {
            aim_unbound(next);
        }
        ++posted_;
        return next.buffer;
    }

    void aim_unbound(Slot& next) {
        Buffers::aim_at_host(next.buffer);
        next.kind = Kind::kHost;
        next.header = nullptr;
    }

    // The chain just taken goes to the slot being posted: zero copy if it can take any frame.
    void bind_posted(Slot& next) {
        std::byte* data = nullptr;
        std::uint64_t iova = 0;
        CopyReason reason{};
        if (!postable(data, iova, reason)) {
            aim_unbound(next);
            return bind_host(next, reason);
        }
        Buffers::aim_at_guest(next.buffer, data, iova);
        next.kind = Kind::kGuest;
        next.header = chain_.pieces()[0].hva;
        next.head = head_;
        ++bound_;
    }

    void bind_host(Slot& oldest, CopyReason reason) {
        const std::span<const Piece> from = chain_.pieces();
        std::ranges::copy(from, pieces(bound_, from.size()).begin());
        oldest.piece_count = static_cast<std::uint8_t>(from.size());
        oldest.capacity = chain_.capacity();
        oldest.head = head_;
        oldest.reason = reason;
        ++bound_;
    }

    // Acquires the next chain of the avail ring into chain_ and head_, to be bound to one slot.
    // False: there is none, or none that may be.
    bool take_chain() {
        if (!binding() || ring_.available() == 0) return false;
        if (!acquire_chain()) [[unlikely]]
            return false;
        if (mergeable_ && chain_.capacity() < header_size_ + limits_.max_frame) [[unlikely]] {
            gathered_.add(head_, chain_);
            return false;
        }
        return true;
    }

    // REQUIRES: ring_.available() > 0.
    bool acquire_chain() {
        const RingError error = ring_.acquire(*memory_, Direction::kDeviceWritable, chain_, head_);
        if (error == RingError::kNone) [[likely]]
            return true;
        set_broken(error);
        return false;
    }

    // A chain is postable if its first data piece starts right after the header, is contiguous
    // for the device, and holds the longest frame the NIC can write.
    bool postable(std::byte*& data, std::uint64_t& iova, CopyReason& reason) const {
        const std::span<const Piece> all = chain_.pieces();
        reason = CopyReason::kLayout;
        if (all.empty()) return false;
        Piece piece = all[0];
        if (piece.length > header_size_) {
            piece.hva += header_size_;
            piece.length -= header_size_;
        } else if (piece.length == header_size_ && all.size() > 1) {
            piece = all[1];
        } else {
            return false;
        }
        reason = CopyReason::kSmall;
        if (piece.length < limits_.max_frame) return false;
        reason = CopyReason::kCrossing;
        iova = GuestMemory::contiguous_iova(*piece.region, piece.hva, limits_.max_frame);
        if (iova == GuestMemory::kNoIova) return false;
        // 82599 datasheet 7.1.6.1: bit 0 of the packet buffer address is not part of the address.
        reason = CopyReason::kLayout;
        data = piece.hva;
        return (iova & 1) == 0;
    }

    std::uint32_t complete_bound() {
        const std::uint32_t ready = std::min(bound_ - complete_, returned_ - complete_);
        for (std::uint32_t i = 0; i < ready; ++i) complete_one(slot(complete_ + i), complete_ + i);
        complete_ += ready;
        return ready;
    }

    void complete_one(Slot& done, std::uint32_t cursor) {
        std::uint32_t written = 0;
        if (done.kind == Kind::kGuest) [[likely]] {
            written = finish_guest(done);
        } else {
            written = copy_to_chain(done, pieces(cursor, done.piece_count));
        }
        if (written > 0) count_received(done);
        ring_.complete(done.head, written);
        idle_.push_back(done.buffer);
    }

    void count_received(const Slot& done) {
        counters_.rx_packets.add(1);
        counters_.rx_bytes.add(done.length);
    }

    std::uint32_t finish_guest(const Slot& done) {
        write_header(done.header, header_size_);
        counters_.zero_copied.add(1);
        return header_size_ + done.length;
    }

    // Copies header and frame over the chain. A frame is never truncated: if it does not fit, it
    // is dropped and its head returns empty, which drivers recycle.
    std::uint32_t copy_to_chain(const Slot& done, std::span<const Piece> to) {
        const std::uint32_t total = header_size_ + done.length;
        if (total > done.capacity) {
            counters_.drop(DropReason::kTooBig);
            return 0;
        }
        scatter(done, to, 1);
        counters_.copy(done.reason);
        return total;
    }

    void scatter(const Slot& done, std::span<const Piece> to, std::uint16_t num_buffers) {
        std::byte header[kHeaderSize];
        write_header(header, header_size_, num_buffers);
        Scatter out{to};
        out.put({header, header_size_});
        out.put({Buffers::host_data(done.buffer), done.length});
    }

    std::uint32_t complete_over_short_chains() {
        std::uint32_t completed = 0;
        while (!gathered_.empty() && pending() > 0 && complete_gathered()) {
            bind();
            completed += 1 + complete_bound();
        }
        return completed;
    }

    // The frame at the front goes to short chains, as many as it takes. False: the driver has not
    // posted enough of them, so it waits. REQUIRES: the front is pending and unbound.
    bool complete_gathered() {
        const Slot& done = slot(complete_);
        const std::uint32_t total = header_size_ + done.length;
        while (gathered_.capacity() < total && !gathered_.full()) {
            if (ring_.available() == 0 || !acquire_chain()) return false;
            gathered_.add(head_, chain_);
        }
        // A header lies in one chain, and the NIC's frame in what can be gathered.
        const bool fits =
            gathered_.capacity() >= total && gathered_.front_capacity() >= header_size_;
        if (fits) {
            scatter(done, gathered_.pieces(), gathered_.count());
            counters_.copy(CopyReason::kSmall);
            count_received(done);
        } else {
            counters_.drop(DropReason::kTooBig);
        }
        gathered_.complete(ring_, fits ? total : 0);
        idle_.push_back(done.buffer);
        bound_ = ++complete_;
        return true;
    }

    // Chains acquired in avail order for the frame at the front of the FIFO.
    class Gathered {
      public:
        static constexpr std::size_t kMaxChains = 64;

        bool empty() const { return count_ == 0; }
        bool full() const { return count_ == kMaxChains; }
        std::uint16_t count() const { return count_; }
        std::uint32_t capacity() const { return capacity_; }  // bytes of all chains
        std::uint32_t front_capacity() const { return chains_[0].capacity; }
        std::span<const Piece> pieces() const { return {pieces_.get(), piece_count_}; }

        void clear() {
            count_ = 0;
            piece_count_ = 0;
            capacity_ = 0;
        }

        // REQUIRES: !full().
        void add(Head head, const Chain& chain) {
            chains_[count_++] = {head, chain.capacity()};
            std::ranges::copy(chain.pieces(), &pieces_[piece_count_]);
            piece_count_ += chain.pieces().size();
            capacity_ = saturating_sum(capacity_, chain.capacity());
        }

        // Puts every head on the used ring, with its share of `written` bytes.
        void complete(SplitRing& ring, std::uint32_t written) {
            for (const Entry& chain : std::span(chains_).first(count_)) {
                const std::uint32_t share = std::min(written, chain.capacity);
                ring.complete(chain.head, share);
                written -= share;
            }
            clear();
        }

      private:
        struct Entry {
            Head head;
            std::uint32_t capacity;
        };
        std::array<Entry, kMaxChains> chains_{};
        std::unique_ptr<Piece[]> pieces_ =
            std::make_unique<Piece[]>(kMaxChains * Chain::kMaxPieces);
        std::size_t piece_count_ = 0;
        std::uint32_t capacity_ = 0;
        std::uint16_t count_ = 0;
    };

    // Fills pieces in order, without holes. REQUIRES: what is put fits.
    struct Scatter {
        std::span<const Piece> to;
        std::uint32_t filled = 0;  // bytes of to.front()

        void put(std::span<const std::byte> from) {
            while (!from.empty()) {
                const std::size_t n =
                    std::min<std::size_t>(from.size(), to.front().length - filled);
                std::memcpy(to.front().hva + filled, from.data(), n);
                from = from.subspan(n);
                filled += static_cast<std::uint32_t>(n);
                if (filled == to.front().length) {
                    to = to.subspan(1);
                    filled = 0;
                }
            }
        }
    };

    // The driver posts nothing and the NIC must be fed: the newest pending frames are dropped,
    // which cannot reorder. Everything pending is unbound here, so the older frames move up to
    // the NIC's slots, which are in use and cannot move.
    void drop_newest(std::uint32_t count) {
        for (std::uint32_t i = 1; i <= count; ++i) idle_.push_back(slot(returned_ - i).buffer);
        for (std::uint32_t at = returned_; at != complete_ + count; --at) {
            slot(at - 1) = slot(at - 1 - count);
        }
        complete_ += count;
        bound_ += count;
        counters_.drop(broken_ ? DropReason::kBroken : DropReason::kNoBuffer, count);
    }

    void set_broken(RingError error) {
        if (broken_) return;  // the first error is the one that matters
        broken_ = true;
        error_ = error;
        counters_.broken_rings.add(1);
    }

    const ReceiveLimits limits_;
    VmCounters& counters_;
    SplitRing ring_;
    const GuestMemory* memory_ = nullptr;
    std::uint32_t header_size_ = kHeaderSize;
    bool mergeable_ = false;

    std::uint32_t complete_ = 0;
    std::uint32_t returned_ = 0;
    std::uint32_t bound_ = 0;
    std::uint32_t posted_ = 0;

    Head head_;  // of chain_
    bool broken_ = false;
    RingError error_ = RingError::kNone;

    const std::uint32_t mask_;
    std::vector<Slot> slots_;
    std::unique_ptr<Piece[]> pieces_;
    std::vector<void*> idle_;  // capacity reserved for every buffer: never grows
    Chain chain_;
    Gathered gathered_;  // not empty: a short chain is at the front of the avail ring
};

}  // namespace zecorx
