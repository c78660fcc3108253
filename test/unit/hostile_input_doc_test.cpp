#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <string>

namespace zecorx::test {
namespace {

std::string read(const std::filesystem::path& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

// The text of a test file with names that go over several lines put together.
std::string source_of(const std::string& file) {
    static const std::regex kLineBreak(R"re("\s*\n\s*")re"), kFirst(R"re(\(\s*\n\s*")re");
    const std::string text =
        std::regex_replace(read(std::filesystem::path(TEST_DIRECTORY) / file), kLineBreak, "");
    return std::regex_replace(text, kFirst, "(\"");
}

// Whether the file has a test of that name.
bool has_test(const std::string& source, const std::string& name) {
    return source.find("TEST_CASE(\"" + name + "\"") != std::string::npos;
}

}  // namespace

TEST_CASE("docs/hostile-input.md names tests that exist") {
    const std::string text = read(HOSTILE_INPUT_DOC);
    const std::regex item(R"re(`([a-z0-9_/]+\.cpp)`|"([^"\n]+)")re");
    std::map<std::string, std::string> sources;
    std::string file;
    int names = 0;
    for (std::sregex_iterator it(text.begin(), text.end(), item), end; it != end; ++it) {
        if ((*it)[1].matched) {
            file = (*it)[1];
            if (!sources.contains(file)) sources[file] = source_of(file);
            CHECK(!sources[file].empty());
            continue;
        }
        INFO(file << ": " << (*it)[2].str());
        CHECK(has_test(sources[file], (*it)[2]));
        ++names;
    }
    CHECK(names > 60);
}

}  // namespace zecorx::test
