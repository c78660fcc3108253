// A look at each received frame before the guest sees it, for a vswitch in the receive path.
//
// The hook is a type the receive path is built with: its call is inlined, and the path built with
// NoHook has no trace of it. It is called once a frame, in the order of arrival, by the thread that
// owns the path, when the NIC has written the frame and the driver has not been told.
//
// What landed without a copy lies in guest memory that the driver may write to at any time: a hook
// that decides by bytes reads them once into a local and decides by that. It may write to the
// frame.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

namespace zecorx {

// A part of a frame: all that the NIC wrote for one descriptor.
using FramePiece = std::span<std::byte>;

// What becomes of a frame. One that is cut beyond the bounds named here is dropped.
struct Cut {
    // The buffers the frame was to go to return to the driver empty. They may hold what the NIC
    // wrote all the same: a drop keeps a frame from the driver's stack, it keeps no secret.
    bool drop = false;
    // Bytes taken off the front, less than the first piece has. The rest of that piece moves down,
    // because the virtio-net header stays where the buffer begins. The first of several pieces
    // keeps at least 12 bytes, which go where the second one's buffer begins.
    std::uint32_t front = 0;
    std::uint32_t back = 0;  // bytes taken off the end, less than the last piece has
    // Whether the NIC's verdict on the checksum holds for what remains.
    bool keeps_checksum = true;

    bool operator==(const Cut&) const = default;
};

template <class Hook>
concept ReceiveHook = requires(Hook hook, std::span<const FramePiece> frame) {
    { hook(frame) }
    noexcept->std::same_as<Cut>;
};

struct NoHook {
    Cut operator()(std::span<const FramePiece>) const noexcept { return {}; }
};

static_assert(ReceiveHook<NoHook>);

}  // namespace zecorx
