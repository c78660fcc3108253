// The device side of a virtqueue, small and trusting: it only serves the self test of the driver
// side. It misbehaves on request, so that the driver's checks can be seen to fail.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "net_driver.h"

namespace zecorx::test {

class TestDevice {
  public:
    struct Chain {
        std::uint16_t head;
        std::vector<Piece> pieces;
        std::uint16_t descriptors = 1;  // on the ring
    };

    explicit TestDevice(FakeMemory& memory) : memory_(memory) {}
    virtual ~TestDevice() = default;

    virtual std::optional<Chain> acquire() = 0;
    // Unpublished. `head` need not be what was acquired.
    virtual void complete(std::uint32_t head, std::uint32_t len) = 0;
    // The oldest `count` of what was completed, or all, in one step.
    virtual void publish(std::size_t count = SIZE_MAX) = 0;

    // Writes `bytes` through the chain from its start and returns how many fitted.
    std::uint32_t fill(const Chain& chain, std::span<const std::byte> bytes) {
        std::uint32_t written = 0;
        for (const Piece& piece : chain.pieces) {
            const auto share = bytes.subspan(written).first(
                std::min<std::size_t>(piece.len, bytes.size() - written));
            memory_.write(piece.gpa, share);
            written += static_cast<std::uint32_t>(share.size());
        }
        return written;
    }

    std::vector<std::byte> gather(const Chain& chain) const {
        std::vector<std::byte> bytes;
        for (const Piece& piece : chain.pieces) {
            const std::size_t start = bytes.size();
            bytes.resize(start + piece.len);
            memory_.read(piece.gpa, std::span(bytes).subspan(start));
        }
        return bytes;
    }

  protected:
    FakeMemory& memory_;
};

class SplitTestDevice final : public TestDevice {
  public:
    SplitTestDevice(FakeMemory& memory, SplitQueueDriver& queue)
        : TestDevice(memory),
          queue_(queue),
          next_avail_(queue.used_idx()),
          next_used_(queue.used_idx()),
          published_(queue.used_idx()) {}

    std::optional<Chain> acquire() override {
        const std::uint16_t avail_idx =
            std::atomic_ref(word(queue_.avail_ring(), kRingIdxOffset)).load();
        if (next_avail_ == avail_idx) return std::nullopt;
        const std::size_t slot = next_avail_++ % queue_.size();
        const std::uint16_t head = word(queue_.avail_ring(), kRingEntriesOffset + 2 * slot);
        return Chain{head, walk(head)};
    }

    void complete(std::uint32_t head, std::uint32_t len) override {
        const std::size_t slot = next_used_++ % queue_.size();
        *memory_.as<UsedElem>(queue_.used_ring() + kRingEntriesOffset + 8 * slot) = {head, len};
    }

    void publish(std::size_t count = SIZE_MAX) override {
        const auto all = static_cast<std::uint16_t>(next_used_ - published_);
        publish_idx(static_cast<std::uint16_t>(published_ + std::min<std::size_t>(all, count)));
    }
    void publish_idx(std::uint16_t index) {
        published_ = index;
        std::atomic_ref(word(queue_.used_ring(), kRingIdxOffset)).store(index);
    }
    // A used entry stands for the chains ahead of it, too.
    void skip_entries(std::uint16_t count) {
        next_used_ = static_cast<uint16_t>(next_used_ + count);
    }

    std::uint16_t& word(Gpa ring, std::size_t offset) const {
        return *memory_.as<std::uint16_t>(ring + offset);
    }

  private:
    std::vector<Piece> walk(std::uint16_t head) const {
        Gpa table = queue_.desc_table();
        Desc desc = queue_.desc(head);
        if ((desc.flags & kDescIndirect) != 0) {
            table = desc.addr;
            desc = *memory_.as<Desc>(table);
        }
        std::vector<Piece> pieces;
        for (;;) {
            pieces.push_back({desc.addr, desc.len, (desc.flags & kDescWrite) != 0});
            if ((desc.flags & kDescNext) == 0) return pieces;
            desc = *memory_.as<Desc>(table + sizeof(Desc) * desc.next);
        }
    }

    SplitQueueDriver& queue_;
    std::uint16_t next_avail_;
    std::uint16_t next_used_;
    std::uint16_t published_;
};

// Positions carry kPackedWrap, as everywhere.
class PackedTestDevice final : public TestDevice {
  public:
    PackedTestDevice(FakeMemory& memory, PackedQueueDriver& queue)
        : TestDevice(memory),
          queue_(queue),
          next_avail_(queue.used_idx()),
          next_used_(queue.used_idx()) {}

    std::optional<Chain> acquire() override {
        PackedDesc desc = look(next_avail_);
        const bool wrap = (next_avail_ & kPackedWrap) != 0;
        if ((desc.flags & kPackedStateFlags) != packed_avail_flags(wrap)) return std::nullopt;
        Chain chain{};
        if ((desc.flags & kDescIndirect) != 0) {
            chain = {desc.id, read_table(desc)};
        } else {
            for (chain.descriptors = 0;; desc = look(step(next_avail_, chain.descriptors))) {
                chain.pieces.push_back({desc.addr, desc.len, (desc.flags & kDescWrite) != 0});
                ++chain.descriptors;
                if ((desc.flags & kDescNext) == 0) break;
            }
            chain.head = desc.id;
        }
        next_avail_ = step(next_avail_, chain.descriptors);
        acquired_.push_back(chain);
        return chain;
    }

    // An id that was not acquired counts as a chain of one descriptor.
    void complete(std::uint32_t head, std::uint32_t len) override {
        const auto chain =
            std::find_if(acquired_.begin(), acquired_.end(),
                         [head](const Chain& acquired) { return acquired.head == head; });
        const bool known = chain != acquired_.end();
        complete_as(head, len, known ? chain->descriptors : std::uint16_t{1});
        if (known) acquired_.erase(chain);
    }
    // One used descriptor in the place of `descriptors`.
    void complete_as(std::uint32_t head, std::uint32_t len, std::uint16_t descriptors) {
        const bool wrap = (next_used_ & kPackedWrap) != 0;
        const std::uint16_t write = len != 0 ? kDescWrite : 0;
        done_.push_back({next_used_,
                         {0, len, static_cast<std::uint16_t>(head),
                          static_cast<std::uint16_t>(packed_used_flags(wrap) | write)}});
        next_used_ = step(next_used_, descriptors);
    }

    // The flags of the first last, so that whoever sees it sees the others.
    void publish(std::size_t count = SIZE_MAX) override {
        count = std::min(count, done_.size());
        for (std::size_t i = 0; i < count; ++i) write_body(done_[i]);
        for (std::size_t i = count; i > 0; --i) write_flags(done_[i - 1]);
        done_.erase(done_.begin(), done_.begin() + static_cast<std::ptrdiff_t>(count));
    }

    struct Used {
        std::uint16_t position;
        PackedDesc desc;
    };
    std::vector<Used>& unpublished() { return done_; }
    void write_body(const Used& used) const {
        PackedDesc& slot = queue_.desc(used.position);
        slot.id = used.desc.id;
        slot.len = used.desc.len;
    }
    void write_flags(const Used& used) const {
        std::atomic_ref(queue_.desc(used.position).flags).store(used.desc.flags);
    }

  private:
    std::uint16_t step(std::uint16_t position, std::size_t count) const {
        const std::size_t next = (position & ~kPackedWrap) + count;
        const auto wrap = static_cast<std::uint16_t>(position & kPackedWrap);
        if (next < queue_.size()) return static_cast<std::uint16_t>(next | wrap);
        return static_cast<std::uint16_t>((next - queue_.size()) | (wrap ^ kPackedWrap));
    }
    PackedDesc look(std::uint16_t position) const {
        PackedDesc& slot = queue_.desc(position);
        std::atomic_ref(slot.flags).load();
        return slot;
    }
    std::vector<Piece> read_table(const PackedDesc& desc) const {
        std::vector<Piece> pieces;
        for (std::uint32_t at = 0; at < desc.len; at += sizeof(PackedDesc)) {
            const auto entry = *memory_.as<PackedDesc>(desc.addr + at);
            pieces.push_back({entry.addr, entry.len, (entry.flags & kDescWrite) != 0});
        }
        return pieces;
    }

    PackedQueueDriver& queue_;
    std::uint16_t next_avail_;
    std::uint16_t next_used_;
    std::vector<Chain> acquired_;
    std::vector<Used> done_;
};

inline std::unique_ptr<TestDevice> make_test_device(FakeMemory& memory, QueueDriver& queue) {
    if (queue.is_packed()) {
        return std::make_unique<PackedTestDevice>(memory, dynamic_cast<PackedQueueDriver&>(queue));
    }
    return std::make_unique<SplitTestDevice>(memory, dynamic_cast<SplitQueueDriver&>(queue));
}

// Delivers frames into a receiveq as a correct backend does, over several buffers if it must.
class TestNetDevice {
  public:
    TestNetDevice(FakeMemory& memory, NetDriver& net, std::uint64_t features)
        : header_size_(net_header_size(features)),
          rx_(make_test_device(memory, net.rx().queue())),
          tx_(make_test_device(memory, net.tx().queue())),
          rx(*rx_),
          tx(*tx_) {}

    // Unpublished. False when the driver has too few buffers posted.
    bool deliver(std::span<const std::byte> frame) {
        std::vector<std::byte> bytes(header_size_);
        bytes.insert(bytes.end(), frame.begin(), frame.end());
        std::vector<TestDevice::Chain> chains;
        for (std::size_t room = 0; room < bytes.size();) {
            const auto chain = rx.acquire();
            if (!chain) return false;
            for (const Piece& piece : chain->pieces) room += piece.len;
            chains.push_back(*chain);
        }
        if (header_size_ == kHeaderSize) bytes[10] = std::byte(chains.size());
        std::span<const std::byte> rest(bytes);
        for (const TestDevice::Chain& chain : chains) {
            const std::uint32_t len = rx.fill(chain, rest);
            rx.complete(chain.head, len);
            rest = rest.subspan(len);
        }
        return true;
    }

    // Sends everything on the transmitq back into the receiveq; returns how many frames.
    std::size_t echo() {
        std::size_t frames = 0;
        while (const auto chain = tx.acquire()) {
            deliver(std::span<const std::byte>(tx.gather(*chain)).subspan(header_size_));
            tx.complete(chain->head, 0);
            ++frames;
        }
        rx.publish();
        tx.publish();
        return frames;
    }

  private:
    std::uint32_t header_size_;
    std::unique_ptr<TestDevice> rx_;
    std::unique_ptr<TestDevice> tx_;

  public:
    TestDevice& rx;
    TestDevice& tx;
};

}  // namespace zecorx::test
