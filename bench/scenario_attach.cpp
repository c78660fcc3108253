// How long a session takes to start and to stop, by the memory of the guest.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <stdexcept>
#include <thread>

#include "fake_driver.h"
#include "scenarios.h"
#include "table.h"

namespace zecorx::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::array kBackends{Backend::kZeroCopy, Backend::kRteVhost};

double milliseconds(Clock::duration time) {
    return std::chrono::duration<double, std::milli>(time).count();
}

// Without a pause: what is waited for takes less than a timer's.
void spin_until(const auto& reached) {
    const auto deadline = Clock::now() + std::chrono::seconds(30);
    while (!reached()) {
        if (Clock::now() > deadline) throw std::runtime_error("a session did not start or stop");
        std::this_thread::yield();
    }
}

unsigned free_mebibytes() {
    std::ifstream file("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    unsigned pages = 0;
    file >> pages;
    return 2 * pages;
}

// The library unmaps the last guest's memory a moment after its session has ended.
bool becomes_free(unsigned mebibytes) {
    for (int i = 0; i < 100 && free_mebibytes() < mebibytes; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return free_mebibytes() >= mebibytes;
}

struct Times {
    std::vector<double> attach, first_frame, detach;  // ms, by repetition
};

void attach_once(soft82599::Port& nic, Lane& lane, FakeDriver& driver, const Frame& frame,
                 Times& times) {
    const auto first_message = Clock::now();
    driver.start();
    const auto last_message = Clock::now();
    spin_until([&] { return lane.running(); });
    check_delivery(nic, {lane, &driver}, frame);
    const auto end = Clock::now();
    times.attach.push_back(milliseconds(end - first_message));
    times.first_frame.push_back(milliseconds(end - last_message));
}

void detach_once(Lane& lane, FakeDriver& driver, Times& times) {
    const auto start = Clock::now();
    driver.stop();
    spin_until([&] { return lane.vacant(); });
    times.detach.push_back(milliseconds(Clock::now() - start));
}

Times measure(Bed& bed, Lane& lane, const std::shared_ptr<test::FakeMemory>& memory,
              unsigned repetitions) {
    const Frame frame = make_frame(lane.mac(), 64);
    FakeDriver driver(memory, lane.socket(), {});
    Times times;
    for (unsigned repetition = 0; repetition < repetitions; ++repetition) {
        if (repetition > 0) driver.reconnect();
        attach_once(bed.nic(), lane, driver, frame, times);
        detach_once(lane, driver, times);
    }
    return times;
}

void add(Table& table, const AttachFigures& figures) {
    table.add({name_of(figures.backend), fmt::format("{}", figures.memory),
               fmt::format("{:.2f}", figures.attach.median),
               fmt::format("{:.2f}", figures.first_frame.median),
               fmt::format("{:.2f}", figures.detach.median)});
}

}  // namespace

void run_attach(Context& context) {
    Bed bed = context.make_bed(kDefaultMtu, {{.backend = kBackends[0]}, {.backend = kBackends[1]}});
    print_heading("Sessions, by the guest's memory in pages of 2 MiB");
    Table table({"backend", "MiB", "attach, ms", "of it first frame", "detach, ms"});
    for (const unsigned mebibytes : context.options.memory) {
        if (!becomes_free(mebibytes)) {
            fmt::print(
                "{} MiB left out: {} MiB of huge pages are free; reserve more, as in 'sysctl "
                "vm.nr_hugepages=N'\n",
                mebibytes, free_mebibytes());
            continue;
        }
        const auto memory = make_memory(std::size_t{mebibytes} << 20);
        for (std::size_t i = 0; i < kBackends.size(); ++i) {
            const Times times = measure(bed, bed.lane(i), memory, context.options.repetitions);
            context.results.attach.push_back({kBackends[i], mebibytes, summarize(times.attach),
                                              summarize(times.first_frame),
                                              summarize(times.detach)});
            add(table, context.results.attach.back());
        }
    }
    table.print();
}

}  // namespace zecorx::bench
