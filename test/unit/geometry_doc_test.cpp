#include <catch2/catch_test_macros.hpp>
#include <fstream>
#include <iterator>
#include <string>

#include "geometry_table.h"

namespace zecorx::test {

TEST_CASE("docs/geometry.md shows the tables that geometry_table prints") {
    std::ifstream file(GEOMETRY_DOC);
    const std::string text(std::istreambuf_iterator<char>(file), {});
    const std::string tables = geometry_tables();
    INFO("to correct it, replace the tables by the output of build/test/unit/geometry_table:\n"
         << tables);
    CHECK(text.find('\n' + tables) != std::string::npos);
}

}  // namespace zecorx::test
