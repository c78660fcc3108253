// A VM's guest and frontend, in a process of its own: it receives, checks, sends, and does by
// itself what guests and frontends do to a backend.
//
// Its memory is shared with the checker, so that a killed guest's can still be looked at.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dice.h"
#include "frame_check.h"
#include "guest/frontend.h"
#include "guest/net_driver.h"
#include "shared.h"

namespace zecorx::soak {

// Guest memory as every VM has it: all that is allocated lies in the first region, and the second
// one is plugged in and out.
inline constexpr std::size_t kMainRegion = 0;
inline constexpr std::size_t kSpareRegion = 1;
std::vector<test::RegionSpec> guest_regions(test::PageSize page_size);

struct GuestConfig {
    std::size_t index = 0;
    std::size_t vms = 1;
    std::string socket;
    bool daemon_connects = false;  // client=1
    std::uint64_t seed = 0;
    std::uint64_t cycles = 0;  // 0: events for ever; else sessions one after the other
};

// What the checker says to a guest, one byte each. The guest answers the first with the same byte.
enum class Order : char {
    kRest = 'r',  // leave the daemon, and stay away
    kGo = 'g',
};

class Guest {
  public:
    // `control` carries orders and answers.
    Guest(const GuestConfig& config, test::FakeMemory& memory, Shared& shared, int control);

    // Until the checker hangs up, or all cycles are done.
    void run();

  private:
    using Clock = std::chrono::steady_clock;

    void run_events();
    void run_cycles();
    void guarded(auto&& step);

    // Orders.
    bool ordered() const;
    void obey();

    // Sessions.
    void attach();
    test::Frontend connect();
    void negotiate();
    void share_memory();
    void start(const test::VringBases& bases = {});
    void leave();
    void lost();
    void failed(const std::string& what);
    void await_release();
    bool daemon_killed() const;

    // The driver.
    void make_driver(std::uint64_t features);
    void drop_driver();
    test::NetDriver& net() { return *net_; }
    bool packed() { return net().rx().queue().is_packed(); }
    std::array<test::QueueDriver*, 2> queues() {
        return {&net().rx().queue(), &net().tx().queue()};
    }
    std::uint64_t random_features();

    // Traffic.
    void serve(std::chrono::microseconds duration);
    bool serve_frames(std::size_t frames);
    void pass();
    std::size_t receive();
    void send_some();
    test::TxLayout random_tx_layout();
    void watch_connection();

    // Verdicts.
    void violation(const std::string& what);
    void collect_violations();
    // Nothing may be written while `when` holds.
    void keep_still(const std::string& when);
    void check_spare_region();

    // Events.
    void happen(Event event);
    void disconnect();
    void stop_and_start();
    void reset();
    void disable();
    void change_table();
    void plug();
    void unplug();
    void replace_fd(bool call);
    void starve();
    std::vector<test::MemoryRegion> table() const;
    bool slots() const;  // regions are added and removed one by one

    const GuestConfig config_;
    test::FakeMemory& memory_;
    Shared& shared_;
    GuestReport& report_;
    const int control_;
    Dice dice_;          // of events: the same whatever the traffic is
    Dice traffic_dice_;  // of frames

    std::optional<test::UnixListener> listener_;
    std::optional<test::Frontend> frontend_;
    bool established_ = false;  // the daemon has answered
    bool resting_ = false;
    std::uint32_t generation_ = 0;  // of the daemon; of the session's once established

    std::optional<test::NetDriver> net_;
    std::uint64_t features_ = 0;
    std::uint16_t rx_size_ = 256;
    std::uint16_t tx_size_ = 256;
    std::size_t known_violations_ = 0;
    FrameCheck check_;
    unsigned layouts_ = 0;      // of this driver's receive buffers, one after the other
    std::uint64_t reaped_ = 0;  // receive buffers of this driver

    bool split_table_ = false;  // the main region is given as two
    enum class Spare { kNever, kPlugged, kUnplugged } spare_ = Spare::kNever;
    test::EventFd other_kick_, other_call_;
    std::uint64_t passes_ = 0;
};

}  // namespace zecorx::soak
