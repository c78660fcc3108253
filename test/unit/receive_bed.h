// A NIC RX queue and a PMD in miniature around a ReceivePath, with a fake guest on the other side.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "ring_bed.h"
#include "zecorx/geometry.h"
#include "zecorx/receive_path.h"

namespace zecorx::test {

// One of the NIC's buffers: host room, and where the NIC was told to write.
struct FakeBuffer {
    std::span<std::byte> room;
    std::byte* data = nullptr;
    std::uint64_t iova = 0;  // kHost: the room
    Delivery delivered{};    // as the PMD will say
    static constexpr std::uint64_t kHost = 0;
};

struct FakeBuffers {
    static void aim_at_guest(void* buffer, std::byte* data, std::uint64_t iova) {
        static_cast<FakeBuffer*>(buffer)->data = data;
        static_cast<FakeBuffer*>(buffer)->iova = iova;
    }
    static void aim_at_host(void* buffer) {
        auto* host = static_cast<FakeBuffer*>(buffer);
        host->data = host->room.data();
        host->iova = FakeBuffer::kHost;
    }
    static std::byte* data(void* buffer) { return static_cast<FakeBuffer*>(buffer)->data; }
    static bool whole(const void* first) { return delivery(first).end_of_frame; }
    static std::uint32_t length(const void* buffer) { return delivery(buffer).length; }
    static bool take_verdict(void* whole) { return delivery(whole).checksum_verified; }
    static const Delivery& delivery(const void* buffer) {
        return static_cast<const FakeBuffer*>(buffer)->delivered;
    }
};

// How the PMD replaces the buffers it delivers.
enum class PmdMode {
    kVector,  // asks for 32 when 32 are missing, delivers all the same if refused
    kBulk,    // asks for 64 when 64 are missing, delivers nothing if refused
    kScalar,  // one for one, delivers nothing if refused
};

struct ReceiveBedOptions {
    NetDriverOptions driver{};
    QueueGeometry geometry = QueueGeometry::whole(PortGeometry{}.max_frame(true));
    PmdMode pmd = PmdMode::kVector;
    std::uint32_t nic_ring = 512;
    std::uint32_t low_water = 64;
    std::uint32_t pending_cap = 256;
    bool zero_copy = true;
    DeviceView::Iova iova = DeviceView::Iova::kContiguous;
};

template <ReceiveHook Hook = NoHook>
class HookedReceiveBed {
  public:
    HookedReceiveBed(FakeMemory& memory, const ReceiveBedOptions& options, Hook hook = {})
        : options_(options),
          memory_(memory),
          view_(memory, options.iova),
          driver_(memory, options.driver),
          buffers_(options.nic_ring + 64 + options.pending_cap +
                   kBurst * (options.geometry.descriptors() + 1)),
          rooms_(std::make_unique_for_overwrite<std::byte[]>(buffers_.size() * room_size())),
          path_(static_cast<std::uint32_t>(buffers_.size()),
                {.geometry = options.geometry,
                 .low_water = options.low_water,
                 .pending_cap = options.pending_cap,
                 .zero_copy = options.zero_copy},
                counters_, std::move(hook)) {
        for (std::size_t i = 0; i < buffers_.size(); ++i) {
            buffers_[i].room = std::span(&rooms_[i * room_size()], room_size())
                                   .subspan(options.geometry.device_header);
            path_.give_back(&buffers_[i]);
        }
    }

    // What every poll from now on did: frames the PMD delivered, frames the path completed.
    using PollObserver = std::function<void(std::uint32_t delivered, std::uint32_t completed)>;
    void observe_polls(PollObserver observer) { observer_ = std::move(observer); }

    // Attaches to the guest's receiveq and posts a full ring, one buffer at a time as a queue
    // start does.
    void start() {
        const bool event_idx = (options_.driver.features & kFeatureEventIdx) != 0;
        path_.attach(view_.ring(driver_.rx().queue(), memory_, event_idx), view_.guest(),
                     options_.driver.features, log_);
        for (std::uint32_t i = 0; i < options_.nic_ring; ++i) refill(1);
    }

    // Stops as the daemon does: what arrived is delivered, the PMD frees everything it still
    // holds, then the path lets go. Undrained: nothing is delivered any more.
    std::uint16_t stop(bool drained = true) {
        for (std::size_t i = 0; drained && i <= options_.nic_ring / kBurst; ++i) poll();
        for (void* buffer : assembling_) path_.give_back(buffer);
        assembling_.clear();
        for (void* buffer : filled_) path_.give_back(buffer);
        filled_.clear();
        for (void* buffer : posted_) path_.give_back(buffer);
        posted_.clear();
        missing_ = 0;
        return path_.detach();
    }

    // Where what is written to guest memory from now on goes, over stops and starts. REQUIRES:
    // started.
    void set_log(const DirtyLog& log) {
        log_ = log;
        path_.set_log(log);
    }

    // A frame on the wire: written by DMA to the next posted buffers, or lost, as one longer than F
    // is (datasheet 8.2.3.22.13, MAXFRS). False: lost.
    bool arrive(std::span<const std::byte> frame) {
        const std::size_t room = options_.geometry.nic_buffer;
        if (frame.empty() || frame.size() > options_.geometry.max_frame ||
            posted_.size() * room < frame.size()) {
            return false;
        }
        write_device_header();
        while (frame.size() > room) {
            fill_next(frame.first(room), false);
            frame = frame.subspan(room);
        }
        fill_next(frame, true);
        return true;
    }

    // A frame longer than a buffer, of a NIC that knows no limit and has a header of its own only
    // in the first buffer: in the next ones it begins where that would be (VIRTIO 5.1.6.4).
    // REQUIRES: the NIC has as many buffers.
    void arrive_too_long(std::span<const std::byte> frame) {
        const std::size_t header = options_.geometry.device_header;
        const std::size_t room = options_.geometry.nic_buffer;
        write_device_header();
        fill_next(frame.first(room), false);
        for (frame = frame.subspan(room); !frame.empty();) {
            const std::size_t n = std::min(room + header, frame.size());
            fill_next(frame.first(n), n == frame.size(), header);
            frame = frame.subspan(n);
        }
    }

    // The first `buffers` buffers' worth of a frame whose rest the NIC is stopped before.
    // REQUIRES: the frame is longer, and the NIC has as many buffers.
    void arrive_in_part(std::span<const std::byte> frame, std::size_t buffers) {
        const std::size_t room = options_.geometry.nic_buffer;
        for (; buffers > 0; --buffers, frame = frame.subspan(room))
            fill_next(frame.first(room), false);
    }

    // What the NIC says of the checksums of frames that arrive from now on.
    void verify_checksums(bool verified) { checksum_verified_ = verified; }

    // One poll of the worker. Returns how many frames were completed.
    std::uint32_t poll() {
        const std::vector<void*> buffers = rx_burst();
        std::vector<void*> frames;  // the first buffer of each
        bool begins = true;
        for (void* buffer : buffers) {
            if (begins) frames.push_back(buffer);
            begins = FakeBuffers::delivery(buffer).end_of_frame;
        }
        const std::uint32_t completed = path_.receive(
            frames, [&](void* first) { return_all(std::ranges::find(buffers, first)); });
        if (observer_) observer_(static_cast<std::uint32_t>(frames.size()), completed);
        return completed;
    }

    ReceivePath<FakeBuffers, Hook>& path() { return path_; }
    NetDriver& driver() { return driver_; }
    const VmCounters& counters() const { return counters_; }
    const ReceiveBedOptions& options() const { return options_; }
    // Buffers the NIC may write to.
    std::size_t posted() const { return posted_.size(); }
    // Buffers written and not delivered, those of frames without an end included.
    std::size_t undelivered() const { return filled_.size() + assembling_.size(); }
    std::size_t buffer_count() const { return buffers_.size(); }
    std::size_t delivered_by_dma() const { return counters_.zero_copied.get(); }
    std::uint64_t dropped(DropReason reason) const {
        return counters_.dropped[static_cast<std::size_t>(reason)].get();
    }
    std::uint64_t copied(CopyReason reason) const {
        return counters_.copied[static_cast<std::size_t>(reason)].get();
    }

  private:
    static constexpr std::size_t kBurst = 32;

    // Returns the buffers of the frame that begins here.
    void return_all(std::vector<void*>::const_iterator buffer) {
        for (bool more = true; more; ++buffer) {
            const Delivery& delivery = FakeBuffers::delivery(*buffer);
            path_.returned(*buffer, delivery);
            more = !delivery.end_of_frame;
        }
    }

    // What the NIC says of a frame counts in its last descriptor; the others' is anything.
    void fill_next(std::span<const std::byte> bytes, bool end_of_frame, std::size_t before = 0) {
        auto* buffer = static_cast<FakeBuffer*>(posted_.front());
        posted_.pop_front();
        dma_write(*buffer, bytes, before);
        buffer->delivered = {static_cast<std::uint32_t>(bytes.size()), end_of_frame,
                             checksum_verified_ == end_of_frame};
        filled_.push_back(buffer);
    }

    std::size_t room_size() const {
        return options_.geometry.device_header + options_.geometry.nic_buffer;
    }

    // In front of the frame that is to be written next.
    void write_device_header() {
        if (options_.geometry.device_header == 0) return;
        const std::vector<std::byte> header(options_.geometry.device_header, std::byte{0xee});
        dma_write(*static_cast<FakeBuffer*>(posted_.front()), header, header.size());
    }

    // Begins `before` bytes in front of where the buffer was aimed.
    void dma_write(FakeBuffer& buffer, std::span<const std::byte> frame, std::size_t before = 0) {
        if (buffer.iova == FakeBuffer::kHost) {
            std::ranges::copy(frame, buffer.room.data() - before);
            return;
        }
        // Datasheet 7.1.6.1: bit 0 of the packet buffer address is not part of the address.
        for (std::uint64_t iova = (buffer.iova & ~1ULL) - before; !frame.empty();) {
            const std::span<std::byte> page = view_.dma_page(iova);
            const std::size_t n = std::min(page.size(), frame.size());
            std::ranges::copy(frame.first(n), page.begin());
            frame = frame.subspan(n);
            iova += n;
        }
    }

    bool refill(std::size_t count) {
        std::array<void*, 64> taken{};
        const bool vector = count == kBurst;
        if (!path_.dequeue(std::span(taken).first(count),
                           vector ? Refill::kMayRefuse : Refill::kMustSupply)) {
            return false;
        }
        posted_.insert(posted_.end(), taken.begin(), taken.begin() + static_cast<long>(count));
        return true;
    }

    // Whole frames only: the PMD keeps what has come of one until its end is there.
    std::vector<void*> rx_burst() {
        if (!refill_missing()) return {};
        for (std::size_t i = 0; i < kBurst && !filled_.empty(); ++i) {
            if (options_.pmd == PmdMode::kScalar && !refill(1)) break;
            assembling_.push_back(filled_.front());
            filled_.pop_front();
            if (options_.pmd != PmdMode::kScalar) ++missing_;
        }
        const auto end =
            std::find_if(assembling_.rbegin(), assembling_.rend(),
                         [](const void* buffer) { return FakeBuffers::whole(buffer); });
        std::vector<void*> frames(assembling_.begin(), end.base());
        assembling_.erase(assembling_.begin(), end.base());
        return frames;
    }

    // False: nothing is delivered before there are buffers.
    bool refill_missing() {
        if (options_.pmd == PmdMode::kVector && missing_ >= kBurst && refill(kBurst)) {
            missing_ -= kBurst;
        }
        if (options_.pmd == PmdMode::kBulk && missing_ >= 64) {
            if (!refill(64)) return false;
            missing_ -= 64;
        }
        return true;
    }

    const ReceiveBedOptions options_;
    FakeMemory& memory_;
    DeviceView view_;
    NetDriver driver_;
    std::vector<FakeBuffer> buffers_;
    std::unique_ptr<std::byte[]> rooms_;  // of buffers_
    VmCounters counters_;
    ReceivePath<FakeBuffers, Hook> path_;
    std::deque<void*> posted_;       // the NIC's descriptor ring
    std::deque<void*> filled_;       // written back, not delivered yet
    std::vector<void*> assembling_;  // delivered but for the end of their frame
    PollObserver observer_;
    DirtyLog log_;
    bool checksum_verified_ = false;
    std::size_t missing_ = 0;  // descriptors the PMD has not refilled
};

using ReceiveBed = HookedReceiveBed<>;

}  // namespace zecorx::test
