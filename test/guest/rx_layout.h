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
#include "queue_driver.h"

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
//   RxBufferBuilder(memory).piece(12).align(4096).piece(1518).build()
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
    RxBuffer build() const { return buffer_; }

  private:
    FakeMemory& memory_;
    std::size_t align_ = 64;
    std::size_t offset_ = 0;
    RxBuffer buffer_;
};

// Which sessions guests use a layout in.
enum class MrgRxbuf { kAny, kOnlyWith, kOnlyWithout };

// A layout may remember what it placed before, so each driver has a copy of its own.
class RxLayout {
  public:
    // Places buffer number `ordinal`; `header` is the session's virtio-net header size.
    using Place =
        std::function<RxBuffer(FakeMemory& memory, std::uint32_t header, std::size_t ordinal)>;

    RxLayout(std::string name, Place place, MrgRxbuf mrg_rxbuf = MrgRxbuf::kAny,
             DescForm form = DescForm::kDirect)
        : name_(std::move(name)), place_(std::move(place)), mrg_rxbuf_(mrg_rxbuf), form_(form) {}

    const std::string& name() const { return name_; }
    MrgRxbuf mrg_rxbuf() const { return mrg_rxbuf_; }
    bool indirect() const { return form_ == DescForm::kIndirect; }
    // Whether a guest that negotiated `features` posts such buffers.
    bool suits(std::uint64_t features) const;
    RxBuffer place(FakeMemory& memory, std::uint32_t header, std::size_t ordinal);
    // Bytes of frame that one buffer, the first, holds.
    std::uint32_t frame_room(std::uint32_t header) const;

    // What guests in the field post. `mtu` is the guest's, where its driver goes by it.
    static RxLayout linux_mergeable();  // 1 descriptor of 1536, every 21st 2048
    static RxLayout linux_xdp();        // 1 descriptor of 3520, 256 bytes into a page
    static RxLayout linux_small();      // 1 descriptor: header + 1518
    static RxLayout linux_old();        // header apart, then 1518
    // 19 descriptors: header, 18 pages. By an indirect table where that is negotiated.
    static RxLayout linux_big(DescForm form = DescForm::kIndirect);
    static RxLayout linux_big_mtu(std::uint32_t mtu);  // header, then as many pages as it takes
    static RxLayout dpdk();  // 1 descriptor: header + 2048, data 64-byte aligned
    static RxLayout page();  // 1 descriptor of 4096, page-aligned: old Linux, NetKVM with MRG_RXBUF
    static RxLayout edk2();  // header, then 1514; buffers packed back to back
    static RxLayout ipxe(std::uint32_t mtu = 1500);  // one header for all, then 18 + MTU
    // 64 KiB of pages that lie apart and a tail, by an indirect table; the header has a descriptor
    // of its own, or with `header_in_page` the start of the first page.
    static RxLayout netkvm(bool header_in_page = false);

    // What the specification allows besides.
    static RxLayout split_header(std::uint32_t step);       // header in pieces of `step`, then 1518
    static RxLayout straddled_header(std::uint32_t first);  // `first` bytes of it, then the rest
                                                            // and 1518
    static RxLayout odd_address();                          // header + 2048 from an odd address
    static RxLayout tiny(std::uint32_t len = 512);          // 1 descriptor of `len`
    static RxLayout page_crossing();                        // header + 1518 around a 4 KiB boundary
    static RxLayout region_crossing();  // around the end of a region while there are such ends,
                                        // then like dpdk()
    static RxLayout single(std::uint32_t len);  // header + `len`, for size gates
    static RxLayout jumbo();                    // header + 9234 in one piece

    // What every backend must serve, without and with MRG_RXBUF: each holds a whole 1514-byte
    // frame.
    static std::vector<RxLayout> whole_frame_layouts();
    // All of the above, by unique names. Not each suits() every session, or holds a whole frame.
    static std::vector<RxLayout> all_layouts(std::uint32_t mtu = 1500);

  private:
    std::string name_;
    Place place_;
    MrgRxbuf mrg_rxbuf_;
    DescForm form_;
};

}  // namespace zecorx::test
