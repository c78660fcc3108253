#include "net_driver.h"

#include <iterator>
#include <thread>
#include <utility>

namespace zecorx::test {

namespace {

void append(std::vector<std::string>& all, const std::string& who, const ViolationLog& log) {
    for (const std::string& text : log.texts()) all.push_back(who + text);
}

}  // namespace

NetDriver::NetDriver(FakeMemory& memory, NetDriverOptions options)
    : rx_(memory, options.rx_size, options.features, options.first_index),
      tx_(memory, options.tx_size, options.features, options.first_index) {
    rx_.set_layout(std::move(options.layout));
}

std::vector<ReceivedFrame> NetDriver::receive_until(std::size_t count,
                                                    std::chrono::milliseconds timeout) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    std::vector<ReceivedFrame> all;
    for (;;) {
        const bool last_look = std::chrono::steady_clock::now() >= deadline;
        std::vector<ReceivedFrame> more = receive();
        reap_transmitted();
        all.insert(all.end(), std::make_move_iterator(more.begin()),
                   std::make_move_iterator(more.end()));
        if (all.size() >= count || last_look) return all;
        // The backend shares these cores: give it one instead of spinning on the ring.
        if (more.empty()) std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
}

std::vector<std::string> NetDriver::violations() {
    rx_.queue().audit();
    tx_.queue().audit();
    std::vector<std::string> all;
    append(all, "receiveq: ", rx_.queue().violations());
    append(all, "receiveq: ", rx_.violations());
    append(all, "transmitq: ", tx_.queue().violations());
    append(all, "transmitq: ", tx_.violations());
    return all;
}

}  // namespace zecorx::test
