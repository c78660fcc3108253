#include <catch2/catch_test_macros.hpp>
#include <set>

#include "soft82599_rig.h"

using namespace zecorx;
using namespace zecorx::test;
namespace reg = nic::reg;
namespace bits = nic::bits;

TEST_CASE("the register table has no two rows for one offset", "[soft82599]") {
    std::set<std::uint32_t> seen;
    for (const nic::RegisterBlock& block : nic::register_table()) {
        for (unsigned i = 0; i < block.count; ++i) {
            INFO(block.name << " instance " << i);
            CHECK(seen.insert(block.offset + i * block.stride).second);
            CHECK(block.offset + i * block.stride < nic::kBarSize);
        }
    }
}

TEST_CASE("a register with read effects never lies in a doorbell page", "[soft82599]") {
    for (const nic::RegisterBlock& block : nic::register_table()) {
        if (block.access == nic::Access::kReadWrite) continue;
        INFO(block.name);
        CHECK_FALSE(nic::is_doorbell_page(block.offset));
    }
}

TEST_CASE("reset clears itself and restores defaults", "[soft82599]") {
    NicRig rig;
    rig.write(reg::kFctrl, 0x700);
    rig.write(reg::kCtrl, bits::kCtrlReset);
    CHECK((rig.read(reg::kCtrl) & bits::kCtrlReset) == 0);
    CHECK(rig.read(reg::kFctrl) == 0);
    CHECK((rig.read(reg::kEec) & bits::kEecAutoReadDone) != 0);
    CHECK((rig.read(reg::kRdrxctl) & bits::kRdrxctlDmaInitDone) != 0);
    CHECK(rig.read(reg::kRal) == 0x82005452);
    CHECK(rig.read(reg::kRah) == (0x0059 | bits::kRahValid));
}

TEST_CASE("the EEPROM's first words sum to 0xBABA", "[soft82599]") {
    NicRig rig;
    std::uint16_t sum = 0;
    for (std::uint32_t word = 0; word < 0x40; ++word) {
        rig.write(reg::kEerd, word << 2 | bits::kEerdStart);
        const std::uint32_t result = rig.read(reg::kEerd);
        REQUIRE((result & bits::kEerdDone) != 0);
        sum = static_cast<std::uint16_t>(sum + (result >> 16));
    }
    CHECK(sum == 0xBABA);
}

TEST_CASE("the software semaphore is taken by reading it", "[soft82599]") {
    NicRig rig;
    CHECK((rig.read(reg::kSwsm) & bits::kSwsmSmbi) == 0);
    CHECK((rig.read(reg::kSwsm) & bits::kSwsmSmbi) != 0);
    rig.write(reg::kSwsm, 0);
    CHECK((rig.read(reg::kSwsm) & bits::kSwsmSmbi) == 0);
}

TEST_CASE("EIMS sets and EIMC clears bits of one mask", "[soft82599]") {
    NicRig rig;
    rig.write(reg::kEims, 0xF0);
    rig.write(reg::kEims, 0x0F);
    rig.write(reg::kEimc, 0x11);
    CHECK(rig.read(reg::kEims) == 0xEE);
}

TEST_CASE("a link change raises one interrupt until its cause is read", "[soft82599]") {
    NicRig rig;
    rig.write(reg::kEims, bits::kEicrLinkChange);
    rig.device().set_link(false);
    CHECK(rig.interrupts() == 1);
    CHECK((rig.read(reg::kLinks) & bits::kLinksUp) == 0);
    rig.device().set_link(true);
    CHECK(rig.interrupts() == 1);
    CHECK(rig.read(reg::kEicr) == bits::kEicrLinkChange);
    CHECK(rig.read(reg::kEicr) == 0);
    rig.device().set_link(false);
    CHECK(rig.interrupts() == 2);
}

TEST_CASE("a masked cause interrupts when it is unmasked", "[soft82599]") {
    NicRig rig;
    rig.device().set_link(false);
    CHECK(rig.interrupts() == 0);
    rig.write(reg::kEims, bits::kEicrLinkChange);
    CHECK(rig.interrupts() == 1);
    rig.write(reg::kEicr, bits::kEicrLinkChange);
    CHECK(rig.read(reg::kEicr) == 0);
}

TEST_CASE("aliases of queue and address registers reach the same storage", "[soft82599]") {
    NicRig rig;
    rig.write(0x2100 + 4 * 3, 0x0204);
    CHECK(rig.peek(reg::rx_queue(3) + reg::kSrrctl) == 0x0204);
    rig.write(0x5400 + 8, 0x11223344);
    CHECK(rig.read(reg::kRal + 8) == 0x11223344);
}

TEST_CASE("read-only registers ignore writes", "[soft82599]") {
    NicRig rig;
    const std::uint32_t links = rig.read(reg::kLinks);
    rig.write(reg::kLinks, 0);
    CHECK(rig.read(reg::kLinks) == links);
}

TEST_CASE("statistics clear on read", "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    rig.device().receive(frame_of(kPortMac, 60));
    rig.device().receive(frame_of(kBroadcast, 1000));
    CHECK(rig.read(reg::kGprc) == 2);
    CHECK(rig.read(reg::kGprc) == 0);
    CHECK(rig.read(reg::kGorc) == 1060);
    CHECK(rig.read(reg::kGorc) == 0);
    CHECK(rig.read(reg::kTor) == 1068);
    CHECK(rig.read(reg::kBprc) == 1);
    CHECK(rig.read(reg::kPrc64) == 1);
    CHECK(rig.read(reg::kPrc64 + 4 * 4) == 1);
}

TEST_CASE("queue counters show between the two marks of a reading and count nothing twice",
          "[soft82599]") {
    NicRig rig;
    rig.start_rx(0);
    rig.write(reg::kRqsmr, 5);  // queue 0 counts in counter 5
    const std::uint32_t qprc = reg::kQprc + 5 * reg::kQueueStatisticStride;
    const std::uint32_t qbrc = reg::kQbrc + 5 * reg::kQueueStatisticStride;
    rig.device().receive(frame_of(kPortMac, 100));

    rig.read(reg::kCrcerrs);
    rig.device().receive(frame_of(kPortMac, 200));  // arrives in the middle of the reading
    CHECK(rig.peek(qprc) == 1);
    CHECK(rig.peek(qbrc) == 100);
    rig.read(reg::kMlfc);
    CHECK(rig.peek(qprc) == 0);

    rig.read(reg::kCrcerrs);
    CHECK(rig.peek(qprc) == 1);
    CHECK(rig.peek(qbrc) == 200);
    rig.read(reg::kMlfc);
    rig.read(reg::kCrcerrs);
    CHECK(rig.peek(qprc) == 0);
}
