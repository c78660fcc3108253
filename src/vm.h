// One VM: its --vdev settings, its datapath, and the vhost session that may be connected to it.
//
// Thread rule: control side, every call under the control mutex; librte_vhost's events and
// reconnect threads and the main thread call in. Workers never take that mutex.
//
// The datapath runs exactly while a session is running, both rings are ready and no message is
// changing what lies under it. start() and stop() are the only ways in and out, and stop() is
// idempotent: when it has returned, the NIC owns none of the guest's memory.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "datapath.h"
#include "dma_memory.h"
#include "options.h"
#include "poller.h"
#include "port.h"
#include "zecorx/mac_address.h"
#include "zecorx/unique_fd.h"

namespace zecorx {

class Vm {
  public:
    // The addresses of `options` are steered to the VM from the start; without any, one is learned
    // from the first frame the guest sends, or from the RARP its frontend asks for.
    Vm(const VmOptions& options, Port& port, const VmQueues& queues, Poller& poller);
    ~Vm();
    Vm(const Vm&) = delete;
    Vm& operator=(const Vm&) = delete;

    // Events of librte_vhost, by connection (vid). A socket takes several connections; the VM
    // belongs to the one whose session started last, so that a frontend that comes back is served
    // even before the end of its dead predecessor has been noticed, while a mere connection
    // disturbs nobody.
    void connected(int vid);
    void disconnected(int vid);
    void session_started(int vid);
    void session_stopped(int vid);
    void ring_ready(int vid, std::uint32_t ring, bool ready);
    // Around a message that changes memory or rings under a running session.
    void before_change(int vid, bool memory);
    void after_change(int vid, bool memory);
    // Around a message that replaces the descriptor of a ring's calls, as QEMU sends whenever the
    // guest masks an interrupt: the library reports the ring unready in between, but the NIC may
    // go on.
    void before_call_change(int vid, std::uint32_t ring);
    void after_call_change(int vid, std::uint32_t ring);
    void address_announced(int vid, const MacAddress& mac);
    // Throws std::runtime_error where the port's frames are shorter than what the frontend tells
    // its guest.
    void check_mtu(std::uint64_t mtu) const;

    // Ends the session for good, at the end of the daemon.
    void shut_down();

    // Any message begins: what a refused one before it left open is closed.
    void message_begins(int vid);

    // Called now and then, and soon after the datapath asks for it.
    void tick();

    struct Status {
        std::string name;
        bool connected = false;
        bool running = false;
        std::optional<MacAddress> mac;  // the first
        const VmCounters* counters = nullptr;
        std::uint64_t kicks = 0;
        std::uint32_t mbufs_held = 0;  // that did not come back when the VM was stopped
    };
    Status status();

  private:
    struct Connection {
        std::array<bool, Datapath::kRings> ready{};
        bool changing = false;
        std::optional<std::uint32_t> changing_call;  // the ring, while its descriptor is replaced
        bool memory = false;  // the library holds a memory table; it does not after refusing one
    };

    void end_session();
    bool wanted() const;
    void reconcile();
    void start();
    // Nothing may go on if this cannot be done, so an exception ends the process.
    void stop() noexcept;
    Datapath::Rings read_rings();
    bool steer(const MacAddress& mac);
    void unsteer(const MacAddress& mac);
    void unsteer_all();
    bool learns() const { return options_.macs.empty() || options_.learn; }
    void follow(const MacAddress& mac);
    void follow_learned();
    void stop_broken();
    void advise();
    void count_kicks();

    static constexpr std::size_t kRings = Datapath::kRings;
    static constexpr int kNone = -1;

    // Frames of a guest that changes its address faster wait: neither the port's filters nor the
    // log are there for it to keep busy.
    static constexpr std::chrono::seconds kBetweenChanges{1};

    const VmOptions options_;
    const std::string& name_ = options_.name;
    Port& port_;
    const VmQueues queues_;
    Poller& poller_;
    const QueueGeometry geometry_;
    Datapath datapath_;

    std::map<int, Connection> connections_;
    int vid_ = kNone;  // the connection whose session is running
    bool shut_down_ = false;
    bool failed_ = false;   // the session cannot run until it is set up anew
    bool running_ = false;  // the datapath is attached and a worker holds it
    std::unique_ptr<DmaMemory> memory_;
    std::vector<MacAddress> macs_;     // the first configured or learned, the rest configured
    std::vector<MacAddress> steered_;  // while running: those of macs_ the port gave
    bool learned_waits_ = false;       // the datapath has learned an address, and frames wait
    std::chrono::steady_clock::time_point next_change_{};
    bool mergeable_ = false;  // the session negotiated MRG_RXBUF
    bool advised_ = false;    // about the session's buffers
    std::array<UniqueFd, kRings> kick_fds_;
    std::uint64_t kicks_ = 0;
};

}  // namespace zecorx
