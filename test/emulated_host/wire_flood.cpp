#include "wire_flood.h"

#include "numbered_frames.h"

namespace zecorx::test {
namespace {

using namespace std::chrono_literals;

constexpr unsigned kBurst = 16;  // a millisecond at most
constexpr auto kQuiet = 500ms;
constexpr auto kPatience = 30s;

}  // namespace

WireFlood::WireFlood(Wire& wire, std::span<const MacAddress> vms, std::uint32_t first)
    : wire_(wire),
      vms_(vms.begin(), vms.end()),
      sender_(std::async(std::launch::async, [this, first] { return run(first); })) {}

std::uint32_t WireFlood::stop() {
    stop_ = true;
    return sender_.get();
}

std::uint32_t WireFlood::run(std::uint32_t next) {
    while (!stop_) {
        for (unsigned i = 0; i < kBurst; ++i) wire_.send(numbered_frame(vms_, next++));
        while (!stop_ && take(1ms)) {
        }
    }
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (std::chrono::steady_clock::now() < deadline && take(kQuiet)) {
    }
    return next;
}

bool WireFlood::take(std::chrono::milliseconds timeout) {
    const auto frame = wire_.receive(timeout);
    if (!frame) return false;
    if (is_numbered(*frame)) ++(check_echo(vms_, *frame) ? returned_ : damaged_);
    return true;
}

}  // namespace zecorx::test
