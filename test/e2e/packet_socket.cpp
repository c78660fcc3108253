#include "packet_socket.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <sys/socket.h>

#include "guest/event_fd.h"

namespace zecorx::test {

UniqueFd packet_socket(const NetNamespace& netns, const std::string& interface) {
    UniqueFd fd = netns.socket(AF_PACKET, SOCK_RAW, 0);
    constexpr int kBufferBytes = 16 << 20;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kBufferBytes, sizeof kBufferBytes);
    // What others send would fill the buffer and look like life on the wire.
    constexpr int kOn = 1;
    ::setsockopt(fd.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, &kOn, sizeof kOn);
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(netns.interface_index(interface));
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
        throw_errno("bind a packet socket");
    }
    return fd;
}

}  // namespace zecorx::test
