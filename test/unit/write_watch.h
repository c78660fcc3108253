// Acts right before a word of memory is written to: what another processor would find there then.
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>

namespace zecorx::test {

// While it lives the word's page cannot be written to, and each store there is done by a single
// step. `before_write` is called before those to the word, in a signal handler of the writing
// thread, and must not write to that page. One at a time.
class WriteWatch {
  public:
    // REQUIRES: the word lies in one page of 4 KiB, of memory that can be read and written.
    WriteWatch(std::span<std::byte> word, std::function<void()> before_write)
        : word_(word), before_write_(std::move(before_write)) {
        active_ = this;
        struct sigaction action {};
        action.sa_flags = SA_SIGINFO;
        action.sa_sigaction = on_write;
        ::sigaction(SIGSEGV, &action, &old_write_);
        action.sa_sigaction = on_step;
        ::sigaction(SIGTRAP, &action, &old_step_);
        protect(PROT_READ);
    }
    ~WriteWatch() {
        protect(PROT_READ | PROT_WRITE);
        ::sigaction(SIGSEGV, &old_write_, nullptr);
        ::sigaction(SIGTRAP, &old_step_, nullptr);
    }
    WriteWatch(const WriteWatch&) = delete;
    WriteWatch& operator=(const WriteWatch&) = delete;

    int writes() const { return writes_; }  // to the word

  private:
    static constexpr std::size_t kPage = 4096;
    static constexpr greg_t kTrapFlag = 0x100;  // of EFLAGS

    static void on_write(int, siginfo_t* info, void* context) {
        auto* const at = static_cast<std::byte*>(info->si_addr);
        WriteWatch& watch = *active_;
        if (at < watch.page() || at >= watch.page() + kPage) {
            ::sigaction(SIGSEGV, &watch.old_write_, nullptr);  // faults again
            return;
        }
        if (at >= watch.word_.data() && at < watch.word_.data() + watch.word_.size()) {
            ++watch.writes_;
            watch.before_write_();
        }
        watch.protect(PROT_READ | PROT_WRITE);
        static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] |= kTrapFlag;
    }
    static void on_step(int, siginfo_t*, void* context) {
        active_->protect(PROT_READ);
        static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] &= ~kTrapFlag;
    }

    std::byte* page() const {
        return word_.data() - reinterpret_cast<std::uintptr_t>(word_.data()) % kPage;
    }
    void protect(int access) const { ::mprotect(page(), kPage, access); }

    static inline WriteWatch* active_ = nullptr;
    const std::span<std::byte> word_;
    const std::function<void()> before_write_;
    int writes_ = 0;
    struct sigaction old_write_ {
    }, old_step_{};
};

}  // namespace zecorx::test
