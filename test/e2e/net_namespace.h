#pragma once

#include <chrono>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "zecorx/unique_fd.h"

namespace zecorx::test {

// A network namespace without a name: it lives as long as this object and the processes and
// sockets in it, so nothing is left behind even if the test crashes. IPv6 is off in it, so that
// no frame is on the wire that the test did not cause.
//
// Thread rule: every method may be called from any thread.
class NetNamespace {
  public:
    NetNamespace();

    int fd() const { return fd_.get(); }

    // Runs `action` on a thread of its own inside the namespace and waits for it. Sockets made
    // there stay in the namespace.
    template <typename Action>
    void run_inside(Action action) const {
        std::exception_ptr failure;
        std::thread([&] {
            try {
                enter();
                action();
            } catch (...) {
                failure = std::current_exception();
            }
        }).join();
        if (failure) std::rethrow_exception(failure);
    }

    UniqueFd socket(int domain, int type, int protocol) const;

    // ip(8) with these arguments. Main thread only, as it starts a process.
    void ip(std::vector<std::string> arguments) const;

    // False if no interface of this name appears in time.
    bool wait_for_interface(const std::string& name, std::chrono::milliseconds timeout) const;
    unsigned interface_index(const std::string& name) const;  // 0: none
    std::string mac(const std::string& interface) const;      // as text, aa:bb:...

    // The kernel computes checksums and segments frames before they go out there.
    void switch_off_offloads(const std::string& interface) const;

  private:
    void enter() const;

    UniqueFd fd_;
};

}  // namespace zecorx::test
