#include "filter.h"

namespace zecorx::soft82599 {
namespace {

constexpr std::uint16_t kVlanIdMask = 0x0FFF;

bool is_broadcast(const MacAddress& address) {
    return address == MacAddress{{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}};
}

std::uint32_t low_word(const MacAddress& address) {
    const auto& b = address.bytes;
    return b[0] | std::uint32_t{b[1]} << 8 | std::uint32_t{b[2]} << 16 | std::uint32_t{b[3]} << 24;
}

std::uint32_t high_word(const MacAddress& address) {
    return address.bytes[4] | std::uint32_t{address.bytes[5]} << 8;
}

// MCSTCTRL.MO selects which 12 of the last 16 address bits index the hash tables (8.2.3.7.2).
unsigned hash_of(const MacAddress& address, unsigned offset_select) {
    const unsigned shift = 4 - offset_select;
    return high_word(address) >> shift & 0xFFF;
}

}  // namespace

PoolSet ReceiveFilter::pools_for(const FrameLayout& layout) const {
    if (!accepts_address(layout.destination) || !accepts_vlan(layout)) return 0;
    if (!virtualized()) return 1;
    PoolSet pools = vlan_pools(layout, address_pools(layout.destination));
    if (pools == 0) pools = default_pool();
    return pools & enabled_pools();
}

PoolSet ReceiveFilter::loopback_pools_for(const FrameLayout& layout) const {
    return vlan_pools(layout, address_pools(layout.destination)) & enabled_pools();
}

bool ReceiveFilter::is_local(const MacAddress& address) const {
    return (exact_match(address) & enabled_pools()) != 0;
}

// The gate in front of pool selection: FCTRL, the exact addresses and the hash tables (7.1.1.1).
bool ReceiveFilter::accepts_address(const MacAddress& address) const {
    if (is_broadcast(address)) return regs_.test(reg::kFctrl, bits::kFctrlBroadcastAccept);
    if (has_exact_match(address)) return true;
    if (address.is_multicast()) {
        return regs_.test(reg::kFctrl, bits::kFctrlMulticastPromiscuous) ||
               hash_hit(reg::kMta, address) ||
               (virtualized() && pools_with(bits::kVmolrMulticastPromiscuous) != 0);
    }
    return regs_.test(reg::kFctrl, bits::kFctrlUnicastPromiscuous) || hash_hit(reg::kUta, address);
}

bool ReceiveFilter::accepts_vlan(const FrameLayout& layout) const {
    if (!layout.vlan || !regs_.test(reg::kVlnctrl, bits::kVlnctrlFilterEnable)) return true;
    return regs_.test_bit(reg::kVfta, *layout.vlan & kVlanIdMask);
}

// Pool selection by address with replication (7.10.3.3): exact addresses, then broadcast, then the
// hash tables where nothing matched exactly, then multicast promiscuity.
PoolSet ReceiveFilter::address_pools(const MacAddress& address) const {
    if (is_broadcast(address)) return exact_match(address) | pools_with(bits::kVmolrBroadcast);
    PoolSet pools = exact_match(address);
    if (address.is_multicast()) {
        if (pools == 0 && hash_hit(reg::kMta, address)) {
            pools = pools_with(bits::kVmolrMulticastHash);
        }
        return pools | pools_with(bits::kVmolrMulticastPromiscuous);
    }
    if (pools == 0 && hash_hit(reg::kUta, address)) pools = pools_with(bits::kVmolrUnicastHash);
    return pools;
}

// Pools are selected by address first and then narrowed by VLAN, if VLAN filtering is on: a tagged
// frame to the pools of its PFVLVF entry, none without one; an untagged frame to pools with AUPE.
PoolSet ReceiveFilter::vlan_pools(const FrameLayout& layout, PoolSet pools) const {
    if (!regs_.test(reg::kVlnctrl, bits::kVlnctrlFilterEnable)) return pools;
    if (!layout.vlan) return pools & pools_with(bits::kVmolrAcceptUntagged);
    const std::uint32_t wanted = bits::kVlvfEnable | (*layout.vlan & kVlanIdMask);
    for (unsigned i = 0; i < kVlanPoolFilters; ++i) {
        const std::uint32_t entry = regs_.get(reg::kVlvf + 4 * i);
        if ((entry & (bits::kVlvfEnable | kVlanIdMask)) == wanted) {
            return pools & regs_.get64(reg::kVlvfb + 8 * i);
        }
    }
    return 0;
}

PoolSet ReceiveFilter::exact_match(const MacAddress& address) const {
    const std::uint32_t low = low_word(address);
    const std::uint32_t high = high_word(address) | bits::kRahValid;
    PoolSet pools = 0;
    for (unsigned i = 0; i < kReceiveAddresses; ++i) {
        const bool match = regs_.get(reg::kRal + 8 * i) == low &&
                           (regs_.get(reg::kRah + 8 * i) & (bits::kRahValid | 0xFFFF)) == high;
        if (match) pools |= regs_.get64(reg::kMpsar + 8 * i);
    }
    return pools;
}

bool ReceiveFilter::has_exact_match(const MacAddress& address) const {
    const std::uint32_t low = low_word(address);
    const std::uint32_t high = high_word(address) | bits::kRahValid;
    for (unsigned i = 0; i < kReceiveAddresses; ++i) {
        if (regs_.get(reg::kRal + 8 * i) == low &&
            (regs_.get(reg::kRah + 8 * i) & (bits::kRahValid | 0xFFFF)) == high) {
            return true;
        }
    }
    return false;
}

bool ReceiveFilter::hash_hit(std::uint32_t table, const MacAddress& address) const {
    const std::uint32_t control = regs_.get(reg::kMcstctrl);
    // MFE switches the multicast table; the unicast table is used by pools with ROPE only.
    if (table == reg::kMta && (control & bits::kMcstctrlFilterEnable) == 0) return false;
    return regs_.test_bit(table, hash_of(address, control & 3));
}

PoolSet ReceiveFilter::pools_with(std::uint32_t vmolr_bit) const {
    PoolSet pools = 0;
    for (unsigned pool = 0; pool < kPools; ++pool) {
        if (regs_.test(reg::kVmolr + 4 * pool, vmolr_bit)) pools |= PoolSet{1} << pool;
    }
    return pools;
}

PoolSet ReceiveFilter::default_pool() const {
    const std::uint32_t control = regs_.get(reg::kVtCtl);
    if ((control & bits::kVtCtlNoDefaultPool) != 0) return 0;
    return PoolSet{1} << (control >> bits::kVtCtlPoolShift & 0x3F);
}

}  // namespace zecorx::soft82599
