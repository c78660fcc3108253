// The shell of the software 82599 without EAL: the test does by hand what EAL and the driver do.
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>

#include "soft82599/machine.h"
#include "soft82599/registers.h"
#include "zecorx/unique_fd.h"

using namespace zecorx;
namespace nic = zecorx::soft82599;
namespace reg = zecorx::soft82599::reg;
namespace bits = zecorx::soft82599::bits;
namespace fs = std::filesystem;

namespace {

nic::Config step_machine(std::size_t ports = 1) {
    nic::Config config;
    config.mode = nic::Mode::kStep;
    config.ports.resize(ports);
    for (std::size_t i = 0; i < ports; ++i) {
        config.ports[i].bdf = "0000:0" + std::to_string(i + 3) + ":00.0";
    }
    return config;
}

std::string pci_directory(const std::string& bdf) {
    const char* const root = std::getenv("SYSFS_PCI_DEVICES");
    REQUIRE(root != nullptr);
    return std::string(root) + "/" + bdf;
}

// BAR 0 as EAL maps it.
class MappedBar {
  public:
    // At `place`, whatever is mapped there.
    explicit MappedBar(const std::string& bdf, void* place = nullptr) {
        const UniqueFd fd(open((pci_directory(bdf) + "/resource0").c_str(), O_RDWR));
        REQUIRE(fd.get() >= 0);
        const int flags = MAP_SHARED | (place == nullptr ? 0 : MAP_FIXED);
        void* const memory = mmap(place, nic::kBarSize, PROT_READ | PROT_WRITE, flags, fd.get(), 0);
        REQUIRE(memory != MAP_FAILED);
        base_ = static_cast<std::byte*>(memory);
    }
    ~MappedBar() { munmap(base_, nic::kBarSize); }
    MappedBar(const MappedBar&) = delete;
    MappedBar& operator=(const MappedBar&) = delete;

    template <typename Word = std::uint32_t>
    volatile Word& at(std::uint32_t offset) const {
        return *reinterpret_cast<volatile Word*>(base_ + offset);
    }

  private:
    std::byte* base_ = nullptr;
};

}  // namespace

TEST_CASE("sysfs describes an 82599 bound to igb_uio and keeps the host's classes",
          "[soft82599][root]") {
    const nic::Machine machine(step_machine());
    const std::string directory = pci_directory("0000:03:00.0");
    std::string device;
    std::ifstream(directory + "/device") >> device;
    CHECK(device == "0x10f7");
    CHECK(fs::read_symlink(directory + "/driver").filename() == "igb_uio");
    CHECK(fs::file_size(directory + "/resource0") == 0);
    CHECK(fs::exists("/sys/class/net/lo/address"));
}

TEST_CASE("a machine takes everything away with it", "[soft82599][root]") {
    std::string uio;
    {
        nic::Machine machine(step_machine());
        uio = "/dev/uio" + std::to_string(machine.port(0).uio_number());
        CHECK(fs::exists(uio));
    }
    CHECK_FALSE(fs::exists(fs::symlink_status(uio)));
    CHECK(std::getenv("SYSFS_PCI_DEVICES") == nullptr);
    CHECK_FALSE(fs::exists("/sys/class/.soft82599"));
}

TEST_CASE("registers have their semantics from the first access on", "[soft82599][root]") {
    nic::Machine machine(step_machine());
    const MappedBar bar("0000:03:00.0");
    bar.at(reg::kCtrl) = bits::kCtrlReset;
    CHECK(bar.at(reg::kCtrl) == 0);
    bar.at(reg::kEerd) = 0x3Fu << 2 | bits::kEerdStart;
    CHECK(bar.at(reg::kEerd) >> 16 == 0xBABA);
    bar.at(reg::kEims) = 0x30;
    bar.at(reg::kEimc) = 0x10;
    CHECK(bar.at(reg::kEims) == 0x20);
    CHECK(machine.port(0).counters().trapped_accesses == 7);
}

TEST_CASE("a killed process leaves no UIO node in the way", "[soft82599][root]") {
    const unsigned number = nic::Machine(step_machine()).port(0).uio_number();
    for (int round = 0; round < 3; ++round) {
        const pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            const nic::Machine machine(step_machine());
            _exit(EXIT_SUCCESS);
        }
        REQUIRE(waitpid(child, nullptr, 0) == child);
        CHECK(nic::Machine(step_machine()).port(0).uio_number() == number);
    }
}

TEST_CASE("narrow and wide moves reach the right bytes", "[soft82599][root]") {
    const nic::Machine machine(step_machine());
    const MappedBar bar("0000:03:00.0");
    bar.at(reg::kMta) = 0x11223344;
    bar.at(reg::kMta + 4) = 0x55667788;
    CHECK(bar.at<std::uint64_t>(reg::kMta) == 0x5566778811223344);
    CHECK(bar.at<std::uint16_t>(reg::kMta + 2) == 0x1122);
    CHECK(bar.at<std::uint8_t>(reg::kMta + 1) == 0x33);
    bar.at<std::uint64_t>(reg::kMta) = 0x0102030405060708;
    CHECK(bar.at(reg::kMta) == 0x05060708);
    CHECK(bar.at(reg::kMta + 4) == 0x01020304);
}

TEST_CASE("doorbell pages are plain memory for the driver", "[soft82599][root]") {
    nic::Machine machine(step_machine());
    const MappedBar bar("0000:03:00.0");
    bar.at(reg::rx_queue(0) + reg::kRdt) = 17;  // also the first touch of the mapping
    CHECK(bar.at(reg::rx_queue(0) + reg::kRdt) == 17);
    bar.at(reg::tx_queue(127) + reg::kTdt) = 3;
    CHECK(machine.port(0).counters().trapped_accesses == 0);
    CHECK(bar.at(0x2100) == bar.at(reg::rx_queue(0) + reg::kSrrctl));
}

TEST_CASE("a device that is mapped again works again", "[soft82599][root]") {
    const nic::Machine machine(step_machine());
    for (int round = 0; round < 3; ++round) {
        const MappedBar bar("0000:03:00.0");
        CHECK((bar.at(reg::kStatus) & bits::kStatusGioEnabled) != 0);
        bar.at(reg::kCtrl) = bits::kCtrlReset;
        CHECK(bar.at(reg::kCtrl) == 0);
    }
}

TEST_CASE("each port has its own registers", "[soft82599][root]") {
    nic::Machine machine(step_machine(2));
    const MappedBar first("0000:03:00.0");
    const MappedBar second("0000:04:00.0");
    first.at(reg::kFctrl) = 0x100;
    second.at(reg::kFctrl) = 0x200;
    CHECK(first.at(reg::kFctrl) == 0x100);
    CHECK(second.at(reg::kFctrl) == 0x200);
    CHECK(first.at(reg::kRah) == second.at(reg::kRah) - 0x100);  // addresses count up
}

TEST_CASE("a port is found where another port was mapped before", "[soft82599][root]") {
    nic::Machine machine(step_machine(2));
    const MappedBar first("0000:03:00.0");
    first.at(reg::kFctrl) = 0x100;
    const MappedBar second("0000:04:00.0", const_cast<std::uint32_t*>(&first.at(0)));
    second.at(reg::kFctrl) = 0x200;
    CHECK(second.at(reg::kFctrl) == 0x200);
    CHECK(MappedBar("0000:03:00.0").at(reg::kFctrl) == 0x100);
}

TEST_CASE("an interrupt makes the UIO device readable once", "[soft82599][root]") {
    nic::Machine machine(step_machine());
    const std::string path = "/dev/uio" + std::to_string(machine.port(0).uio_number());
    const UniqueFd uio(open(path.c_str(), O_RDWR));
    REQUIRE(uio.get() >= 0);
    const MappedBar bar("0000:03:00.0");
    bar.at(reg::kEims) = bits::kEicrLinkChange;
    CHECK_FALSE(fs::exists(fs::symlink_status(path)));

    const std::uint32_t enable = 1;
    for (int i = 0; i < 3000; ++i) {  // more than a terminal buffers: writes must not pile up
        REQUIRE(write(uio.get(), &enable, sizeof(enable)) == sizeof(enable));
        machine.port(0).set_link(i % 2 != 0);
        pollfd readable{uio.get(), POLLIN, 0};
        REQUIRE(poll(&readable, 1, 5000) == 1);
        std::uint32_t count = 0;
        REQUIRE(read(uio.get(), &count, sizeof(count)) == sizeof(count));
        REQUIRE(bar.at(reg::kEicr) == bits::kEicrLinkChange);
        REQUIRE(poll(&readable, 1, 0) == 0);
    }
}

TEST_CASE("ports that cannot be made are refused with a reason", "[soft82599][root]") {
    nic::Config twice = step_machine(2);
    twice.ports[1].bdf = twice.ports[0].bdf;
    CHECK_THROWS_AS(nic::Machine(twice), std::runtime_error);
    nic::Config wire = step_machine();
    wire.ports[0].wire = "rope:1";
    CHECK_THROWS_AS(nic::Machine(wire), std::runtime_error);
}
