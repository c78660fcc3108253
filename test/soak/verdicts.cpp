#include "verdicts.h"

#include <fmt/format.h>

#include <algorithm>

namespace zecorx::soak {

Verdicts::Row& Verdicts::row(const std::string& what) {
    const auto found = std::ranges::find(rows_, what, &Row::what);
    return found != rows_.end() ? *found : rows_.emplace_back(Row{what});
}

void Verdicts::check(const std::string& what, bool good, const std::string& sentence) {
    Row& entry = row(what);
    ++entry.checks;
    if (good) return;
    ++entry.violations;
    if (sentences_.size() < kKept) sentences_.push_back(fmt::format("{}: {}", what, sentence));
}

bool Verdicts::good() const {
    return std::ranges::all_of(rows_, [](const Row& entry) { return entry.violations == 0; });
}

std::string Verdicts::report() const {
    const auto failed =
        std::ranges::count_if(rows_, [](const Row& entry) { return entry.violations != 0; });
    return fmt::format(
        "<Catch2TestRun><OverallResultsCases successes=\"{}\" failures=\"{}\" "
        "expectedFailures=\"0\"/></Catch2TestRun>\n",
        static_cast<std::ptrdiff_t>(rows_.size()) - failed, failed);
}

std::string Verdicts::table() const {
    std::string text = fmt::format("{:<46} {:>9} {:>11}\n", "check", "times", "violations");
    for (const Row& entry : rows_) {
        text += fmt::format("{:<46} {:>9} {:>11}\n", entry.what, entry.checks, entry.violations);
    }
    for (const std::string& sentence : sentences_) text += "VIOLATION " + sentence + "\n";
    return text;
}

}  // namespace zecorx::soak
