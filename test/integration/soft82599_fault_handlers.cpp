// Catch2 installs its own handler for SIGSEGV around every test case and does not chain. The
// software NIC answers register accesses from its handler, also on threads that run between test
// cases, so in a test program that holds one, nobody else may replace it. The price is that Catch2
// does not name the test in which a genuine crash happened.
#include <dlfcn.h>
#include <signal.h>

#include "soft82599/mmio_trap.h"

extern "C" int sigaction(int number, const struct sigaction* action,
                         struct sigaction* old) noexcept {
    using Sigaction = int(int, const struct sigaction*, struct sigaction*);
    static auto* const next = reinterpret_cast<Sigaction*>(dlsym(RTLD_NEXT, "sigaction"));
    const bool keep = action != nullptr && number == SIGSEGV &&
                      zecorx::soft82599::owns_fault_handler(number);
    return next(number, keep ? nullptr : action, old);
}
