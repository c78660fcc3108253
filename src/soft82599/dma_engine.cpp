#include "dma_engine.h"

#include <emmintrin.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <utility>

namespace zecorx::soft82599 {
namespace {

// Faults come in storms: after this many, only every kLogEvery-th is logged.
constexpr std::uint64_t kLogFirst = 8;
constexpr std::uint64_t kLogEvery = 10'000;

std::uint64_t* descriptor_words(std::span<std::byte> memory) {
    if (memory.size() < sizeof(Descriptor)) return nullptr;
    auto* words = reinterpret_cast<std::uint64_t*>(memory.data());
    return std::bit_cast<std::uintptr_t>(words) % alignof(std::uint64_t) == 0 ? words : nullptr;
}

constexpr std::size_t kCacheLine = 64;

void evict(std::span<const std::byte> memory) {
    for (std::size_t at = 0; at < memory.size(); at += kCacheLine) _mm_clflush(&memory[at]);
    _mm_clflush(&memory.back());  // a line that the steps may have missed
    _mm_mfence();
}

// Calls visit(piece) for each page piece of the range; false if a piece is not mapped.
template <typename Visit>
bool for_each_piece(DmaSpace& space, std::uint64_t iova, std::size_t length, Visit visit) {
    while (length != 0) {
        const std::span<std::byte> piece = space.translate(iova, length);
        if (piece.empty()) return false;
        visit(piece);
        iova += piece.size();
        length -= piece.size();
    }
    return true;
}

}  // namespace

DmaEngine::DmaEngine(DmaSpace& space, PortCounters& counters, LogSink log)
    : space_(&space), counters_(&counters), log_(std::move(log)) {}

bool DmaEngine::read(std::uint64_t iova, std::span<std::byte> into, const char* what) {
    auto out = into.begin();
    const bool mapped = for_each_piece(
        *space_, iova, into.size(),
        [&out](std::span<std::byte> piece) { out = std::copy(piece.begin(), piece.end(), out); });
    if (!mapped) fault(iova, into.size(), what);
    return mapped;
}

bool DmaEngine::write(std::uint64_t iova, std::span<const std::byte> from, const char* what) {
    auto in = from.begin();
    const bool mapped =
        for_each_piece(*space_, iova, from.size(), [&in, this](std::span<std::byte> piece) {
            const auto end = in + static_cast<std::ptrdiff_t>(piece.size());
            std::copy(in, end, piece.begin());
            in = end;
            if (past_cache_) evict(piece);
        });
    if (!mapped) fault(iova, from.size(), what);
    return mapped;
}

std::optional<Descriptor> DmaEngine::read_descriptor(std::uint64_t iova, const char* what) {
    std::uint64_t* const words = descriptor_words(space_->translate(iova, sizeof(Descriptor)));
    if (words == nullptr) {
        fault(iova, sizeof(Descriptor), what);
        return std::nullopt;
    }
    return Descriptor{std::atomic_ref(words[0]).load(std::memory_order_relaxed),
                      std::atomic_ref(words[1]).load(std::memory_order_relaxed)};
}

bool DmaEngine::write_back(std::uint64_t iova, const Descriptor& descriptor, const char* what) {
    std::uint64_t* const words = descriptor_words(space_->translate(iova, sizeof(Descriptor)));
    if (words == nullptr) {
        fault(iova, sizeof(Descriptor), what);
        return false;
    }
    std::atomic_ref(words[0]).store(descriptor.low, std::memory_order_relaxed);
    // Pairs with the driver's load of DD.
    std::atomic_ref(words[1]).store(descriptor.high, std::memory_order_release);
    return true;
}

std::optional<std::uint64_t> DmaEngine::fingerprint(std::uint64_t iova, std::size_t length) {
    std::uint64_t hash = 0xCBF29CE484222325;  // FNV-1a
    const auto mix = [&hash](std::span<std::byte> piece) {
        for (const std::byte value : piece) {
            hash = (hash ^ std::to_integer<std::uint64_t>(value)) * 0x100000001B3;
        }
    };
    if (!for_each_piece(*space_, iova, length, mix)) return std::nullopt;
    return hash;
}

void DmaEngine::fault(std::uint64_t iova, std::size_t length, const char* what) {
    ++counters_->dma_faults;
    const std::uint64_t count = counters_->dma_faults;
    if (!log_ || (count > kLogFirst && count % kLogEvery != 0)) return;
    log_(fmt::format("DMA fault {}: {} at IOVA {:#x}, {} bytes, is not mapped", count, what, iova,
                     length));
}

}  // namespace zecorx::soft82599
