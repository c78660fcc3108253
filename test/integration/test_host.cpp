#include "test_host.h"

#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "log.h"
#include "open_port.h"
#include "restarting_port.h"

namespace zecorx::test {
namespace {

using namespace std::chrono_literals;

soft82599::Config nic_config() {
    soft82599::Config config;
    config.ports.emplace_back();
    config.mode = soft82599::Mode::kStep;
    return config;
}

Options eal_options(const HostSetup& setup) {
    Options options;
    options.worker_cpus = {std::thread::hardware_concurrency() - 1};
    options.huge_memory = setup.huge_memory;
    return options;
}

}  // namespace

HostSetup four_vms() {
    HostSetup setup;
    for (std::size_t i = 0; i < 4; ++i) {
        VmOptions vm{.name = "net_vhost" + std::to_string(i)};
        if (i != TestHost::kLearningVm) vm.macs = {TestHost::mac(i)};
        vm.client = i == TestHost::kClientVm;
        setup.vms.push_back(vm);
    }
    return setup;
}

void LockstepPoller::add(Datapath& datapath) {
    const std::lock_guard lock(mutex_);
    datapaths_.push_back(&datapath);
}

void LockstepPoller::remove(Datapath& datapath) {
    const std::lock_guard lock(mutex_);
    std::erase(datapaths_, &datapath);
}

void LockstepPoller::poll_all() {
    const std::lock_guard lock(mutex_);
    for (Datapath* datapath : datapaths_) datapath->poll();
}

TestHost& TestHost::instance() {
    static TestHost host;
    return host;
}

TestHost::TestHost() {
    set_up_log("warning");
    const HostSetup setup = host_setup();
    machine_ = std::make_unique<soft82599::Machine>(nic_config());
    nic().guard_buffers_at_stop(true);
    eal_ = std::make_unique<Eal>(eal_options(setup),
                                 EalDevices{.pci = {nic().bdf()}, .physical_iova = true});
    port_ = make_port(setup);
    if (setup.lockstep) {
        auto lockstep = std::make_unique<LockstepPoller>();
        lockstep_ = lockstep.get();
        poller_ = std::move(lockstep);
    } else {
        poller_ = std::make_unique<Worker>(Eal::worker_lcore(0), 100us);
    }
    for (const VmOptions& vm : setup.vms) {
        const auto index = static_cast<std::uint16_t>(vms_.size());
        vms_.push_back(std::make_unique<Vm>(vm, *port_, port_->queues_of(index), *poller_));
    }
    port_->start();
    server_ = std::make_unique<vhost_user::Server>(mutex_);
    for (std::size_t i = 0; i < vms_.size(); ++i) {
        const VmOptions& vm = setup.vms[i];
        sockets_.push_back(std::make_unique<vhost_user::Socket>(
            *server_, (directory_.path() / vm.name).string(), vm.client, *vms_[i]));
    }
}

std::unique_ptr<Port> TestHost::make_port(const HostSetup& setup) {
    if (!setup.restarting) return open_port(nic().bdf(), {.mtu = setup.mtu}, setup.vms);
    return std::make_unique<RestartingPort>(EthDevice(nic().bdf()), setup.vms,
                                            PortGeometry{.mtu = setup.mtu});
}

Vm::Status TestHost::status(std::size_t vm) {
    const std::lock_guard lock(mutex_);
    return vms_.at(vm)->status();
}

void TestHost::pump() {
    {
        const std::lock_guard lock(mutex_);
        for (const auto& vm : vms_) vm->tick();
    }
    if (lockstep_ != nullptr) lockstep_->poll_all();
    nic().step(32);
    nic().step_tx(64);
}

std::vector<Frame> TestHost::sent() {
    pump();
    return nic().take_transmitted();
}

bool TestHost::eventually(const std::function<bool()>& done) {
    for (int round = 0; round < 20'000; ++round) {
        if (done()) return true;
        pump();
        std::this_thread::sleep_for(200us);
    }
    return done();
}

std::vector<ReceivedFrame> TestHost::receive(FakeGuest& guest, std::size_t count) {
    std::vector<ReceivedFrame> frames;
    eventually([&] {
        for (ReceivedFrame& frame : guest.net.receive()) frames.push_back(std::move(frame));
        return frames.size() >= count;
    });
    return frames;
}

FakeGuest TestHost::connect(std::size_t vm, FakeMemory& memory, NetDriverOptions options,
                            const Negotiation& wanted) {
    FakeGuest guest = connect_device(socket(vm), memory, std::move(options), wanted);
    REQUIRE(eventually([&] { return status(vm).running; }));
    return guest;
}

void TestHost::require_delivered(std::size_t vm, FakeGuest& guest, std::uint32_t seq) {
    arrive(make_frame({.dst = mac(vm), .seq = seq}));
    const auto frames = receive(guest, 1);
    REQUIRE(frames.size() == 1);
    CHECK(check_frame(frames[0].bytes) == seq);
}

void TestHost::require_stopped(std::size_t vm) {
    REQUIRE(eventually([&] { return !status(vm).running; }));
    CHECK(status(vm).mbufs_held == 0);
    CHECK(nic().counters().dma_faults == 0);
    CHECK(nic().counters().writes_after_stop == 0);
    const unsigned queue = 2 * (static_cast<unsigned>(vm) + 1);  // pool p receives on queue 2p
    CHECK(nic().verify_stopped_queue(queue).value_or(0) == 0);
}

std::uint64_t dropped(const Vm::Status& status) {
    const auto& reasons = status.counters->dropped;
    return std::accumulate(
        reasons.begin(), reasons.end(), std::uint64_t{0},
        [](std::uint64_t sum, const Counter& counter) { return sum + counter.get(); });
}

std::uint64_t dropped(const Vm::Status& status, DropReason reason) {
    return status.counters->dropped[static_cast<std::size_t>(reason)].get();
}

std::uint64_t copied(const Vm::Status& status, CopyReason reason) {
    return status.counters->copied[static_cast<std::size_t>(reason)].get();
}

std::size_t memory_mappings() {
    std::ifstream maps("/proc/self/maps");
    std::size_t count = 0;
    for (std::string line; std::getline(maps, line);) ++count;
    return count;
}

}  // namespace zecorx::test
