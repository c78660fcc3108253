// What is checked of the host before DPDK starts: PCI devices and socket files.

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include "host_checks.h"
#include "socket_file.h"
#include "support/temp_dir.h"
#include "zecorx/unique_fd.h"

namespace zecorx {
namespace {

namespace fs = std::filesystem;
using Catch::Matchers::ContainsSubstring;
using test::TempDir;

std::string error_of(const std::function<void()>& action) {
    try {
        action();
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return "";
}

// A PCI device in a directory that stands for /sys/bus/pci/devices.
class FakeSysfs {
  public:
    FakeSysfs() { ::setenv("SYSFS_PCI_DEVICES", root_.path().c_str(), 1); }
    ~FakeSysfs() { ::unsetenv("SYSFS_PCI_DEVICES"); }
    void add(const std::string& bdf, const std::string& driver) {
        fs::create_directory(root_.path() / bdf);
        if (!driver.empty())
            fs::create_symlink("../../drivers/" + driver, root_.path() / (bdf + "/driver"));
    }
    // As the kernel shows it: a link to the group's directory, which may have a name.
    void set_group(const std::string& bdf, const std::string& group, const std::string& name) {
        const fs::path directory = root_.path() / ("group" + group);
        fs::create_directory(directory);
        if (!name.empty()) std::ofstream(directory / "name") << name << '\n';
        fs::create_directory_symlink(directory, root_.path() / (bdf + "/iommu_group"));
    }

  private:
    TempDir root_;
};

UniqueFd listen_on(const fs::path& path) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(fd.get(), 1) == 0);
    return fd;
}

}  // namespace

TEST_CASE("a PCI device must exist and be free of kernel drivers") {
    FakeSysfs sysfs;
    sysfs.add("0000:03:00.0", "ixgbe");
    sysfs.add("0000:03:00.1", "");
    sysfs.add("0000:03:00.2", "vfio-pci");
    sysfs.add("0000:03:00.3", "igb_uio");

    CHECK_THAT(error_of([] { check_pci_device("0000:04:00.0"); }),
               ContainsSubstring("no PCI device 0000:04:00.0"));
    CHECK_THAT(error_of([] { check_pci_device("0000:03:00.0"); }),
               ContainsSubstring("kernel driver ixgbe") && ContainsSubstring("scripts/bind-nic"));
    CHECK_THAT(error_of([] { check_pci_device("0000:03:00.1"); }), ContainsSubstring("no driver"));
    CHECK(error_of([] { check_pci_device("0000:03:00.2"); }).empty());
    CHECK_FALSE(uses_uio("0000:03:00.2"));
    CHECK(error_of([] { check_pci_device("0000:03:00.3"); }).empty());
    CHECK(uses_uio("0000:03:00.3"));
}

TEST_CASE("a NIC that no IOMMU confines is refused with the reason and the remedy") {
    FakeSysfs sysfs;
    sysfs.add("0000:03:00.0", "vfio-pci");
    sysfs.set_group("0000:03:00.0", "7", "");
    sysfs.add("0000:03:00.1", "vfio-pci");
    sysfs.add("0000:03:00.2", "vfio-pci");
    sysfs.set_group("0000:03:00.2", "8", "vfio-noiommu");
    sysfs.add("0000:03:00.3", "igb_uio");
    sysfs.set_group("0000:03:00.3", "9", "");

    CHECK(error_of([] { check_iommu("0000:03:00.0"); }).empty());
    CHECK_FALSE(reached_without_iommu("0000:03:00.0"));
    for (const char* bdf : {"0000:03:00.1", "0000:03:00.2", "0000:03:00.3"}) {
        CHECK(reached_without_iommu(bdf));
        CHECK_THAT(error_of([&] { check_iommu(bdf); }),
                   ContainsSubstring("without an IOMMU") &&
                       ContainsSubstring("anywhere in the host's memory") &&
                       ContainsSubstring("--unsafe-no-iommu"));
    }
}

TEST_CASE("more huge pages than are free are refused with the setting that reserves them") {
    CHECK_THAT(error_of([] { check_huge_pages(1U << 30); }), ContainsSubstring("vm.nr_hugepages="));
}

TEST_CASE("a stale socket is replaced") {
    const TempDir directory;
    const fs::path path = directory.path() / "s";
    { const UniqueFd gone = listen_on(path); }
    REQUIRE(fs::exists(path));
    claim_socket_path(path);
    CHECK_FALSE(fs::exists(path));
    claim_socket_path(path);
}

TEST_CASE("a live socket is refused with its owner named") {
    const TempDir directory;
    const fs::path path = directory.path() / "s";
    const UniqueFd live = listen_on(path);
    CHECK_THAT(error_of([&] { claim_socket_path(path); }),
               ContainsSubstring("in use by cli_unit (pid " + std::to_string(::getpid()) + ")"));
    CHECK(fs::exists(path));
}

TEST_CASE("what is no socket is left alone") {
    const TempDir directory;
    const fs::path path = directory.path() / "s";
    std::ofstream(path) << "precious";
    CHECK_THAT(error_of([&] { claim_socket_path(path); }), ContainsSubstring("is no socket"));
    CHECK(fs::exists(path));
    CHECK_THAT(error_of([&] { claim_socket_path(directory.path() / "no/such/s"); }),
               ContainsSubstring("create the directory"));
}

TEST_CASE("the runtime directory is for owner and group and goes with its maker") {
    const TempDir directory;
    const fs::path path = directory.path() / "run";
    {
        const RuntimeDirectory made(path);
        struct stat status {};
        REQUIRE(::stat(path.c_str(), &status) == 0);
        CHECK((status.st_mode & 07777) == 0750);
        const RuntimeDirectory second(path);
    }
    CHECK_FALSE(fs::exists(path));
    fs::create_directory(path);
    { const RuntimeDirectory found(path); }
    CHECK(fs::exists(path));
}

}  // namespace zecorx
