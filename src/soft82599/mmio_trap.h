// Lets the model see every access a driver makes to its BAR, synchronously, with a stock driver.
//
// EAL maps the sysfs file `resource0` and the driver uses the mapping a moment later, all inside
// rte_eal_init, so nobody can tell the model where the mapping is. Instead resource0 is an empty
// file: mapping it succeeds (EAL takes the size from the text file `resource`), and the first
// access raises SIGBUS, because the page lies past the end of the file. The handler looks the
// address up in /proc/self/maps by the file's device and inode, and maps the region's own memory
// over it: doorbell pages read-write, all others without access. The file stays empty, so a device
// that is unmapped and probed again, or mapped a second time, comes through the same door.
//
// Every later access to a protected page raises SIGSEGV. The handler decodes the move at the
// faulting instruction, has the device perform it, and resumes behind it. The fault is synchronous,
// at a register access of the driver, which holds no lock of the allocator or of the model; so the
// handler may do what an ordinary function call there could do.
//
// Faults elsewhere go to the handlers that were installed before. AddressSanitizer installs its own
// first and must allow others: ASAN_OPTIONS=allow_user_segv_handler=1 (its default). Whoever
// installs a handler for SIGSEGV or SIGBUS later must chain to the model's, or traps end there.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

namespace zecorx::soft82599 {

// Whether the model's handler is the current one for SIGSEGV or SIGBUS.
bool owns_fault_handler(int signal_number);

// The device behind a region. Called in signal handler context, on any thread.
class MmioHandler {
  public:
    virtual std::uint32_t mmio_read(std::uint32_t offset) = 0;
    virtual void mmio_write(std::uint32_t offset, std::uint32_t value) = 0;

  protected:
    ~MmioHandler() = default;
};

// The memory of one BAR, and its registration with the process's fault handlers.
class MmioRegion {
  public:
    // `resource_fd` is the empty file the driver maps; it is only looked at. `handler` outlives the
    // region. Throws std::runtime_error.
    MmioRegion(int resource_fd, MmioHandler& handler);
    ~MmioRegion();
    MmioRegion(const MmioRegion&) = delete;
    MmioRegion& operator=(const MmioRegion&) = delete;

    // The model's own view, always accessible.
    std::span<std::uint32_t> words() const { return words_; }

    // For the fault handlers.
    bool contains(std::uintptr_t address) const;
    bool is_mapping_of(std::uint64_t device, std::uint64_t inode) const;
    bool adopt_mapping(std::uintptr_t base);  // false: mmap refused
    // What lies there belongs to another mapping: the driver has unmapped this region's.
    void forget_mapping(std::uintptr_t base);
    // REQUIRES: contains(address).
    std::uint32_t offset_of(std::uintptr_t address) const;
    MmioHandler& handler() const { return *handler_; }

  private:
    std::uintptr_t base_below(std::uintptr_t address) const;  // 0: no mapping holds it

    MmioHandler* handler_;
    int memory_fd_ = -1;
    std::uint64_t device_ = 0;
    std::uint64_t inode_ = 0;
    std::span<std::uint32_t> words_;
    // The driver's mappings, the newest kMaxMappings of them; 0 = none.
    static constexpr std::size_t kMaxMappings = 4;
    std::array<std::atomic<std::uintptr_t>, kMaxMappings> driver_bases_{};
    std::atomic<std::size_t> adopted_{0};
};

}  // namespace zecorx::soft82599
