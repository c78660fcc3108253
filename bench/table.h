// Figures in columns, for a terminal.
#pragma once

#include <string>
#include <vector>

namespace zecorx::bench {

class Table {
  public:
    explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}

    // REQUIRES: as many cells as the header has.
    void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
    // On standard output, the first column to the left and the others to the right.
    void print() const;

  private:
    std::vector<std::vector<std::string>> rows_;
};

// A line above what follows.
void print_heading(const std::string& text);

}  // namespace zecorx::bench
