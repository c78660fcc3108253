// In-order late binding: which guest chain each frame of one receiveq goes to.
//
// Every buffer given to the NIC is a slot of one FIFO, in posting order; the NIC fills buffers and
// the PMD delivers them in that order. A slot is
//   G          its buffer points at a guest chain's data: the NIC's DMA lands in the guest;
//   bound H    its buffer is host memory, what arrives will be copied to the chain it is bound to;
//   unbound H  host memory too, waiting for the driver to make a chain available.
// Chains are acquired strictly in avail order and bound to slots strictly in FIFO order, so the
// bound slots are always a prefix of the FIFO and a G is never posted behind an unbound H. That
// makes completion order = ring order = avail order, whatever mixture of copying and zero copy.
//
// A frame longer than the NIC's buffers spans several slots, and with MRG_RXBUF as many chains. The
// NIC leaves room for the header in each, virtio wants it in the first only (VIRTIO 5.1.6.4): in
// the others that room takes the last bytes of the piece before, as many as the header has, and the
// chain before ends that much earlier. What the chains hold, one behind the other, is the header
// and the frame, and no piece moves for it. A frame is complete when each of its slots is bound,
// and all its chains go to the driver in one step.
//
// Which chains a frame gets follows from the chains and the frame alone, never from timing: every
// piece of it, as the NIC cuts frames, takes chains until they hold it, mostly one. A chain that
// might not hold a whole piece is bound to no slot in advance: it waits at the front of the avail
// ring until the piece due for it has arrived, and meanwhile nothing behind it is bound either.
// Without MRG_RXBUF a frame takes one chain, so if it may span several slots, none is bound in
// advance.
//
// A NIC that writes a header of its own in front of a frame finds the guest's header there, which
// is then written when the frame is there, not before.
//
// Nearly every chain is one descriptor with room for the whole piece, and nearly every frame takes
// one: such slots are posted and completed by runs (plain_slots.h), with one check of the path's
// state a burst. Whatever else happens to one, it is made a slot like the others first.
//
// The FIFO is one ring of slots with free-running cursors
//   complete_ <= returned_ <= posted_   and   complete_ <= bound_ <= posted_
//   [complete_, returned_)  pending: whole frames the NIC delivered, not on the used ring yet
//   [returned_, posted_)    owned by the NIC
//   [complete_, bound_)     bound to a chain;  [bound_, posted_) unbound H
//
// Thread rule: one thread at a time (the worker while attached to it, else the control side).
// Nothing here allocates after construction, locks, throws or logs.
//
// `Buffers` says how to aim one of the NIC's buffers, an opaque void*:
//   static void aim_at_guest(void* buffer, std::byte* data, std::uint64_t iova);
//   static void aim_at_host(void* buffer);
//   static std::byte* data(void* buffer);   // where the NIC writes
// and, for receive(), what the PMD says of one that it delivers:
//   static bool whole(const void* buffer);            // holds all of a frame
//   static std::uint32_t length(const void* buffer);  // bytes the NIC wrote
//   static bool take_verdict(void* buffer);           // Delivery::checksum_verified of a whole
//                                                     // frame, asked for once
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
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "zecorx/any_ring.h"
#include "zecorx/bound_pieces.h"
#include "zecorx/chain.h"
#include "zecorx/counters.h"
#include "zecorx/dirty_log.h"
#include "zecorx/extent_finder.h"
#include "zecorx/geometry.h"
#include "zecorx/guest_memory.h"
#include "zecorx/idle_buffers.h"
#include "zecorx/net_header.h"
#include "zecorx/plain_slots.h"
#include "zecorx/receive_hook.h"
#include "zecorx/ring.h"
#include "zecorx/scatter.h"

namespace zecorx {

struct ReceiveLimits {
    QueueGeometry geometry;
    std::uint32_t low_water = 64;   // buffers posted, below which a refill is never refused
    std::uint32_t pending_cap = 0;  // buffers of frames kept waiting for a starving driver
    bool zero_copy = true;          // false: no guest buffer is ever posted
};

// Whether the PMD's receive function goes on delivering when a refill is refused.
enum class Refill : std::uint8_t { kMayRefuse, kMustSupply };

// What the NIC wrote to one buffer.
struct Delivery {
    std::uint32_t length = 0;        // bytes
    bool end_of_frame = true;        // false: the frame goes on in the next buffer
    bool checksum_verified = false;  // the NIC found the frame's L4 checksum right
};

template <class Buffers, ReceiveHook Hook = NoHook>
class ReceivePath {
  public:
    // Room for `buffers` buffers, handed in by give_back().
    ReceivePath(std::uint32_t buffers, const ReceiveLimits& limits, VmCounters& counters,
                Hook hook = {})
        : limits_(limits),
          counters_(counters),
          hook_(std::move(hook)),
          mask_(std::bit_ceil(buffers) - 1),
          slots_(mask_ + 1),
          plain_(mask_ + 1),
          idle_(buffers) {}

    ReceivePath(const ReceivePath&) = delete;
    ReceivePath& operator=(const ReceivePath&) = delete;

    // Starts serving a receiveq of a session that negotiated `features`. `memory` outlives the
    // attachment; what is written to it goes to `log`. REQUIRES: nothing is posted.
    void attach(const AnyRing& ring, const GuestMemory& memory, std::uint64_t features,
                const DirtyLog& log = {}) {
        assert(posted_ == complete_);
        ring_ = ring;
        memory_ = &memory;
        set_log(log);
        header_size_ = net_header_size(features);
        extents_ = {};
        assert(device_header() % 2 == 0);
        mergeable_ = (features & kFeatureNetMrgRxbuf) != 0;
        binds_ahead_ = mergeable_ || !limits_.geometry.segmented();
        posts_guest_ = limits_.zero_copy && memory.device_reaches();
        why_copied_ = limits_.zero_copy ? CopyReason::kUnreachable : CopyReason::kDisabled;
        verified_flags_ = (features & kFeatureNetGuestCsum) ? kNetHeaderDataValid : 0;
        corrects_headers_ = verified_flags_ != 0 || device_header() > 0;
        gathered_.clear();
        likely_flags_ = 0;
        for (void* buffer : idle_.all()) Buffers::aim_at_host(buffer);
        counters_.short_room.store(0, std::memory_order_relaxed);
        error_ = RingError::kNone;
        broken_ = false;
        std::visit([&](auto& on) { on.suppress_kicks(log_); }, ring_);
    }

    // Where what is written to guest memory goes from now on, until detach(): of all chains that
    // leave the path, those that are posted included (see dirty_log.h). REQUIRES: attached().
    void set_log(const DirtyLog& log) {
        assert(attached());
        log_ = GuestLog(log, *memory_);
    }

    // Ends serving: drops what is pending and gives every held head back to the avail ring.
    // REQUIRES: the NIC's queue is stopped and the PMD gave its buffers back.
    // Returns where the next attachment resumes (vring base).
    std::uint16_t detach() {
        if (log_) log_held();
        log_ = {};
        drop_pending();
        complete_ = returned_ = bound_ = posted_ = 0;
        plain_.clear();
        bound_pieces_.clear();
        gathered_.clear();
        memory_ = nullptr;
        return std::visit(
            [](auto& on) {
                on.rewind();
                return on.base();
            },
            ring_);
    }

    // The PMD asks for buffers, to be posted in this order. False: all refused, none taken.
    bool dequeue(std::span<void*> out, Refill refill) {
        if (idle_.size() < out.size() || posted_ - complete_ + out.size() > slots_.size()) {
            return false;
        }
        return std::visit([&](auto& on) { return refill_from(on, out, refill); }, ring_);
    }

    // A buffer that is not posted any more: fresh, or freed by the PMD when the queue stops.
    void give_back(void* buffer) { idle_.put(buffer); }

    // A burst as the PMD delivers it: completes every frame that has its chains, in one step of the
    // used ring. return_all(frame) calls returned() for each buffer of a frame that needs more than
    // most. Returns how many frames left the FIFO.
    template <class ReturnAll>
    std::uint32_t receive(std::span<void* const> frames, ReturnAll&& return_all) {
        const std::uint32_t completed =
            std::visit([&](auto& on) { return receive_on(on, frames, return_all); }, ring_);
        shed_pending();
        return completed;
    }

    // The next buffer, in the order the PMD delivers them. One that is not due breaks the ring:
    // nothing after it could be trusted to go to the right chain.
    void returned(void* buffer, const Delivery& delivery) {
        expand(returned_ + arriving_);
        Slot& due = slot(returned_ + arriving_);
        if (returned_ + arriving_ == posted_ || due.buffer != buffer ||
            arriving_ == kMaxFrameDescriptors) [[unlikely]] {
            set_broken(RingError::kOrder);
            if (log_) log_stray(buffer);
            give_back(buffer);
            return lose_unfinished();
        }
        due.length = static_cast<std::uint16_t>(delivery.length);
        due.index = static_cast<std::uint8_t>(arriving_++);
        due.verdict = {};
        __builtin_prefetch(due.header, 1);
        if (due.kind == Kind::kHost) {
            prefetch(Buffers::data(buffer), delivery.length);
        } else if (!delivery.end_of_frame) {
            // Its last bytes go to the next piece's chain.
            __builtin_prefetch(Buffers::data(buffer) + delivery.length - 1);
        }
        if (delivery.end_of_frame) [[likely]]
            end_frame(delivery.checksum_verified ? verified_flags_ : std::uint8_t{0});
    }

    // Completes every frame that has its chains, in one step of the used ring. Returns how many
    // frames left the FIFO.
    std::uint32_t complete() {
        return receive({}, [](void*) {});
    }

    bool call_wanted() {
        return std::visit([](auto& on) { return on.call_wanted(); }, ring_);
    }

    RingWatch watch() const {
        return std::visit([](const auto& on) { return on.watch(); }, ring_);
    }

    // Changes with every buffer that is posted.
    std::uint32_t posted() const { return posted_; }
    std::uint32_t pending() const { return returned_ - complete_; }
    std::uint32_t owned_by_nic() const { return posted_ - returned_; }
    std::size_t idle() const { return idle_.size(); }
    bool attached() const { return memory_ != nullptr; }
    // The ring cannot be used any more; the control side stops it. error() says why.
    bool broken() const { return broken_; }
    RingError error() const { return error_; }

  private:
    enum class Kind : std::uint8_t { kGuest, kHost };

    // Of a header that the NIC has written over: no flags a received frame has.
    static constexpr std::uint8_t kUnknownFlags = 0xff;

    static constexpr bool kHooked = !std::is_same_v<Hook, NoHook>;

    // What the hook decided of a piece.
    struct Verdict {
        std::uint16_t front = 0;  // H: bytes the NIC wrote first that are not the guest's
        bool dropped = false;     // with its whole frame
    };
    struct NoVerdict {};

    struct Slot {
        void* buffer = nullptr;
        std::byte* header = nullptr;    // where the chain begins, unless a bound H's is split there
        std::uint32_t first_piece = 0;  // bound H without `header`: its chain's in bound_pieces_
        Head head;                      // no entries: bound to no chain, because of a dropped frame
        std::uint16_t length = 0;       // bytes the NIC wrote, once returned
        std::uint8_t index = 0;         // of this piece in its frame
        std::uint8_t frame_pieces = 0;  // first piece: how many there are
        std::uint8_t piece_count = 0;   // H: how many there are; 0: bound to no chain
        std::uint8_t flags = 0;         // first piece: of the virtio-net header
        Kind kind = Kind::kHost;
        CopyReason reason = CopyReason::kStarved;
        [[no_unique_address]] std::conditional_t<kHooked, Verdict, NoVerdict> verdict;
    };
    // Half a cache line, unless there is a hook.
    static_assert(kHooked || sizeof(Slot) == 32);

    static bool dropped(const Slot& piece) {
        if constexpr (kHooked) return piece.verdict.dropped;
        return false;
    }
    static std::uint32_t front(const Slot& piece) {
        if constexpr (kHooked) return piece.verdict.front;
        return 0;
    }

    Slot& slot(std::uint32_t cursor) { return slots_[cursor & mask_]; }

    // Makes a plain slot one like the others.
    void expand(std::uint32_t cursor) {
        if (!plain_.is(cursor)) return;
        Slot& full = slot(cursor);
        full.buffer = *plain_.buffers(cursor);
        full.head = {*plain_.ids(cursor), 1};
        if (posts_guest_) {
            full.header = Buffers::data(full.buffer) - header_size_;
            full.kind = Kind::kGuest;
        } else {
            full.header = *plain_.targets(cursor);
            full.kind = Kind::kHost;
            full.reason = why_copied_;
            full.piece_count = 0;
        }
        plain_.clear(cursor);
    }

    // --- Binding ---

    // A frame at the front finds room, whatever is bound to its own first slots.
    static_assert(BoundPieces::kRoom >= (kMaxFrameDescriptors + 1) * Chain::kMaxPieces);

    // Whether chains may be bound to slots: nothing is broken and no short chain is in the way.
    bool binding() const { return attached() && !broken_ && binds_ahead_ && gathered_.empty(); }

    template <DeviceRing Ring>
    bool refill_from(Ring& ring, std::span<void*> out, Refill refill) {
        bind(ring);
        const bool bindable = bound_ == posted_ && binding() && ring.available() >= out.size();
        // An unbound buffer is only needed to keep the NIC fed, unless all of them are.
        if (refill == Refill::kMayRefuse && !bindable && binds_ahead_ &&
            owned_by_nic() >= limits_.low_water) {
            return false;
        }
        for (bool try_plain = bindable; !out.empty();) {
            if (try_plain) out = out.subspan(post_plain(ring, out));
            if (out.empty()) break;
            out.front() = post(ring);
            out = out.subspan(1);
            // A single one that was not plain lies in another region, or over a page's end.
            try_plain = try_plain && bound_ == posted_ && chain_.pieces().size() == 1;
        }
        return true;
    }

    // Posts chains as plain slots while they are fit for that. Returns how many.
    // REQUIRES: bound_ == posted_, and as many chains are available.
    template <DeviceRing Ring>
    std::uint32_t post_plain(Ring& ring, std::span<void*> out) {
        const auto most = static_cast<std::uint32_t>(plain_.row(posted_, out.size()));
        const std::span<void* const> buffers = idle_.last(most);
        const std::uint32_t count =
            posts_guest_ ? aim_plain(ring, buffers) : note_targets(ring, most);
        std::ranges::copy(buffers.first(count), out.data());
        std::ranges::copy(buffers.first(count), plain_.buffers(posted_));
        idle_.take_of_last(count, most);
        posted_ += count;
        bound_ += count;
        return count;
    }

    // The header of a frame that is yet to come is written now: its line is in the cache, as the
    // driver has just posted it, and may not be after the NIC's DMA.
    template <DeviceRing Ring>
    std::uint32_t aim_plain(Ring& ring, std::span<void* const> buffers) {
        // By value: what the loop stores cannot change them.
        const std::uint32_t count = ring.acquire_singles(
            static_cast<std::uint32_t>(buffers.size()), plain_.ids(posted_),
            [extents = extents_, usual = ReceivedHeader(likely_flags_), to = buffers.data(),
             header_size = header_size_](std::uint32_t i, std::uint64_t gpa, std::uint32_t length) {
                ExtentFinder::Extent at;
                if (!extents.find(gpa, length, at) || (at.iova & 1) != 0) [[unlikely]]
                    return false;
                usual.write_front(at.hva);
                Buffers::aim_at_guest(to[i], at.hva + header_size, at.iova + header_size);
                return true;
            });
        if (corrects_headers_) {
            std::fill_n(plain_.flags(posted_), count,
                        device_header() > 0 ? kUnknownFlags : likely_flags_);
        }
        return count;
    }

    // Where frames that come to the host will be copied.
    template <DeviceRing Ring>
    std::uint32_t note_targets(Ring& ring, std::uint32_t most) {
        const auto note = [extents = extents_, to = plain_.targets(posted_)](
                              std::uint32_t i, std::uint64_t gpa, std::uint32_t length) {
            ExtentFinder::Extent at;
            if (!extents.find(gpa, length, at)) return false;
            to[i] = at.hva;
            return true;
        };
        return ring.acquire_singles(most, plain_.ids(posted_), note);
    }

    // Binds available chains to the oldest unbound slots.
    template <DeviceRing Ring>
    void bind(Ring& ring) {
        if (!attached() || broken_) [[unlikely]]
            return;
        if (!ring.refresh()) [[unlikely]]
            return set_broken(RingError::kAvailIndex);
        for (; bound_ != posted_; ++bound_) {
            if (before(bound_, returned_) && dropped(slot(bound_))) [[unlikely]] {
                slot(bound_).head = {};
            } else if (take_chain(ring)) {
                bind_host(slot(bound_), CopyReason::kStarved);
            } else {
                return;
            }
        }
    }

    template <DeviceRing Ring>
    void* post(Ring& ring) {
        Slot& next = slot(posted_);
        next.buffer = idle_.take();
        plain_.clear(posted_);
        if (bound_ == posted_ && take_chain(ring)) {
            bind_posted(next);
            ++bound_;
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
        next.piece_count = 0;
    }

    // The chain just taken goes to the slot being posted: zero copy if it can take any piece.
    void bind_posted(Slot& next) {
        const std::span<const Piece> all = chain_.pieces();
        if (all.size() == 1) {
            // The next ones are looked for where this one was.
            extents_ = extent_finder(*all[0].region);
        }
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
    }

    // REQUIRES: the slot is the one at bound_.
    void bind_host(Slot& oldest, CopyReason reason) {
        const std::span<const Piece> to = reachable();
        const bool straight = to.size() == 1 && to[0].length >= straight_room();
        oldest.header = straight ? to[0].hva : nullptr;
        oldest.first_piece = straight ? 0 : bound_pieces_.add(to);
        oldest.piece_count = straight ? 0 : static_cast<std::uint8_t>(to.size());
        oldest.head = head_;
        oldest.reason = reason;
    }

    // Takes the header and whatever the NIC writes to one buffer.
    std::uint32_t straight_room() const { return header_size_ + limits_.geometry.piece(); }

    // Those pieces of chain_ that what the NIC writes to one buffer can reach.
    std::span<const Piece> reachable() const {
        const std::uint32_t most = header_size_ + limits_.geometry.piece();
        const std::span<const Piece> all = chain_.pieces();
        std::size_t count = 0;
        for (std::uint32_t bytes = 0; bytes < most && count < all.size(); ++count)
            bytes = saturating_sum(bytes, all[count].length);
        return all.first(count);
    }

    // Acquires the next chain of the avail ring into chain_ and head_, to be bound to one slot.
    // False: there is none, or none that may be.
    template <DeviceRing Ring>
    bool take_chain(Ring& ring) {
        if (!binding() || ring.available() == 0 || !bound_pieces_.has_room()) return false;
        if (!acquire_chain(ring)) return false;
        if (mergeable_ && chain_.capacity() < header_size_ + limits_.geometry.piece())
            [[unlikely]] {
            gathered_.add(head_, chain_);
            note_short();
            return false;
        }
        return true;
    }

    // REQUIRES: ring.available() > 0.
    template <DeviceRing Ring>
    bool acquire_chain(Ring& ring) {
        const RingError error = ring.acquire(*memory_, Direction::kDeviceWritable, chain_, head_);
        if (error == RingError::kNone) [[likely]]
            return true;
        set_broken(error);
        return false;
    }

    // Of chains with the header and room for all the NIC may write in one piece; finds none where
    // the header has no room for the NIC's.
    ExtentFinder extent_finder(const MemoryRegion& region) const {
        if (header_size_ < device_header()) return {};
        return {region, straight_room()};
    }

    // A chain is postable if its first data piece starts right after the header, is contiguous
    // for the device, and holds the most the NIC can write to it; a header of the NIC's goes where
    // the guest's is.
    bool postable(std::byte*& data, std::uint64_t& iova, CopyReason& reason) const {
        const Piece piece = first_data();
        const std::uint32_t needed = limits_.geometry.piece();
        reason = why_copied_;
        if (!posts_guest_) return false;
        reason = CopyReason::kLayout;
        if (piece.length == 0 || room_before_data() < device_header()) return false;
        reason = CopyReason::kSmall;
        if (piece.length < needed) {
            note_short();
            return false;
        }
        reason = CopyReason::kCrossing;
        iova = GuestMemory::contiguous_iova(*piece.region, piece.hva - device_header(),
                                            device_header() + needed);
        if (iova == GuestMemory::kNoIova) return false;
        iova += device_header();
        // 82599 datasheet 7.1.6.1: bit 0 of the packet buffer address is not part of the address.
        reason = CopyReason::kLayout;
        data = piece.hva;
        return (iova & 1) == 0;
    }

    // What follows the header of chain_ in one piece; empty: the header is split over pieces.
    Piece first_data() const {
        const std::span<const Piece> all = chain_.pieces();
        if (all.empty() || all[0].length < header_size_) return {};
        if (all[0].length > header_size_) {
            return {all[0].hva + header_size_, all[0].length - header_size_, all[0].region};
        }
        return all.size() > 1 ? all[1] : Piece{};
    }

    // Bytes of chain_ that lie right in front of first_data().
    std::uint32_t room_before_data() const {
        return chain_.pieces()[0].length > header_size_ ? header_size_ : 0;
    }

    void note_short() const {
        counters_.short_room.store(first_data().length, std::memory_order_relaxed);
    }

    // --- Arrival ---

    // What is to be copied. DMA may have left it in memory only; the processor fetches the rest of
    // a long frame by itself.
    static void prefetch(const std::byte* data, std::uint32_t length) {
        constexpr std::uint32_t kLine = 64;
        constexpr std::uint32_t kMost = 8 * kLine;
        for (std::uint32_t at = 0; at < std::min(length, kMost); at += kLine)
            __builtin_prefetch(data + at);
    }

    // Whether `cursor` comes before `limit`; both lie within the FIFO.
    static bool before(std::uint32_t cursor, std::uint32_t limit) {
        return static_cast<std::int32_t>(cursor - limit) < 0;
    }

    // The frame of `arriving_` pieces is all there.
    void end_frame(std::uint8_t flags) {
        slot(returned_).flags = flags;
        if constexpr (kHooked) ask_hook();
        line_up();
    }

    // The rest of the frame being returned will not come. What is there keeps its place, and fits
    // no chain: half a frame is shown neither to the hook nor to the driver.
    void lose_unfinished() {
        if (arriving_ == 0) return;
        for (std::uint32_t i = 0; i < arriving_; ++i) {
            if (log_) log_room(slot(returned_ + i), limits_.geometry.piece());
            slot(returned_ + i).kind = Kind::kHost;
            slot(returned_ + i).header = nullptr;
            slot(returned_ + i).piece_count = 0;
        }
        line_up();
    }

    void line_up() {
        slot(returned_).frame_pieces = static_cast<std::uint8_t>(arriving_);
        returned_ += std::exchange(arriving_, 0);
    }

    Cut ask_hook(void* whole_frame) {
        const FramePiece only{Buffers::data(whole_frame), Buffers::length(whole_frame)};
        return hook_(std::span(&only, 1));
    }

    void ask_hook() {
        if (arriving_ == 1) [[likely]] {
            const FramePiece only = written(slot(returned_));
            return apply(hook_(std::span(&only, 1)));
        }
        std::array<FramePiece, kMaxFrameDescriptors> frame;
        for (std::uint32_t i = 0; i < arriving_; ++i) frame[i] = written(slot(returned_ + i));
        apply(hook_(std::span<const FramePiece>(frame).first(arriving_)));
    }

    static FramePiece written(const Slot& piece) {
        return {Buffers::data(piece.buffer), piece.length};
    }

    void apply(const Cut& cut) {
        Slot& first = slot(returned_);
        Slot& last = slot(returned_ + arriving_ - 1);
        if (cut.drop || !leaves_bytes(cut, first, last)) {
            for (std::uint32_t i = 0; i < arriving_; ++i)
                slot(returned_ + i).verdict.dropped = true;
            return counters_.drop(DropReason::kHook);
        }
        if (!cut.keeps_checksum) first.flags = 0;
        last.length = static_cast<std::uint16_t>(last.length - cut.back);
        if (cut.front > 0) trim_front(first, static_cast<std::uint16_t>(cut.front));
    }

    // Whether something is left of the pieces that are cut, if any is; of the first of several as
    // much as goes to the second one's chain, whether or not it will.
    static bool leaves_bytes(const Cut& cut, const Slot& first, const Slot& last) {
        if (&first == &last) {
            const std::uint64_t both = std::uint64_t{cut.front} + cut.back;
            return both == 0 || both < first.length;
        }
        return (cut.front == 0 || std::uint64_t{cut.front} + kHeaderSize <= first.length) &&
               (cut.back == 0 || cut.back < last.length);
    }

    void trim_front(Slot& first, std::uint16_t bytes) {
        first.length = static_cast<std::uint16_t>(first.length - bytes);
        if (first.kind == Kind::kHost) {
            first.verdict.front = bytes;
            return;
        }
        std::byte* data = Buffers::data(first.buffer);
        std::memmove(data, data + bytes, first.length);
        counters_.moved_bytes.add(first.length);
    }

    // --- Completion ---

    // Frames in plain slots are served by runs; each of the others, and what is pending, on its
    // own.
    template <DeviceRing Ring, class ReturnAll>
    std::uint32_t receive_on(Ring& ring, std::span<void* const> frames, ReturnAll& return_all) {
        std::uint32_t completed = pending() > 0 ? complete_ready(ring) : 0;
        while (!frames.empty()) {
            const std::size_t left = frames.size();
            completed += complete_plain(ring, frames);
            if (frames.empty() && pending() == 0) break;
            if (frames.size() == left) return_all(take_front(frames));
            while (!frames.empty() && !(plain_.is(returned_) && Buffers::whole(frames.front()))) {
                return_all(take_front(frames));
            }
            completed += complete_ready(ring);
        }
        if (completed > 0) publish(ring);
        return completed;
    }

    template <DeviceRing Ring>
    void publish(Ring& ring) {
        if (log_) [[unlikely]]
            return ring.publish(log_);
        ring.publish();
    }

    static void* take_front(std::span<void* const>& frames) {
        void* const front = frames.front();
        frames = frames.subspan(1);
        return front;
    }

    // Takes the first of `frames` as far as they came in plain slots, and completes them. One that
    // the hook cuts is the last taken, and pending. Returns how many are completed.
    template <DeviceRing Ring>
    std::uint32_t complete_plain(Ring& ring, std::span<void* const>& frames) {
        if (pending() > 0) return 0;
        const auto most = static_cast<std::uint32_t>(
            plain_.row(returned_, std::min<std::size_t>(frames.size(), owned_by_nic())));
        void* const* const due = plain_.buffers(returned_);
        Cut cut;
        std::uint32_t count = 0;
        for (; count < most && frames[count] == due[count] && simple(due[count]); ++count) {
            if constexpr (kHooked) {
                cut = ask_hook(due[count]);
                if (cut != Cut{}) break;
            }
        }
        finish_plain(ring, frames.first(count));
        frames = frames.subspan(count);
        if constexpr (kHooked) {
            if (cut != Cut{}) cut_plain(take_front(frames), cut);
        }
        return count;
    }

    // A frame in one buffer, which fits where it may have to be copied: one that does not is an
    // error of the NIC.
    bool simple(const void* frame) const {
        return Buffers::whole(frame) &&
               (posts_guest_ || Buffers::length(frame) <= limits_.geometry.piece());
    }

    // REQUIRES: all of `done` came in plain slots, and nothing is pending.
    template <DeviceRing Ring>
    void finish_plain(Ring& ring, std::span<void* const> done) {
        const auto count = static_cast<std::uint32_t>(done.size());
        if (!posts_guest_) {
            copy_plain(done);
        } else if (corrects_headers_) {
            correct_flags(done);
        }
        if (log_) [[unlikely]]
            log_plain(done);
        const std::uint32_t header_size = header_size_;
        std::uint64_t bytes = 0;
        ring.complete_singles(count, plain_.ids(returned_), [&](std::uint32_t i) {
            const std::uint32_t length = Buffers::length(done[i]);
            bytes += length;
            return header_size + length;
        });
        idle_.put(done);
        returned_ += count;
        complete_ += count;
        if (posts_guest_) {
            counters_.zero_copied.add(count);
        } else {
            counters_.copy(why_copied_, count);
            counters_.moved_bytes.add(bytes);
        }
        counters_.rx_packets.add(count);
        counters_.rx_bytes.add(bytes);
    }

    void copy_plain(std::span<void* const> done) {
        std::byte* const* const to = plain_.targets(returned_);
        for (std::size_t i = 0; i < done.size(); ++i) {
            __builtin_prefetch(to[i], 1);
            prefetch(Buffers::data(done[i]), Buffers::length(done[i]));
        }
        for (std::size_t i = 0; i < done.size(); ++i) {
            const std::uint8_t flags = Buffers::take_verdict(done[i]) ? verified_flags_ : 0;
            ReceivedHeader(flags).write(to[i], header_size_);
            std::memcpy(to[i] + header_size_, Buffers::data(done[i]), Buffers::length(done[i]));
        }
    }

    std::uint32_t device_header() const { return limits_.geometry.device_header; }

    // Frames mostly are what those before them were, so the header said the same when its buffer
    // was posted; where not, it is corrected.
    void correct_flags(std::span<void* const> done) {
        const std::uint8_t* const said = plain_.flags(returned_);
        for (std::size_t i = 0; i < done.size(); ++i) {
            likely_flags_ = Buffers::take_verdict(done[i]) ? verified_flags_ : 0;
            if (likely_flags_ == said[i]) continue;
            ReceivedHeader(likely_flags_)
                .write(Buffers::data(done[i]) - header_size_, header_size_);
        }
    }

    // A frame that came in a plain slot, of which the hook has decided.
    void cut_plain(void* buffer, const Cut& cut) {
        expand(returned_);
        Slot& due = slot(returned_);
        due.length = static_cast<std::uint16_t>(Buffers::length(buffer));
        due.index = 0;
        due.verdict = {};
        due.flags = Buffers::take_verdict(buffer) ? verified_flags_ : 0;
        arriving_ = 1;
        apply(cut);
        line_up();
    }

    template <DeviceRing Ring>
    std::uint32_t complete_ready(Ring& ring) {
        bind(ring);
        std::uint32_t frames = 0;
        while (complete_ != returned_ && complete_front(ring)) ++frames;
        return frames;
    }

    // False: the frame at the front has not got its chains yet.
    template <DeviceRing Ring>
    bool complete_front(Ring& ring) {
        Slot& front = slot(complete_);
        const std::uint32_t count = front.frame_pieces;
        std::uint32_t bound = std::min(bound_ - complete_, count);
        if (bound == 1 && count == 1 && front.header != nullptr && !dropped(front) &&
            front.length <= limits_.geometry.piece()) [[likely]] {
            finish_single(ring, front);
            return true;
        }
        bool fits = true;
        if (bound < count) {
            bind(ring);  // the frames before may have taken all of bound_pieces_
            bound = std::min(bound_ - complete_, count);
        }
        if (bound < count && !gather_for_front(ring, bound, fits)) return false;
        finish_front(ring, bound, fits);
        return true;
    }

    // The common cases: a frame in one buffer, which is the guest's or goes to one.
    template <DeviceRing Ring>
    void finish_single(Ring& ring, Slot& done) {
        ReceivedHeader(done.flags).write(done.header, header_size_);
        if (done.kind == Kind::kGuest) {
            counters_.zero_copied.add(1);
        } else {
            std::memcpy(done.header + header_size_, Buffers::data(done.buffer) + front(done),
                        done.length);
            counters_.moved_bytes.add(done.length);
            counters_.copy(done.reason);
        }
        if (log_) [[unlikely]]
            log_single(done);
        count_received(done.length);
        release(ring, done, header_size_ + done.length);
        ++complete_;
    }

    // The pieces of the front frame go to the chains they are bound to, those from `bound` on to
    // the gathered ones, and all the heads to the used ring. A frame that does not fit is never
    // truncated: its heads return empty, which drivers recycle.
    template <DeviceRing Ring>
    void finish_front(Ring& ring, std::uint32_t bound, bool fits) {
        const std::uint32_t count = slot(complete_).frame_pieces;
        const bool drop = dropped(slot(complete_));
        const bool placed = fits && !drop && fits_bound(bound) && divisible() &&
                            (count == 1 || device_header() == 0);
        if (placed) {
            place(bound, count);
        } else if (!drop) {
            counters_.drop(broken_ ? DropReason::kBroken : DropReason::kTooBig);
        }
        if (log_) [[unlikely]]
            log_front(bound, placed);
        for (std::uint32_t i = 0; i < count; ++i) {
            Slot& piece = slot(complete_ + i);
            if (i >= bound) piece.head = {};
            if (piece.kind == Kind::kHost && piece.piece_count > 0)
                bound_pieces_.free(piece.first_piece, piece.piece_count);
            release(ring, piece, placed ? bytes_of(i, i + 1) : 0);
        }
        complete_ += count;
        if (bound == count) return;
        for (const auto& chain : gathered_.chains()) {
            ring.complete(chain.head, placed ? chain.used : 0);
        }
        gathered_.clear();
        bound_ = complete_;
        bind(ring);
    }

    // Whether the first `bound` pieces fit the chains they are bound to. Without MRG_RXBUF slots
    // are bound where frames have one piece: more of them are an error of the NIC.
    bool fits_bound(std::uint32_t bound) {
        if (!mergeable_ && bound > 0 && slot(complete_).frame_pieces > 1) return false;
        for (std::uint32_t i = 0; i < bound; ++i) {
            const Slot& piece = slot(complete_ + i);
            if (piece.kind == Kind::kHost && bytes_of(i, i + 1) > capacity(piece)) return false;
        }
        return true;
    }

    // Where a bound H's chain goes, valid until this is asked again.
    std::span<const Piece> chain_of(const Slot& piece) {
        if (piece.header == nullptr) {
            return bound_pieces_.at(piece.first_piece, piece.piece_count);
        }
        straight_ = {piece.header, straight_room(), nullptr};
        return {&straight_, 1};
    }

    // Bytes a bound H's chain holds, header included, as far as they are reachable().
    std::uint32_t capacity(const Slot& piece) {
        std::uint32_t bytes = 0;
        for (const Piece& to : chain_of(piece)) bytes = saturating_sum(bytes, to.length);
        return bytes;
    }

    // Whether each piece of the front frame but the last has the bytes that go to the chain of the
    // next. The NIC fills every buffer but a frame's last, so one that has not is an error of its.
    bool divisible() {
        for (std::uint32_t i = 0; i + 1 < slot(complete_).frame_pieces; ++i) {
            if (slot(complete_ + i).length < header_size_) [[unlikely]]
                return false;
        }
        return true;
    }

    // REQUIRES: everything fits, and the frame is divisible().
    void place(std::uint32_t bound, std::uint32_t count) {
        // Gathered chains beyond a frame that is bound wait for a later one.
        const bool gathered = bound < count;
        const auto num_buffers =
            static_cast<std::uint16_t>(bound + (gathered ? gathered_.count() : 0));
        bool copied = gathered;
        CopyReason reason = binds_ahead_ ? CopyReason::kSmall : CopyReason::kUnmerged;
        for (std::uint32_t i = 0; i < bound; ++i) {
            if (place_bound(i, num_buffers)) {
                copied = true;
                reason = slot(complete_ + i).reason;
            }
        }
        if (gathered) place_gathered(bound, count, num_buffers);
        if (copied) {
            counters_.copy(reason);
        } else {
            counters_.zero_copied.add(1);
        }
        const std::uint32_t length = bytes_of(0, count) - header_size_;
        count_received(length);
    }

    // Piece `i` of the front frame. True: it had to be copied.
    bool place_bound(std::uint32_t i, std::uint16_t num_buffers) {
        const Slot& piece = slot(complete_ + i);
        if (piece.kind == Kind::kHost) {
            put_pieces(Scatter{chain_of(piece)}, i, i + 1, num_buffers);
            return true;
        }
        if (i == 0) {
            ReceivedHeader(piece.flags, num_buffers).write(piece.header, header_size_);
        } else {
            const Carried carried = carried_to(i);
            std::memcpy(piece.header, carried.data(), carried.size());
            counters_.moved_bytes.add(carried.size());
        }
        return false;
    }

    // What the guest may see of what the NIC wrote for piece `i` of the front frame.
    std::span<const std::byte> data_of(std::uint32_t i) {
        const Slot& piece = slot(complete_ + i);
        return {Buffers::data(piece.buffer) + front(piece), piece.length};
    }

    // What begins the chain of piece `i` in the header's place: the last bytes of the piece before.
    // By value, because a hostile driver's chains may overlap. Only with MRG_RXBUF does a frame
    // span chains, and then this is the header's size. REQUIRES: i > 0.
    using Carried = std::array<std::byte, kHeaderSize>;
    Carried carried_to(std::uint32_t i) {
        Carried carried;
        std::ranges::copy(data_of(i - 1).last(kHeaderSize), carried.begin());
        return carried;
    }

    // Copies what the chains of pieces [first, last) of the front frame hold: bytes_of() them.
    void put_pieces(Scatter to, std::uint32_t first, std::uint32_t last,
                    std::uint16_t num_buffers) {
        if (first == 0) {
            put_header(to, num_buffers);
        } else {
            put_data(to, carried_to(first));
        }
        for (; first < last; ++first) {
            std::span<const std::byte> data = data_of(first);
            const bool carries = first + 1 == last && last < slot(complete_).frame_pieces;
            if (carries) data = data.first(data.size() - kHeaderSize);
            put_data(to, data);
        }
    }

    void put_header(Scatter& to, std::uint16_t num_buffers) {
        std::byte header[kHeaderSize];
        ReceivedHeader(slot(complete_).flags, num_buffers).write(header, header_size_);
        to.put({header, header_size_});
    }

    void put_data(Scatter& to, std::span<const std::byte> data) {
        to.put(data);
        counters_.moved_bytes.add(data.size());
    }

    template <DeviceRing Ring>
    void release(Ring& ring, Slot& done, std::uint32_t written) {
        if (done.head.entries != 0) [[likely]]
            ring.complete(done.head, written);
        idle_.put(done.buffer);
    }

    void count_received(std::uint32_t length) {
        counters_.rx_packets.add(1);
        counters_.rx_bytes.add(length);
    }

    // Bytes that the chains of the front frame's pieces [first, last) hold: each begins with as
    // much, header or carried, as it leaves to the next, and the last leaves nothing.
    std::uint32_t bytes_of(std::uint32_t first, std::uint32_t last) {
        std::uint32_t bytes = last == slot(complete_).frame_pieces ? header_size_ : 0;
        for (; first < last; ++first) bytes += slot(complete_ + first).length;
        return bytes;
    }

    // --- Chains that are not bound in advance ---

    // Pieces that share a chain: without MRG_RXBUF all of the frame.
    std::uint32_t pieces_together(std::uint32_t count) const { return mergeable_ ? 1 : count; }

    // Gathers chains for the front frame's pieces from `bound` on. False: the driver has not made
    // enough of them available, or a slot may yet be bound, so the frame waits.
    template <DeviceRing Ring>
    bool gather_for_front(Ring& ring, std::uint32_t bound, bool& fits) {
        if (broken_) return false;
        if (binds_ahead_ && gathered_.empty()) {
            fits = false;
            return out_of_room(ring);
        }
        const std::uint32_t count = slot(complete_).frame_pieces;
        const std::uint32_t step = pieces_together(count);
        std::size_t chains = 0;
        for (std::uint32_t i = bound; i < count; i += step) {
            const Gathering result = gather(ring, chains, bytes_of(i, i + step));
            if (result == Gathering::kWaiting) return false;
            fits = result == Gathering::kEnough;
            if (!fits) return true;
        }
        // A header lies in one chain.
        fits = bound > 0 || gathered_.chains().front().capacity >= header_size_;
        return true;
    }

    // Whether the driver has no room to post another chain while the front frame waits for one,
    // which is the only frame that holds any. Of its chains the longest counts: chains may differ.
    template <DeviceRing Ring>
    bool out_of_room(const Ring& ring) {
        Head longest;
        const auto consider = [&](Head head) {
            if (head.entries > longest.entries) longest = head;
        };
        for (std::uint32_t at = complete_; at != bound_; ++at) {
            expand(at);
            consider(slot(at).head);
        }
        for (const auto& chain : gathered_.chains()) consider(chain.head);
        return ring.exhausted(longest);
    }

    enum class Gathering : std::uint8_t { kEnough, kWaiting, kNever };

    // Makes sure that the gathered chains from `next` on hold `needed` bytes, and moves `next`
    // behind them.
    template <DeviceRing Ring>
    Gathering gather(Ring& ring, std::size_t& next, std::uint32_t needed) {
        const std::size_t first = next;
        for (std::uint32_t room = 0; room < needed; ++next) {
            if (next == gathered_.count()) {
                if (gathered_.full() || (!mergeable_ && next > first)) return Gathering::kNever;
                const Gathering another = gather_another(ring);
                if (another != Gathering::kEnough) return another;
            }
            room = saturating_sum(room, gathered_.chains()[next].capacity);
        }
        return Gathering::kEnough;
    }

    template <DeviceRing Ring>
    Gathering gather_another(Ring& ring) {
        if (ring.available() == 0) {
            return out_of_room(ring) ? Gathering::kNever : Gathering::kWaiting;
        }
        if (!acquire_chain(ring)) return Gathering::kWaiting;
        gathered_.add(head_, chain_);
        note_short();
        return Gathering::kEnough;
    }

    void place_gathered(std::uint32_t bound, std::uint32_t count, std::uint16_t num_buffers) {
        const std::uint32_t step = pieces_together(count);
        std::size_t chain = 0;
        for (std::uint32_t i = bound; i < count; i += step) {
            put_pieces(Scatter{gathered_.pieces_from(chain)}, i, i + step, num_buffers);
            chain = gathered_.allot(chain, bytes_of(i, i + step));
        }
    }

    // --- Logging ---
    //
    // Guest memory is written to at posting (the front of a plain slot), by the NIC, and at
    // completion. All of it is logged when a chain leaves the path.

    // REQUIRES: as finish_plain(), which has written all it writes.
    [[gnu::noinline, gnu::cold]] void log_plain(std::span<void* const> done) {
        for (std::size_t i = 0; i < done.size(); ++i) {
            const std::uint32_t length = header_size_ + Buffers::length(done[i]);
            if (posts_guest_) {
                log_.mark(Buffers::data(done[i]) - header_size_, std::max(length, kFront));
            } else {
                log_.mark(plain_.targets(returned_)[i], length);
            }
        }
    }

    [[gnu::noinline, gnu::cold]] void log_single(const Slot& done) {
        if (done.kind == Kind::kGuest) return log_room(done, Buffers::length(done.buffer));
        log_.mark(done.header, header_size_ + done.length);
    }

    // The front frame, before its heads are released. What the NIC wrote is there also if the frame
    // is dropped, and all of it also if the hook cut the frame.
    [[gnu::noinline, gnu::cold]] void log_front(std::uint32_t bound, bool placed) {
        for (std::uint32_t i = 0; i < slot(complete_).frame_pieces; ++i) {
            const Slot& piece = slot(complete_ + i);
            log_room(piece, Buffers::length(piece.buffer));
            if (placed && i < bound && piece.kind == Kind::kHost)
                log_pieces(chain_of(piece), bytes_of(i, i + 1));
        }
        if (!placed || bound == slot(complete_).frame_pieces) return;
        for (std::size_t i = 0; i < gathered_.count(); ++i)
            log_pieces(gathered_.pieces_from(i), gathered_.chains()[i].used);
    }

    // The first `bytes` bytes of the pieces.
    void log_pieces(std::span<const Piece> pieces, std::uint32_t bytes) {
        for (std::size_t i = 0; bytes > 0; ++i) {
            const std::uint32_t written = std::min(bytes, pieces[i].length);
            log_.mark(pieces[i].hva, written);
            bytes -= written;
        }
    }

    // What posting wrote is at least as long as a header, or what is in its place.
    static constexpr std::uint32_t kFront = ReceivedHeader::kFront;

    // A guest's buffer to which the NIC wrote this much, and the front of its chain.
    void log_room(const Slot& piece, std::uint32_t length) {
        if (piece.kind != Kind::kGuest) return;
        log_.mark(piece.header, kFront);
        log_.mark(Buffers::data(piece.buffer), length);
    }

    // Chains that go back to the driver uncompleted: the NIC may have written to any of them.
    [[gnu::noinline, gnu::cold]] void log_held() {
        for (std::uint32_t at = complete_; at != posted_; ++at) {
            expand(at);
            log_room(slot(at), limits_.geometry.piece());
        }
    }

    // What the NIC wrote to a buffer that is not due. Its slot keeps its place in the FIFO, while
    // the buffer may be aimed elsewhere.
    [[gnu::noinline, gnu::cold]] void log_stray(void* buffer) {
        const std::byte* const data = Buffers::data(buffer);
        log_.mark(data - header_size_, header_size_);
        log_.mark(data, limits_.geometry.piece());
    }

    // --- Loss ---

    // A frame the hook dropped was counted then.

    // Gives the buffers of everything pending back.
    void drop_pending() {
        std::uint32_t frames = 0;
        while (complete_ != returned_) {
            if (!dropped(slot(complete_))) ++frames;
            for (std::uint32_t left = slot(complete_).frame_pieces; left > 0; --left) {
                idle_.put(slot(complete_++).buffer);
            }
        }
        counters_.drop(DropReason::kStopped, frames);
    }

    // The driver posts nothing and the NIC must be fed: the newest pending frames are dropped,
    // which cannot reorder, until `excess` buffers are free. The front frame stays, because chains
    // may be bound to its first pieces. The older frames move up to the NIC's slots, which are in
    // use and cannot move.
    void drop_newest(std::uint32_t excess) {
        std::uint32_t freed = 0;
        std::uint32_t frames = 0;
        while (freed < excess) {
            const Slot& last = slot(returned_ - 1 - freed);
            const std::uint32_t count = last.index + 1U;
            if (freed + count == pending()) break;
            if (!dropped(last)) ++frames;
            for (std::uint32_t i = 0; i < count; ++i) {
                idle_.put(slot(returned_ - 1 - freed - i).buffer);
            }
            freed += count;
        }
        for (std::uint32_t at = returned_; at != complete_ + freed; --at) {
            slot(at - 1) = slot(at - 1 - freed);
        }
        complete_ += freed;
        bound_ += freed;
        counters_.drop(broken_ ? DropReason::kBroken : DropReason::kNoBuffer, frames);
    }

    void shed_pending() {
        if (pending() > limits_.pending_cap) [[unlikely]]
            drop_newest(pending() - limits_.pending_cap);
    }

    void set_broken(RingError error) {
        if (broken_) return;  // the first error is the one that matters
        broken_ = true;
        error_ = error;
        counters_.broken_rings.add(1);
    }

    const ReceiveLimits limits_;
    VmCounters& counters_;
    [[no_unique_address]] Hook hook_;
    AnyRing ring_;
    const GuestMemory* memory_ = nullptr;
    GuestLog log_;
    std::uint32_t header_size_ = kHeaderSize;
    std::uint8_t verified_flags_ = 0;  // of the header of a frame whose checksum the NIC verified
    std::uint8_t likely_flags_ = 0;    // of the frame before
    bool corrects_headers_ = false;    // which may not be what was written at posting
    bool posts_guest_ = false;         // else every frame is copied, because:
    CopyReason why_copied_ = CopyReason::kDisabled;
    bool mergeable_ = false;
    bool binds_ahead_ = true;  // chains are bound to slots before their frames are there

    std::uint32_t complete_ = 0;
    std::uint32_t returned_ = 0;
    std::uint32_t bound_ = 0;
    std::uint32_t posted_ = 0;
    std::uint32_t arriving_ = 0;  // pieces of the frame being returned

    Head head_;  // of chain_
    bool broken_ = false;
    RingError error_ = RingError::kNone;

    const std::uint32_t mask_;
    std::vector<Slot> slots_;
    PlainSlots plain_;
    ExtentFinder extents_;  // in the region of the chain posted last
    BoundPieces bound_pieces_;
    Piece straight_;  // chain_of()'s
    IdleBuffers idle_;
    Chain chain_;
    GatheredChains gathered_;  // not empty: a short chain is at the front of the avail ring
};

}  // namespace zecorx
