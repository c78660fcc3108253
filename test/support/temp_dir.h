#pragma once

#include <filesystem>
#include <string>

namespace zecorx::test {

// A directory of its own for one test's sockets and logs. Removed with everything in it, unless
// E2E_KEEP is set in the environment.
class TempDir {
  public:
    TempDir();
    ~TempDir();
    TempDir(const TempDir&) = delete;
    TempDir& operator=(const TempDir&) = delete;

    const std::filesystem::path& path() const { return path_; }

  private:
    std::filesystem::path path_;
};

// The last lines of a log, for a failure's message.
std::string tail(const std::filesystem::path& file, std::size_t lines = 25);

}  // namespace zecorx::test
