#include "port.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#include <algorithm>
#include <utility>

namespace zecorx::soft82599 {
namespace {

// Frames moved in each direction before others get the lock.
constexpr unsigned kFramesPerRound = 32;

timespec to_timespec(std::chrono::microseconds duration) {
    constexpr std::int64_t kPerSecond = 1'000'000;
    return {duration.count() / kPerSecond, duration.count() % kPerSecond * 1000};
}

// Signals sent to the process are for the program's own threads. Faults stay open: a blocked one
// would end the process without a word.
void block_signals() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) sigdelset(&blocked, fault);
    pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
}

}  // namespace

Port::Port(const PortConfig& config, const MacAddress& mac, std::unique_ptr<DmaSpace> dma,
           LogSink log)
    : config_(config),
      mac_(mac),
      log_(std::move(log)),
      dma_(std::move(dma)),
      wire_(make_wire(config.wire, mac)) {}

Port::~Port() {
    thread_.request_stop();
    if (thread_.joinable()) thread_.join();
}

void Port::attach_bar(int resource_fd) {
    bar_ = std::make_unique<MmioRegion>(resource_fd, static_cast<MmioHandler&>(*this));
    Device::Hooks hooks;
    hooks.raise_interrupt = [this] { uio_.raise(); };
    hooks.log = log_;
    device_.emplace(bar_->words(), *dma_, mac_, std::move(hooks));
}

void Port::start_thread() {
    thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

PortCounters Port::counters() const {
    const std::lock_guard lock(mutex_);
    return device_->counters();
}

RxResult Port::inject(FrameView frame) {
    const std::lock_guard lock(mutex_);
    return device_->receive(frame);
}

unsigned Port::step(unsigned max_frames) {
    const std::lock_guard wire_lock(wire_mutex_);
    received_.clear();
    if (wire_) wire_->receive(max_frames, received_);
    return deliver(received_);
}

unsigned Port::step_tx(unsigned max_packets) {
    const std::lock_guard wire_lock(wire_mutex_);
    sent_.clear();
    unsigned taken = 0;
    {
        const std::lock_guard lock(mutex_);
        device_->synchronize_queues();
        taken = device_->transmit(max_packets, sent_);
    }
    send(sent_);
    return taken;
}

unsigned Port::deliver(const std::vector<Frame>& frames) {
    const std::lock_guard lock(mutex_);
    device_->synchronize_queues();
    device_->retry_held_frames();
    for (const Frame& frame : frames) device_->receive(frame);
    return static_cast<unsigned>(frames.size());
}

void Port::send(const std::vector<Frame>& frames) {
    if (wire_) {
        for (const Frame& frame : frames) wire_->send(frame);
        return;
    }
    const std::lock_guard lock(mutex_);
    for (const Frame& frame : frames) {
        if (transmitted_.size() == kKeptFrames) transmitted_.pop_front();
        transmitted_.push_back(frame);
    }
}

std::vector<Frame> Port::take_transmitted() {
    const std::lock_guard lock(mutex_);
    std::vector<Frame> frames(std::make_move_iterator(transmitted_.begin()),
                              std::make_move_iterator(transmitted_.end()));
    transmitted_.clear();
    return frames;
}

void Port::set_link(bool up) {
    const std::lock_guard lock(mutex_);
    device_->set_link(up);
}

void Port::write_past_cache(bool on) {
    const std::lock_guard lock(mutex_);
    device_->write_past_cache(on);
}

void Port::guard_buffers_at_stop(bool on) {
    const std::lock_guard lock(mutex_);
    for (unsigned i = 0; i < kQueues; ++i) device_->rx_queue(i).guard_buffers_at_stop(on);
}

std::optional<std::size_t> Port::verify_stopped_queue(unsigned queue) {
    const std::lock_guard lock(mutex_);
    return device_->rx_queue(queue).verify_stopped();
}

void Port::interrupt_frames_after(unsigned descriptors) {
    const std::lock_guard lock(mutex_);
    for (unsigned i = 0; i < kQueues; ++i) {
        device_->rx_queue(i).interrupt_frames_after(descriptors);
    }
}

void Port::finish_interrupted_frames() {
    const std::lock_guard lock(mutex_);
    for (unsigned i = 0; i < kQueues; ++i) device_->rx_queue(i).finish_frame();
}

void Port::limit_descriptors_per_frame(unsigned descriptors) {
    const std::lock_guard lock(mutex_);
    for (unsigned i = 0; i < kQueues; ++i) device_->rx_queue(i).limit_pieces(descriptors);
}

std::uint32_t Port::mmio_read(std::uint32_t offset) {
    ++waiting_accesses_;
    const std::lock_guard lock(mutex_);
    --waiting_accesses_;
    uio_.unlink();  // EAL opens it before it maps the BAR
    return device_->read_register(offset);
}

void Port::mmio_write(std::uint32_t offset, std::uint32_t value) {
    ++waiting_accesses_;
    const std::lock_guard lock(mutex_);
    --waiting_accesses_;
    uio_.unlink();
    device_->write_register(offset, value);
}

void Port::yield_to_register_access() const {
    while (waiting_accesses_.load(std::memory_order_relaxed) != 0) sched_yield();
}

void Port::run(const std::stop_token& stop) {
    block_signals();
    pthread_setname_np(pthread_self(), "soft82599");
    unsigned idle_rounds = 0;
    while (!stop.stop_requested()) {
        yield_to_register_access();
        idle_rounds = move_frames() ? 0 : idle_rounds + 1;
        if (idle_rounds != 0) rest(idle_rounds);
    }
}

bool Port::move_frames() {
    const unsigned received = step(kFramesPerRound);
    const unsigned sent = step_tx(kFramesPerRound);
    return received + sent != 0;
}

// Backs off in steps: a frame often follows another closely, but an idle port must not take a core
// away from the daemon. A wire with a descriptor ends the sleep as soon as a frame arrives.
void Port::rest(unsigned idle_rounds) {
    constexpr unsigned kSpinRounds = 64;
    constexpr unsigned kYieldRounds = 128;
    if (config_.idle_sleep.count() == 0 || idle_rounds < kSpinRounds) {
        __builtin_ia32_pause();
    } else if (idle_rounds < kYieldRounds) {
        sched_yield();
    } else {
        const std::chrono::microseconds step{idle_rounds - kYieldRounds + 1};
        const timespec timeout = to_timespec(std::min(step, config_.idle_sleep));
        pollfd wire{wire_ ? wire_->readable_fd() : -1, POLLIN, 0};
        ppoll(&wire, 1, &timeout, nullptr);
    }
}

}  // namespace zecorx::soft82599
