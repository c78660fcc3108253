#include <catch2/catch_test_macros.hpp>
#include <random>

#include "soft82599_rig.h"

using namespace zecorx;
using namespace zecorx::test;
namespace reg = nic::reg;

namespace {

nic::Frame random_frame(std::mt19937_64& random) {
    nic::Frame frame(random() % 2000);
    for (std::byte& b : frame) b = static_cast<std::byte>(random());
    if (frame.size() < 60) return frame;
    // Steer half of them past the address filter and into the parsers.
    if (random() % 2 == 0) std::memcpy(frame.data(), kPortMac.bytes.data(), 6);
    static constexpr std::uint16_t kTypes[] = {0x0800, 0x86DD, 0x8100, 0x88B5};
    nic::store_be16(frame, 12, kTypes[random() % 4]);
    static constexpr std::byte kVersions[] = {std::byte{0x45}, std::byte{0x60}, std::byte{0x4F}};
    frame[14] = kVersions[random() % 3];
    static constexpr std::byte kProtocols[] = {std::byte{6}, std::byte{17}, std::byte{132},
                                               std::byte{44}};
    frame[random() % 2 == 0 ? 23 : 20] = kProtocols[random() % 4];
    return frame;
}

}  // namespace

// Run under AddressSanitizer this also shows that no descriptor leads out of mapped memory.
TEST_CASE("no register write, descriptor or frame harms the model", "[soft82599]") {
    std::mt19937_64 random(82599);
    for (int round = 0; round < 20; ++round) {
        NicRig rig;
        for (unsigned queue : {0u, 2u, 127u}) rig.start_rx(queue, random() % 32, random() % 2 == 0);
        for (unsigned queue : {0u, 127u}) rig.start_tx(queue);
        for (int i = 0; i < 2000; ++i) {
            switch (random() % 6) {
                case 0: {
                    const auto offset = static_cast<std::uint32_t>(random() % nic::kBarSize & ~3u);
                    rig.write(offset, static_cast<std::uint32_t>(random()));
                    break;
                }
                case 1:
                    rig.read(static_cast<std::uint32_t>(random() % nic::kBarSize & ~3u));
                    break;
                case 2: {  // queue registers, in the doorbell pages
                    static constexpr std::uint32_t kPages[] = {0x1000, 0xDFC0, 0x6000, 0x7FC0};
                    const auto value = random() % 4 == 0 ? random() : random() % 128;
                    rig.poke(kPages[random() % 4] + random() % 16 * 4,
                             static_cast<std::uint32_t>(value));
                    break;
                }
                case 3:
                    rig.device().receive(random_frame(random));
                    break;
                case 4: {
                    const unsigned tail = rig.peek(reg::tx_queue(0) + reg::kTdt);
                    if (tail < NicRig::kTxRing) {
                        rig.post_tx(0, {NicRig::rx_buffer(0, 0) + random() % 8192, random()});
                    }
                    break;
                }
                default:
                    rig.transmit(8);
                    rig.device().retry_held_frames();
                    rig.device().rx_queue(0).finish_frame();
                    rig.device().rx_queue(0).interrupt_frames_after(random() % 3);
                    break;
            }
        }
    }
    SUCCEED();
}
