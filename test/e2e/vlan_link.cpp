#include "vlan_link.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "guest/event_fd.h"
#include "packet_socket.h"

namespace zecorx::test {
namespace {

constexpr std::size_t kMostFrame = 1 << 16;
constexpr std::ptrdiff_t kTagAt = 12;  // behind the addresses

UniqueFd open_tap(const NetNamespace& netns, const std::string& name) {
    UniqueFd fd;
    netns.run_inside([&] {
        fd.reset(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
        if (!fd) throw_errno("/dev/net/tun");
        ifreq request{};
        name.copy(request.ifr_name, IFNAMSIZ - 1);
        request.ifr_flags = IFF_TAP | IFF_NO_PI;
        if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) throw_errno("create a TAP interface");
    });
    return fd;
}

}  // namespace

VlanLink::VlanLink(const NetNamespace& netns, const std::string& wire, std::uint16_t vlan,
                   const std::string& address)
    : vlan_(vlan),
      name_("vlan" + std::to_string(vlan)),
      tap_(open_tap(netns, name_)),
      wire_(packet_socket(netns, wire)) {
    enable_auxiliary_data(wire_.get());
    netns.ip({"link", "set", name_, "up"});
    netns.ip({"address", "add", address, "dev", name_});
    thread_ = std::thread([this] { run(); });
}

VlanLink::~VlanLink() {
    stop_ = true;
    thread_.join();
}

void VlanLink::run() {
    constexpr int kIntervalMs = 20;
    std::array<pollfd, 2> ready{{{wire_.get(), POLLIN, 0}, {tap_.get(), POLLIN, 0}}};
    while (!stop_) {
        ::poll(ready.data(), ready.size(), kIntervalMs);
        if ((ready[0].revents & POLLIN) != 0) from_wire();
        if ((ready[1].revents & POLLIN) != 0) to_wire();
    }
}

// What the interface has no room for is lost, as on any link.
void VlanLink::from_wire() {
    frame_.resize(kMostFrame);
    const ReceivedFrame received = receive_frame(wire_.get(), frame_);
    if (received.kept == 0 || received.vlan != vlan_) return;
    [[maybe_unused]] const ssize_t written = ::write(tap_.get(), frame_.data(), received.kept);
}

void VlanLink::to_wire() {
    frame_.resize(kMostFrame);
    const ssize_t size = ::read(tap_.get(), frame_.data(), frame_.size());
    if (size <= kTagAt) return;
    frame_.resize(static_cast<std::size_t>(size));
    // IEEE 802.1Q: the tag protocol identifier, and priority 0 with the VLAN identifier.
    const std::array<std::uint8_t, 4> tag{0x81, 0x00, static_cast<std::uint8_t>(vlan_ >> 8),
                                          static_cast<std::uint8_t>(vlan_)};
    frame_.insert(frame_.begin() + kTagAt, tag.begin(), tag.end());
    [[maybe_unused]] const ssize_t sent = ::send(wire_.get(), frame_.data(), frame_.size(), 0);
}

}  // namespace zecorx::test
