#include "message_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>

#include "zecorx/virtio.h"

namespace zecorx::vhost_user {
namespace {

enum class Fds : std::uint8_t {
    kNone,
    kOne,
    kMaybeOne,
    kUnlessFlagged,  // one, or none if kVringNoFd is set
    kOnePerRegion,
};

struct Rule {
    Request request;
    const char* name;
    std::uint32_t size;  // of the payload, exactly; a memory table has as much as its regions need
    Fds fds = Fds::kNone;
    std::uint64_t protocol_feature = 0;  // without which the request does not exist
    bool names_vring = false;            // in the payload's first word
};

constexpr std::uint32_t kWord = 8;

constexpr std::array<Rule, 24> kRules{{
    {Request::kGetFeatures, "GET_FEATURES", 0, Fds::kNone},
    {Request::kSetFeatures, "SET_FEATURES", kWord},
    {Request::kSetOwner, "SET_OWNER", 0},
    {Request::kResetOwner, "RESET_OWNER", 0},
    {Request::kSetMemTable, "SET_MEM_TABLE", 0, Fds::kOnePerRegion},
    {Request::kSetLogBase, "SET_LOG_BASE", sizeof(LogDescription), Fds::kOne, kProtocolLogShmfd},
    {Request::kSetLogFd, "SET_LOG_FD", 0, Fds::kMaybeOne},
    {Request::kSetVringNum, "SET_VRING_NUM", sizeof(VringState), Fds::kNone, 0, true},
    {Request::kSetVringAddr, "SET_VRING_ADDR", sizeof(VringAddress), Fds::kNone, 0, true},
    {Request::kSetVringBase, "SET_VRING_BASE", sizeof(VringState), Fds::kNone, 0, true},
    {Request::kGetVringBase, "GET_VRING_BASE", sizeof(VringState), Fds::kNone, 0, true},
    {Request::kSetVringKick, "SET_VRING_KICK", kWord, Fds::kUnlessFlagged},
    {Request::kSetVringCall, "SET_VRING_CALL", kWord, Fds::kUnlessFlagged},
    {Request::kSetVringErr, "SET_VRING_ERR", kWord, Fds::kUnlessFlagged},
    {Request::kGetProtocolFeatures, "GET_PROTOCOL_FEATURES", 0, Fds::kNone},
    {Request::kSetProtocolFeatures, "SET_PROTOCOL_FEATURES", kWord},
    {Request::kSetVringEnable, "SET_VRING_ENABLE", sizeof(VringState), Fds::kNone, 0, true},
    {Request::kSendRarp, "SEND_RARP", kWord, Fds::kNone, kProtocolRarp},
    {Request::kNetSetMtu, "NET_SET_MTU", kWord, Fds::kNone, kProtocolMtu},
    {Request::kGetMaxMemSlots, "GET_MAX_MEM_SLOTS", 0, Fds::kNone, kProtocolConfigureMemSlots},
    {Request::kAddMemReg, "ADD_MEM_REG", sizeof(SingleRegion), Fds::kOne,
     kProtocolConfigureMemSlots},
    {Request::kRemMemReg, "REM_MEM_REG", sizeof(SingleRegion), Fds::kMaybeOne,
     kProtocolConfigureMemSlots},
    {Request::kSetStatus, "SET_STATUS", kWord, Fds::kNone, kProtocolStatus},
    {Request::kGetStatus, "GET_STATUS", 0, Fds::kNone, kProtocolStatus},
}};

const Rule* rule_of(std::uint32_t request) {
    const auto found = std::ranges::find(kRules, static_cast<Request>(request), &Rule::request);
    return found == kRules.end() ? nullptr : &*found;
}

void check_table_size(const Message& message) {
    const auto table = message.payload_as<MemTable>();
    constexpr std::uint32_t kHead = sizeof(MemTable) - sizeof(MemTable::regions);
    if (table.count > kMaxTableRegions) {
        throw Refusal(
            fmt::format("it has {} memory regions, more than {}", table.count, kMaxTableRegions));
    }
    if (message.header.size != kHead + table.count * sizeof(RegionDescription)) {
        throw Refusal(fmt::format("its payload of {} bytes does not hold {} memory regions",
                                  message.header.size, table.count));
    }
}

void check_size(const Message& message, const Rule& rule) {
    if (message.request() == Request::kSetMemTable) return check_table_size(message);
    if (message.header.size == rule.size) return;
    throw Refusal(
        fmt::format("its payload has {} bytes instead of {}", message.header.size, rule.size));
}

std::size_t wanted_fds(const Message& message, const Rule& rule) {
    switch (rule.fds) {
        case Fds::kNone:
            return 0;
        case Fds::kOne:
            return 1;
        case Fds::kMaybeOne:
            return std::min<std::size_t>(message.fds.size(), 1);
        case Fds::kUnlessFlagged:
            return (message.payload_as<std::uint64_t>() & kVringNoFd) != 0 ? 0 : 1;
        case Fds::kOnePerRegion:
            return message.payload_as<MemTable>().count;
    }
    return 0;
}

void check_fds(const Message& message, const Rule& rule) {
    const std::size_t wanted = wanted_fds(message, rule);
    if (message.fds.size() == wanted) return;
    throw Refusal(
        fmt::format("it carries {} descriptors instead of {}", message.fds.size(), wanted));
}

void check_vring(std::uint64_t vring) {
    if (vring < kVrings) return;
    throw Refusal(fmt::format("there is no vring {}, only 0 and 1", vring));
}

// A power of two for split rings (VIRTIO 2.7), any number for packed ones (2.8).
void check_ring_size(std::uint32_t size, std::uint64_t features) {
    if (size == 0 || size > kMaxRingSize) {
        throw Refusal(fmt::format("a ring has 1 to {} entries, not {}", kMaxRingSize, size));
    }
    if ((features & kFeatureRingPacked) == 0 && !std::has_single_bit(size)) {
        throw Refusal(fmt::format("the size of a split ring is a power of two, not {}", size));
    }
}

void check_values(const Message& message, const Negotiated& negotiated) {
    const auto word = message.payload_as<std::uint64_t>();
    switch (message.request()) {
        case Request::kSetVringNum:
            return check_ring_size(message.payload_as<VringState>().value, negotiated.features);
        case Request::kSetVringKick:
        case Request::kSetVringCall:
        case Request::kSetVringErr:
            return check_vring(word & ~kVringNoFd);
        case Request::kSetStatus:
            if (word <= kMostStatus) return;
            throw Refusal(fmt::format("{:#x} is no device status", word));
        default:
            return;
    }
}

}  // namespace

std::string name_of(std::uint32_t request) {
    const Rule* rule = rule_of(request);
    return rule != nullptr ? rule->name : fmt::format("message {}", request);
}

void check_message(const Message& message, const Negotiated& negotiated) {
    if ((message.header.flags & kVersionMask) != kVersion) {
        throw Refusal(fmt::format("its protocol version is {} instead of {}",
                                  message.header.flags & kVersionMask, kVersion));
    }
    if ((message.header.flags & kFlagReply) != 0) throw Refusal("it is a reply to nothing");
    const Rule* rule = rule_of(message.header.request);
    if (rule == nullptr) throw Refusal("it was not offered");
    if ((rule->protocol_feature & ~negotiated.protocol_features) != 0) {
        throw Refusal("its protocol feature was not negotiated");
    }
    check_size(message, *rule);
    check_fds(message, *rule);
    if (rule->names_vring) check_vring(message.payload_as<std::uint32_t>());
    check_values(message, negotiated);
}

}  // namespace zecorx::vhost_user
