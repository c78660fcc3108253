// How guests lay out the buffers they post on a receiveq.
//
// An RxLayout places one buffer after another in guest memory. The named ones are what the guests
// in the field post; RxBufferBuilder makes any other.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "guest_memory.h"
#include "split_queue_driver.h"

namespace zecorx::test {

// One receive buffer: a chain of device-writable pieces and the driver's memory next to them.
struct RxBuffer {
    std::vector<Piece> pieces;
    std::vector<GuestRange> guards;  // canaries the device must never write
    DescForm form = DescForm::kDirect;
    bool shared_first_piece = false;  // other buffers use it too, so its canary means nothing

    std::uint32_t capacity() const;  // bytes, header included
};

// Places the pieces of one buffer:
//   RxBufferBuilder(memory).piece(12).align(4096).piece(1518).indirect().build()
class RxBufferBuilder {
  public:
    // Canary bytes on each side of a piece: more than a NIC that rounds 1536 up to 2048 overruns.
    static constexpr std::size_t kGuard = 1024;

    explicit RxBufferBuilder(FakeMemory& memory) : memory_(memory) {}

    RxBufferBuilder& align(std::size_t bytes);   // of the pieces that follow; 64 to begin with
    RxBufferBuilder& offset(std::size_t bytes);  // past that alignment, for the pieces that follow
    RxBufferBuilder& piece(std::uint32_t len);   // newly allocated, guarded on both sides
    RxBufferBuilder& piece_at(Gpa gpa, std::uint32_t len);  // the caller's memory, unguarded
    // `total` bytes without gap or guard behind the last allocation, cut where `cuts` end; the
    // remainder is the last piece.
    RxBufferBuilder& packed(std::uint32_t total, const std::vector<std::uint32_t>& cuts);
    RxBufferBuilder& shared_first_piece();
    RxBufferBuilder& indirect();
    RxBuffer build() const { return buffer_; }

  private:
    FakeMemory& memory_;
    std::size_t align_ = 64;
    std::size_t offset_ = 0;
    RxBuffer buffer_;
};

// A layout may remember what it placed before, so each driver has a copy of its own.
class RxLayout {
  public:
    // Places buffer number `ordinal`; `header` is the session's virtio-net header size.
    using Place =
        std::function<RxBuffer(FakeMemory& memory, std::uint32_t header, std::size_t ordinal)>;

    RxLayout(std::string name, Place place) : name_(std::move(name)), place_(std::move(place)) {}

    const std::string& name() const { return name_; }
    RxBuffer place(FakeMemory& memory, std::uint32_t header, std::size_t ordinal) {
        return place_(memory, header, ordinal);
    }

    static RxLayout linux_mergeable();  // 1 descriptor of 1536, every 21st 2048
    static RxLayout linux_small();      // 1 descriptor: header + 1518
    static RxLayout linux_old();        // header apart, then 1518
    static RxLayout linux_big();        // 19 descriptors by an indirect table: header, 18 pages
    static RxLayout dpdk();             // 1 descriptor: header + 2048, data 64-byte aligned
    static RxLayout page();             // 1 descriptor of 4096, page-aligned
    static RxLayout edk2();             // header, then 1514; buffers packed back to back
    static RxLayout ipxe();             // one header for all buffers, then 1518
    static RxLayout split_header(std::uint32_t step);  // header in pieces of `step`, then 1518
    static RxLayout odd_address();                     // header + 2048 from an odd address
    static RxLayout tiny(std::uint32_t len = 512);     // 1 descriptor of `len`
    static RxLayout page_crossing();                   // header + 1518 around a 4 KiB boundary
    static RxLayout region_crossing();  // around the end of a region while there are such ends,
                                        // then like dpdk()
    static RxLayout single(std::uint32_t len);  // header + `len`, for size gates

    // What every backend must serve, without and with MRG_RXBUF: each holds a whole 1514-byte
    // frame.
    static std::vector<RxLayout> whole_frame_layouts();

  private:
    std::string name_;
    Place place_;
};

}  // namespace zecorx::test
