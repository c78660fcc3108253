#include "session.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

namespace zecorx::vhost_user {
namespace {

// Anything else could make a writer wait, or be written to a disk.
bool is_eventfd(const UniqueFd& fd) {
    const std::string path = "/proc/self/fd/" + std::to_string(fd.get());
    std::array<char, 64> target{};
    const ssize_t length = ::readlink(path.c_str(), target.data(), target.size());
    return length > 0 && std::string_view(target.data(), static_cast<std::size_t>(length)) ==
                             "anon_inode:[eventfd]";
}

UniqueFd take_eventfd(Message& message) {
    if (message.fds.empty()) return {};
    if (!is_eventfd(message.fds.front())) throw Refusal("its descriptor is not an eventfd");
    return std::move(message.fds.front());
}

void check_subset(std::uint64_t features, std::uint64_t offered) {
    if ((features & ~offered) == 0) return;
    throw Refusal(fmt::format("features {:#x} were not offered", features & ~offered));
}

}  // namespace

Session::Session(SessionHost& host) : host_(host) { host_.connected(*this); }

Session::~Session() { host_.disconnected(*this); }

template <class Change>
void Session::change(Change&& change) {
    host_.quiesce(*this);
    change();
    host_.settle(*this);
}

std::optional<Reply> Session::handle(Message& message) {
    check_message(message, negotiated_);
    const Request request = message.request();
    const auto word = message.payload_as<std::uint64_t>();
    const auto state = message.payload_as<VringState>();
    switch (request) {
        case Request::kGetFeatures:
            return Reply(request, host_.offered_features());
        case Request::kSetFeatures:
            set_features(word);
            break;
        case Request::kSetOwner:
        case Request::kSetLogFd:
        case Request::kSetVringErr:
            break;  // nothing here depends on these
        case Request::kResetOwner:
            reset_owner();
            break;
        case Request::kSetMemTable:
        case Request::kAddMemReg:
        case Request::kRemMemReg:
            set_table(message);
            break;
        case Request::kSetLogBase:
            set_log(message);
            return Reply(request);
        case Request::kSetVringNum:
            set_vring_num(state);
            break;
        case Request::kSetVringAddr:
            set_vring_address(message.payload_as<VringAddress>());
            break;
        case Request::kSetVringBase:
            set_vring_base(state);
            break;
        case Request::kGetVringBase:
            return Reply(request, VringState{state.index, stop_vring(state)});
        case Request::kSetVringKick:
            set_kick(message);
            break;
        case Request::kSetVringCall:
            set_call(message);
            break;
        case Request::kGetProtocolFeatures:
            return Reply(request, kOfferedProtocolFeatures);
        case Request::kSetProtocolFeatures:
            set_protocol_features(word);
            break;
        case Request::kSetVringEnable:
            set_enable(state);
            break;
        case Request::kSendRarp:
            host_.address_announced(*this, message.payload_as<MacAddress>());
            break;
        case Request::kNetSetMtu:
            host_.check_mtu(word);
            break;
        case Request::kGetMaxMemSlots:
            return Reply(request, std::uint64_t{kMaxRegions});
        case Request::kSetStatus:
            set_status(word);
            break;
        case Request::kGetStatus:
            return Reply(request, status_);
    }
    return std::nullopt;
}

// Logging goes on and off while the rings run; anything else does not.
void Session::set_features(std::uint64_t features) {
    check_subset(features, host_.offered_features());
    const std::uint64_t changed = features ^ negotiated_.features;
    // Spec, "Ring states": without the feature rings are enabled from the start.
    const bool enables = (features & kFeatureVhostUserProtocol) == 0 &&
                         !std::ranges::all_of(vrings_, &Vring::enabled);
    if (enables || (changed & ~std::uint64_t{kFeatureLogAll}) != 0) {
        change([&] {
            negotiated_.features = features;
            for (Vring& vring : vrings_) vring.enabled |= enables;
        });
    } else if (changed != 0) {
        negotiated_.features = features;
        host_.log_changed(*this);
    }
}

void Session::set_protocol_features(std::uint64_t features) {
    check_subset(features, kOfferedProtocolFeatures);
    change([&] { negotiated_.protocol_features = features; });
}

// What can fail comes before the change: a refused table leaves the one before it in force.
void Session::set_table(Message& message) {
    const RegionDescription single = message.payload_as<SingleRegion>().region;
    GuestRegions table;
    if (message.request() == Request::kSetMemTable) {
        const auto wanted = message.payload_as<MemTable>();
        table = make_table(regions_, std::span(wanted.regions).first(wanted.count),
                           std::move(message.fds));
    } else if (message.request() == Request::kAddMemReg) {
        table = with_region(regions_, single, std::move(message.fds.front()));
    } else {
        table = without_region(regions_, single);
    }
    change([&] { regions_.swap(table); });
}

void Session::set_log(Message& message) {
    const auto wanted = message.payload_as<LogDescription>();
    auto log =
        std::make_unique<SharedMapping>(message.fds.front(), wanted.file_offset, wanted.size);
    log_.swap(log);
    host_.log_changed(*this);
}

void Session::set_vring_num(const VringState& state) {
    Vring& vring = vrings_[state.index];
    if (vring.size != state.value) change([&] { vring.size = state.value; });
}

void Session::set_vring_address(const VringAddress& address) {
    Vring& vring = vrings_[address.index];
    const bool same = vring.address && vring.address->desc == address.desc &&
                      vring.address->used == address.used && vring.address->avail == address.avail;
    if (!same) change([&] { vring.address = address; });
}

// Spec, "Vring descriptor indices for packed virtqueues": the low half is the driver's side, the
// high half ours. They are the same where we stopped, since completion is in order.
void Session::set_vring_base(const VringState& state) {
    const std::uint32_t most = is_packed() ? 0xffff'ffff : 0xffff;
    if (state.value > most) {
        throw Refusal(fmt::format("{} is not an index of a split ring", state.value));
    }
    Vring& vring = vrings_[state.index];
    change([&] { vring.base = static_cast<std::uint16_t>(state.value); });
}

std::uint32_t Session::stop_vring(const VringState& state) {
    Vring& vring = vrings_[state.index];
    change([&] {
        vring.kicked = false;
        vring.kick.reset();
    });
    return is_packed() ? vring.base | std::uint32_t{vring.base} << 16 : vring.base;
}

Vring& Session::vring_of(const Message& message) {
    return vrings_[message.payload_as<std::uint64_t>() & kVringIndexMask];
}

void Session::set_kick(Message& message) {
    UniqueFd kick = take_eventfd(message);
    Vring& vring = vring_of(message);
    // Nobody waits for kicks of a ring that is polled, so its descriptor changes under way.
    vring.kick = std::move(kick);
    if (!vring.kicked) change([&] { vring.kicked = true; });
}

void Session::set_call(Message& message) {
    UniqueFd call = take_eventfd(message);
    Vring& vring = vring_of(message);
    vring.call = std::move(call);
    host_.call_changed(*this, static_cast<std::size_t>(&vring - vrings_.data()));
}

void Session::set_enable(const VringState& state) {
    Vring& vring = vrings_[state.index];
    const bool enable = state.value != 0;
    if (vring.enabled != enable) change([&] { vring.enabled = enable; });
}

// Status 0 is a reset of the device (VIRTIO 2.1): its rings have to be set up anew.
void Session::set_status(std::uint64_t status) {
    const bool starts_or_stops = ((status ^ status_) & kStatusDriverOk) != 0;
    if (status != 0 && !starts_or_stops) {
        status_ = status;
        return;
    }
    change([&] {
        status_ = status;
        if (status != 0) return;
        for (Vring& vring : vrings_) {
            vring.kicked = false;
            vring.kick.reset();
        }
    });
}

void Session::reset_owner() {
    change([&] {
        vrings_ = {};
        status_ = 0;
    });
}

std::byte* Session::locate(std::uint64_t user_address) const {
    for (const auto& region : regions_) {
        if (std::byte* const here = region->locate(user_address)) return here;
    }
    return nullptr;
}

std::span<std::byte> Session::log() const {
    const bool wanted = (features() & kFeatureLogAll) != 0;
    return wanted && log_ ? log_->bytes() : std::span<std::byte>{};
}

bool Session::set_up() const {
    const bool uses_status = (negotiated_.protocol_features & kProtocolStatus) != 0;
    if (uses_status && (status_ & kStatusDriverOk) == 0) return false;
    return !regions_.empty() && std::ranges::all_of(vrings_, [](const Vring& vring) {
        return vring.size != 0 && vring.address && vring.kicked;
    });
}

bool Session::ready() const { return set_up() && std::ranges::all_of(vrings_, &Vring::enabled); }

bool Session::stopped() const { return std::ranges::none_of(vrings_, &Vring::kicked); }

bool Session::lost_memory() const {
    return std::ranges::any_of(regions_,
                               [](const auto& region) { return region->mapping().lost(); }) ||
           (log_ && log_->lost());
}

}  // namespace zecorx::vhost_user
