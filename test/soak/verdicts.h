// What was checked how often, and what was found.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace zecorx::soak {

class Verdicts {
  public:
    // `sentence` names the violation where `good` is false.
    void check(const std::string& what, bool good, const std::string& sentence);
    bool good() const;
    // For whoever counts test cases: each thing checked is one, in the form of Catch2's XML.
    std::string report() const;
    // One line for each thing checked, then the violations.
    std::string table() const;

  private:
    static constexpr std::size_t kKept = 20;

    struct Row {
        std::string what;
        std::uint64_t checks = 0;
        std::uint64_t violations = 0;
    };
    Row& row(const std::string& what);

    std::vector<Row> rows_;
    std::vector<std::string> sentences_;
};

}  // namespace zecorx::soak
