// One software port: a device, its BAR, its interrupt line and its wire.
//
// Thread rule: every public function may be called from any thread, at any time. The device, the
// interrupt line and the frames sent are guarded by mutex_; the wire by wire_mutex_, which is taken
// first where both are.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "config.h"
#include "counters.h"
#include "device.h"
#include "dma_space.h"
#include "frame.h"
#include "mmio_trap.h"
#include "uio_node.h"
#include "wire.h"

namespace zecorx::soft82599 {

class Port : private MmioHandler {
  public:
    // Throws std::runtime_error.
    Port(const PortConfig& config, const MacAddress& mac, std::unique_ptr<DmaSpace> dma,
         LogSink log);
    ~Port();
    Port(const Port&) = delete;
    Port& operator=(const Port&) = delete;

    const std::string& bdf() const { return config_.bdf; }
    const MacAddress& mac() const { return mac_; }
    PortCounters counters() const;

    // A frame arrives from the wire now. Without CRC.
    RxResult inject(FrameView frame);
    // Takes at most `max_frames` from the wire and delivers them; returns how many were taken.
    // Frames that wait for descriptors are tried again first.
    unsigned step(unsigned max_frames);
    // Sends at most `max_packets` of what the driver posted; returns how many were taken.
    unsigned step_tx(unsigned max_packets);
    // What was sent while the wire is "none", oldest first. At most kKeptFrames are kept.
    std::vector<Frame> take_transmitted();

    // Link status with an interrupt to the driver.
    void set_link(bool up);

    // See DmaEngine.
    void write_past_cache(bool on);
    // See RxQueue. REQUIRES: queue < kQueues.
    void guard_buffers_at_stop(bool on);
    std::optional<std::size_t> verify_stopped_queue(unsigned queue);
    void interrupt_frames_after(unsigned descriptors);
    void finish_interrupted_frames();
    void limit_descriptors_per_frame(unsigned descriptors);

    // For the machine: before EAL starts, in this order.
    unsigned uio_number() const { return uio_.number(); }
    void attach_bar(int resource_fd);
    void start_thread();

  private:
    static constexpr std::size_t kKeptFrames = 65536;

    std::uint32_t mmio_read(std::uint32_t offset) override;
    void mmio_write(std::uint32_t offset, std::uint32_t value) override;

    void run(const std::stop_token& stop);
    bool move_frames();
    void rest(unsigned idle_rounds);
    unsigned deliver(const std::vector<Frame>& frames);
    void send(const std::vector<Frame>& frames);
    void yield_to_register_access() const;

    const PortConfig config_;
    const MacAddress mac_;
    const LogSink log_;
    const std::unique_ptr<DmaSpace> dma_;
    UioNode uio_;

    mutable std::mutex mutex_;
    std::unique_ptr<MmioRegion> bar_;
    std::optional<Device> device_;
    std::deque<Frame> transmitted_;
    // Register accesses that wait for mutex_: the model's thread lets them go first, since a mutex
    // that is taken again at once may never pass to the waiter.
    std::atomic<unsigned> waiting_accesses_{0};

    std::mutex wire_mutex_;
    std::unique_ptr<Wire> wire_;
    std::vector<Frame> received_;  // reused between rounds
    std::vector<Frame> sent_;

    std::jthread thread_;
};

}  // namespace zecorx::soft82599
