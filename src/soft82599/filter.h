// Which pools a received frame goes to: the MAC, VLAN and VMDq filters (sections 7.1.1 and 7.10.3).
//
// Stateless: every decision reads the registers, so a filter change takes effect with the next
// frame. Without VMDq there is one pool, 0.
#pragma once

#include <cstdint>

#include "frame.h"
#include "register_file.h"

namespace zecorx::soft82599 {

using PoolSet = std::uint64_t;  // bit p = pool p

class ReceiveFilter {
  public:
    explicit ReceiveFilter(RegisterFile registers) : regs_(registers) {}

    // The pools a frame from the wire is delivered to; 0 = it is dropped.
    PoolSet pools_for(const FrameLayout& layout) const;

    // The pools a frame that a pool sent is looped back to, before its own pool is taken out: no
    // default pool, because what matches nothing leaves by the wire.
    PoolSet loopback_pools_for(const FrameLayout& layout) const;

    // Whether a pool that receives has this very address: such unicast never leaves by the wire.
    bool is_local(const MacAddress& address) const;

    bool virtualized() const { return regs_.test(reg::kVtCtl, bits::kVtCtlEnable); }

  private:
    PoolSet exact_match(const MacAddress& address) const;
    bool has_exact_match(const MacAddress& address) const;
    bool accepts_address(const MacAddress& address) const;
    bool accepts_vlan(const FrameLayout& layout) const;
    bool hash_hit(std::uint32_t table, const MacAddress& address) const;
    PoolSet pools_with(std::uint32_t vmolr_bit) const;
    PoolSet address_pools(const MacAddress& address) const;
    PoolSet vlan_pools(const FrameLayout& layout, PoolSet pools) const;
    PoolSet enabled_pools() const { return regs_.get64(reg::kVfre); }
    PoolSet default_pool() const;

    RegisterFile regs_;
};

}  // namespace zecorx::soft82599
