// What one connected frontend has said: features, memory, vrings, log. Every message is checked
// before it changes anything, and changes nothing under a running data path.
//
// Thread rule: control side, every call under the control mutex.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "message.h"
#include "message_rules.h"
#include "shared_memory.h"
#include "zecorx/mac_address.h"
#include "zecorx/unique_fd.h"
#include "zecorx/virtio.h"

namespace zecorx::vhost_user {

class Session;

// The VM that sessions are for. Several may be connected at a time; it chooses whom it serves.
//
// A change of memory, rings or features runs between quiesce() and settle(): from the return of the
// first to the call of the second nobody touches the session's memory, and the positions at which
// its rings stand are noted by Session::stopped_at().
class SessionHost {
  public:
    virtual ~SessionHost() = default;

    virtual void connected(Session& session) = 0;
    virtual void disconnected(Session& session) = 0;
    virtual void quiesce(Session& session) = 0;
    // Runs the session if it is ready(). What is no longer in regions() is let go of.
    virtual void settle(Session& session) = 0;
    // The vring has another call descriptor.
    virtual void call_changed(Session& session, std::size_t vring) = 0;
    // log() is another one. Upon return nobody writes to the old one.
    virtual void log_changed(Session& session) = 0;
    virtual void address_announced(Session& session, const MacAddress& mac) = 0;
    // Throws Refusal where the port's frames are shorter than what the frontend tells its guest.
    virtual void check_mtu(std::uint64_t mtu) const = 0;
    // Those of kOfferedFeatures that what serves the session can do.
    virtual std::uint64_t offered_features() const = 0;
    // A message was refused; `sentence` says which and why.
    virtual void refused(const std::string& sentence) = 0;
};

// What the device offers, the features below the virtio ones included.
//
// The control queue, and with it the announcement of a migrated guest, stays with the frontend. No
// GUEST_TSO or UFO: the NIC merges no segments. No inflight descriptors: completion is in order, so
// the used ring says all that a restart needs.
inline constexpr std::uint64_t kFeatureAnyLayout = 1ULL << 27;
inline constexpr std::uint64_t kFeatureCtrlVq = 1ULL << 17;
inline constexpr std::uint64_t kFeatureCtrlRx = 1ULL << 18;
inline constexpr std::uint64_t kOfferedFeatures =
    kFeatureNetCsum | kFeatureNetGuestCsum | kFeatureNetMtu | kFeatureNetHostTso4 |
    kFeatureNetHostTso6 | kFeatureNetMrgRxbuf | kFeatureNetGuestAnnounce | kFeatureCtrlVq |
    kFeatureCtrlRx | kFeatureLogAll | kFeatureAnyLayout | kFeatureIndirectDesc | kFeatureEventIdx |
    kFeatureVhostUserProtocol | kFeatureVersion1 | kFeatureRingPacked | kFeatureInOrder |
    kFeatureRingReset;
inline constexpr std::uint64_t kOfferedProtocolFeatures =
    kProtocolLogShmfd | kProtocolRarp | kProtocolReplyAck | kProtocolMtu |
    kProtocolConfigureMemSlots | kProtocolStatus;

struct Vring {
    std::uint32_t size = 0;
    std::optional<VringAddress> address;
    std::uint16_t base = 0;  // split: an index; packed: a position, kPackedWrap its wrap counter
    bool kicked = false;     // a kick descriptor was set, or "none": the ring is started
    bool enabled = false;
    UniqueFd kick;  // eventfds; either may be missing
    UniqueFd call;
};

class Session {
  public:
    explicit Session(SessionHost& host);
    ~Session();
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    // Acts on a message; the reply, if it has one. Throws Refusal with nothing changed, or
    // std::runtime_error where the host cannot do it.
    std::optional<Reply> handle(Message& message);
    const Negotiated& negotiated() const { return negotiated_; }

    // For the host.

    std::uint64_t features() const { return negotiated_.features; }
    const GuestRegions& regions() const { return regions_; }
    // Null: the frontend's address is in no region.
    std::byte* locate(std::uint64_t user_address) const;
    const Vring& vring(std::size_t index) const { return vrings_.at(index); }
    // One bit for each 4 KiB of guest memory; empty while writes are not to be logged.
    std::span<std::byte> log() const;
    // Both vrings are set up and may be used; `ready` if they are enabled, too.
    bool set_up() const;
    bool ready() const;
    // No vring is started: the device is stopped or was never started.
    bool stopped() const;
    // The frontend took back memory that is in its table.
    bool lost_memory() const;
    // Where the ring stood when it was quiesced.
    void stopped_at(std::size_t vring, std::uint16_t base) { vrings_.at(vring).base = base; }

  private:
    template <class Change>
    void change(Change&& change);
    void set_features(std::uint64_t features);
    void set_protocol_features(std::uint64_t features);
    void set_table(Message& message);
    void set_log(Message& message);
    void set_vring_num(const VringState& state);
    void set_vring_address(const VringAddress& address);
    void set_vring_base(const VringState& state);
    std::uint32_t stop_vring(const VringState& state);
    void set_kick(Message& message);
    void set_call(Message& message);
    void set_enable(const VringState& state);
    void set_status(std::uint64_t status);
    void reset_owner();
    Vring& vring_of(const Message& message);
    bool is_packed() const { return (features() & kFeatureRingPacked) != 0; }

    SessionHost& host_;
    Negotiated negotiated_;
    std::uint64_t status_ = 0;
    GuestRegions regions_;
    std::array<Vring, kVrings> vrings_;
    std::unique_ptr<SharedMapping> log_;
};

}  // namespace zecorx::vhost_user
