#include "mmio_trap.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>

#include "mmio_instruction.h"
#include "registers.h"

namespace zecorx::soft82599 {
namespace {

constexpr std::size_t kMaxRegions = 16;
constexpr std::size_t kPage = 4096;

// Written when regions come and go, read by the fault handlers.
std::array<std::atomic<MmioRegion*>, kMaxRegions> g_regions;
struct sigaction g_previous_segv;
struct sigaction g_previous_bus;

template <typename Predicate>
MmioRegion* find_region(Predicate matches) {
    for (const std::atomic<MmioRegion*>& slot : g_regions) {
        MmioRegion* const region = slot.load(std::memory_order_acquire);
        if (region != nullptr && matches(*region)) return region;
    }
    return nullptr;
}

// One line of /proc/self/maps.
struct Mapping {
    std::uintptr_t start = 0;
    std::uintptr_t end = 0;
    std::uint64_t offset = 0;
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
};

std::optional<Mapping> parse_mapping(const char* line) {
    Mapping mapping;
    unsigned major_number = 0;
    unsigned minor_number = 0;
    unsigned long long inode = 0;
    unsigned long long offset = 0;
    const int fields = std::sscanf(line, "%lx-%lx %*4s %llx %x:%x %llu", &mapping.start,
                                   &mapping.end, &offset, &major_number, &minor_number, &inode);
    if (fields != 6) return std::nullopt;
    mapping.offset = offset;
    mapping.device = makedev(major_number, minor_number);
    mapping.inode = inode;
    return mapping;
}

// The mapping that holds `address`. Uses the stack and plain reads only.
std::optional<Mapping> mapping_at(std::uintptr_t address) {
    const int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return std::nullopt;
    std::array<char, 512> line{};
    std::size_t length = 0;
    std::array<char, 4096> block;
    std::optional<Mapping> found;
    ssize_t got = 0;
    while (!found && (got = read(fd, block.data(), block.size())) > 0) {
        for (ssize_t i = 0; i < got && !found; ++i) {
            const char c = block[static_cast<std::size_t>(i)];
            if (c != '\n') {
                if (length + 1 < line.size()) line[length++] = c;
                continue;
            }
            line[length] = '\0';
            length = 0;
            const auto mapping = parse_mapping(line.data());
            if (mapping && mapping->start <= address && address < mapping->end) found = mapping;
        }
    }
    close(fd);
    return found;
}

// First access to a new mapping of resource0: put the region's memory there.
bool adopt_new_mapping(std::uintptr_t address) {
    const auto mapping = mapping_at(address);
    if (!mapping || mapping->end - mapping->start < kBarSize || mapping->offset != 0) return false;
    MmioRegion* const region = find_region([&](const MmioRegion& candidate) {
        return candidate.is_mapping_of(mapping->device, mapping->inode);
    });
    if (region == nullptr) return false;
    for (const std::atomic<MmioRegion*>& slot : g_regions) {
        MmioRegion* const other = slot.load(std::memory_order_acquire);
        if (other != nullptr) other->forget_mapping(mapping->start);
    }
    return region->adopt_mapping(mapping->start);
}

void say(const char* message) {
    // In a crashing process there is nothing to do about a short write.
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, message, std::strlen(message));
}

void call_previous(const struct sigaction& previous, int signal_number, siginfo_t* info,
                   void* context) {
    if ((previous.sa_flags & SA_SIGINFO) != 0) {
        previous.sa_sigaction(signal_number, info, context);
    } else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
        // The access is repeated without a handler, which ends the process with the right signal.
        signal(signal_number, SIG_DFL);
    } else {
        previous.sa_handler(signal_number);
    }
}

void on_bus_error(int signal_number, siginfo_t* info, void* context) {
    const int saved_errno = errno;
    const bool adopted = adopt_new_mapping(reinterpret_cast<std::uintptr_t>(info->si_addr));
    errno = saved_errno;
    if (!adopted) call_previous(g_previous_bus, signal_number, info, context);
}

void on_segmentation_fault(int signal_number, siginfo_t* info, void* context) {
    const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
    MmioRegion* const region =
        find_region([address](const MmioRegion& candidate) { return candidate.contains(address); });
    if (region != nullptr) {
        const int saved_errno = errno;
        const bool done = perform_access(*static_cast<ucontext_t*>(context),
                                         region->offset_of(address), region->handler());
        errno = saved_errno;
        if (done) return;
        say("soft82599: a register was accessed with an instruction that is not a plain move\n");
    }
    call_previous(g_previous_segv, signal_number, info, context);
}

void install(int signal_number, void (*handler)(int, siginfo_t*, void*),
             struct sigaction& previous) {
    struct sigaction action {};
    action.sa_sigaction = handler;
    // NODEFER: a genuine fault inside the model must reach the previous handler, not hang.
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    if (sigaction(signal_number, &action, &previous) != 0) {
        throw std::runtime_error("cannot install the fault handler of the software NIC: " +
                                 std::string(std::strerror(errno)));
    }
}

// The handlers stay for the life of the process: others may have chained to them.
void install_handlers_once() {
    static std::once_flag once;
    std::call_once(once, [] {
        install(SIGBUS, on_bus_error, g_previous_bus);
        install(SIGSEGV, on_segmentation_fault, g_previous_segv);
    });
}

void add_region(MmioRegion* region) {
    for (std::atomic<MmioRegion*>& slot : g_regions) {
        MmioRegion* expected = nullptr;
        if (slot.compare_exchange_strong(expected, region)) return;
    }
    throw std::runtime_error("cannot emulate more than " + std::to_string(kMaxRegions) +
                             " software NIC ports in one process");
}

void remove_region(MmioRegion* region) {
    for (std::atomic<MmioRegion*>& slot : g_regions) {
        MmioRegion* expected = region;
        if (slot.compare_exchange_strong(expected, nullptr)) return;
    }
}

std::runtime_error memory_error() {
    return std::runtime_error("cannot set up the registers of the software NIC: " +
                              std::string(std::strerror(errno)));
}

}  // namespace

bool owns_fault_handler(int signal_number) {
    struct sigaction current {};
    if (sigaction(signal_number, nullptr, &current) != 0) return false;
    return (current.sa_flags & SA_SIGINFO) != 0 &&
           (current.sa_sigaction == on_segmentation_fault || current.sa_sigaction == on_bus_error);
}

MmioRegion::MmioRegion(int resource_fd, MmioHandler& handler) : handler_(&handler) {
    struct stat status {};
    if (fstat(resource_fd, &status) != 0) throw memory_error();
    device_ = status.st_dev;
    inode_ = status.st_ino;
    memory_fd_ = memfd_create("soft82599-bar", MFD_CLOEXEC);
    if (memory_fd_ < 0) throw memory_error();
    void* memory = MAP_FAILED;
    if (ftruncate(memory_fd_, kBarSize) == 0) {
        memory = mmap(nullptr, kBarSize, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd_, 0);
    }
    if (memory == MAP_FAILED) {
        const std::runtime_error error = memory_error();
        close(memory_fd_);
        throw error;
    }
    words_ = {static_cast<std::uint32_t*>(memory), kBarWords};
    install_handlers_once();
    add_region(this);
}

MmioRegion::~MmioRegion() {
    remove_region(this);
    munmap(words_.data(), kBarSize);
    close(memory_fd_);
}

std::uintptr_t MmioRegion::base_below(std::uintptr_t address) const {
    for (const std::atomic<std::uintptr_t>& slot : driver_bases_) {
        const std::uintptr_t base = slot.load(std::memory_order_acquire);
        if (base != 0 && address >= base && address - base < kBarSize) return base;
    }
    return 0;
}

bool MmioRegion::contains(std::uintptr_t address) const { return base_below(address) != 0; }

bool MmioRegion::is_mapping_of(std::uint64_t device, std::uint64_t inode) const {
    return device == device_ && inode == inode_;
}

std::uint32_t MmioRegion::offset_of(std::uintptr_t address) const {
    return static_cast<std::uint32_t>(address - base_below(address));
}

void MmioRegion::forget_mapping(std::uintptr_t base) {
    for (std::atomic<std::uintptr_t>& slot : driver_bases_) {
        const std::uintptr_t known = slot.load(std::memory_order_acquire);
        if (known < base + kBarSize && base < known + kBarSize) {
            slot.store(0, std::memory_order_release);
        }
    }
}

bool MmioRegion::adopt_mapping(std::uintptr_t base) {
    auto* const start = reinterpret_cast<void*>(base);
    // The base is known before the pages can fault.
    driver_bases_[adopted_++ % kMaxMappings].store(base, std::memory_order_release);
    if (mmap(start, kBarSize, PROT_NONE, MAP_SHARED | MAP_FIXED, memory_fd_, 0) == MAP_FAILED) {
        return false;
    }
    for (std::uint32_t offset = 0; offset < kBarSize; offset += kPage) {
        if (!is_doorbell_page(offset)) continue;
        auto* const page = reinterpret_cast<void*>(base + offset);
        if (mprotect(page, kPage, PROT_READ | PROT_WRITE) != 0) return false;
    }
    return true;
}

}  // namespace zecorx::soft82599
