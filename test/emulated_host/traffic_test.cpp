// The daemon on a NIC that vfio-pci gave it, behind an IOMMU that reports what it should not do.

#include <memory>

#include "test_bed.h"

namespace zecorx::test {
namespace {

TEST_CASE("Frames reach guests on huge and on small pages without a copy, and come back",
          "[traffic]") {
    Bed bed(2);
    for (unsigned round = 0; round < rounds(); ++round) {
        HostedFrontend huge(bed.host, 0, {.huge_pages = true});
        HostedFrontend small(bed.host, 1, {.huge_pages = false});
        for (HostedFrontend* guest : {&huge, &small}) guest->order("echo");
        for (unsigned vm = 0; vm < 2; ++vm) bed.daemon.wait_for_connection(vm, true);
        bed.check_exchange(kWarmUp);
        const nlohmann::json before = bed.daemon.stats();
        const nlohmann::json stat_before[] = {huge.stat(), small.stat()};

        bed.send_tagged();
        const std::uint32_t first = bed.next;
        bed.check_exchange(kFrames);

        const nlohmann::json after = bed.daemon.stats();
        std::size_t bytes = 0;
        for (unsigned vm = 0; vm < 2; ++vm) {
            const nlohmann::json stat = (vm == 0 ? huge : small).stat();
            INFO(stat.dump() << after.dump());
            CHECK(stat.at("frames").get<unsigned>() -
                      stat_before[vm].at("frames").get<unsigned>() ==
                  kFrames / 2);
            CHECK(stat.at("sent") == stat.at("frames"));
            bytes += stat.at("bytes").get<std::size_t>() -
                     stat_before[vm].at("bytes").get<std::size_t>();
            CHECK(zero_copied_share(before, after, vm) >= kLeastZeroCopied);
        }
        CHECK(bytes == bytes_of_numbered(first, kFrames));
        for (HostedFrontend* guest : {&huge, &small}) {
            guest->order("leave");
            check_untouched(*guest);
        }
        CHECK(bed.host.dma_faults() == 0);
    }
    bed.check_end();
}

TEST_CASE("DPDK's virtio driver returns every frame of the NIC", "[virtio-user]") {
    Bed bed(1);
    for (unsigned round = 0; round < rounds(); ++round) {
        HostedTestpmd guest(bed.host, 0);
        bed.daemon.wait_for_connection(0, true);
        // Until testpmd forwards, its frames are lost.
        bed.under_flood([] {});
        bed.check_exchange(kWarmUp);
        const nlohmann::json before = bed.daemon.stats();
        bed.check_exchange(kFrames);
        const nlohmann::json after = bed.daemon.stats();
        INFO(after.dump());
        CHECK(zero_copied_share(before, after, 0) >= kLeastZeroCopied);
    }
    bed.check_end();
}

TEST_CASE("A frontend that is killed under traffic leaves nothing for the NIC to write to",
          "[kill]") {
    Bed bed(2);
    HostedFrontend neighbour(bed.host, 1, {.huge_pages = false});
    neighbour.order("echo");
    for (unsigned round = 0; round < rounds(); ++round) {
        auto guest = std::make_unique<HostedFrontend>(
            bed.host, 0, FrontendOptions{.huge_pages = round % 2 == 0});
        guest->order("echo");
        bed.daemon.wait_for_connection(0, true);
        bed.under_flood([&] {
            guest->kill();
            bed.daemon.wait_for_connection(0, false);
        });
        CHECK(bed.host.dma_faults() == 0);

        guest.reset();
        guest = std::make_unique<HostedFrontend>(bed.host, 0);
        guest->order("echo");
        bed.daemon.wait_for_connection(0, true);
        bed.check_exchange(kFrames);
        check_untouched(*guest);
        check_untouched(neighbour);
        guest.reset();
    }
    bed.check_end();
}

TEST_CASE("Guest memory comes and goes under traffic", "[memory]") {
    Bed bed(2);
    // One for each kind of page and of message.
    HostedFrontend guests[] = {{bed.host, 0, {.huge_pages = true, .whole_tables = true}},
                               {bed.host, 1, {.huge_pages = false}}};
    for (HostedFrontend& guest : guests) guest.order("echo");
    for (unsigned round = 0; round < rounds(); ++round) {
        bed.under_flood([&] {
            for (HostedFrontend& guest : guests) guest.order("plug");
        });
        bed.check_exchange(kFrames);
        bed.under_flood([&] {
            for (HostedFrontend& guest : guests) {
                guest.order("unplug");
                const auto removed = [&] { return guest.stat().at("spare") == "removed"; };
                CHECK(wait_until(removed, HostedDaemon::kTimeout));
            }
        });
        bed.check_exchange(kFrames);
        for (HostedFrontend& guest : guests) check_untouched(guest);
        CHECK(bed.host.dma_faults() == 0);
    }
    bed.check_end();
}

// Whether the guest answers an echo request with what was in it.
bool answers(Wire& wire, std::uint32_t seq) {
    wire.send(
        make_echo_request({.dst = HostedDaemon::mac(0), .seq = seq, .size = size_of_numbered(seq)},
                          HostedLinux::kPeerIp, HostedLinux::kIp));
    const auto deadline = std::chrono::steady_clock::now() + Machine::kCommandTimeout;
    while (std::chrono::steady_clock::now() < deadline) {
        const auto frame = wire.receive(Machine::kCommandTimeout);
        if (frame && check_frame(*frame) == seq) return frame->size() == size_of_numbered(seq);
    }
    return false;
}

// Minutes long: an emulated processor that emulates another.
TEST_CASE("A Linux guest in the emulated host gets its frames without a copy", "[nested]") {
    constexpr std::uint32_t kRequests = 200;
    Bed bed(1);
    HostedLinux guest(bed.host, 0);
    // What came before Linux had posted buffers is copied.
    bool ready = true;
    for (std::uint32_t seq = 0; seq < kRequests; ++seq) ready &= answers(bed.host.wire(), seq);
    REQUIRE(ready);
    const nlohmann::json before = bed.daemon.stats();
    std::uint32_t answered = 0;
    for (std::uint32_t seq = kRequests; seq < 2 * kRequests; ++seq) {
        answered += answers(bed.host.wire(), seq);
    }
    CHECK(answered == kRequests);
    const nlohmann::json after = bed.daemon.stats();
    INFO(after.dump());
    CHECK(zero_copied_share(before, after, 0) >= kLeastZeroCopied);
    bed.check_end();
}

}  // namespace
}  // namespace zecorx::test
