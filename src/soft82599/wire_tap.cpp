#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

#include "wire.h"
#include "zecorx/unique_fd.h"

namespace zecorx::soft82599 {
namespace {

std::runtime_error tap_error(const std::string& name, const char* what) {
    const char* remedy =
        errno == EPERM || errno == EACCES ? "; run as root or with CAP_NET_ADMIN" : "";
    return std::runtime_error("cannot use TAP interface '" + name + "': " + what + ": " +
                              std::strerror(errno) + remedy);
}

ifreq request_for(const std::string& name) {
    ifreq request{};
    name.copy(request.ifr_name, IFNAMSIZ - 1);
    return request;
}

UniqueFd open_tap(const std::string& name) {
    UniqueFd fd(open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!fd) throw tap_error(name, "cannot open /dev/net/tun");
    ifreq request = request_for(name);
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    if (ioctl(fd.get(), TUNSETIFF, &request) != 0) throw tap_error(name, "cannot attach");
    return fd;
}

void set_up(const std::string& name) {
    const UniqueFd socket_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request = request_for(name);
    if (!socket_fd || ioctl(socket_fd.get(), SIOCGIFFLAGS, &request) != 0) {
        throw tap_error(name, "cannot read its flags");
    }
    request.ifr_flags |= IFF_UP;
    if (ioctl(socket_fd.get(), SIOCSIFFLAGS, &request) != 0) {
        throw tap_error(name, "cannot set it up");
    }
}

class TapWire : public Wire {
  public:
    explicit TapWire(const std::string& name) : fd_(open_tap(name)) { set_up(name); }

    void receive(unsigned max, std::vector<Frame>& frames) override {
        for (; max != 0; --max) {
            const ssize_t length = read(fd_.get(), buffer_.data(), buffer_.size());
            if (length <= 0) return;
            frames.emplace_back(buffer_.begin(), buffer_.begin() + length);
        }
    }

    // A full or unplugged interface loses frames, as a switch port would.
    void send(FrameView frame) override {
        [[maybe_unused]] const ssize_t written = write(fd_.get(), frame.data(), frame.size());
    }

    int readable_fd() const override { return fd_.get(); }

  private:
    UniqueFd fd_;
    std::array<std::byte, 65536> buffer_{};
};

}  // namespace

std::unique_ptr<Wire> make_tap_wire(std::string_view name) {
    if (name.empty() || name.size() >= IFNAMSIZ || name.find_first_of(",/ ") != name.npos) {
        throw std::runtime_error("'" + std::string(name) +
                                 "' is no name for a TAP interface: 1 to 15 characters are");
    }
    return std::make_unique<TapWire>(std::string(name));
}

}  // namespace zecorx::soft82599
