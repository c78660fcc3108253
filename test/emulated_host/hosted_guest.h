#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "emulated_host.h"
#include "guest/frames.h"

namespace zecorx::test {

struct FrontendOptions {
    bool huge_pages = true;     // guest memory on 2 MiB pages; else 4 KiB
    unsigned memory = 32;       // MiB
    unsigned regions = 1;       // that the memory consists of
    bool whole_tables = false;  // memory tables as a whole; else region by region
    unsigned room = 0;          // bytes for a frame in a buffer; 0: as Linux has it
};

// vhost-frontend in an emulated host: a VM's frontend and driver, connected to the daemon.
//
// Thread rule: all methods on the test's main thread.
class HostedFrontend {
  public:
    HostedFrontend(EmulatedHost& host, unsigned vm, FrontendOptions options = {});
    ~HostedFrontend();
    HostedFrontend(const HostedFrontend&) = delete;
    HostedFrontend& operator=(const HostedFrontend&) = delete;

    // An order other than "stat"; throws if it fails. See vhost_frontend.cpp.
    void order(const std::string& line);
    nlohmann::json stat();
    void kill();  // SIGKILL, and wait for the end

  private:
    EmulatedHost& host_;
    const std::string name_;
};

// testpmd on DPDK's own virtio driver in an emulated host; it sends each frame back with its
// addresses swapped.
//
// Thread rule: all methods on the test's main thread.
class HostedTestpmd {
  public:
    HostedTestpmd(EmulatedHost& host, unsigned vm);
    ~HostedTestpmd();
    HostedTestpmd(const HostedTestpmd&) = delete;
    HostedTestpmd& operator=(const HostedTestpmd&) = delete;

  private:
    EmulatedHost& host_;
    const std::string name_;
};

// Linux under QEMU in an emulated host that make-emulated-host made --with-guest. Its eth0 has
// kIp, and it knows the wire's end by kPeerIp and kPeerMac.
//
// Thread rule: all methods on the test's main thread.
class HostedLinux {
  public:
    static constexpr Ipv4 kIp{10, 0, 0, 1};
    static constexpr Ipv4 kPeerIp{10, 0, 0, 2};
    // A processor emulates one that emulates one.
    static constexpr std::chrono::seconds kBootTimeout{400};

    // Returns when it is up.
    HostedLinux(EmulatedHost& host, unsigned vm);
    ~HostedLinux();
    HostedLinux(const HostedLinux&) = delete;
    HostedLinux& operator=(const HostedLinux&) = delete;

  private:
    void wait_for_line(const std::string& wanted, std::chrono::seconds timeout);

    EmulatedHost& host_;
    const std::string name_;
};

}  // namespace zecorx::test
