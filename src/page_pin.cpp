#include "page_pin.h"

#include <fmt/format.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace zecorx {
namespace {

constexpr std::size_t kMaxBuffer = 1UL << 30;  // bytes, io_uring's limit for one buffer

[[noreturn]] void fail(const char* what, std::span<std::byte> memory, const char* remedy) {
    throw std::runtime_error(fmt::format("cannot {} {} MiB of guest memory: {}; {}", what,
                                         memory.size() >> 20, std::strerror(errno), remedy));
}

std::vector<iovec> split(std::span<std::byte> memory) {
    std::vector<iovec> buffers;
    while (!memory.empty()) {
        const std::size_t length = std::min(memory.size(), kMaxBuffer);
        buffers.push_back({memory.data(), length});
        memory = memory.subspan(length);
    }
    return buffers;
}

}  // namespace

PagePin::PagePin(std::span<std::byte> memory) {
    if (::madvise(memory.data(), memory.size(), MADV_POPULATE_WRITE) != 0) {
        fail("populate", memory, "free host memory or give the VM less");
    }
    io_uring_params params{};
    ring_ = UniqueFd(static_cast<int>(::syscall(SYS_io_uring_setup, 1, &params)));
    if (!ring_) fail("pin", memory, "allow io_uring (sysctl kernel.io_uring_disabled=0)");
    const std::vector<iovec> buffers = split(memory);
    if (::syscall(SYS_io_uring_register, ring_.get(), IORING_REGISTER_BUFFERS, buffers.data(),
                  buffers.size()) != 0) {
        fail("pin", memory, "raise the memory-lock limit (ulimit -l, LimitMEMLOCK=infinity)");
    }
}

}  // namespace zecorx
