// The process that a benchmark runs in: EAL, software 82599s in step mode, and the daemon's parts
// on them, polled by the benchmark instead of a worker.
//
// Thread rule: everything on the benchmark's thread; librte_vhost's threads come in through
// LockstepPoller and the VMs' control mutex only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "eal.h"
#include "poller.h"
#include "port.h"
#include "soft82599/machine.h"
#include "vhost_user/server.h"
#include "vm.h"

namespace zecorx::bench {

// A directory for sockets, removed with what is in it.
class SocketDirectory {
  public:
    SocketDirectory();
    ~SocketDirectory();
    SocketDirectory(const SocketDirectory&) = delete;
    SocketDirectory& operator=(const SocketDirectory&) = delete;
    std::string path(const std::string& name) const { return (path_ / name).string(); }

  private:
    std::filesystem::path path_;
};

struct RigOptions {
    std::size_t ports = 1;
    unsigned huge_memory = 1024;  // MiB
    std::vector<std::string> eal_args;
};

// EAL and the NICs; one in a process.
class Rig {
  public:
    explicit Rig(const RigOptions& options);

    soft82599::Port& nic(std::size_t index) { return machine_->port(index); }
    std::string socket(const std::string& name) const { return sockets_.path(name); }
    // Of everything in the process.
    vhost_user::ControlMutex& mutex() { return mutex_; }
    vhost_user::Server& server() { return server_; }

  private:
    SocketDirectory sockets_;
    vhost_user::ControlMutex mutex_;
    vhost_user::Server server_{mutex_};
    std::unique_ptr<soft82599::Machine> machine_;
    std::unique_ptr<Eal> eal_;
};

// Holds the datapath of one VM while a session runs.
class LockstepPoller final : public Poller {
  public:
    void add(Datapath& datapath) override;
    void remove(Datapath& datapath) override;

    // Keeps the control side from taking the datapath away. `datapath` is null while no session
    // runs.
    struct Held {
        std::unique_lock<std::mutex> lock;
        Datapath* datapath;
    };
    Held hold() { return {std::unique_lock(mutex_), datapath_}; }

  private:
    std::mutex mutex_;
    Datapath* datapath_ = nullptr;
};

enum class Backend { kFloor, kZeroCopy, kCopy, kRteVhost };
const char* name_of(Backend backend);

// A backend on a VMDq pool of its own.
//
// poll() is what is timed. A frame is completed when the guest can see it, or for the floor, when
// its buffer is free again.
class Lane {
  public:
    Lane(Backend backend, const MacAddress& mac) : backend_(backend), mac_(mac) {}
    virtual ~Lane() = default;
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;

    // Once, when the port has started: from here on guests may connect to `socket`.
    virtual void start(const std::string& socket) = 0;

    virtual void poll() = 0;
    virtual std::uint64_t completed() const = 0;
    // Of those, the ones the NIC wrote into the guest's buffers.
    virtual std::uint64_t zero_copied() const { return 0; }
    // A guest's session is up. A floor has no guests, and always is.
    virtual bool running() = 0;
    // Nothing is left of a guest's session.
    virtual bool vacant() { return true; }
    // From here on poll() may be called until release(): the session cannot end in between.
    virtual void hold() {}
    virtual void release() {}
    // Of ours while it is held: what a worker polls.
    virtual Datapath* datapath() { return nullptr; }
    // The vhost-user socket; empty for a floor.
    virtual std::string socket() const { return {}; }

    Backend backend() const { return backend_; }
    const MacAddress& mac() const { return mac_; }

  private:
    const Backend backend_;
    const MacAddress mac_;
};

struct LaneOptions {
    Backend backend = Backend::kZeroCopy;
    std::optional<std::uint32_t> rxbuf{};  // bytes, of ours
};

// A NIC port and the lanes on it, in the order they were asked for.
class Bed {
  public:
    Bed(Rig& rig, std::size_t port, std::uint32_t mtu, const std::vector<LaneOptions>& lanes);

    soft82599::Port& nic() { return nic_; }
    std::size_t size() const { return lanes_.size(); }
    Lane& lane(std::size_t index) { return *lanes_.at(index); }
    // The port's receive queues as the daemon configured them.
    static constexpr std::uint32_t nic_ring() { return zecorx::Port::kRxDescriptors; }

  private:
    soft82599::Port& nic_;
    std::unique_ptr<zecorx::Port> port_;
    std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace zecorx::bench
