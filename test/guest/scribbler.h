// A driver's accomplice on another CPU: rewrites rings, tables and headers while the device reads
// them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "guest_memory.h"
#include "zecorx/virtio.h"

namespace zecorx::test {

// What is written where until the object is destroyed. Values are those that a descriptor may
// have, so that a device gets far with them; a wild scribbler also writes those it must refuse.
class Scribbler {
  public:
    enum class Content { kDescriptors, kPackedDescriptors, kHeads, kAnything };
    struct Target {
        std::span<std::byte> memory;  // aligned to 16
        Content content;
        std::uint16_t write_flag = 0;  // kDescWrite: of a receiveq
    };

    // Addresses lie in `ram`, of which every byte may be given away.
    Scribbler(std::vector<Target> targets, GuestRange ram, bool wild, std::uint64_t seed)
        : targets_(std::move(targets)),
          ram_(ram),
          wild_(wild),
          random_(seed),
          thread_([this](const std::stop_token& stop) {
              while (!stop.stop_requested()) scribble();
          }) {}
    Scribbler(const Scribbler&) = delete;
    Scribbler& operator=(const Scribbler&) = delete;

  private:
    void scribble() {
        const Target& target = targets_[random_() % targets_.size()];
        auto* const words = reinterpret_cast<std::uint64_t*>(target.memory.data());
        const std::size_t i = random_() % (target.memory.size() / sizeof *words);
        __atomic_store_n(words + i, word_for(target, i), __ATOMIC_RELAXED);
    }

    std::uint64_t word_for(const Target& target, std::size_t i) {
        const bool odd = wild_ && random_() % 16 == 0;
        if (odd || target.content == Content::kAnything) return random_();
        if (target.content == Content::kHeads) return random_() & 0x001f'001f'001f'001f;
        if (i % 2 == 0) return ram_.gpa + random_() % (ram_.len - kLongest);
        const std::uint64_t length = random_() % kLongest;
        const bool packed = target.content == Content::kPackedDescriptors;
        const std::uint64_t low = length | (random_() % 32) << 32;
        if (packed) return low | std::uint64_t{packed_flags(target)} << 48;
        // Split: flags, then next, which a descriptor's id is in the packed one's place of.
        return length | std::uint64_t{flags(target)} << 32 | (random_() % 32) << 48;
    }

    std::uint16_t flags(const Target& target) {
        const std::uint64_t chain = random_() % 4 == 0 ? kDescNext : 0;
        return static_cast<std::uint16_t>(target.write_flag | chain);
    }
    std::uint16_t packed_flags(const Target& target) {
        const std::uint16_t turn = random_() % 2 == 0 ? kPackedDescAvail : kPackedDescUsed;
        return static_cast<std::uint16_t>(flags(target) | turn);
    }

    static constexpr std::uint64_t kLongest = 2048;

    const std::vector<Target> targets_;
    const GuestRange ram_;
    const bool wild_;
    std::mt19937_64 random_;
    std::jthread thread_;
};

}  // namespace zecorx::test
