#include "fault_guard.h"

#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <stdexcept>

namespace zecorx::vhost_user {
namespace {

// More than EAL has room for regions of all VMs together, and a log for each.
constexpr std::size_t kMaxGuards = 4096;

// Written on the control side, read by the handler on any thread.
std::array<std::atomic<FaultGuard*>, kMaxGuards> g_guards;
std::atomic<std::size_t> g_used{0};  // slots that ever held one
struct sigaction g_previous;

bool replace_page(void* address) noexcept {
    const std::size_t used = g_used.load(std::memory_order_acquire);
    for (std::size_t i = 0; i < used; ++i) {
        FaultGuard* const guard = g_guards[i].load(std::memory_order_acquire);
        if (guard != nullptr && guard->replace(address)) return true;
    }
    return false;
}

void on_bus_error(int signal_number, siginfo_t* info, void* context) {
    const int saved_errno = errno;
    const bool replaced = replace_page(info->si_addr);
    errno = saved_errno;
    if (replaced) return;
    if ((g_previous.sa_flags & SA_SIGINFO) != 0) {
        g_previous.sa_sigaction(signal_number, info, context);
    } else if (g_previous.sa_handler == SIG_DFL || g_previous.sa_handler == SIG_IGN) {
        // The access is repeated without a handler, which ends the process with the right signal.
        ::signal(signal_number, SIG_DFL);
    } else {
        g_previous.sa_handler(signal_number);
    }
}

// It stays for the life of the process: others may have chained to it.
void install_handler_once() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action {};
        action.sa_sigaction = on_bus_error;
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        ::sigemptyset(&action.sa_mask);
        ::sigaction(SIGBUS, &action, &g_previous);
    });
}

void add(FaultGuard* guard) {
    for (std::size_t i = 0; i < kMaxGuards; ++i) {
        FaultGuard* expected = nullptr;
        if (!g_guards[i].compare_exchange_strong(expected, guard)) continue;
        g_used.store(std::max(g_used.load(std::memory_order_relaxed), i + 1),
                     std::memory_order_release);
        return;
    }
    throw std::runtime_error("more memory regions are shared with the daemon than it can guard");
}

}  // namespace

FaultGuard::FaultGuard(std::span<std::byte> memory, std::size_t page_size)
    : memory_(memory), page_size_(page_size) {
    install_handler_once();
    add(this);
}

FaultGuard::~FaultGuard() {
    for (std::atomic<FaultGuard*>& slot : g_guards) {
        FaultGuard* expected = this;
        if (slot.compare_exchange_strong(expected, nullptr)) return;
    }
}

bool FaultGuard::replace(void* address) noexcept {
    const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(memory_.data());
    const std::uintptr_t offset = reinterpret_cast<std::uintptr_t>(address) - start;
    if (offset >= memory_.size()) return false;
    auto* const page = reinterpret_cast<void*>(start + offset / page_size_ * page_size_);
    lost_.store(true, std::memory_order_relaxed);
    return ::mmap(page, page_size_, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == page;
}

}  // namespace zecorx::vhost_user
