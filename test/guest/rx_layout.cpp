#include "rx_layout.h"

#include <algorithm>
#include <optional>

namespace zecorx::test {

namespace {

constexpr std::uint32_t kOldFrameRoom = 1518;  // Linux and iPXE: 14 + 4 + 1500
constexpr std::uint32_t kEdk2FrameRoom = 1514;
constexpr std::uint32_t kJumboFrameRoom = 9234;  // 14 + 4 + 9216
constexpr std::size_t kCacheLine = 64;

RxLayout::Place one_piece(std::uint32_t data_len) {
    return [data_len](FakeMemory& memory, std::uint32_t header, std::size_t) {
        return RxBufferBuilder(memory).piece(header + data_len).build();
    };
}

RxBuffer place_dpdk(FakeMemory& memory, std::uint32_t header) {
    return RxBufferBuilder(memory)
        .align(kCacheLine)
        .offset(kCacheLine - header)
        .piece(header + 2048)
        .build();
}

// The header lies at the start of the first page, the data `data_offset` into it.
RxBuffer place_linux_big(FakeMemory& memory, std::uint32_t header, std::size_t pages,
                         std::uint32_t data_offset) {
    const Gpa first = memory.allocate(pages * 4_KiB, 4_KiB);
    RxBufferBuilder builder(memory);
    builder.piece_at(first, header).piece_at(first + data_offset, 4096 - data_offset);
    for (std::size_t i = 1; i < pages; ++i) builder.piece_at(first + i * 4_KiB, 4096);
    return builder.build();
}

}  // namespace

std::uint32_t RxBuffer::capacity() const {
    std::uint32_t total = 0;
    for (const Piece& piece : pieces) total += piece.len;
    return total;
}

RxBufferBuilder& RxBufferBuilder::align(std::size_t bytes) {
    align_ = bytes;
    return *this;
}

RxBufferBuilder& RxBufferBuilder::offset(std::size_t bytes) {
    offset_ = bytes;
    return *this;
}

RxBufferBuilder& RxBufferBuilder::piece(std::uint32_t len) {
    // The guard ahead is a multiple of the alignment long, so that the piece keeps it.
    const std::size_t lead = (kGuard + align_ - 1) / align_ * align_ + offset_;
    const Gpa start = memory_.allocate(lead + len + kGuard, align_);
    const Gpa gpa = start + lead;
    buffer_.guards.push_back({gpa - kGuard, kGuard});
    buffer_.guards.push_back({gpa + len, kGuard});
    return piece_at(gpa, len);
}

RxBufferBuilder& RxBufferBuilder::piece_at(Gpa gpa, std::uint32_t len) {
    buffer_.pieces.push_back({gpa, len, true});
    return *this;
}

RxBufferBuilder& RxBufferBuilder::packed(std::uint32_t total,
                                         const std::vector<std::uint32_t>& cuts) {
    Gpa gpa = memory_.allocate(total, 1);
    for (const std::uint32_t len : cuts) {
        piece_at(gpa, len);
        gpa += len;
        total -= len;
    }
    return piece_at(gpa, total);
}

RxBufferBuilder& RxBufferBuilder::shared_first_piece() {
    buffer_.shared_first_piece = true;
    return *this;
}

bool RxLayout::suits(std::uint64_t features) const {
    const bool mergeable = (features & kFeatureNetMrgRxbuf) != 0;
    if (mrg_rxbuf_ == MrgRxbuf::kOnlyWith && !mergeable) return false;
    if (mrg_rxbuf_ == MrgRxbuf::kOnlyWithout && mergeable) return false;
    return !indirect() || (features & kFeatureIndirectDesc) != 0;
}

RxBuffer RxLayout::place(FakeMemory& memory, std::uint32_t header, std::size_t ordinal) {
    RxBuffer buffer = place_(memory, header, ordinal);
    buffer.form = form_;
    return buffer;
}

std::uint32_t RxLayout::frame_room(std::uint32_t header) const {
    FakeMemory scratch(1_MiB);
    return RxLayout(*this).place(scratch, header, 0).capacity() - header;
}

RxLayout RxLayout::linux_mergeable() {
    // Linux cuts buffers from a 32 KiB fragment; the last of each fragment takes the rest.
    constexpr std::size_t kBuffersPerFragment = 21;
    return {"linux_mergeable",
            [](FakeMemory& memory, std::uint32_t, std::size_t ordinal) {
                const bool last = ordinal % kBuffersPerFragment == kBuffersPerFragment - 1;
                return RxBufferBuilder(memory).piece(last ? 2048 : 1536).build();
            },
            MrgRxbuf::kOnlyWith};
}

RxLayout RxLayout::linux_xdp() {
    constexpr std::size_t kXdpHeadroom = 256;
    constexpr std::uint32_t kSharedInfo = 320;  // Linux's, at the end of the page
    return {"linux_xdp",
            [](FakeMemory& memory, std::uint32_t, std::size_t) {
                return RxBufferBuilder(memory)
                    .align(4_KiB)
                    .offset(kXdpHeadroom)
                    .piece(4096 - kXdpHeadroom - kSharedInfo)
                    .build();
            },
            MrgRxbuf::kOnlyWith};
}

RxLayout RxLayout::linux_small() {
    return {"linux_small", one_piece(kOldFrameRoom), MrgRxbuf::kOnlyWithout};
}

RxLayout RxLayout::single(std::uint32_t len) {
    return {"single " + std::to_string(len), one_piece(len)};
}

RxLayout RxLayout::linux_old() {
    return {"linux_old",
            [](FakeMemory& memory, std::uint32_t header, std::size_t) {
                return RxBufferBuilder(memory).piece(header).piece(kOldFrameRoom).build();
            },
            MrgRxbuf::kOnlyWithout};
}

RxLayout RxLayout::linux_big(DescForm form) {
    return {form == DescForm::kIndirect ? "linux_big" : "linux_big direct",
            [](FakeMemory& memory, std::uint32_t header, std::size_t) {
                return place_linux_big(memory, header, 18, 16);
            },
            MrgRxbuf::kOnlyWithout, form};
}

RxLayout RxLayout::linux_big_mtu(std::uint32_t mtu) {
    // Linux takes the page of the header besides those of the MTU.
    const std::size_t pages = 1 + (mtu + 4_KiB - 1) / 4_KiB;
    return {"linux_big mtu " + std::to_string(mtu),
            [pages](FakeMemory& memory, std::uint32_t header, std::size_t) {
                return place_linux_big(memory, header, pages, 32);
            },
            MrgRxbuf::kOnlyWithout, DescForm::kIndirect};
}

RxLayout RxLayout::dpdk() {
    return {"dpdk", [](FakeMemory& memory, std::uint32_t header, std::size_t) {
                return place_dpdk(memory, header);
            }};
}

RxLayout RxLayout::page() {
    return {"page", [](FakeMemory& memory, std::uint32_t, std::size_t) {
                return RxBufferBuilder(memory).align(4_KiB).piece(4096).build();
            }};
}

RxLayout RxLayout::edk2() {
    return {"edk2",
            [](FakeMemory& memory, std::uint32_t header, std::size_t) {
                return RxBufferBuilder(memory).packed(header + kEdk2FrameRoom, {header}).build();
            },
            MrgRxbuf::kOnlyWithout};
}

RxLayout RxLayout::ipxe(std::uint32_t mtu) {
    const std::uint32_t room = mtu + kOldFrameRoom - 1500;
    return {mtu == 1500 ? "ipxe" : "ipxe mtu " + std::to_string(mtu),
            [room, shared_header = std::optional<Gpa>()](FakeMemory& memory, std::uint32_t header,
                                                         std::size_t) mutable {
                if (!shared_header) shared_header = memory.allocate(header);
                return RxBufferBuilder(memory)
                    .piece_at(*shared_header, header)
                    .piece(room)
                    .shared_first_piece()
                    .build();
            },
            MrgRxbuf::kOnlyWithout};
}

RxLayout RxLayout::netkvm(bool header_in_page) {
    constexpr int kPages = 16;
    constexpr std::uint32_t kTail = 14 + 4;  // Ethernet header and tag of a 64 KiB packet
    return {header_in_page ? "netkvm any_layout" : "netkvm",
            [header_in_page](FakeMemory& memory, std::uint32_t header, std::size_t) {
                RxBufferBuilder builder(memory);
                if (!header_in_page) builder.piece(header);
                builder.align(4_KiB);
                // Other memory lies between the pages, but guards would double it all.
                for (int i = 0; i < kPages; ++i)
                    builder.piece_at(memory.allocate(4160, 4096), 4096);
                return builder.piece(kTail + (header_in_page ? header : 0)).build();
            },
            MrgRxbuf::kOnlyWithout, DescForm::kIndirect};
}

RxLayout RxLayout::split_header(std::uint32_t step) {
    return {"split_header " + std::to_string(step),
            [step](FakeMemory& memory, std::uint32_t header, std::size_t) {
                RxBufferBuilder builder(memory);
                for (std::uint32_t left = header; left > 0; left -= std::min(left, step)) {
                    builder.piece(std::min(left, step));
                }
                return builder.piece(kOldFrameRoom).build();
            }};
}

RxLayout RxLayout::straddled_header(std::uint32_t first) {
    return {
        "straddled_header " + std::to_string(first),
        [first](FakeMemory& memory, std::uint32_t header, std::size_t) {
            const std::uint32_t rest = header - std::min(first, header);
            return RxBufferBuilder(memory).piece(header - rest).piece(rest + kOldFrameRoom).build();
        }};
}

RxLayout RxLayout::jumbo() { return {"jumbo", one_piece(kJumboFrameRoom)}; }

RxLayout RxLayout::odd_address() {
    return {"odd_address", [](FakeMemory& memory, std::uint32_t header, std::size_t) {
                return RxBufferBuilder(memory).offset(1).piece(header + 2048).build();
            }};
}

RxLayout RxLayout::tiny(std::uint32_t len) {
    return {"tiny " + std::to_string(len),
            [len](FakeMemory& memory, std::uint32_t, std::size_t) {
                return RxBufferBuilder(memory).piece(len).build();
            },
            MrgRxbuf::kOnlyWith};
}

RxLayout RxLayout::page_crossing() {
    return {
        "page_crossing", [](FakeMemory& memory, std::uint32_t header, std::size_t) {
            const std::uint32_t len = header + kOldFrameRoom;
            return RxBufferBuilder(memory).align(4_KiB).offset(4_KiB - len / 2).piece(len).build();
        }};
}

RxLayout RxLayout::region_crossing() {
    return {"region_crossing", [](FakeMemory& memory, std::uint32_t header, std::size_t) {
                const std::uint32_t len = header + 2048;
                const auto gpa = memory.allocate_across_boundary(len);
                if (!gpa) return place_dpdk(memory, header);
                return RxBufferBuilder(memory).piece_at(*gpa, len).build();
            }};
}

std::vector<RxLayout> RxLayout::whole_frame_layouts() {
    return {linux_mergeable(),
            linux_small(),
            linux_old(),
            linux_big(),
            dpdk(),
            page(),
            edk2(),
            ipxe(),
            split_header(1),
            split_header(5),
            odd_address(),
            page_crossing(),
            region_crossing()};
}

std::vector<RxLayout> RxLayout::all_layouts(std::uint32_t mtu) {
    std::vector<RxLayout> layouts{linux_mergeable(),
                                  linux_xdp(),
                                  linux_small(),
                                  linux_old(),
                                  linux_big(),
                                  linux_big(DescForm::kDirect),
                                  linux_big_mtu(std::max(mtu, 9000U)),
                                  dpdk(),
                                  page(),
                                  edk2(),
                                  ipxe(mtu),
                                  netkvm(false),
                                  netkvm(true),
                                  odd_address(),
                                  page_crossing(),
                                  region_crossing(),
                                  jumbo()};
    for (std::uint32_t step = 1; step <= kHeaderSize; ++step) layouts.push_back(split_header(step));
    for (const std::uint32_t first : {1, 6, 11}) layouts.push_back(straddled_header(first));
    for (const std::uint32_t len : {200, 512, 900}) layouts.push_back(tiny(len));
    return layouts;
}

}  // namespace zecorx::test
