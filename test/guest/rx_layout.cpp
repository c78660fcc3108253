#include "rx_layout.h"

#include <algorithm>
#include <optional>

namespace zecorx::test {

namespace {

constexpr std::uint32_t kOldFrameRoom = 1518;  // Linux and iPXE: 14 + 4 + 1500
constexpr std::uint32_t kEdk2FrameRoom = 1514;
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

RxBufferBuilder& RxBufferBuilder::indirect() {
    buffer_.form = DescForm::kIndirect;
    return *this;
}

RxLayout RxLayout::linux_mergeable() {
    // Linux cuts buffers from a 32 KiB fragment; the last of each fragment takes the rest.
    constexpr std::size_t kBuffersPerFragment = 21;
    return {"linux_mergeable", [](FakeMemory& memory, std::uint32_t, std::size_t ordinal) {
                const bool last = ordinal % kBuffersPerFragment == kBuffersPerFragment - 1;
                return RxBufferBuilder(memory).piece(last ? 2048 : 1536).build();
            }};
}

RxLayout RxLayout::linux_small() { return {"linux_small", one_piece(kOldFrameRoom)}; }

RxLayout RxLayout::single(std::uint32_t len) {
    return {"single " + std::to_string(len), one_piece(len)};
}

RxLayout RxLayout::linux_old() {
    return {"linux_old", [](FakeMemory& memory, std::uint32_t header, std::size_t) {
                return RxBufferBuilder(memory).piece(header).piece(kOldFrameRoom).build();
            }};
}

RxLayout RxLayout::linux_big() {
    return {"linux_big", [](FakeMemory& memory, std::uint32_t header, std::size_t) {
                // The header lies in the first page; the data begins 16 bytes into it.
                const Gpa first_page = memory.allocate(18 * 4_KiB, 4_KiB);
                RxBufferBuilder builder(memory);
                builder.piece_at(first_page, header).piece_at(first_page + 16, 4096 - 16);
                for (Gpa i = 1; i < 18; ++i) builder.piece_at(first_page + i * 4_KiB, 4096);
                return builder.indirect().build();
            }};
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
    return {"edk2", [](FakeMemory& memory, std::uint32_t header, std::size_t) {
                return RxBufferBuilder(memory).packed(header + kEdk2FrameRoom, {header}).build();
            }};
}

RxLayout RxLayout::ipxe() {
    return {"ipxe", [shared_header = std::optional<Gpa>()](FakeMemory& memory, std::uint32_t header,
                                                           std::size_t) mutable {
                if (!shared_header) shared_header = memory.allocate(header);
                return RxBufferBuilder(memory)
                    .piece_at(*shared_header, header)
                    .piece(kOldFrameRoom)
                    .shared_first_piece()
                    .build();
            }};
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

RxLayout RxLayout::odd_address() {
    return {"odd_address", [](FakeMemory& memory, std::uint32_t header, std::size_t) {
                return RxBufferBuilder(memory).offset(1).piece(header + 2048).build();
            }};
}

RxLayout RxLayout::tiny(std::uint32_t len) {
    return {"tiny " + std::to_string(len), [len](FakeMemory& memory, std::uint32_t, std::size_t) {
                return RxBufferBuilder(memory).piece(len).build();
            }};
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

}  // namespace zecorx::test
