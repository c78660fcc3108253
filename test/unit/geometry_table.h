// What each way of cutting frames makes of the buffers guests post: the tables of docs/geometry.md.
#pragma once

#include <string>

namespace zecorx::test {

// In Markdown. Runs the receive path on every combination; the same text each time.
std::string geometry_tables();

}  // namespace zecorx::test
