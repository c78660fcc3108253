#include "shared.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <new>

namespace zecorx::soak {

SharedMemory::SharedMemory() {
    void* memory =
        ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) test::throw_errno("map memory to share with the guests");
    shared_ = new (memory) Shared;
}

SharedMemory::~SharedMemory() { ::munmap(shared_, sizeof(Shared)); }

namespace {

bool is_one_of(const struct stat& file, const std::vector<test::MemoryRegion>& regions) {
    return std::ranges::any_of(regions, [&](const test::MemoryRegion& region) {
        struct stat own {};
        if (::fstat(region.fd, &own) != 0) test::throw_errno("stat guest memory");
        return own.st_dev == file.st_dev && own.st_ino == file.st_ino;
    });
}

bool maps_any(pid_t pid, const std::vector<test::MemoryRegion>& regions) {
    std::ifstream maps(fmt::format("/proc/{}/maps", pid));
    for (std::string line; std::getline(maps, line);) {
        if (line.find("zecorx-guest") == line.npos) continue;
        // proc(5): address, permissions, offset, device, inode
        unsigned major = 0, minor = 0;
        struct stat file {};
        if (std::sscanf(line.c_str(), "%*s %*s %*s %x:%x %lu", &major, &minor, &file.st_ino) != 3) {
            continue;
        }
        file.st_dev = ::makedev(major, minor);
        if (is_one_of(file, regions)) return true;
    }
    return false;
}

bool opens_any(pid_t pid, const std::vector<test::MemoryRegion>& regions) {
    std::error_code gone;
    std::filesystem::directory_iterator fd(fmt::format("/proc/{}/fd", pid), gone);
    for (; !gone && fd != std::filesystem::directory_iterator(); fd.increment(gone)) {
        struct stat file {};
        if (::stat(fd->path().c_str(), &file) == 0 && is_one_of(file, regions)) return true;
    }
    return false;
}

}  // namespace

// In the middle of a memory table change it maps nothing, but has the descriptors of what comes.
bool holds_any(pid_t pid, const std::vector<test::MemoryRegion>& regions) {
    return maps_any(pid, regions) || opens_any(pid, regions) || maps_any(pid, regions);
}

}  // namespace zecorx::soak
