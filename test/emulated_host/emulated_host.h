#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

#include "support/machine.h"
#include "support/temp_dir.h"
#include "wire.h"

namespace zecorx::test {

struct HostOptions {
    bool iommu = true;        // else the NIC is on uio_pci_generic
    std::string nic = "igb";  // QEMU's device, and its properties
};

// A host in QEMU, with an Intel IOMMU, unless it is left out, and a NIC behind it, an 82576 (igb)
// unless it is another, that runs the programs under test. scripts/bind-nic takes the NIC from the
// kernel, which reports each access of the NIC to memory that nobody mapped for it.
//
// Thread rule: all methods on the test's main thread.
class EmulatedHost {
  public:
    static constexpr const char* kNic = "0000:00:04.0";

    // Returns when it is up and its NIC waits for a program.
    explicit EmulatedHost(const HostOptions& options = {});
    ~EmulatedHost();

    Machine& machine() { return machine_; }
    Wire& wire() { return wire_; }
    // REQUIRES: it has an IOMMU.
    std::string iommu_group();

    // Runs a program in the background under a name: see scripts/emulated-host/start.
    void start(const std::string& name, const std::string& command);
    bool running(const std::string& name);
    void write_line(const std::string& name, const std::string& line);  // to its stdin
    // The next line of its stdout. Throws if there is none.
    std::string read_line(const std::string& name);
    // One after the other, for a program that answers each line with one.
    std::string ask(const std::string& name, const std::string& line);
    // SIGTERM or another signal; waits for the end, and returns the exit status.
    std::string stop(const std::string& name, const std::string& signal = "TERM");
    std::string wait_for_end(const std::string& name);
    // What it has printed to stderr.
    std::string log(const std::string& name);

    // DMAR faults that the kernel has reported. It leaves some out when there are many at a time.
    std::size_t dma_faults();

  private:
    TempDir directory_;
    Wire wire_;
    Machine machine_;
};

}  // namespace zecorx::test
