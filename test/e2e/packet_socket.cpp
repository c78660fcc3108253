#include "packet_socket.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <stdexcept>

#include "guest/event_fd.h"

namespace zecorx::test {
namespace {

tpacket_auxdata auxiliary_data(msghdr& message) {
    tpacket_auxdata data;
    for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_PACKET || part->cmsg_type != PACKET_AUXDATA) continue;
        std::memcpy(&data, CMSG_DATA(part), sizeof data);
        return data;
    }
    throw std::runtime_error("the kernel hands over no auxiliary data of frames");
}

}  // namespace

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

void enable_auxiliary_data(int fd) {
    constexpr int kOn = 1;
    if (::setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &kOn, sizeof kOn) != 0) {
        throw_errno("ask for VLAN tags");
    }
}

ReceivedFrame receive_frame(int fd, std::span<std::uint8_t> buffer) {
    iovec piece{buffer.data(), buffer.size()};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(tpacket_auxdata))> control;
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t kept = ::recvmsg(fd, &message, MSG_DONTWAIT);
    if (kept <= 0) return {};
    const tpacket_auxdata data = auxiliary_data(message);
    ReceivedFrame frame{.kept = static_cast<std::size_t>(kept), .size = data.tp_len, .vlan = {}};
    if ((data.tp_status & TP_STATUS_VLAN_VALID) != 0) {
        constexpr std::uint16_t kIdentifier = 0xFFF;
        frame.vlan = static_cast<std::uint16_t>(data.tp_vlan_tci & kIdentifier);
    }
    return frame;
}

}  // namespace zecorx::test
