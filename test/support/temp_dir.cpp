#include "support/temp_dir.h"

#include <stdlib.h>

#include <cerrno>
#include <deque>
#include <fstream>
#include <system_error>

namespace zecorx::test {

TempDir::TempDir() {
    std::string name = "/tmp/zecorx-test.XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) {
        throw std::system_error(errno, std::generic_category(), "create " + name);
    }
    path_ = name;
}

TempDir::~TempDir() {
    if (::getenv("E2E_KEEP") != nullptr) return;
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

std::string tail(const std::filesystem::path& file, std::size_t lines) {
    std::ifstream input(file);
    std::deque<std::string> last;
    for (std::string line; std::getline(input, line);) {
        last.push_back(line);
        if (last.size() > lines) last.pop_front();
    }
    std::string text = file.string() + ":\n";
    for (const std::string& line : last) text += "  " + line + "\n";
    return text;
}

}  // namespace zecorx::test
