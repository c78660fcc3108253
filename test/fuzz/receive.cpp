// ReceivePath between a NIC and PMD in miniature and a driver that posts any chains and, once it
// stops being honest, writes anything anywhere. As long as it is honest, what it receives is
// compared with what arrived, byte by byte, and so is what nobody may write to.
#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "guest_ram.h"
#include "ring_driver.h"
#include "zecorx/receive_path.h"

namespace zecorx::fuzz {
namespace {

using Bytes = std::vector<std::byte>;

// One of the NIC's buffers: host room, an allocation of its own, and where the NIC was told to
// write.
struct NicBuffer {
    std::unique_ptr<std::byte[]> room;
    std::byte* data = nullptr;
    std::uint64_t iova = kHost;
    Delivery delivered{};
    bool posted = false;

    static constexpr std::uint64_t kHost = ~0ULL;
};

struct NicBuffers {
    static NicBuffer& of(void* buffer) { return *static_cast<NicBuffer*>(buffer); }
    static const Delivery& delivery(const void* buffer) {
        return static_cast<const NicBuffer*>(buffer)->delivered;
    }

    static void aim_at_guest(void* buffer, std::byte* data, std::uint64_t iova) {
        of(buffer).data = data;
        of(buffer).iova = iova;
    }
    static void aim_at_host(void* buffer) {
        of(buffer).data = of(buffer).room.get();
        of(buffer).iova = NicBuffer::kHost;
    }
    static std::byte* data(void* buffer) { return of(buffer).data; }
    static bool whole(const void* first) { return delivery(first).end_of_frame; }
    static std::uint32_t length(const void* buffer) { return delivery(buffer).length; }
    static bool take_verdict(void* whole) { return delivery(whole).checksum_verified; }
};

// Cuts frames as the input says, also where no hook may.
struct AnyCut {
    static inline Input* input = nullptr;

    Cut operator()(std::span<const FramePiece> frame) const noexcept {
        expect(!frame.empty() && frame.size() <= kMaxFrameDescriptors, "a hook sees all pieces");
        for (const FramePiece& piece : frame) touch(piece);
        if (!input->one_in(4)) return {};
        Cut cut{.drop = input->one_in(4), .keeps_checksum = input->flag()};
        if (input->flag()) cut.front = GuestRam::length(*input);
        if (input->flag()) cut.back = GuestRam::length(*input);
        return cut;
    }
    static void touch(const FramePiece& piece) {
        for (volatile std::byte* end : {&piece.front(), &piece.back()}) *end = *end;
    }
};

struct Setup {
    ReceiveLimits limits;
    std::uint32_t batch;  // buffers a refill asks for; 1: one for one, and it may never fail
    Refill refill;
};

constexpr std::uint32_t kNicRing = 32;
constexpr std::uint32_t kBuffers = 128;

// The real sizes, and small ones, whose frames take many pieces in little memory.
constexpr std::array kSetups{
    Setup{{{1518, 2048}, 8, 16, true}, 8, Refill::kMayRefuse},
    Setup{{{1518, 1024}, 8, 16, true}, 8, Refill::kMayRefuse},
    Setup{{{1518, 1024}, 8, 16, true}, 1, Refill::kMustSupply},
    Setup{{{9234, 1024}, 16, 32, true}, 16, Refill::kMustSupply},
    Setup{{{1518, 2048}, 8, 1, false}, 8, Refill::kMayRefuse},
    Setup{{{300, 512}, 4, 4, true}, 8, Refill::kMayRefuse},
    Setup{{{300, 64}, 8, 8, true}, 8, Refill::kMayRefuse},
    Setup{{{900, 64}, 8, 32, true}, 1, Refill::kMustSupply},
    Setup{{{900, 64}, 8, 32, false}, 8, Refill::kMustSupply},
};

// A path with its buffers, made once for each setup: an attachment leaves nothing behind for the
// next one, which is looked at, too.
template <class Hook>
struct Nic {
    explicit Nic(const Setup& setup) : path(kBuffers, setup.limits, counters) {
        for (NicBuffer& buffer : buffers) {
            buffer.room = std::make_unique<std::byte[]>(setup.limits.geometry.nic_buffer);
            path.give_back(&buffer);
        }
    }

    static Nic& with(std::size_t setup) {
        static std::array<std::unique_ptr<Nic>, kSetups.size()> all;
        if (!all[setup]) all[setup] = std::make_unique<Nic>(kSetups[setup]);
        return *all[setup];
    }

    VmCounters counters;
    std::array<NicBuffer, kBuffers> buffers;
    ReceivePath<NicBuffers, Hook> path;
};

// Guest memory for buffers in cells, none of which overlaps another, and what the driver knows to
// be in it while it is honest.
class Cells {
  public:
    static constexpr std::uint32_t kCell = 2176;  // bytes

    explicit Cells(const GuestRam& ram) : ram_(ram) {
        for (const MemoryRegion& region : ram.regions())
            known_.insert(known_.end(), region.hva, region.hva + region.size);
        for (std::uint64_t gpa = ram.regions().front().gpa; gpa != 0;) gpa = next_cell(gpa);
    }

    bool empty() const { return free_.empty(); }
    std::uint64_t take() {
        const std::uint64_t cell = free_.front();
        free_.pop_front();
        return cell;
    }
    void put(std::uint64_t cell) { free_.push_back(cell); }

    // Runs visit(hva, known bytes) over the regions that hold [gpa, gpa + length).
    template <class Visit>
    void for_each(std::uint64_t gpa, std::uint32_t length, Visit&& visit) {
        while (length > 0) {
            std::size_t base = 0;
            const MemoryRegion* region = find(gpa, base);
            expect(region != nullptr, "an honest driver's buffers lie in its memory");
            const std::uint64_t offset = gpa - region->gpa;
            const auto n =
                static_cast<std::uint32_t>(std::min<std::uint64_t>(length, region->size - offset));
            visit(std::span(region->hva + offset, n), std::span(known_).subspan(base + offset, n));
            gpa += n;
            length -= n;
        }
    }
    // Whatever is there may be.
    void accept(std::uint64_t gpa, std::uint32_t length) {
        for_each(gpa, length, [](std::span<std::byte> memory, std::span<std::byte> known) {
            std::ranges::copy(memory, known.begin());
        });
    }
    void check() const {
        std::size_t base = 0;
        for (const MemoryRegion& region : ram_.regions()) {
            expect(std::memcmp(region.hva, &known_[base], region.size) == 0,
                   "only buffers that were posted are written");
            base += region.size;
        }
    }

  private:
    const MemoryRegion* find(std::uint64_t gpa, std::size_t& base) const {
        for (const MemoryRegion& region : ram_.regions()) {
            if (gpa - region.gpa < region.size) return &region;
            base += region.size;
        }
        return nullptr;
    }

    // Whether adjacent regions hold all of the cell; also those that lie over their ends.
    bool held(std::uint64_t gpa) const {
        std::size_t unused = 0;
        for (std::uint64_t left = kCell; left > 0;) {
            const MemoryRegion* region = find(gpa, unused);
            if (region == nullptr) return false;
            const std::uint64_t n = std::min(left, region->size - (gpa - region->gpa));
            gpa += n;
            left -= n;
        }
        return true;
    }
    // Returns where the one after it may begin, or 0.
    std::uint64_t next_cell(std::uint64_t gpa) {
        if (held(gpa)) {
            free_.push_back(gpa);
            return gpa + kCell;
        }
        for (const MemoryRegion& region : ram_.regions()) {
            if (region.gpa > gpa) return region.gpa;
        }
        return 0;
    }

    const GuestRam& ram_;
    std::vector<std::byte> known_;
    std::deque<std::uint64_t> free_;
};

// The log of a migration (VHOST_F_LOG_ALL), and guest memory as it would be had only the driver
// written to it.
class LoggedPages {
  public:
    explicit LoggedPages(const GuestRam& ram)
        : ram_(ram), bits_(std::make_unique<std::byte[]>(kBytes)) {
        for (const MemoryRegion& region : ram.regions())
            without_device_.emplace_back(region.hva, region.hva + region.size);
    }

    DirtyLog log() const { return DirtyLog({bits_.get(), kBytes}); }

    void driver_wrote(std::span<const std::byte> where) {
        for (std::size_t i = 0; i < without_device_.size(); ++i) {
            const MemoryRegion& region = ram_.regions()[i];
            if (where.data() < region.hva || where.data() >= region.hva + region.size) continue;
            std::ranges::copy(
                where, &without_device_[i][static_cast<std::size_t>(where.data() - region.hva)]);
        }
    }

    // REQUIRES: no chain is held.
    void check() const {
        for (std::size_t i = 0; i < without_device_.size(); ++i) {
            const MemoryRegion& region = ram_.regions()[i];
            for (std::uint64_t at = 0, n = 0; at < region.size; at += n) {
                const std::uint64_t gpa = region.gpa + at;
                n = std::min(region.size - at, DirtyLog::kPage - gpa % DirtyLog::kPage);
                expect(marked(gpa / DirtyLog::kPage) ||
                           std::memcmp(region.hva + at, &without_device_[i][at], n) == 0,
                       "every page that the device wrote to is logged");
            }
        }
    }

  private:
    static constexpr std::size_t kBytes = 48;  // for the GPAs that begin at or near 0

    bool marked(std::uint64_t page) const {
        return page >= 8 * kBytes ||
               (std::to_integer<unsigned>(bits_[page / 8]) >> (page % 8) & 1) != 0;
    }

    const GuestRam& ram_;
    std::unique_ptr<std::byte[]> bits_;
    std::vector<std::vector<std::byte>> without_device_;
};

struct Arrived {
    Bytes bytes;
    bool verified = false;
};

template <class Hook>
class ReceiveBench {
  public:
    ReceiveBench(Input& input, std::size_t setup)
        : input_(input),
          setup_(kSetups[setup]),
          nic_(Nic<Hook>::with(setup)),
          path_(nic_.path),
          ram_(input, {.least = 2 * Cells::kCell, .most = 3 * 4096, .odd_addresses = true}),
          cells_(ram_),
          features_(any_features()),
          driver_((features_ & kFeatureRingPacked) != 0, any_ring_size(),
                  (features_ & kFeatureEventIdx) != 0, Direction::kDeviceWritable,
                  input.any_of<std::uint16_t>({0, 65530, 7})) {
        drops_before_ = drops();
        start();
    }

    void run() {
        for (int steps = 0; steps < 300 && !input_.ended(); ++steps) step();
        stop();
        if (honest()) check_honest_end();
    }

  private:
    void step() {
        switch (input_.below(16)) {
            case 0:
            case 1:
            case 2:
            case 3:
            case 4:
                for (unsigned n = 1 + input_.below(4); n > 0; --n) post();
                return;
            case 5:
            case 6:
            case 7:
            case 8:
                for (unsigned n = 1 + input_.below(3); n > 0; --n) arrive();
                return;
            case 9:
            case 10:
            case 11:
                return poll();
            case 12:
                if (input_.one_in(8)) return driver_.scribble(input_);
                return post();
            case 13:
                if (input_.one_in(8)) return hostile_write();
                return post();
            case 14:
                driver_.wish(input_);
                (void)path_.call_wanted();
                (void)path_.watch().has_news();
                return;
            default:
                if (!input_.one_in(4)) return poll();
                stop();
                return start();
        }
    }

    bool honest() const { return driver_.honest() && !hostile_; }
    bool mergeable() const { return (features_ & kFeatureNetMrgRxbuf) != 0; }
    std::uint32_t header_size() const { return net_header_size(features_); }

    std::uint64_t any_features() {
        const std::uint8_t bits = input_.byte();
        std::uint64_t features = (bits & 7) == 7 ? 0 : kFeatureVersion1;
        if ((bits & 8) == 0) features |= kFeatureNetMrgRxbuf;
        if ((bits & 16) != 0) features |= kFeatureNetGuestCsum;
        if ((bits & 32) != 0) features |= kFeatureEventIdx;
        if ((bits & 64) != 0) features |= kFeatureRingPacked | kFeatureVersion1;
        return features;
    }
    std::uint32_t any_ring_size() {
        if ((features_ & kFeatureRingPacked) != 0) return 1 + input_.below(64);
        return 1u << input_.below(7);
    }

    // --- The driver ---

    void hostile_write() {
        hostile_ = true;
        if (input_.flag()) return driver_wrote(ram_.scribble(input_));
        driver_.write_raw(input_, {ram_.address(input_), GuestRam::length(input_)});
    }

    void driver_wrote(std::span<const std::byte> where) {
        if (logged_) logged_->driver_wrote(where);
    }

    // A chain whose buffers lie in cells of their own.
    struct PostedChain {
        std::vector<Buffer> buffers;
        std::vector<std::uint64_t> cells;
        std::uint32_t capacity = 0;
    };

    void post() {
        PostedChain chain;
        const std::uint32_t count = input_.one_in(4) ? 1 + input_.below(4) : 1;
        for (std::uint32_t i = 0; i < count && !cells_.empty(); ++i) {
            const std::uint64_t cell = cells_.take();
            chain.cells.push_back(cell);
            chain.buffers.push_back({cell + any_skew(), any_length(i == 0 && count > 1)});
            chain.capacity += chain.buffers.back().length;
        }
        if (chain.buffers.empty() || !post(chain)) {
            for (const std::uint64_t cell : chain.cells) cells_.put(cell);
            return;
        }
        posted_.push_back(std::move(chain));
    }
    bool post(PostedChain& chain) {
        if (!input_.one_in(4) || cells_.empty()) return driver_.post(chain.buffers);
        const std::uint64_t cell = cells_.take();
        chain.cells.push_back(cell);
        const auto size = static_cast<std::uint32_t>(16 * chain.buffers.size());
        const Buffer table{(cell + 7) & ~std::uint64_t{7}, size};
        std::byte* at = ram_.at(table.gpa, size);
        if (at == nullptr || reinterpret_cast<std::uintptr_t>(at) % 8 != 0) return false;
        const bool done = driver_.post(chain.buffers, table, at);
        cells_.accept(table.gpa, size);
        driver_wrote({at, size});
        return done;
    }
    std::uint64_t any_skew() { return input_.one_in(4) ? input_.below(64) : 0; }
    // What fits the NIC's buffer exactly, or nearly, or not at all.
    std::uint32_t any_length(bool header_alone) {
        const std::uint32_t header = header_size();
        if (header_alone && input_.flag()) return header - input_.below(3);
        switch (input_.below(8)) {
            case 0:
                return input_.byte();
            case 1:
                return input_.word() % 2048;
            case 2:
                return header + setup_.limits.geometry.piece() - 1;
            case 3:
            case 4:
                return std::min(2100u, header + setup_.limits.geometry.piece() + input_.below(64));
            default:
                return std::min(2100u, header + setup_.limits.geometry.piece());
        }
    }

    // --- The NIC and the PMD ---

    void start() {
        logged_.reset();
        if (input_.one_in(4)) logged_.emplace(ram_);
        path_.attach(driver_.device_side(), ram_.memory(), features_,
                     logged_ ? logged_->log() : DirtyLog());
        expect(path_.attached() && !path_.broken(), "a path that was attached is whole");
        for (std::uint32_t i = 0; i < kNicRing; ++i)
            expect(refill(1, Refill::kMustSupply), "a refill that may not fail does not");
    }

    void stop() {
        for (int i = 0; i < 3; ++i) poll();
        for (std::deque<NicBuffer*>* queue : {&filled_, &posted_buffers_}) {
            for (NicBuffer* buffer : *queue) give_back(*buffer);
            queue->clear();
        }
        missing_ = 0;
        wire_.clear();
        const std::uint16_t base = path_.detach();
        expect(path_.idle() == kBuffers && path_.pending() == 0, "a stop brings all buffers back");
        if (logged_) logged_->check();
        if (honest()) {
            reap();
            expect(base == driver_.expected_base(), "the vring base is the used index");
            check_drops();
        }
        driver_.resume_at(base);
    }
    void give_back(NicBuffer& buffer) {
        buffer.posted = false;
        path_.give_back(&buffer);
    }

    bool refill(std::uint32_t count, Refill refill) {
        std::array<void*, 32> taken{};
        const std::uint32_t before = path_.posted();
        if (!path_.dequeue(std::span(taken).first(count), refill)) {
            expect(path_.posted() == before, "a refused refill takes nothing");
            expect(refill == Refill::kMayRefuse, "a refill that may not fail does not");
            return false;
        }
        for (std::uint32_t i = 0; i < count; ++i) check_posted(NicBuffers::of(taken[i]));
        return true;
    }

    void check_posted(NicBuffer& buffer) {
        expect(!buffer.posted, "no buffer is posted twice");
        buffer.posted = true;
        posted_buffers_.push_back(&buffer);
        if (buffer.iova == NicBuffer::kHost) {
            return expect(buffer.data == buffer.room.get(), "host buffers are their own room");
        }
        expect(setup_.limits.zero_copy, "without zero copy no guest buffer is posted");
        const std::uint32_t needed = setup_.limits.geometry.piece();
        const MemoryRegion* region = ram_.holding(buffer.data, needed);
        expect(region != nullptr, "what the NIC may write lies in one region");
        expect(GuestMemory::contiguous_iova(*region, buffer.data, needed) == buffer.iova,
               "what the NIC may write is contiguous for it");
        expect((buffer.iova & 1) == 0, "the NIC is given even addresses");
    }

    // A frame from the wire, to the next posted buffers, or lost.
    void arrive() {
        const QueueGeometry& geometry = setup_.limits.geometry;
        std::uint32_t length = 1 + input_.word() % geometry.max_frame;
        if (input_.one_in(4)) length = geometry.max_frame - input_.below(2);
        if (posted_buffers_.size() < (length - 1) / geometry.nic_buffer + 1) return;
        Arrived frame{Bytes(length), input_.flag()};
        std::memcpy(frame.bytes.data(), noise().data() + sequence_ % 256, length);
        frame.bytes[0] = static_cast<std::byte>(sequence_++);
        for (std::uint32_t at = 0; at < length; at += geometry.nic_buffer) {
            const std::uint32_t n = std::min(geometry.nic_buffer, length - at);
            fill(std::span(frame.bytes).subspan(at, n), at + n == length, frame.verified);
        }
        wire_.push_back(std::move(frame));
    }
    // Bytes that are nowhere the same for long.
    static std::span<const std::byte> noise() {
        static const Bytes noise = [] {
            Bytes bytes(kMaxFrameDescriptors * 1024 + 256);
            std::uint32_t state = 1;
            for (std::byte& byte : bytes) {
                state = state * 1664525 + 1013904223;
                byte = static_cast<std::byte>(state >> 24);
            }
            return bytes;
        }();
        return noise;
    }
    void fill(std::span<const std::byte> bytes, bool end, bool verified) {
        NicBuffer& buffer = *posted_buffers_.front();
        posted_buffers_.pop_front();
        if (buffer.iova == NicBuffer::kHost) {
            std::memcpy(buffer.room.get(), bytes.data(), bytes.size());
        } else {
            ram_.dma_write(buffer.iova, bytes);
        }
        buffer.delivered = {static_cast<std::uint32_t>(bytes.size()), end, verified == end};
        filled_.push_back(&buffer);
    }

    void poll() {
        const bool was_broken = path_.broken();
        const RingError error = path_.error();
        const std::uint32_t pending = path_.pending();
        frames_.clear();
        const std::size_t delivered = rx_burst();
        const std::uint32_t completed = path_.receive(
            frames_, [this](void* first) { return_all(static_cast<NicBuffer*>(first)); });
        for (std::size_t i = 0; i < delivered; ++i) filled_.pop_front();
        expect(completed <= frames_.size() + pending, "no more is completed than there was");
        check_state();
        expect(!was_broken || (path_.broken() && path_.error() == error),
               "a broken ring stays broken, with its error");
        if (honest()) reap();
    }

    // Whole frames, at most 32 buffers. Returns how many buffers.
    std::size_t rx_burst() {
        if (setup_.batch > 1 && missing_ >= setup_.batch && refill(setup_.batch, setup_.refill))
            missing_ -= setup_.batch;
        std::size_t whole = 0;
        for (std::size_t i = 0; i < std::min<std::size_t>(filled_.size(), 32); ++i) {
            if (i == whole) frames_.push_back(filled_[i]);
            if (filled_[i]->delivered.end_of_frame) whole = i + 1;
        }
        if (!frames_.empty() && whole < filled_.size() && frames_.back() == filled_[whole])
            frames_.pop_back();
        for (std::size_t i = 0; i < whole; ++i) {
            filled_[i]->posted = false;
            if (setup_.batch == 1) refill(1, Refill::kMustSupply);
            missing_ += setup_.batch == 1 ? 0 : 1;
        }
        note_delivered(frames_.size());
        return whole;
    }
    void note_delivered(std::size_t frames) {
        for (; frames > 0; --frames) {
            arrived_.push_back(std::move(wire_.front()));
            wire_.pop_front();
        }
    }
    void return_all(NicBuffer* first) {
        auto at = std::ranges::find(filled_, first);
        for (bool more = true; more; ++at) {
            path_.returned(*at, (*at)->delivered);
            more = !(*at)->delivered.end_of_frame;
        }
    }

    void check_state() const {
        const std::size_t with_nic = posted_buffers_.size() + filled_.size();
        expect(path_.owned_by_nic() == with_nic, "what was posted and did not return is the NIC's");
        expect(path_.idle() + path_.pending() + with_nic == kBuffers, "no buffer is lost");
        expect(path_.broken() == (path_.error() != RingError::kNone), "a broken ring has an error");
    }

    // --- What an honest driver receives ---

    void reap() {
        expect(!path_.broken(), "an honest driver's ring does not break");
        while (const auto used = driver_.reap()) take_used(*used);
        driver_.check_nothing_more();
        expect(rest_ == 0, "all chains of a frame are used in one step");
    }

    void take_used(const RingDriver::Used& used) {
        PostedChain chain = std::move(posted_.front());
        posted_.pop_front();
        expect(used.length <= chain.capacity, "no more is written than a chain holds");
        std::uint32_t left = used.length;
        for (const Buffer& buffer : chain.buffers) {
            const std::uint32_t n = std::min(left, buffer.length);
            cells_.accept(buffer.gpa, buffer.length);
            cells_.for_each(buffer.gpa, n, [this](std::span<std::byte> memory, auto) {
                received_.insert(received_.end(), memory.begin(), memory.end());
            });
            left -= n;
        }
        for (const std::uint64_t cell : chain.cells) cells_.put(cell);
        // Those of frames that were dropped come back empty, between frames.
        if (used.length > 0 || rest_ > 0) end_chain();
    }

    void end_chain() {
        if (rest_ == 0) {
            NetHeader header{};
            expect(received_.size() >= header_size(), "a header lies in one chain");
            std::memcpy(&header, received_.data(), header_size());
            const bool counted = header_size() == kHeaderSize;
            expect(!counted || header.num_buffers >= 1, "a frame has a buffer at least");
            expect(mergeable() || !counted || header.num_buffers == 1, "what is not merged is one");
            header_ = header;
            rest_ = counted ? header.num_buffers : 1;
        }
        if (--rest_ > 0) return;
        check_frame();
        received_.clear();
    }

    // The oldest frame that it can be: those before it were dropped.
    void check_frame() {
        expect(header_.gso_type == kNetHeaderGsoNone && header_.hdr_len == 0 &&
                   header_.gso_size == 0 && header_.csum_start == 0 && header_.csum_offset == 0,
               "a received header asks for nothing");
        if constexpr (!std::is_same_v<Hook, NoHook>) return;
        const auto frame = std::span<const std::byte>(received_).subspan(header_size());
        while (!arrived_.empty() && !std::ranges::equal(arrived_.front().bytes, frame)) {
            arrived_.pop_front();
            ++skipped_;
        }
        expect(!arrived_.empty(), "frames are received as they arrived, in their order");
        const bool valid = (features_ & kFeatureNetGuestCsum) != 0 && arrived_.front().verified;
        expect(header_.flags == (valid ? kNetHeaderDataValid : 0),
               "the NIC's verdict on a checksum is that frame's");
        arrived_.pop_front();
    }

    std::uint64_t drops() const {
        std::uint64_t sum = 0;
        for (const Counter& counter : nic_.counters.dropped) sum += counter.get();
        return sum;
    }

    // Everything that was delivered was received or is counted as lost.
    void check_drops() {
        const std::uint64_t lost = drops() - std::exchange(drops_before_, drops());
        expect(!std::is_same_v<Hook, NoHook> || lost == skipped_ + arrived_.size(),
               "every lost frame is counted, and no other");
        arrived_.clear();
        skipped_ = 0;
    }

    void check_honest_end() {
        for (const PostedChain& chain : posted_) {
            for (const Buffer& buffer : chain.buffers) cells_.accept(buffer.gpa, buffer.length);
        }
        cells_.check();
    }

    Input& input_;
    const Setup& setup_;
    Nic<Hook>& nic_;
    ReceivePath<NicBuffers, Hook>& path_;
    GuestRam ram_;
    Cells cells_;
    const std::uint64_t features_;
    RingDriver driver_;
    bool hostile_ = false;
    std::optional<LoggedPages> logged_;  // while the VM migrates
    std::deque<PostedChain> posted_;

    std::deque<NicBuffer*> posted_buffers_;  // the NIC's descriptor ring
    std::deque<NicBuffer*> filled_;          // written back, not delivered yet
    std::vector<void*> frames_;              // of the burst at hand: their first buffers
    std::uint32_t missing_ = 0;              // descriptors the PMD has not refilled
    std::uint32_t sequence_ = 0;             // frames that arrived

    std::deque<Arrived> wire_;     // in filled_
    std::deque<Arrived> arrived_;  // delivered, and not seen by the driver
    Bytes received_;               // of the frame at hand
    NetHeader header_{};
    std::uint32_t rest_ = 0;  // chains of it that are yet to come
    std::uint64_t skipped_ = 0;
    std::uint64_t drops_before_ = 0;
};

}  // namespace
}  // namespace zecorx::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace zecorx::fuzz;
    Input input(data, size);
    const std::size_t setup = input.below(kSetups.size());
    if (input.one_in(4)) {
        AnyCut::input = &input;
        ReceiveBench<AnyCut>(input, setup).run();
    } else {
        ReceiveBench<zecorx::NoHook>(input, setup).run();
    }
    return 0;
}
