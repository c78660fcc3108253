#include <catch2/catch_test_macros.hpp>

#include "soft82599_rig.h"

using namespace zecorx;
using namespace zecorx::test;
using nic::RxResult;
namespace reg = nic::reg;
namespace bits = nic::bits;

namespace {

constexpr MacAddress kStranger{{0x52, 0x54, 0x00, 0x77, 0x77, 0x77}};
constexpr MacAddress kGroup{{0x01, 0x00, 0x5E, 0x00, 0x00, 0xFB}};

// Three pools with a queue and a MAC each.
class FilterRig : public NicRig {
  public:
    explicit FilterRig(std::uint32_t control = bits::kVtCtlNoDefaultPool) {
        enable_vmdq(control);
        add_mac(0, kPortMac, 1);
        for (unsigned pool = 0; pool < 3; ++pool) {
            start_rx(2 * pool);
            if (pool != 0) add_mac(pool, guest_mac(static_cast<std::uint8_t>(pool)), 1u << pool);
        }
    }

    RxResult offer(const nic::Frame& frame) { return device().receive(frame); }
    std::array<unsigned, 3> counts() { return {done_count(0), done_count(2), done_count(4)}; }
    void set_vmolr(unsigned pool, std::uint32_t value) { write(reg::kVmolr + 4 * pool, value); }
};

using Counts = std::array<unsigned, 3>;

nic::Frame tagged(const MacAddress& to, std::uint16_t vlan) {
    return FrameBuilder().to(to).tag(vlan).be16(0x88B5).fill_to(100).build();
}

}  // namespace

TEST_CASE("without VMDq only the own address, broadcast and what is enabled passes",
          "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    CHECK(rig.device().receive(frame_of(kPortMac, 60)) == RxResult::kDelivered);
    CHECK(rig.device().receive(frame_of(kBroadcast, 60)) == RxResult::kDelivered);
    CHECK(rig.device().receive(frame_of(kStranger, 60)) == RxResult::kDroppedFilter);
    CHECK(rig.device().receive(frame_of(kGroup, 60)) == RxResult::kDroppedFilter);
    rig.write(reg::kFctrl, bits::kFctrlUnicastPromiscuous | bits::kFctrlMulticastPromiscuous);
    CHECK(rig.device().receive(frame_of(kStranger, 60)) == RxResult::kDelivered);
    CHECK(rig.device().receive(frame_of(kGroup, 60)) == RxResult::kDelivered);
    CHECK(rig.device().receive(frame_of(kBroadcast, 60)) == RxResult::kDroppedFilter);
}

TEST_CASE("the multicast table selects by 12 bits of the address", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    // Offset 0: the hash of 01:00:5e:00:00:fb is 0xFB0.
    rig.write(reg::kMta + 4 * (0xFB0 / 32), 1u << (0xFB0 % 32));
    CHECK(rig.device().receive(frame_of(kGroup, 60)) == RxResult::kDroppedFilter);
    rig.write(reg::kMcstctrl, bits::kMcstctrlFilterEnable);
    CHECK(rig.device().receive(frame_of(kGroup, 60)) == RxResult::kDelivered);
}

TEST_CASE("an address entry counts only while it is valid", "[soft82599]") {
    FilterRig rig;
    rig.write(reg::kRah + 8, 0x0101);
    CHECK(rig.offer(frame_of(guest_mac(1), 60)) == RxResult::kDroppedFilter);
}

TEST_CASE("unicast goes to the pool that owns the address", "[soft82599]") {
    FilterRig rig;
    rig.offer(frame_of(guest_mac(1), 60));
    rig.offer(frame_of(guest_mac(2), 60));
    rig.offer(frame_of(guest_mac(2), 60));
    CHECK(rig.counts() == Counts{0, 1, 2});
}

TEST_CASE("broadcast reaches each accepting pool once", "[soft82599]") {
    FilterRig rig;
    rig.set_vmolr(1, bits::kVmolrAcceptUntagged);
    rig.offer(frame_of(kBroadcast, 60));
    CHECK(rig.counts() == Counts{1, 0, 1});
}

TEST_CASE("multicast goes to promiscuous pools and to hash pools on a hit", "[soft82599]") {
    FilterRig rig;
    rig.set_vmolr(1, bits::kVmolrAcceptUntagged | bits::kVmolrMulticastPromiscuous);
    rig.set_vmolr(2, bits::kVmolrAcceptUntagged | bits::kVmolrMulticastHash);
    rig.offer(frame_of(kGroup, 60));
    CHECK(rig.counts() == Counts{0, 1, 0});
    rig.write(reg::kMcstctrl, bits::kMcstctrlFilterEnable);
    rig.write(reg::kMta + 4 * (0xFB0 / 32), 1u << (0xFB0 % 32));
    rig.offer(frame_of(kGroup, 60));
    CHECK(rig.counts() == Counts{0, 2, 1});
}

TEST_CASE("a stranger's address reaches the default pool only if promiscuity lets it in",
          "[soft82599]") {
    FilterRig rig(1u << bits::kVtCtlPoolShift);  // default pool 1
    CHECK(rig.offer(frame_of(kStranger, 60)) == RxResult::kDroppedFilter);
    rig.write(reg::kFctrl, bits::kFctrlUnicastPromiscuous);
    rig.offer(frame_of(kStranger, 60));
    CHECK(rig.counts() == Counts{0, 1, 0});
    rig.write(reg::kVtCtl, bits::kVtCtlEnable | bits::kVtCtlNoDefaultPool);
    CHECK(rig.offer(frame_of(kStranger, 60)) == RxResult::kDroppedFilter);
}

TEST_CASE("a pool without receive enable gets nothing", "[soft82599]") {
    FilterRig rig;
    rig.write(reg::kVfre, ~2u);
    CHECK(rig.offer(frame_of(guest_mac(1), 60)) == RxResult::kDroppedFilter);
}

TEST_CASE("untagged frames reach only pools that accept them", "[soft82599]") {
    FilterRig rig;
    rig.set_vmolr(1, 0);
    CHECK(rig.offer(frame_of(guest_mac(1), 60)) == RxResult::kDroppedFilter);
}

TEST_CASE("a tag must be in the VLAN table and in the pool's VLAN entry", "[soft82599]") {
    FilterRig rig;
    CHECK(rig.offer(tagged(guest_mac(1), 7)) == RxResult::kDroppedFilter);
    rig.write(reg::kVlvf + 4 * 9, bits::kVlvfEnable | 7);
    rig.write(reg::kVlvfb + 8 * 9, 1 << 1);
    CHECK(rig.offer(tagged(guest_mac(1), 7)) == RxResult::kDelivered);
    CHECK(rig.offer(tagged(guest_mac(2), 7)) == RxResult::kDroppedFilter);
    rig.write(reg::kVfta, 0);
    CHECK(rig.offer(tagged(guest_mac(1), 7)) == RxResult::kDroppedFilter);
}

TEST_CASE("broadcast in a VLAN stays in the VLAN", "[soft82599]") {
    FilterRig rig;
    rig.write(reg::kVlvf, bits::kVlvfEnable | 7);
    rig.write(reg::kVlvfb, 0b110);
    rig.offer(tagged(kBroadcast, 7));
    CHECK(rig.counts() == Counts{0, 1, 1});
}

TEST_CASE("pools 32 to 63 are reached through the upper words", "[soft82599]") {
    FilterRig rig;
    rig.add_mac(127, guest_mac(63), std::uint64_t{1} << 63);
    rig.start_rx(126);
    CHECK(rig.offer(frame_of(guest_mac(63), 60)) == RxResult::kDelivered);
    CHECK(rig.done_count(126) == 1);
}
