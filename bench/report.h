// The files that --json and --report ask for.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "bench_options.h"

namespace zecorx::bench {

class Report {
  public:
    // Opens the files, so that a wrong name does not cost a measurement. Throws std::runtime_error.
    explicit Report(const BenchOptions& options);

    // Throws std::runtime_error.
    void write(const nlohmann::ordered_json& results);

  private:
    std::filesystem::path directory_;  // empty: no report
    std::filesystem::path json_;       // empty: none
};

}  // namespace zecorx::bench
