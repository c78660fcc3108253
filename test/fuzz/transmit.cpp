// TransmitPath against a driver that sends any frame, in any chain, with any header, and that may
// write anything to its ring at any time. What is sent is checked against the bytes of the chain.
#include <array>
#include <deque>
#include <memory>
#include <utility>

#include "guest_ram.h"
#include "ip_frame.h"
#include "ring_driver.h"
#include "zecorx/transmit_path.h"

namespace zecorx::fuzz {
namespace {

// What is expected of the frames of an honest driver, in their order.
class SentChecker {
  public:
    SentChecker(std::uint32_t mtu, const VlanPolicy& vlan, std::uint64_t features)
        : mtu_(mtu), vlan_(vlan), features_(features) {}

    // What the driver sends, chain by chain. Nothing: it cannot be sent.
    void posted(std::optional<SentFrame> frame) { posted_.push_back(std::move(frame)); }
    void dropped(std::uint64_t chains) {
        expect(chains <= posted_.size(), "no more is dropped than was posted");
        posted_.erase(posted_.begin(), posted_.begin() + static_cast<std::ptrdiff_t>(chains));
    }

    // Rules for any frame, of which the driver sent the first `raw_length` bytes.
    void check(const TransmitRequest& request, std::span<const std::byte> frame,
               std::size_t raw_length) const {
        using enum TransmitRequest::Offload;
        expect(request.length >= kEthernetHeader, "a sent frame has an Ethernet header");
        expect(request.vlan == vlan_.inserted(), "a sent frame gets the VM's tag, if it has one");
        const bool tagged = frame[12] == std::byte{0x81} && frame[13] == std::byte{0};
        expect(request.link_length == kEthernetHeader + (tagged ? kVlanTag : 0),
               "the link length is that of the frame");
        const unsigned tci =
            std::to_integer<unsigned>(frame[14]) << 8 | std::to_integer<unsigned>(frame[15]);
        expect(!tagged || vlan_.admits_tag(static_cast<std::uint16_t>(tci)),
               "a VM sends no tags that are not its own");
        check_offload(request);
        const bool segmented = request.offload == kTcpSegmentation;
        expect(segmented || request.length >= kMinFrame, "a sent frame is padded");
        for (const std::byte padding : frame.subspan(raw_length))
            expect(padding == std::byte{0}, "what a frame is padded with is zero");
    }

    // The next frame of an honest driver.
    void check_honest(const TransmitRequest& request, std::span<const std::byte> sent) {
        expect(!posted_.empty() && posted_.front().has_value(), "what is sent was to be sent");
        const SentFrame& frame = *posted_.front();
        expect(matches(frame, request, sent), "frames are sent as they are, in their order");
        check(request, sent, frame.bytes.size());
        check_asked(frame.header, request);
        posted_.pop_front();
    }

  private:
    using Offload = TransmitRequest::Offload;

    void check_offload(const TransmitRequest& request) const {
        const std::uint32_t l4 = std::uint32_t{request.link_length} + request.network_length;
        if (request.offload == Offload::kNone) {
            return expect(
                request.length <= mtu_ + request.link_length || request.length <= kMinFrame,
                "no frame is longer than the MTU");
        }
        expect(request.network_length >= (request.ipv6 ? 40 : 20) && request.network_length <= 511,
               "the NIC is told the length of a network header that it can be told");
        if (request.offload != Offload::kTcpSegmentation) {
            expect(l4 + (request.offload == Offload::kTcpChecksum ? 18 : 8) <= request.length,
                   "the checksum that the NIC is to write lies in the frame");
            return expect(
                request.length <= mtu_ + request.link_length || request.length <= kMinFrame,
                "no frame is longer than the MTU");
        }
        expect(request.transport_length >= 20 && request.segment_size > 0 &&
                   l4 + request.transport_length < request.length &&
                   request.length <= kMaxSegmentable,
               "what the NIC is to segment has headers and a payload");
        expect(std::uint32_t{request.network_length} + request.transport_length +
                       request.segment_size <=
                   mtu_,
               "no segment is longer than the MTU");
    }

    void check_asked(const NetHeader& header, const TransmitRequest& request) const {
        if (request.offload == Offload::kTcpSegmentation) {
            const std::uint64_t needed = request.ipv6 ? kFeatureNetHostTso6 : kFeatureNetHostTso4;
            expect((features_ & needed) != 0 && header.gso_type != kNetHeaderGsoNone,
                   "only what was negotiated and asked for is segmented");
        } else {
            expect(header.gso_type == kNetHeaderGsoNone, "what is to be segmented is");
        }
        const bool wants_sum = (header.flags & kNetHeaderNeedsCsum) != 0;
        expect(
            request.offload == Offload::kNone || (wants_sum && (features_ & kFeatureNetCsum) != 0),
            "only what was negotiated and asked for is offloaded");
    }

    // All bytes but those of checksums.
    static bool matches(const SentFrame& frame, const TransmitRequest& request,
                        std::span<const std::byte> sent) {
        const std::size_t size = frame.bytes.size();
        if (sent.size() != size && (sent.size() != kMinFrame || size > kMinFrame)) return false;
        Bytes expected = frame.bytes;
        const auto skip = [&](std::size_t at) {
            if (at < size) expected[at] = sent[at];
        };
        const std::size_t field = std::size_t{frame.header.csum_start} + frame.header.csum_offset;
        if ((frame.header.flags & kNetHeaderNeedsCsum) != 0) skip(field), skip(field + 1);
        const std::size_t ip_sum = std::size_t{request.link_length} + 10;
        if (request.offload == Offload::kTcpSegmentation && !request.ipv6)
            skip(ip_sum), skip(ip_sum + 1);
        return std::ranges::equal(expected, sent.first(size));
    }

    const std::uint32_t mtu_;
    const VlanPolicy vlan_;
    const std::uint64_t features_;
    std::deque<std::optional<SentFrame>> posted_;
};

// Each room is an allocation of its own, made once.
class Rooms {
  public:
    using Room = std::array<std::byte, kTransmitRoom>;

    static Rooms& all() {
        static Rooms rooms;
        return rooms;
    }
    Room& operator[](std::size_t i) {
        expect(i < kMaxTransmitRooms, "no room beyond the last is asked for");
        return *rooms_[i];
    }
    // In one piece, valid until this is asked again.
    std::span<const std::byte> frame(std::size_t length) {
        frame_.clear();
        for (std::size_t i = 0; frame_.size() < length; ++i) {
            const auto n =
                static_cast<std::ptrdiff_t>(std::min(kTransmitRoom, length - frame_.size()));
            frame_.insert(frame_.end(), (*this)[i].begin(), (*this)[i].begin() + n);
        }
        return frame_;
    }

  private:
    Rooms() {
        for (auto& room : rooms_) room = std::make_unique<Room>();
    }
    std::array<std::unique_ptr<Room>, kMaxTransmitRooms> rooms_;
    Bytes frame_;
};

class TransmitBench {
  public:
    explicit TransmitBench(Input& input)
        : input_(input),
          // Seldom as much as the longest frame takes.
          ram_(input, {.least = 1024, .most = input.one_in(16) ? 24u * 1024 : 3u * 1024}),
          features_(any_features()),
          driver_(packed(), any_ring_size(), (features_ & kFeatureEventIdx) != 0,
                  Direction::kDeviceReadable, input.any_of<std::uint16_t>({0, 65534, 5})),
          vlan_(any_vlan()),
          mtu_(input.any_of({1500u, 1500u, 68u, 9216u})),
          checker_(mtu_, vlan_, features_),
          path_(mtu_, vlan_, counters_) {
        attach();
    }

    void run() {
        for (int steps = 0; steps < 300 && !input_.ended(); ++steps) step();
        burst(UINT32_MAX);
    }

    // The sink of the path.
    struct Sink {
        TransmitBench& bench;
        bool ready() const { return bench.room_for_ > 0; }
        std::span<std::byte, kTransmitRoom> room(std::size_t i) { return Rooms::all()[i]; }
        void send(const TransmitRequest& request) { bench.sent(request); }
    };

  private:
    bool packed() const { return (features_ & kFeatureRingPacked) != 0; }

    std::uint64_t any_features() {
        std::uint64_t features = input_.one_in(8) ? 0 : kFeatureVersion1;
        const std::uint8_t bits = input_.byte();
        if ((bits & 3) != 3) features |= kFeatureNetCsum;
        if ((bits & 12) != 12) features |= kFeatureNetHostTso4;
        if ((bits & 48) != 48) features |= kFeatureNetHostTso6;
        if ((bits & 64) != 0) features |= kFeatureEventIdx;
        if ((bits & 128) != 0) features |= kFeatureRingPacked | kFeatureVersion1;
        return features;
    }
    std::uint32_t any_ring_size() {
        return packed() ? 1 + input_.below(70) : 1u << input_.below(7);
    }
    VlanPolicy any_vlan() {
        static constexpr std::array<std::uint16_t, 2> kTags{5, 4094};
        switch (input_.below(4)) {
            case 0:
                return VlanPolicy::access(7);
            case 1:
                return VlanPolicy::trunk(kTags);
            default:
                return {};
        }
    }

    void attach() {
        path_.attach(driver_.device_side(), ram_.memory(), features_);
        expect(path_.attached() && !path_.broken(), "a path that was attached is whole");
    }

    void step() {
        switch (input_.below(12)) {
            case 0:
            case 1:
            case 2:
            case 3:
                return send();
            case 4:
            case 5:
                return burst(1 + input_.below(40));
            case 6:
                room_for_ = input_.below(4);
                burst(32);
                room_for_ = SIZE_MAX;
                return;
            case 7:
                driver_.wish(input_);
                (void)path_.call_wanted();
                return;
            case 8:
                return restart();
            case 9:
                return input_.one_in(4) ? driver_.scribble(input_) : send();
            case 10:
                return driver_.write_raw(input_, {ram_.address(input_), GuestRam::length(input_)});
            default:
                return input_.one_in(4) ? hostile_write() : send();
        }
    }
    void hostile_write() {
        hostile_ = true;
        ram_.scribble(input_);
    }
    bool honest() const { return driver_.honest() && !hostile_; }

    // --- The driver ---

    // Header and frame behind each other, cut into buffers anywhere, each in a place of its own:
    // one region after the other from the front.
    void send() {
        SentFrame frame = SentFrameWriter(input_).write();
        const std::uint32_t header = net_header_size(features_);
        Bytes bytes(header + frame.bytes.size());
        std::memcpy(bytes.data(), &frame.header, header);
        std::ranges::copy(frame.bytes, bytes.begin() + header);
        if (input_.one_in(16)) bytes.resize(input_.below(16));
        const auto buffers = place(bytes);
        if (!buffers || !post(*buffers)) return;
        const bool whole = bytes.size() >= header + frame.bytes.size();
        checker_.posted(whole ? std::optional(std::move(frame)) : std::nullopt);
    }

    std::optional<std::vector<Buffer>> place(std::span<const std::byte> bytes) {
        std::vector<Buffer> buffers;
        const bool in_small_pieces = input_.one_in(4);
        while (!bytes.empty()) {
            std::size_t most = bytes.size();
            if (buffers.empty() && input_.flag()) most = input_.below(20);
            if (in_small_pieces && buffers.size() < 45) most = input_.byte();
            const auto buffer = store(bytes.first(std::min(most, bytes.size())));
            if (!buffer) return std::nullopt;
            bytes = bytes.subspan(buffer->length);
            buffers.push_back(*buffer);
        }
        return buffers;
    }

    // As much as the region at hand has room for; all rooms are free again once all is sent.
    std::optional<Buffer> store(std::span<const std::byte> bytes) {
        while (free_region_ < ram_.regions().size()) {
            const MemoryRegion& region = ram_.regions()[free_region_];
            const std::uint64_t room = region.size - free_at_;
            if (room == 0) {
                ++free_region_;
                free_at_ = 0;
                continue;
            }
            const auto length =
                static_cast<std::uint32_t>(std::min<std::uint64_t>(room, bytes.size()));
            std::memcpy(region.hva + free_at_, bytes.data(), length);
            free_at_ += length;
            return Buffer{region.gpa + free_at_ - length, length};
        }
        return std::nullopt;
    }

    bool post(const std::vector<Buffer>& buffers) {
        if (buffers.empty() || !input_.one_in(4)) return driver_.post(buffers);
        const auto table = store(Bytes(16 * buffers.size()));
        if (!table || table->length != 16 * buffers.size() || table->gpa % 8 != 0) return false;
        std::byte* at = ram_.at(table->gpa, table->length);
        return reinterpret_cast<std::uintptr_t>(at) % 8 == 0 && driver_.post(buffers, table, at);
    }

    // --- The device ---

    void burst(std::uint32_t limit) {
        const bool was_broken = path_.broken();
        const RingError error = path_.error();
        bytes_sent_ = 0;
        frames_sent_ = 0;
        const std::uint64_t before = counted();
        Sink sink{*this};
        const std::uint32_t taken = path_.burst(limit, sink);
        expect(taken <= limit && frames_sent_ <= taken, "no more chains are taken than asked for");
        expect(counted() - before == taken, "each chain taken is counted, as sent or dropped");
        expect(bytes_sent_ <= 128 * 1024 + kMaxSegmentable, "the work of a burst is bounded");
        expect(!was_broken || (taken == 0 && path_.broken() && path_.error() == error),
               "a broken ring stays broken, with its error");
        expect(path_.broken() == (path_.error() != RingError::kNone), "a broken ring has an error");
        if (!honest()) return;
        forget_dropped();
        reap(taken);
    }

    // Those since the last look.
    void forget_dropped() {
        const std::uint64_t now = counted() - counters_.tx_packets.get();
        checker_.dropped(now - std::exchange(dropped_, now));
    }

    void reap(std::uint32_t taken) {
        expect(!path_.broken(), "an honest driver's ring does not break");
        for (; taken > 0; --taken) {
            const auto used = driver_.reap();
            expect(used && used->length == 0,
                   "a chain that was taken is used, with nothing written");
        }
        driver_.check_nothing_more();
        if (driver_.outstanding() > 0) return;
        free_region_ = 0;
        free_at_ = 0;
    }

    void sent(const TransmitRequest& request) {
        if (room_for_ != SIZE_MAX) --room_for_;
        ++frames_sent_;
        bytes_sent_ += request.length;
        expect(request.length <= kMaxTransmitRooms * kTransmitRoom, "a frame fits its rooms");
        const std::span<const std::byte> frame = Rooms::all().frame(request.length);
        if (!honest()) return checker_.check(request, frame, request.length);
        forget_dropped();
        checker_.check_honest(request, frame);
    }

    std::uint64_t counted() const {
        std::uint64_t sum = counters_.tx_packets.get();
        for (const Counter& counter : counters_.dropped) sum += counter.get();
        return sum;
    }

    void restart() {
        const std::uint16_t base = path_.detach();
        expect(!path_.attached(), "a path that was detached is");
        if (honest()) expect(base == driver_.expected_base(), "the vring base is the used index");
        driver_.resume_at(base);
        attach();
    }

    Input& input_;
    GuestRam ram_;
    const std::uint64_t features_;
    RingDriver driver_;
    const VlanPolicy vlan_;
    const std::uint32_t mtu_;
    SentChecker checker_;
    VmCounters counters_;
    TransmitPath path_;
    bool hostile_ = false;
    std::size_t free_region_ = 0;  // where the driver's next buffer goes
    std::uint64_t free_at_ = 0;
    std::size_t room_for_ = SIZE_MAX;  // frames
    std::size_t frames_sent_ = 0;
    std::uint64_t dropped_ = 0;
    std::uint64_t bytes_sent_ = 0;
};

static_assert(TransmitSink<TransmitBench::Sink>);

}  // namespace
}  // namespace zecorx::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    zecorx::fuzz::Input input(data, size);
    zecorx::fuzz::TransmitBench(input).run();
    return 0;
}
