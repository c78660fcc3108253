// Memory access of one device: splits ranges at pages and counts faults.
//
// Thread rule: used under the device's lock.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "counters.h"
#include "descriptor.h"
#include "dma_space.h"

namespace zecorx::soft82599 {

// Takes one line about something the operator should know.
using LogSink = std::function<void(const std::string&)>;

class DmaEngine {
  public:
    // `space` and `counters` outlive this object.
    DmaEngine(DmaSpace& space, PortCounters& counters, LogSink log);

    // False = a fault, counted on behalf of `what`; what lies before it has been copied.
    bool read(std::uint64_t iova, std::span<std::byte> into, const char* what);
    bool write(std::uint64_t iova, std::span<const std::byte> from, const char* what);

    // With `on`, what write() wrote is in memory only, as DMA leaves it on a machine that does not
    // place it in the cache.
    void write_past_cache(bool on) { past_cache_ = on; }

    std::optional<Descriptor> read_descriptor(std::uint64_t iova, const char* what);
    // Stores `high`, which holds DD, last and with release order: whoever sees DD sees the payload.
    bool write_back(std::uint64_t iova, const Descriptor& descriptor, const char* what);

    // Hash of a range for a later comparison; no value if it is not mapped. Counts no fault.
    std::optional<std::uint64_t> fingerprint(std::uint64_t iova, std::size_t length);

  private:
    void fault(std::uint64_t iova, std::size_t length, const char* what);

    DmaSpace* space_;
    PortCounters* counters_;
    LogSink log_;
    bool past_cache_ = false;
};

}  // namespace zecorx::soft82599
