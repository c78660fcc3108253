// Which VLANs a VM belongs to (IEEE 802.1Q), as its transmit path enforces it.
#pragma once

#include <bitset>
#include <cassert>
#include <cstdint>
#include <optional>
#include <span>

namespace zecorx {

inline constexpr std::uint16_t kVlanEthertype = 0x8100;  // IEEE 802.1Q 9.4
inline constexpr std::uint16_t kVlanIdMask = 0xfff;      // of the tag control information, 9.6

// A VM is on no VLAN (the default), on one that it knows nothing of (access), or on several whose
// tags it sees beside untagged frames (trunk). What it may not send by that, it may not tag either:
// a priority tag (VLAN 0) is a tag.
class VlanPolicy {
  public:
    VlanPolicy() = default;

    // REQUIRES: 1 <= id <= 4094, here and below.
    static VlanPolicy access(std::uint16_t id) {
        assert(usable(id));
        VlanPolicy policy;
        policy.inserted_ = id;
        return policy;
    }
    static VlanPolicy trunk(std::span<const std::uint16_t> ids) {
        VlanPolicy policy;
        for (const std::uint16_t id : ids) {
            assert(usable(id));
            policy.tags_.set(id);
        }
        return policy;
    }

    // Whether the VM may send a frame with a tag of this control information.
    bool admits_tag(std::uint16_t tci) const { return tags_[tci & kVlanIdMask]; }
    // The tag that the NIC gives what the VM sends.
    std::optional<std::uint16_t> inserted() const { return inserted_; }

  private:
    static bool usable(std::uint16_t id) { return id >= 1 && id <= 4094; }

    std::bitset<kVlanIdMask + 1> tags_;
    std::optional<std::uint16_t> inserted_;
};

}  // namespace zecorx
