#include "report.h"

#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace zecorx::bench {
namespace {

namespace fs = std::filesystem;

// In the source tree that this was built from, else where it was installed.
fs::path bench_report() {
    const fs::path source = BENCH_REPORT_SOURCE;
    return fs::exists(source) ? source : fs::path(BENCH_REPORT_INSTALLED);
}

std::ofstream open(const fs::path& path) {
    std::ofstream file(path, std::ios::app);
    if (!file) {
        throw std::runtime_error(
            fmt::format("cannot write {}: {}; give a place that you may write to", path.string(),
                        std::strerror(errno)));
    }
    return file;
}

void write_file(const fs::path& path, const nlohmann::ordered_json& results) {
    std::ofstream file(path, std::ios::trunc);
    file << results.dump(1) << '\n';
    file.close();
    if (!file) throw std::runtime_error(fmt::format("cannot write {}", path.string()));
}

void run(std::string program, std::string results, std::string directory) {
    char* const arguments[] = {program.data(), results.data(), directory.data(), nullptr};
    pid_t child = 0;
    int status = ::posix_spawn(&child, program.c_str(), nullptr, nullptr, arguments, environ);
    if (status == 0) ::waitpid(child, &status, 0);
    if (status != 0) {
        throw std::runtime_error(
            fmt::format("{} made no report of {}; the figures are there, so it can be run again",
                        program, results));
    }
}

}  // namespace

Report::Report(const BenchOptions& options) : directory_(options.report), json_(options.json) {
    if (!directory_.empty()) {
        std::error_code ignored;  // the file says it better
        fs::create_directories(directory_, ignored);
        open(directory_ / "results.json");
    }
    if (!json_.empty()) open(json_);
}

void Report::write(const nlohmann::ordered_json& results) {
    if (!json_.empty()) write_file(json_, results);
    if (directory_.empty()) return;
    const fs::path file = directory_ / "results.json";
    write_file(file, results);
    run(bench_report().string(), file.string(), directory_.string());
    fmt::print("\nThe report is {}.\n", (directory_ / "report.html").string());
}

}  // namespace zecorx::bench
