// The device side of a split virtqueue, small and trusting: it only serves the self test of the
// driver side. It misbehaves on request, so that the driver's checks can be seen to fail.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
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
    };

    TestDevice(FakeMemory& memory, SplitQueueDriver& queue)
        : memory_(memory),
          queue_(queue),
          next_avail_(queue.used_idx()),
          next_used_(queue.used_idx()) {}

    std::optional<Chain> acquire() {
        const std::uint16_t avail_idx =
            std::atomic_ref(word(queue_.avail_ring(), kRingIdxOffset)).load();
        if (next_avail_ == avail_idx) return std::nullopt;
        const std::size_t slot = next_avail_++ % queue_.size();
        const std::uint16_t head = word(queue_.avail_ring(), kRingEntriesOffset + 2 * slot);
        return Chain{head, walk(head)};
    }

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

    void complete(std::uint32_t id, std::uint32_t len) {
        const std::size_t slot = next_used_++ % queue_.size();
        *memory_.as<UsedElem>(queue_.used_ring() + kRingEntriesOffset + 8 * slot) = {id, len};
    }

    void publish() { publish_idx(next_used_); }
    void publish_idx(std::uint16_t index) {
        std::atomic_ref(word(queue_.used_ring(), kRingIdxOffset)).store(index);
    }

    std::uint16_t next_used() const { return next_used_; }
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

    FakeMemory& memory_;
    SplitQueueDriver& queue_;
    std::uint16_t next_avail_;
    std::uint16_t next_used_;
};

// Delivers frames into a receiveq as a correct backend does, over several buffers if it must.
class TestNetDevice {
  public:
    TestNetDevice(FakeMemory& memory, NetDriver& net, std::uint64_t features)
        : header_size_(net_header_size(features)),
          rx(memory, net.receiveq()),
          tx(memory, net.transmitq()) {}

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

  public:
    TestDevice rx;
    TestDevice tx;
};

}  // namespace zecorx::test
