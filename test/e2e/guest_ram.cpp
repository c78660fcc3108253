#include "guest_ram.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <stdexcept>

#include "guest/event_fd.h"

namespace zecorx::test {
namespace {

UniqueFd open_memory(pid_t pid) {
    const std::string fds = "/proc/" + std::to_string(pid) + "/fd";
    for (const auto& entry : std::filesystem::directory_iterator(fds)) {
        std::error_code closed;
        const std::string target = std::filesystem::read_symlink(entry.path(), closed).string();
        if (!target.starts_with("/memfd:memory-backend-memfd")) continue;
        UniqueFd fd(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
        if (fd) return fd;
    }
    throw std::runtime_error("QEMU has no memfd with the guest's RAM");
}

}  // namespace

GuestRam::GuestRam(const QemuGuest& guest) {
    const UniqueFd fd = open_memory(guest.pid());
    struct stat file {};
    if (::fstat(fd.get(), &file) != 0) throw_errno("fstat of the guest's RAM");
    const auto size = static_cast<std::size_t>(file.st_size);
    void* const at = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd.get(), 0);
    if (at == MAP_FAILED) throw_errno("map the guest's RAM");
    bytes_ = {static_cast<const std::byte*>(at), size};
}

GuestRam::~GuestRam() { ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size()); }

template <typename T>
T GuestRam::read(std::uint64_t gpa) const {
    T value;
    std::memcpy(&value, bytes_.subspan(gpa).first(sizeof value).data(), sizeof value);
    return value;
}
template std::uint16_t GuestRam::read(std::uint64_t) const;
template std::uint32_t GuestRam::read(std::uint64_t) const;
template std::uint64_t GuestRam::read(std::uint64_t) const;

std::vector<std::size_t> differing_pages(std::span<const std::byte> a,
                                         std::span<const std::byte> b) {
    if (a.size() != b.size()) throw std::invalid_argument("memories of different sizes");
    std::vector<std::size_t> pages;
    for (std::size_t at = 0; at < a.size(); at += kGuestPage) {
        if (std::memcmp(&a[at], &b[at], kGuestPage) != 0) pages.push_back(at / kGuestPage);
    }
    return pages;
}

QueuePlace queue_place(QemuGuest& guest, unsigned queue) {
    std::string path;
    for (const auto& device : guest.qmp("x-query-virtio")) {
        if (device.at("name") == "virtio-net") path = device.at("path");
    }
    const auto status =
        guest.qmp("x-query-virtio-queue-status", {{"path", path}, {"queue", queue}});
    return {.size = status.at("vring-num"),
            .desc = status.at("vring-desc"),
            .avail = status.at("vring-avail"),
            .used = status.at("vring-used")};
}

PageUses::PageUses(QemuGuest& guest, const GuestRam& ram) : uses_(ram.bytes().size() / kGuestPage) {
    for (const unsigned queue : {0U, 1U}) {
        const QueuePlace place = queue_place(guest, queue);
        const Use ring = queue == 0 ? kReceiveq : kTransmitq;
        // Address and length come first in the descriptors of both kinds of ring (VIRTIO 2.7.5,
        // 2.8.13).
        for (std::uint64_t at = place.desc; at < place.desc + 16 * place.size; at += 16) {
            note(ram.read<std::uint64_t>(at), ram.read<std::uint32_t>(at + 8),
                 queue == 0 ? kReceiveBuffer : kTransmitBuffer);
        }
        // Of a packed ring this is more than its driver and device areas have.
        note(place.desc, 16 * place.size, ring);
        note(place.avail, 2 * place.size + 6, ring);
        note(place.used, 8 * place.size + 6, ring);
    }
}

void PageUses::note(std::uint64_t gpa, std::uint64_t length, Use use) {
    if (length == 0) return;
    for (std::uint64_t page = gpa / kGuestPage; page <= (gpa + length - 1) / kGuestPage; ++page) {
        if (page < uses_.size()) uses_[page] |= use;
    }
}

std::string PageUses::describe(const std::vector<std::size_t>& pages) const {
    constexpr std::size_t kMost = 50;
    std::string text = std::to_string(pages.size()) + " pages differ";
    for (std::size_t i = 0; i < std::min(pages.size(), kMost); ++i) {
        const unsigned use = uses_.at(pages[i]);
        text += "\npage " + std::to_string(pages[i]) + ":";
        if (use & kReceiveBuffer) text += " receiveq buffer";
        if (use & kReceiveq) text += " receiveq";
        if (use & kTransmitBuffer) text += " transmitq buffer";
        if (use & kTransmitq) text += " transmitq";
    }
    return text;
}

}  // namespace zecorx::test
