#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace zecorx::test {

// What meson.build gives a test in its environment.
inline std::string environment(const char* name) {
    const char* value = std::getenv(name);
    if (value == nullptr)
        throw std::runtime_error(std::string(name) + " is not set: use meson test");
    return value;
}

}  // namespace zecorx::test
