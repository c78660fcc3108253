#include "table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

namespace zecorx::bench {

void Table::print() const {
    std::vector<std::size_t> widths(rows_.front().size());
    for (const auto& row : rows_) {
        for (std::size_t i = 0; i < row.size(); ++i) {
            widths[i] = std::max(widths[i], row[i].size());
        }
    }
    for (const auto& row : rows_) {
        fmt::print("{:<{}}", row[0], widths[0]);
        for (std::size_t i = 1; i < row.size(); ++i) fmt::print("  {:>{}}", row[i], widths[i]);
        fmt::print("\n");
    }
    std::fflush(stdout);
}

void print_heading(const std::string& text) {
    fmt::print("\n{}\n", text);
    std::fflush(stdout);
}

}  // namespace zecorx::bench
