// A VM that only watches its sessions: what they tell it, and whether they keep to the rules by
// which a data path could lie over them.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "vhost_user/session.h"

namespace zecorx::test {

// Rules: memory, vrings and features change between quiesce() and settle() only; what was in the
// memory table stays mapped until settle() has been called, the log until log_changed() has.
//
// Thread rule: as of a SessionHost.
class WatchingHost final : public vhost_user::SessionHost {
  public:
    using Session = vhost_user::Session;

    void connected(Session& session) override {
        note("connected");
        sessions_[&session].settled = snapshot(session);
    }
    void disconnected(Session& session) override {
        note("disconnected");
        check(session, "a session ends");
        sessions_.erase(&session);
    }
    void quiesce(Session& session) override {
        note("quiesce");
        check(session, "quiesce()");
        sessions_[&session].quiesced = true;
        for (const auto& [vring, base] : bases_) session.stopped_at(vring, base);
        sessions_[&session].settled = snapshot(session);
    }
    void settle(Session& session) override {
        note("settle");
        Seen& seen = sessions_[&session];
        if (!std::exchange(seen.quiesced, false)) violate("settle() without quiesce()");
        for (const auto& region : seen.regions) {
            if (region.expired()) violate("a region was unmapped before settle()");
        }
        seen.settled = snapshot(session);
        seen.regions.assign(session.regions().begin(), session.regions().end());
        check_regions(session);
    }
    void call_changed(Session& session, std::size_t vring) override {
        note("call " + std::to_string(vring));
        check(session, "call_changed()");
    }
    void log_changed(Session& session) override {
        note("log");
        check(session, "log_changed()");
        Seen& seen = sessions_[&session];
        if (!seen.log.empty() && !is_mapped(seen.log)) violate("the log was unmapped too soon");
        seen.log = session.log();
    }
    void address_announced(Session& session, const MacAddress& mac) override {
        note("announced " + mac.to_string());
        check(session, "address_announced()");
    }
    std::uint64_t offered_features() const override { return vhost_user::kOfferedFeatures; }
    void check_mtu(std::uint64_t mtu) const override {
        if (mtu > 1500) throw vhost_user::Refusal("the MTU is too large");
    }
    void refused(const std::string& sentence) override { refusals.push_back(sentence); }

    // Nothing of `session` is other than at its last settle(). `when` is for the message.
    void check(const Session& session, const std::string& when) {
        const Seen& seen = sessions_[&session];
        if (seen.quiesced) violate(when + ": settle() has not been called");
        if (snapshot(session) != seen.settled) violate(when + ": the session has changed");
    }
    bool knows(const Session& session) const { return sessions_.contains(&session); }
    std::size_t sessions() const { return sessions_.size(); }

    // Where the next quiesce() says that a ring stands.
    void stops_at(std::size_t vring, std::uint16_t base) { bases_[vring] = base; }

    std::vector<std::string> take_calls() { return std::exchange(calls_, {}); }

    std::vector<std::string> refusals;
    std::vector<std::string> violations;

  private:
    struct RingSnapshot {
        std::uint32_t size;
        std::array<std::uint64_t, 3> addresses;
        std::uint16_t base;
        bool kicked, enabled;
        bool operator==(const RingSnapshot&) const = default;
    };
    struct Snapshot {
        std::uint64_t features = 0;  // without LOG_ALL, which changes under way
        std::uint64_t protocol_features = 0;
        std::vector<const vhost_user::GuestRegion*> regions;
        std::vector<RingSnapshot> rings;
        bool set_up = false;
        bool operator==(const Snapshot&) const = default;
    };
    struct Seen {
        bool quiesced = false;
        Snapshot settled;
        std::vector<std::weak_ptr<const vhost_user::GuestRegion>> regions;
        std::span<std::byte> log;
    };

    static Snapshot snapshot(const Session& session) {
        Snapshot now;
        now.features = session.features() & ~std::uint64_t{kFeatureLogAll};
        now.protocol_features = session.negotiated().protocol_features;
        for (const auto& region : session.regions()) now.regions.push_back(region.get());
        for (std::size_t i = 0; i < vhost_user::kVrings; ++i) {
            const vhost_user::Vring& ring = session.vring(i);
            const auto at = ring.address.value_or(vhost_user::VringAddress{});
            now.rings.push_back(
                {ring.size, {at.desc, at.avail, at.used}, ring.base, ring.kicked, ring.enabled});
        }
        now.set_up = session.set_up();
        return now;
    }

    static bool is_mapped(std::span<std::byte> memory) {
        constexpr std::uintptr_t kPage = 4096;
        const auto start = reinterpret_cast<std::uintptr_t>(memory.data()) / kPage * kPage;
        return ::msync(reinterpret_cast<void*>(start), kPage, MS_ASYNC) == 0;
    }

    void check_regions(const Session& session) {
        const auto& regions = session.regions();
        if (regions.size() > vhost_user::kMaxRegions) violate("there are too many regions");
        for (std::size_t i = 0; i < regions.size(); ++i) {
            const auto& region = *regions[i];
            const vhost_user::RegionDescription& is = region.description();
            if (region.mapping().bytes().size() != is.size || is.size == 0) {
                violate("a region has another size than its description");
            }
            if (is.gpa + is.size < is.gpa || is.user_address + is.size < is.user_address) {
                violate("a region wraps around");
            }
            for (std::size_t j = 0; j < i; ++j) check_apart(is, regions[j]->description());
        }
    }

    void check_apart(const vhost_user::RegionDescription& a,
                     const vhost_user::RegionDescription& b) {
        const auto apart = [](std::uint64_t x, std::uint64_t x_size, std::uint64_t y,
                              std::uint64_t y_size) {
            return x < y ? y - x >= x_size : x - y >= y_size;
        };
        if (!apart(a.gpa, a.size, b.gpa, b.size)) violate("regions overlap in guest memory");
        if (!apart(a.user_address, a.size, b.user_address, b.size)) {
            violate("regions overlap in the frontend's addresses");
        }
    }

    void note(std::string call) {
        constexpr std::size_t kKept = 64;
        if (calls_.size() < kKept) calls_.push_back(std::move(call));
    }
    void violate(std::string what) { violations.push_back(std::move(what)); }

    std::map<const Session*, Seen> sessions_;
    std::map<std::size_t, std::uint16_t> bases_;
    std::vector<std::string> calls_;
};

}  // namespace zecorx::test
