// One VM: its --vdev settings, its datapath, and the vhost session that may be connected to it.
//
// Thread rule: control side, every call under the control mutex; the vhost-user server's thread and
// the main thread call in. Workers never take that mutex.
//
// The datapath runs exactly while a session is ready and no message is changing what lies under it.
// start() and stop() are the only ways in and out, and stop() is idempotent: when it has returned,
// the NIC owns none of the guest's memory.
#pragma once

#include <spdlog/common.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "datapath.h"
#include "dma_memory.h"
#include "options.h"
#include "poller.h"
#include "port.h"
#include "rate_limit.h"
#include "vhost_user/session.h"
#include "zecorx/mac_address.h"

namespace zecorx {

class Vm final : public vhost_user::SessionHost, public PortTenant {
  public:
    // The addresses of `options` are steered to the VM from the start; without any, one is learned
    // from the first frame the guest sends, or from the RARP its frontend asks for.
    Vm(const VmOptions& options, Port& port, const VmQueues& queues, Poller& poller);
    ~Vm() override;
    Vm(const Vm&) = delete;
    Vm& operator=(const Vm&) = delete;

    // A socket takes several connections; the VM belongs to the one whose rings were set up last,
    // so that a frontend that comes back is served even before the end of its dead predecessor has
    // been noticed, while a mere connection disturbs nobody.
    void connected(vhost_user::Session& session) override;
    void disconnected(vhost_user::Session& session) override;
    void quiesce(vhost_user::Session& session) override;
    void settle(vhost_user::Session& session) override;
    void call_changed(vhost_user::Session& session, std::size_t vring) override;
    void log_changed(vhost_user::Session& session) override;
    void address_announced(vhost_user::Session& session, const MacAddress& mac) override;
    void check_mtu(std::uint64_t mtu) const override;
    std::uint64_t offered_features() const override;
    void refused(const std::string& sentence) override;

    void pause() noexcept override;
    void rewind() noexcept override;
    void resume() noexcept override;

    const VmOptions& options() const { return options_; }

    // Ends the session for good, at the end of the daemon.
    void shut_down();

    // Called now and then, and soon after the datapath asks for it.
    void tick();

    struct Status {
        std::string name;
        bool connected = false;
        bool running = false;
        std::optional<MacAddress> mac;  // the first
        const VmCounters* counters = nullptr;
        std::uint64_t kicks = 0;
        std::uint64_t refused = 0;     // messages of frontends, and their connections
        std::uint32_t mbufs_held = 0;  // that did not come back when the VM was stopped
    };
    Status status();

  private:
    // What was known of a session when it was looked at last.
    struct Seen {
        bool set_up = false;
        bool ready = false;
        std::optional<MacAddress> announce;  // asked for, and not sent yet
    };

    void take_over(vhost_user::Session& session);
    void end_session();
    bool wanted() const;
    void reconcile();
    bool may_start();
    void start();
    // Nothing may go on if this cannot be done, so an exception ends the process.
    void stop() noexcept;
    void give_up_rings() noexcept;
    Datapath::Rings read_rings();
    template <class Replace>
    void replace_in_datapath(Replace&& replace);
    void log(spdlog::level::level_enum level, const std::string& sentence);
    bool steer(const MacAddress& mac);
    void unsteer(const MacAddress& mac);
    void unsteer_all();
    bool learns() const { return options_.macs.empty() || options_.learn; }
    void follow(const MacAddress& mac);
    void announce();
    void follow_learned();
    void stop_broken(const std::string& reason);
    void advise();
    void count_kicks();

    static constexpr std::size_t kRings = Datapath::kRings;

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

    std::map<const vhost_user::Session*, Seen> sessions_;
    vhost_user::Session* session_ = nullptr;  // whom the VM belongs to
    bool changing_ = false;                   // something under the session is being changed
    bool shut_down_ = false;
    bool failed_ = false;   // the session cannot run until it is set up anew
    bool running_ = false;  // the datapath is attached and a worker holds it
    DmaMemory memory_;
    std::vector<MacAddress> macs_;     // the first configured or learned, the rest configured
    std::vector<MacAddress> steered_;  // while running: those of macs_ the port gave
    bool learned_waits_ = false;       // the datapath has learned an address, and frames wait
    std::chrono::steady_clock::time_point next_change_{};
    bool mergeable_ = false;        // the session negotiated MRG_RXBUF
    bool advised_ = false;          // about the session's buffers
    std::uint32_t mbufs_held_ = 0;  // when the rings were given up last
    std::uint64_t kicks_ = 0;
    std::uint64_t refused_ = 0;
    RateLimit log_limit_;
    RateLimit start_limit_;     // where a start pauses others
    bool start_waits_ = false;  // for that
};

}  // namespace zecorx
