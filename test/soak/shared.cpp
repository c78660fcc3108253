#include "shared.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
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

bool maps_any(pid_t pid, const std::vector<test::MemoryRegion>& regions) {
    // As proc(5) has them in a line of maps: device and inode.
    std::vector<std::string> files;
    for (const test::MemoryRegion& region : regions) {
        struct stat file {};
        if (::fstat(region.fd, &file) != 0) test::throw_errno("stat guest memory");
        files.push_back(fmt::format(" {:02x}:{:02x} {} ", ::major(file.st_dev),
                                    ::minor(file.st_dev), file.st_ino));
    }
    std::ifstream maps(fmt::format("/proc/{}/maps", pid));
    for (std::string line; std::getline(maps, line);) {
        if (line.find("zecorx-guest") == line.npos) continue;
        if (std::ranges::any_of(files,
                                [&](const auto& file) { return line.find(file) != line.npos; }))
            return true;
    }
    return false;
}

}  // namespace zecorx::soak
