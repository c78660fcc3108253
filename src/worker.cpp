#include "worker.h"

#include <fmt/format.h>
#include <rte_errno.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <sys/prctl.h>

#include <algorithm>
#include <stdexcept>
#include <thread>

#include "idle_backoff.h"

namespace zecorx {

Worker::Worker(unsigned lcore, std::chrono::microseconds idle_sleep)
    : lcore_(lcore), idle_sleep_(idle_sleep) {
    if (const int error = rte_eal_remote_launch(&Worker::entry, this, lcore_); error != 0) {
        throw std::runtime_error(
            fmt::format("cannot start a worker on lcore {}: {}", lcore_, rte_strerror(-error)));
    }
}

Worker::~Worker() {
    stop_.store(true, std::memory_order_release);
    rte_eal_wait_lcore(lcore_);
}

void Worker::add(Datapath& datapath) {
    hand_over({Action::kAdd, &datapath});
    held_.push_back(&datapath);
}

void Worker::remove(Datapath& datapath) {
    hand_over({Action::kRemove, &datapath});
    std::erase(held_, &datapath);
}

void Worker::hand_over(Command command) {
    command_.store(&command, std::memory_order_release);
    // Acquire: pairs with the worker's release, so that what it did to the datapath is seen.
    while (command_.load(std::memory_order_acquire) != nullptr) {
        std::this_thread::sleep_for(std::chrono::microseconds(10));
        for (Datapath* datapath : held_) datapath->free_stuck_call();
    }
}

int Worker::entry(void* self) noexcept {
    static_cast<Worker*>(self)->run();
    return 0;
}

void Worker::run() noexcept {
    constexpr unsigned long kTimerSlack = 1000;  // ns; the default of 50 us doubles short sleeps
    ::prctl(PR_SET_TIMERSLACK, kTimerSlack);
    IdleBackoff backoff(idle_sleep_);
    while (!stop_.load(std::memory_order_acquire)) {
        if (const Command* command = command_.load(std::memory_order_acquire)) [[unlikely]] {
            apply(*command);
            command_.store(nullptr, std::memory_order_release);
        }
        if (poll_all()) {
            backoff.busy();
        } else {
            backoff.idle();
        }
    }
}

void Worker::apply(const Command& command) noexcept {
    if (command.action == Action::kAdd) {
        datapaths_[count_++] = command.datapath;
        return;
    }
    Datapath** end = datapaths_.data() + count_;
    count_ = static_cast<std::size_t>(std::remove(datapaths_.data(), end, command.datapath) -
                                      datapaths_.data());
}

bool Worker::poll_all() noexcept {
    bool worked = false;
    for (std::size_t i = 0; i < count_; ++i) worked |= datapaths_[i]->poll();
    return worked;
}

}  // namespace zecorx
