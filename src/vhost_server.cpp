#include "vhost_server.h"

#include <fmt/format.h>
#include <rte_vhost.h>
#include <spdlog/spdlog.h>

#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <utility>

#include "zecorx/virtio.h"

namespace zecorx {
namespace {

// What librte_vhost offers less this is VERSION_1, ANY_LAYOUT, MRG_RXBUF, INDIRECT_DESC, EVENT_IDX,
// RING_PACKED, IN_ORDER, MTU, CSUM, HOST_TSO4, HOST_TSO6, GUEST_CSUM, CTRL_VQ, CTRL_RX,
// GUEST_ANNOUNCE and the protocol features. The control queue, and with it the announcement of a
// migrated guest, stays with the frontend. Subtracted instead of set, because setting the features
// makes the library wait for other virtqueues than a queue pair before it starts a device.
constexpr std::uint64_t kNotOffered = kFeatureNetGuestOffloads | kFeatureNetGso |
                                      kFeatureNetHostEcn | kFeatureNetHostUfo | kFeatureNetMq |
                                      kFeatureLogAll | kFeatureAccessPlatform;

// Protocol features (vhost-user, "Protocol features"): RARP 2, REPLY_ACK 3, MTU 4, STATUS 16.
constexpr std::uint64_t kProtocolFeatures = 1ULL << 2 | 1ULL << 3 | 1ULL << 4 | 1ULL << 16;

// Messages (vhost-user, "Front-end message types") that change what a running session stands on.
enum Message : int {
    kSetMemTable = 5,
    kSetVringNum = 8,
    kSetVringAddr = 9,
    kSetVringBase = 10,
    kSetVringCall = 13,
    kSetVringEnable = 18,
    kSendRarp = 19,
    kNetSetMtu = 20,
};

struct Served {
    Vm* vm = nullptr;
    ControlMutex* mutex = nullptr;
};

// Which VM a socket serves; the library's callbacks only name the session. Written while no
// callback can come for that path: before its driver starts and after it is unregistered.
class Registry {
  public:
    void add(const std::string& path, Served served) {
        const std::lock_guard lock(mutex_);
        served_[path] = served;
    }
    void remove(const std::string& path) {
        const std::lock_guard lock(mutex_);
        served_.erase(path);
    }
    Served find(int vid) {
        char path[PATH_MAX] = {};
        if (rte_vhost_get_ifname(vid, path, sizeof path) != 0) return {};
        const std::lock_guard lock(mutex_);
        const auto found = served_.find(path);
        return found == served_.end() ? Served{} : found->second;
    }

  private:
    std::mutex mutex_;
    std::map<std::string, Served> served_;
};

Registry& registry() {
    static Registry instance;
    return instance;
}

// Runs `event` on the VM of a connection, under the control mutex. Nothing may throw into the
// library's C code. Not 0: it could not be done.
template <class Event>
int with_vm(int vid, Event&& event) noexcept {
    try {
        const Served served = registry().find(vid);
        if (served.vm == nullptr) return -1;
        const std::lock_guard lock(*served.mutex);
        event(*served.vm);
        return 0;
    } catch (const std::exception& error) {
        spdlog::error("vhost connection {}: {}", vid, error.what());
        return -1;
    }
}

// The library hands over its message: a 32-bit request, flags and size, then the payload.
int request_of(const void* message) {
    std::uint32_t request = 0;
    std::memcpy(&request, message, sizeof request);
    return static_cast<int>(request);
}

constexpr std::size_t kPayloadOffset = 12;  // vhost-user, "Header"

// A vring state (vhost-user, "A vring state description").
struct VringState {
    std::uint32_t index;
    std::uint32_t value;
};

template <class Payload>
Payload payload_of(const void* message) {
    Payload payload;
    std::memcpy(&payload, static_cast<const std::byte*>(message) + kPayloadOffset, sizeof payload);
    return payload;
}

// Bits 0-7 of the payload of a message that carries a vring's descriptor.
std::uint32_t ring_of(const void* message) {
    return static_cast<std::uint32_t>(payload_of<std::uint64_t>(message) & 0xff);
}

void before(Vm& vm, int vid, const void* message) {
    vm.message_begins(vid);
    const int request = request_of(message);
    switch (request) {
        case kSetVringCall:
            return vm.before_call_change(vid, ring_of(message));
        case kSetMemTable:
        case kSetVringNum:
        case kSetVringAddr:
        case kSetVringBase:
            return vm.before_change(vid, request == kSetMemTable);
        case kSetVringEnable: {
            // The library acknowledges a disabled ring before it tells us, but an acknowledged
            // ring must be silent already.
            const auto state = payload_of<VringState>(message);
            if (state.value == 0) vm.ring_ready(vid, state.index, false);
            return;
        }
        case kNetSetMtu:
            return vm.check_mtu(payload_of<std::uint64_t>(message));
        case kSendRarp:
            return vm.address_announced(vid, payload_of<MacAddress>(message));
        default:
            return;
    }
}

void after(Vm& vm, int vid, const void* message) {
    const int request = request_of(message);
    switch (request) {
        case kSetVringCall:
            return vm.after_call_change(vid, ring_of(message));
        case kSetMemTable:
        case kSetVringNum:
        case kSetVringAddr:
        case kSetVringBase:
            return vm.after_change(vid, request == kSetMemTable);
        default:
            return;
    }
}

// A message for which we could not get out of the way is refused: the library must not go on to
// unmap what the NIC may still write to.
rte_vhost_msg_result before_message(int vid, void* message) noexcept {
    const int result = with_vm(vid, [&](Vm& vm) { before(vm, vid, message); });
    return result == 0 ? RTE_VHOST_MSG_RESULT_NOT_HANDLED : RTE_VHOST_MSG_RESULT_ERR;
}

rte_vhost_msg_result after_message(int vid, void* message) noexcept {
    with_vm(vid, [&](Vm& vm) { after(vm, vid, message); });
    return RTE_VHOST_MSG_RESULT_NOT_HANDLED;
}

const rte_vhost_user_extern_ops kMessageHooks{before_message, after_message};

int new_connection(int vid) noexcept {
    if (rte_vhost_extern_callback_register(vid, &kMessageHooks, nullptr) != 0) return -1;
    return with_vm(vid, [vid](Vm& vm) { vm.connected(vid); });
}

void destroy_connection(int vid) noexcept {
    with_vm(vid, [vid](Vm& vm) { vm.disconnected(vid); });
}

int new_device(int vid) noexcept {
    return with_vm(vid, [vid](Vm& vm) { vm.session_started(vid); });
}

void destroy_device(int vid) noexcept {
    with_vm(vid, [vid](Vm& vm) { vm.session_stopped(vid); });
}

int vring_state_changed(int vid, std::uint16_t ring, int enabled) noexcept {
    return with_vm(vid, [&](Vm& vm) { vm.ring_ready(vid, ring, enabled != 0); });
}

const rte_vhost_device_ops kDeviceOps = [] {
    rte_vhost_device_ops ops{};
    ops.new_device = new_device;
    ops.destroy_device = destroy_device;
    ops.vring_state_changed = vring_state_changed;
    ops.new_connection = new_connection;
    ops.destroy_connection = destroy_connection;
    return ops;
}();

void check(int result, const std::string& path, const char* attempted) {
    if (result != 0) {
        throw std::runtime_error(
            fmt::format("cannot {} the vhost-user socket {}", attempted, path));
    }
}

}  // namespace

VhostSocket::VhostSocket(std::string path, bool client, Vm& vm, ControlMutex& mutex)
    : path_(std::move(path)) {
    const char* name = path_.c_str();
    check(rte_vhost_driver_register(name, client ? RTE_VHOST_USER_CLIENT : 0), path_, "register");
    registry().add(path_, {&vm, &mutex});
    try {
        check(rte_vhost_driver_disable_features(name, kNotOffered), path_, "set the features of");
        check(rte_vhost_driver_set_protocol_features(name, kProtocolFeatures), path_,
              "set the protocol features of");
        check(rte_vhost_driver_callback_register(name, &kDeviceOps), path_, "watch");
        check(rte_vhost_driver_start(name), path_, client ? "connect to" : "listen on");
    } catch (...) {
        rte_vhost_driver_unregister(name);
        registry().remove(path_);
        throw;
    }
}

VhostSocket::~VhostSocket() {
    rte_vhost_driver_unregister(path_.c_str());
    registry().remove(path_);
}

}  // namespace zecorx
