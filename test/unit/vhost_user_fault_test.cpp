#include <fcntl.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "vhost_user/fault_guard.h"
#include "vhost_user/shared_memory.h"
#include "vhost_user_bed.h"

namespace zecorx::test {
namespace {

constexpr std::size_t kPage = 4096;

// In a child of its own; what it ended by.
template <class Body>
int status_of_child(Body&& body) {
    const pid_t child = ::fork();
    if (child == 0) {
        // Says nothing where the test's output goes.
        ::dup2(::open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
        body();
        ::_exit(0);
    }
    int status = 0;
    REQUIRE(child > 0);
    REQUIRE(::waitpid(child, &status, 0) == child);
    return status;
}

// A mapping of a file that has lost its pages.
std::byte* map_truncated(const UniqueFd& file) {
    void* const memory = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (memory == MAP_FAILED || ::ftruncate(file.get(), 0) != 0) ::_exit(0);
    return static_cast<std::byte*>(memory);
}

std::byte read(std::span<std::byte> bytes, std::size_t at) {
    return static_cast<volatile std::byte&>(bytes[at]);
}

}  // namespace

TEST_CASE("pages that the frontend takes back read as zeros, and the others stay as they are") {
    const UniqueFd file = make_file(4 * kPage);
    const vu::SharedMapping mapping(file, 0, 4 * kPage);
    std::ranges::fill(mapping.bytes(), std::byte{0x3c});
    REQUIRE(::ftruncate(file.get(), 2 * kPage) == 0);
    CHECK_FALSE(mapping.lost());

    CHECK(read(mapping.bytes(), 2 * kPage + 5) == std::byte{0});
    CHECK(mapping.lost());
    CHECK(read(mapping.bytes(), 2 * kPage - 1) == std::byte{0x3c});
    mapping.bytes()[3 * kPage] = std::byte{1};
    CHECK(read(mapping.bytes(), 3 * kPage) == std::byte{1});

    // What is written there is in no file, also when the file grows again.
    REQUIRE(::ftruncate(file.get(), 4 * kPage) == 0);
    std::byte there{0xff};
    REQUIRE(::pread(file.get(), &there, 1, 3 * kPage) == 1);
    CHECK(there == std::byte{0});
}

TEST_CASE("a mapping keeps its pages when another one loses its own") {
    const UniqueFd file = make_file(kPage), other_file = make_file(2 * kPage);
    const vu::SharedMapping before(other_file, 0, kPage);
    const vu::SharedMapping mapping(file, 0, kPage);
    const vu::SharedMapping after(other_file, kPage, kPage);
    std::ranges::fill(before.bytes(), std::byte{1});
    std::ranges::fill(after.bytes(), std::byte{2});
    REQUIRE(::ftruncate(file.get(), 0) == 0);
    CHECK(read(mapping.bytes(), 0) == std::byte{0});
    CHECK(mapping.lost());
    CHECK_FALSE(before.lost());
    CHECK_FALSE(after.lost());
    CHECK(std::ranges::all_of(before.bytes(), [](std::byte b) { return b == std::byte{1}; }));
    CHECK(std::ranges::all_of(after.bytes(), [](std::byte b) { return b == std::byte{2}; }));
}

TEST_CASE("threads that touch lost pages at the same time all go on") {
    constexpr std::size_t kPages = 256;
    const UniqueFd file = make_file(kPages * kPage);
    const vu::SharedMapping mapping(file, 0, kPages * kPage);
    REQUIRE(::ftruncate(file.get(), 0) == 0);
    std::vector<std::jthread> threads;
    std::atomic<int> wrong{0};
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            for (std::size_t page = 0; page < kPages; ++page) {
                if (read(mapping.bytes(), page * kPage) != std::byte{0}) ++wrong;
            }
        });
    }
    threads.clear();
    CHECK(wrong == 0);
    CHECK(mapping.lost());
}

TEST_CASE("a lost page of a file on huge pages is replaced as a whole") {
    constexpr std::size_t kHuge = 2 << 20;
    std::optional<vu::SharedMapping> mapping;
    UniqueFd file;
    try {
        file = make_file(2 * kHuge, MFD_HUGETLB);
        mapping.emplace(file, 0, 2 * kHuge);
    } catch (const std::exception&) {
        SKIP("no huge pages on this machine");
    }
    REQUIRE(::ftruncate(file.get(), kHuge) == 0);
    CHECK(read(mapping->bytes(), kHuge + 123) == std::byte{0});
    CHECK(read(mapping->bytes(), 2 * kHuge - 1) == std::byte{0});
    CHECK(mapping->lost());
}

TEST_CASE("many mappings come and go, and each is guarded while it is there") {
    for (int round = 0; round < 3; ++round) {
        std::vector<std::unique_ptr<vu::SharedMapping>> mappings;
        const UniqueFd file = make_file(kPage);
        for (int i = 0; i < 300; ++i) {
            mappings.push_back(std::make_unique<vu::SharedMapping>(file, 0, kPage));
        }
        REQUIRE(::ftruncate(file.get(), 0) == 0);
        for (const auto& mapping : mappings) {
            CHECK(read(mapping->bytes(), 1) == std::byte{0});
            CHECK(mapping->lost());
        }
    }
}

TEST_CASE("a bus error anywhere else still ends the process") {
    const UniqueFd guarded = make_file(kPage), other = make_file(kPage);
    const vu::SharedMapping mapping(guarded, 0, kPage);
    const int status = status_of_child(
        [&] { *static_cast<volatile std::byte*>(map_truncated(other)) = std::byte{1}; });
    CHECK_FALSE((WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

TEST_CASE("a bus error where a guard was before ends the process") {
    const UniqueFd file = make_file(kPage);
    const int status = status_of_child([&] {
        std::optional<vu::FaultGuard> guard;
        std::byte* const memory = map_truncated(file);
        guard.emplace(std::span(memory, kPage), kPage);
        guard.reset();
        *static_cast<volatile std::byte*>(memory) = std::byte{1};
    });
    CHECK_FALSE((WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

}  // namespace zecorx::test
