#pragma once

#include <cstddef>
#include <filesystem>
#include <iterator>

namespace zecorx::test {

// Open descriptors of this process, the one that reads the directory included.
inline std::size_t open_descriptors() {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

}  // namespace zecorx::test
