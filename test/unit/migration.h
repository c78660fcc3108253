// A migration of a fake guest's memory, as a frontend does it: all pages once, then those whose bit
// the backend set, again and again.
//
// What the guest itself writes the hypervisor knows, to the byte; what the backend writes is known
// by its log alone. So wherever the copy differs from the memory, the backend wrote and did not
// say so.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "guest/guest_memory.h"
#include "zecorx/dirty_log.h"

namespace zecorx::test {

class Migration {
  public:
    // A copy of guest memory.
    using Image = std::vector<std::vector<std::byte>>;  // by region

    explicit Migration(FakeMemory& memory) {
        Gpa end = 0;
        for (const MemoryRegion& region : memory.regions()) {
            regions_.push_back({region.gpa, {memory.at(region.gpa, region.size), region.size}});
            copy_.emplace_back(region.size);
            end = std::max(end, region.gpa + region.size);
        }
        before_ = view_ = copy_;
        bitmap_bytes_ = (end / DirtyLog::kPage + 7) / 8;
        bitmap_.assign(bitmap_bytes_ + kSentinels, kSentinel);
    }

    // From here on all that changes goes to the copy, sooner or later. Returns the log to be used.
    DirtyLog begin() {
        std::ranges::fill(bits(), std::byte{0});
        for (auto& region : copy_) std::ranges::fill(region, std::byte{0x5A});
        next_ = {};
        active_ = true;
        return DirtyLog(bits());
    }
    void cancel() { active_ = false; }
    bool active() const { return active_; }
    // Every page was transferred once.
    bool converging() const { return active_ && next_.region == regions_.size(); }

    // The guest runs, and writes what `act` writes.
    void guest(auto&& act) {
        if (!active_) return act();
        for (std::size_t i = 0; i < regions_.size(); ++i)
            std::ranges::copy(regions_[i].bytes, before_[i].begin());
        act();
        for (std::size_t i = 0; i < regions_.size(); ++i) follow(i, before_[i]);
    }

    // Transfers the next pages of those never transferred, at most `most`; if there are none, the
    // dirty ones.
    void transfer(std::size_t most) {
        if (!active_) return;
        if (converging()) return transfer_dirty(copy_, true);
        for (; most > 0 && !converging(); --most) transfer_next();
    }
    // All of both. REQUIRES: active().
    void finish() {
        while (!converging()) transfer_next();
        transfer_dirty(copy_, true);
    }

    // The copy, had the frontend stopped the VM now; valid until this is asked again.
    // REQUIRES: converging().
    const Image& view() {
        for (std::size_t i = 0; i < regions_.size(); ++i)
            std::ranges::copy(copy_[i], view_[i].begin());
        transfer_dirty(view_, false);
        return view_;
    }

    // Where in a range of guest memory an image differs from it.
    std::optional<Gpa> difference(const Image& from, GuestRange range) const {
        for (std::size_t i = 0; i < regions_.size(); ++i) {
            const Gpa first = std::max(range.gpa, regions_[i].gpa);
            const Gpa end = std::min(range.end(), regions_[i].gpa + regions_[i].bytes.size());
            if (first >= end) continue;
            const std::size_t at = first - regions_[i].gpa;
            const std::size_t bytes = end - first;
            if (std::memcmp(&from[i][at], &regions_[i].bytes[at], bytes) == 0) continue;
            const auto here = regions_[i].bytes.subspan(at, bytes);
            return first +
                   static_cast<Gpa>(
                       std::ranges::mismatch(here, std::span(from[i]).subspan(at, bytes)).in1 -
                       here.begin());
        }
        return std::nullopt;
    }
    // Where the copy differs from the memory at all.
    std::optional<Gpa> difference() const { return difference(copy_, {0, ~Gpa{0}}); }

    // Pages that were marked and that nobody has.
    std::size_t strange_pages() const { return strange_pages_; }
    bool sentinels_intact() const {
        return std::ranges::all_of(std::span(bitmap_).subspan(bitmap_bytes_),
                                   [](std::byte byte) { return byte == kSentinel; });
    }

  private:
    static constexpr std::size_t kPage = DirtyLog::kPage;
    static constexpr std::size_t kSentinels = 64;
    static constexpr std::byte kSentinel{0xC3};

    struct Region {
        Gpa gpa;
        std::span<std::byte> bytes;
    };
    struct Place {
        std::size_t region = 0;
        std::size_t offset = 0;
    };

    std::span<std::byte> bits() { return std::span(bitmap_).first(bitmap_bytes_); }

    void follow(std::size_t region, const std::vector<std::byte>& before) {
        const std::span<std::byte> now = regions_[region].bytes;
        for (std::size_t page = 0; page < now.size(); page += kPage) {
            if (std::memcmp(&now[page], &before[page], kPage) == 0) continue;
            for (std::size_t at = page; at < page + kPage; ++at)
                if (now[at] != before[at]) copy_[region][at] = now[at];
        }
    }

    void transfer_next() {
        const std::span<std::byte> bytes = regions_[next_.region].bytes;
        std::memcpy(&copy_[next_.region][next_.offset], &bytes[next_.offset], kPage);
        next_.offset += kPage;
        if (next_.offset == bytes.size()) next_ = {next_.region + 1, 0};
    }

    void transfer_dirty(Image& to, bool clear) {
        for (std::size_t i = 0; i < bitmap_bytes_; ++i) {
            std::atomic_ref byte(reinterpret_cast<unsigned char&>(bitmap_[i]));
            const unsigned dirty = clear ? byte.exchange(0) : byte.load();
            for (unsigned bit = 0; bit < 8; ++bit)
                if ((dirty >> bit & 1) != 0) transfer_page((8 * i + bit) * kPage, to);
        }
    }

    void transfer_page(Gpa page, Image& to) {
        for (std::size_t i = 0; i < regions_.size(); ++i) {
            const std::size_t at = page - regions_[i].gpa;
            if (at >= regions_[i].bytes.size()) continue;
            std::memcpy(&to[i][at], &regions_[i].bytes[at], kPage);
            return;
        }
        ++strange_pages_;
    }

    std::vector<Region> regions_;
    Image copy_;
    Image before_;  // the guest wrote last
    Image view_;
    std::vector<std::byte> bitmap_;
    std::size_t bitmap_bytes_ = 0;
    Place next_;  // to be transferred for the first time
    bool active_ = false;
    std::size_t strange_pages_ = 0;
};

}  // namespace zecorx::test
