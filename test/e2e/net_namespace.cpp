#include "net_namespace.h"

#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstdio>
#include <cstring>
#include <fstream>

#include "guest/event_fd.h"
#include "support/process.h"
#include "support/wait.h"

namespace zecorx::test {

NetNamespace::NetNamespace() {
    std::exception_ptr failure;
    std::thread([&] {
        try {
            if (::unshare(CLONE_NEWNET) != 0)
                throw_errno("create a network namespace (needs root)");
            fd_.reset(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
            if (!fd_) throw_errno("/proc/thread-self/ns/net");
            for (const char* scope : {"all", "default"}) {
                std::ofstream(std::string("/proc/sys/net/ipv6/conf/") + scope + "/disable_ipv6")
                    << 1;
            }
        } catch (...) {
            failure = std::current_exception();
        }
    }).join();
    if (failure) std::rethrow_exception(failure);
}

void NetNamespace::enter() const {
    if (::setns(fd_.get(), CLONE_NEWNET) != 0) throw_errno("enter the network namespace");
}

UniqueFd NetNamespace::socket(int domain, int type, int protocol) const {
    UniqueFd fd;
    run_inside([&] {
        fd.reset(::socket(domain, type | SOCK_CLOEXEC, protocol));
        if (!fd) throw_errno("socket");
    });
    return fd;
}

void NetNamespace::ip(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), "ip");
    run_command(arguments, fd());
}

unsigned NetNamespace::interface_index(const std::string& name) const {
    unsigned index = 0;
    run_inside([&] { index = ::if_nametoindex(name.c_str()); });
    return index;
}

bool NetNamespace::wait_for_interface(const std::string& name,
                                      std::chrono::milliseconds timeout) const {
    return wait_until([&] { return interface_index(name) != 0; }, timeout);
}

std::string NetNamespace::mac(const std::string& interface) const {
    const UniqueFd any = socket(AF_INET, SOCK_DGRAM, 0);
    ifreq request{};
    interface.copy(request.ifr_name, IFNAMSIZ - 1);
    if (::ioctl(any.get(), SIOCGIFHWADDR, &request) != 0) throw_errno("read a MAC address");
    unsigned char bytes[6];
    std::memcpy(bytes, request.ifr_hwaddr.sa_data, sizeof bytes);
    char text[18];
    std::snprintf(text, sizeof text, "%02x:%02x:%02x:%02x:%02x:%02x", bytes[0], bytes[1], bytes[2],
                  bytes[3], bytes[4], bytes[5]);
    return text;
}

void NetNamespace::switch_off_offloads(const std::string& interface) const {
    const UniqueFd any = socket(AF_INET, SOCK_DGRAM, 0);
    for (const std::uint32_t command :
         {ETHTOOL_STXCSUM, ETHTOOL_SRXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO}) {
        ethtool_value off{.cmd = command, .data = 0};
        ifreq request{};
        interface.copy(request.ifr_name, IFNAMSIZ - 1);
        request.ifr_data = reinterpret_cast<char*>(&off);
        if (::ioctl(any.get(), SIOCETHTOOL, &request) != 0) throw_errno("switch off an offload");
    }
}

}  // namespace zecorx::test
