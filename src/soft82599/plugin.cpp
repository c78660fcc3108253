// The software 82599 as an EAL plugin, for any DPDK program:
//   SOFT82599="port=0000:03:00.0,wire=tap:soft0" dpdk-testpmd --iova-mode=pa
//       -d .../libzecorx_soft82599.so -- ...
// EAL loads plugins before it scans the PCI bus, and refuses those in a world-writable directory.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>

#include "config.h"
#include "machine.h"

namespace {

// The program's exit destroys it, which ends its threads.
std::unique_ptr<zecorx::soft82599::Machine>& machine() {
    static std::unique_ptr<zecorx::soft82599::Machine> instance;
    return instance;
}

__attribute__((constructor)) void plug_in() noexcept {
    try {
        const char* text = std::getenv("SOFT82599");
        machine() = std::make_unique<zecorx::soft82599::Machine>(
            zecorx::soft82599::parse_config(text == nullptr ? "" : text));
    } catch (const std::exception& error) {
        // There is nobody to throw to; EAL goes on and finds no port.
        std::fprintf(stderr, "soft82599: %s\n", error.what());
    }
}

}  // namespace
