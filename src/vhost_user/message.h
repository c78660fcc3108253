// One vhost-user message, and how it is read from and written to a socket that may stop anywhere.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "protocol.h"
#include "zecorx/unique_fd.h"

namespace zecorx::vhost_user {

// The frontend asked for something it cannot have. what() is the reason, as part of a sentence.
class Refusal : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

struct Message {
    Header header;
    std::array<std::byte, kMaxPayload> payload{};  // zeros beyond header.size
    std::vector<UniqueFd> fds;

    Request request() const { return static_cast<Request>(header.request); }
    bool needs_reply() const { return (header.flags & kFlagNeedReply) != 0; }

    template <class Payload>
    Payload payload_as() const {
        static_assert(std::is_trivially_copyable_v<Payload> && sizeof(Payload) <= kMaxPayload);
        Payload value;
        std::memcpy(&value, payload.data(), sizeof value);
        return value;
    }
};

// The answer to a message: no descriptors, at most eight bytes.
class Reply {
  public:
    // To `request` without a payload.
    explicit Reply(Request request)
        : header_{static_cast<std::uint32_t>(request), kVersion | kFlagReply, 0} {}
    template <class Payload>
    Reply(Request request, const Payload& payload) : Reply(request) {
        static_assert(std::is_trivially_copyable_v<Payload> && sizeof(Payload) <= 8);
        header_.size = sizeof payload;
        std::memcpy(payload_.data(), &payload, sizeof payload);
    }

    std::span<const std::byte> bytes() const {
        return std::as_bytes(std::span(this, 1)).first(sizeof header_ + header_.size);
    }

  private:
    Header header_;
    std::array<std::byte, 8> payload_{};
};
static_assert(sizeof(Reply) == sizeof(Header) + 8);

// Puts messages together from what arrives, and never waits for the rest of one.
class MessageReader {
  public:
    enum class Result { kMessage, kNothing, kClosed };

    // kMessage: a whole message is in message(). kNothing: the rest has not arrived. Throws Refusal
    // if the bytes cannot be a message; nothing can be read after that.
    Result read(int socket);

    // The message of the last kMessage; valid until read() is called again.
    Message& message() { return message_; }

  private:
    Result fill(int socket);
    std::span<std::byte> missing();
    void take_fds(msghdr& header);

    Message message_;
    std::size_t received_ = 0;  // bytes of header and payload
};

// False: the frontend is gone, or does not read its replies.
bool send_reply(int socket, const Reply& reply);

}  // namespace zecorx::vhost_user
