#include "fake_driver.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <stdexcept>

#include "guest/queue_driver.h"
#include "zecorx/virtio.h"

namespace zecorx::bench {
namespace {

constexpr std::uint16_t kTransmitRing = 256;

std::uint64_t wanted(const GuestOptions& options) {
    return kFeatureVersion1 | kFeatureVhostUserProtocol |
           (options.mergeable ? kFeatureNetMrgRxbuf : std::uint64_t{0}) |
           (options.packed ? kFeatureRingPacked : std::uint64_t{0});
}

test::Frontend negotiate(const std::string& socket, std::uint64_t features) {
    test::Frontend frontend = test::Frontend::connect(socket);
    if (frontend.negotiate({.features = features}) != features) {
        throw std::runtime_error(
            fmt::format("the backend on {} does not offer what was asked for", socket));
    }
    return frontend;
}

std::unique_ptr<test::QueueDriver> make_queue(test::FakeMemory& memory, std::uint16_t size,
                                              std::uint64_t features) {
    auto queue = test::make_queue_driver(memory, size, features);
    queue->want_calls(false);
    return queue;
}

}  // namespace

std::shared_ptr<test::FakeMemory> make_memory(std::size_t bytes) {
    constexpr auto kPage = static_cast<std::size_t>(test::PageSize::k2MiB);
    auto memory = std::make_shared<test::FakeMemory>(bytes, test::PageSize::k2MiB);
    // The kernel clears a page when it is first touched.
    std::byte* const start = memory->at(test::kDefaultRamBase, bytes);
    for (std::size_t page = 0; page < bytes; page += kPage) start[page] = std::byte{0};
    return memory;
}

FakeDriver::FakeDriver(std::shared_ptr<test::FakeMemory> memory, const std::string& socket,
                       const GuestOptions& options)
    : socket_(socket),
      features_(wanted(options)),
      header_(net_header_size(features_)),
      memory_(std::move(memory)),
      frontend_(negotiate(socket, features_)),
      receiveq_(make_queue(*memory_, options.ring, features_)),
      transmitq_(make_queue(*memory_, kTransmitRing, features_)),
      buffers_(options.ring) {
    fill(options.buffers);
}

void FakeDriver::start() {
    const std::array<test::QueueDriver*, 2> queues{receiveq_.get(), transmitq_.get()};
    frontend_.start_device(*memory_, queues);
}

void FakeDriver::stop() {
    frontend_.stop_device();
    frontend_.disconnect();
}

void FakeDriver::reconnect() { frontend_ = negotiate(socket_, features_); }

std::uint64_t FakeDriver::turn() {
    std::uint64_t frames = 0;
    std::uint16_t missing = 0;  // chains of the frame at hand
    for (const test::UsedHead& used : receiveq_->reap()) {
        if (missing == 0) {
            missing = buffers_of(used.head);
            ++frames;
        }
        --missing;
        post(buffers_[used.head]);
    }
    receiveq_->publish();
    return frames;
}

bool FakeDriver::received(std::span<const std::byte> frame) {
    std::vector<std::byte> bytes;
    for (const test::UsedHead& used : receiveq_->reap()) {
        append(bytes, used);
        post(buffers_[used.head]);
    }
    receiveq_->publish();
    return bytes.size() == header_ + frame.size() &&
           std::ranges::equal(frame, std::span(bytes).subspan(header_));
}

void FakeDriver::fill(test::RxLayout layout) {
    for (std::size_t i = 0;; ++i) {
        test::RxBuffer buffer = layout.place(*memory_, header_, i);
        if (receiveq_->free_descriptors() < buffer.pieces.size()) break;
        post(buffer.pieces);
    }
    receiveq_->publish();
}

void FakeDriver::post(std::vector<test::Piece> pieces) {
    const auto head = receiveq_->add(pieces);
    if (!head) throw std::runtime_error("the driver's ring has no room for what came back");
    buffers_[*head] = std::move(pieces);
}

std::uint16_t FakeDriver::buffers_of(std::uint16_t head) const {
    if ((features_ & kFeatureNetMrgRxbuf) == 0) return 1;
    const test::Gpa header = buffers_[head].front().gpa;
    std::uint16_t count = 0;
    std::memcpy(&count, memory_->at(header + offsetof(NetHeader, num_buffers), sizeof count),
                sizeof count);
    return count;
}

void FakeDriver::append(std::vector<std::byte>& bytes, const test::UsedHead& used) const {
    std::uint32_t left = used.len;
    for (const test::Piece& piece : buffers_[used.head]) {
        const std::uint32_t length = std::min(left, piece.len);
        if (length == 0) return;
        const std::byte* from = memory_->at(piece.gpa, length);
        bytes.insert(bytes.end(), from, from + length);
        left -= length;
    }
}

}  // namespace zecorx::bench
