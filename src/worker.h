// A thread pinned to one lcore that polls the datapaths assigned to it.
//
// Handover: add() and remove() return after the worker has acknowledged, so a removed datapath is
// the caller's again. The worker never takes a lock and never waits for the control side.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <vector>

#include "datapath.h"
#include "poller.h"

namespace zecorx {

class Worker final : public Poller {
  public:
    static constexpr std::size_t kMaxDatapaths = 64;  // VMDq pools of an 82599

    // Starts on the EAL lcore `lcore`. `idle_sleep` bounds the sleep of a worker that finds
    // nothing; 0 polls without sleeping. Throws std::runtime_error.
    Worker(unsigned lcore, std::chrono::microseconds idle_sleep);
    ~Worker() override;

    void add(Datapath& datapath) override;
    void remove(Datapath& datapath) override;

  private:
    enum class Action { kAdd, kRemove };
    struct Command {
        Action action;
        Datapath* datapath;
    };

    static int entry(void* self) noexcept;
    void run() noexcept;
    void apply(const Command& command) noexcept;
    bool poll_all() noexcept;
    void hand_over(Command command);

    const unsigned lcore_;
    const std::chrono::microseconds idle_sleep_;

    std::vector<Datapath*> held_;  // the control side's view of datapaths_

    // Written by the control side, cleared by the worker: the acknowledgement.
    std::atomic<const Command*> command_{nullptr};
    std::atomic<bool> stop_{false};

    // The worker's own.
    std::array<Datapath*, kMaxDatapaths> datapaths_{};
    std::size_t count_ = 0;
};

}  // namespace zecorx
