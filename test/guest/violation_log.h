// What a device did that the specification or a canary forbids, in words.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace zecorx::test {

// Recording instead of throwing lets a test see everything a run broke, and lets a hostile test go
// on. Keeps the first kKept texts, since the later ones mostly follow from them, and counts all.
class ViolationLog {
  public:
    static constexpr std::size_t kKept = 32;

    void add(std::string text) {
        if (count_++ < kKept) texts_.push_back(std::move(text));
    }
    std::size_t count() const { return count_; }
    const std::vector<std::string>& texts() const { return texts_; }

  private:
    std::vector<std::string> texts_;
    std::size_t count_ = 0;
};

}  // namespace zecorx::test
