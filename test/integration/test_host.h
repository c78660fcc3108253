// The daemon's parts in one process with a software 82599 in step mode: the stock PMD drives the
// NIC, fake guests connect to the real sockets, and nothing arrives unless a test says so.
//
// EAL starts once per process, so one host serves all tests; every test connects guests of its own
// and leaves none behind.
#pragma once

#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "eal.h"
#include "guest/fake_guest.h"
#include "guest/frames.h"
#include "options.h"
#include "poller.h"
#include "port.h"
#include "soft82599/machine.h"
#include "support/open_descriptors.h"
#include "support/temp_dir.h"
#include "vhost_user/server.h"
#include "vm.h"
#include "worker.h"

namespace zecorx::test {

struct HostSetup {
    std::vector<VmOptions> vms;  // their socket paths are the host's to choose
    std::uint32_t mtu = kDefaultMtu;
    unsigned huge_memory = 128;  // MiB
    // The datapaths are polled in the test's turns, by poll_all(), instead of by a worker's thread.
    bool lockstep = false;
    // The port is served as one whose queues change only while all of it is stopped.
    bool restarting = false;
};

// Polls when it is told to.
//
// Thread rule: any thread.
class LockstepPoller final : public Poller {
  public:
    void add(Datapath& datapath) override;
    void remove(Datapath& datapath) override;
    // One round over all datapaths, as a worker makes it.
    void poll_all();

  private:
    std::mutex mutex_;
    std::vector<Datapath*> datapaths_;
};

// What the host of this executable is made of; every executable defines it.
HostSetup host_setup();

// VMs 0, 1 and 3 with an address each, VM 2 without.
HostSetup four_vms();

class TestHost {
  public:
    // In the setup of four_vms().
    static constexpr std::size_t kLearningVm = 2;  // has no configured address
    static constexpr std::size_t kClientVm = 3;    // connects to the frontend's socket

    static TestHost& instance();

    const std::string& socket(std::size_t vm) const { return sockets_.at(vm)->path(); }
    static MacAddress mac(std::size_t vm) {
        return {{0x52, 0x54, 0, 0, 1, static_cast<std::uint8_t>(vm)}};
    }
    soft82599::Port& nic() { return machine_->port(0); }
    Vm::Status status(std::size_t vm);
    const Port& port() const { return *port_; }

    // One frame on the wire, delivered to the queues before the call returns.
    soft82599::RxResult arrive(const Frame& frame) { return nic().inject(frame); }
    // What the port has sent to the wire since the last call.
    std::vector<Frame> sent();
    // The control side's tick and the NIC's transmit side, and in lockstep a round of polls.
    void pump();
    // REQUIRES: HostSetup::lockstep.
    void poll_all() { lockstep_->poll_all(); }

    // Pumps until `done`, at most some seconds. False: it never was.
    bool eventually(const std::function<bool()>& done);

    // Receives until `count` frames are there; fewer if they never come.
    std::vector<ReceivedFrame> receive(FakeGuest& guest, std::size_t count);

    // Connects a guest and waits until its queues run.
    FakeGuest connect(std::size_t vm, FakeMemory& memory, NetDriverOptions options = {},
                      const Negotiation& wanted = {});
    // One frame to the VM's address arrives at its guest, and nothing else does.
    void require_delivered(std::size_t vm, FakeGuest& guest, std::uint32_t seq);
    // Waits until the VM's queues are stopped and checks that everything came back.
    void require_stopped(std::size_t vm);

  private:
    TestHost();
    std::unique_ptr<Port> make_port(const HostSetup& setup);

    TempDir directory_;
    vhost_user::ControlMutex mutex_;
    std::unique_ptr<soft82599::Machine> machine_;
    std::unique_ptr<Eal> eal_;
    std::unique_ptr<Port> port_;
    std::unique_ptr<Poller> poller_;
    LockstepPoller* lockstep_ = nullptr;  // poller_ if it is one
    std::vector<std::unique_ptr<Vm>> vms_;
    std::unique_ptr<vhost_user::Server> server_;
    std::vector<std::unique_ptr<vhost_user::Socket>> sockets_;
};

// Dropped frames of all reasons together.
std::uint64_t dropped(const Vm::Status& status);
std::uint64_t dropped(const Vm::Status& status, DropReason reason);
std::uint64_t copied(const Vm::Status& status, CopyReason reason);

// Memory mappings of this process.
std::size_t memory_mappings();

}  // namespace zecorx::test
