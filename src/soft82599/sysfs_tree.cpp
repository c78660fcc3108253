#include "sysfs_tree.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "registers.h"

namespace zecorx::soft82599 {
namespace {

namespace fs = std::filesystem;

constexpr const char* kClass = "/sys/class";
constexpr const char* kHostSys = "/sys/class/.host";          // the host's /sys
constexpr const char* kPciDevices = "/sys/class/.soft82599";  // what EAL scans
constexpr const char* kPciPathVariable = "SYSFS_PCI_DEVICES";

// 82599 with a KX4 backplane: a port that needs no SFP module to be identified.
constexpr const char* kVendorId = "0x8086\n";
constexpr const char* kDeviceId = "0x10f7\n";
constexpr std::array<char, 4> kConfigIds = {'\x86', '\x80', '\xf7', '\x10'};

std::runtime_error tree_error(const std::string& what) {
    const std::string remedy =
        errno == EPERM || errno == EACCES ? "; run as root or with CAP_SYS_ADMIN" : std::string();
    return std::runtime_error("cannot set up the software NIC: " + what + ": " +
                              std::strerror(errno) + remedy);
}

void write_file(const fs::path& path, const std::string& text) {
    std::ofstream file(path, std::ios::binary);
    file << text;
    if (!file.flush()) throw tree_error("cannot write " + path.string());
}

void make_directories(const fs::path& path) {
    std::error_code error;
    fs::create_directories(path, error);
    if (error) {
        errno = error.value();
        throw tree_error("cannot create " + path.string());
    }
}

void make_symlink(const std::string& target, const std::string& path) {
    if (symlink(target.c_str(), path.c_str()) != 0) throw tree_error("cannot create " + path);
}

// Six lines: start, end and flags of each BAR. The address only has to look like one.
std::string resource_text() {
    std::string text = "0x00000000f0000000 0x00000000f007ffff 0x0000000000040200\n";
    static_assert(kBarSize == 0x80000);
    for (int bar = 1; bar < 6; ++bar) {
        text += "0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
    }
    return text;
}

std::string config_space() {
    std::string config(256, '\0');
    config.replace(0, kConfigIds.size(), kConfigIds.data(), kConfigIds.size());
    config[4] = 0x6;  // command: memory and bus master enabled
    return config;
}

}  // namespace

SysfsTree::SysfsTree(const std::vector<PortEntry>& ports) {
    enter_private_namespace();
    cover_class_directory();
    for (const PortEntry& port : ports) add_port(port);
    if (const char* previous = getenv(kPciPathVariable)) {
        had_pci_path_ = true;
        previous_pci_path_ = previous;
    }
    setenv(kPciPathVariable, kPciDevices, 1);
}

SysfsTree::~SysfsTree() {
    if (had_pci_path_) {
        setenv(kPciPathVariable, previous_pci_path_.c_str(), 1);
    } else {
        unsetenv(kPciPathVariable);
    }
    umount2(kClass, MNT_DETACH);
}

void SysfsTree::enter_private_namespace() {
    if (unshare(CLONE_NEWNS) != 0) throw tree_error("cannot create a mount namespace");
    // Mounts the host makes still arrive here; ours do not get out. In a chroot, / need not be a
    // mount point; what is mounted over below /sys is all that matters then.
    if (mount("none", "/", nullptr, MS_REC | MS_SLAVE, nullptr) == 0) return;
    if (errno != EINVAL || mount("none", "/sys", nullptr, MS_REC | MS_SLAVE, nullptr) != 0) {
        throw tree_error("cannot make mounts private");
    }
}

void SysfsTree::cover_class_directory() {
    // All of /sys is kept, not only its class directory, so that the relative links in there hold.
    const UniqueFd host(open_tree(AT_FDCWD, "/sys", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    if (!host) throw tree_error("cannot take a copy of the mount /sys");
    if (mount("tmpfs", kClass, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755") != 0) {
        throw tree_error(std::string("cannot mount over ") + kClass);
    }
    make_directories(kHostSys);
    if (move_mount(host.get(), "", AT_FDCWD, kHostSys, MOVE_MOUNT_F_EMPTY_PATH) != 0) {
        throw tree_error(std::string("cannot mount ") + kHostSys);
    }
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(std::string(kHostSys) + "/class", error)) {
        const std::string name = entry.path().filename();
        if (name == "uio") continue;
        make_symlink(".host/class/" + name, std::string(kClass) + "/" + name);
    }
    make_directories(std::string(kClass) + "/uio");
    for (const auto& entry : fs::directory_iterator(std::string(kHostSys) + "/class/uio", error)) {
        const std::string name = entry.path().filename();
        make_symlink("../.host/class/uio/" + name, std::string(kClass) + "/uio/" + name);
    }
    make_directories(kPciDevices);
}

void SysfsTree::add_port(const PortEntry& port) {
    const std::string uio = "uio" + std::to_string(port.uio_number);
    const fs::path directory = fs::path(kPciDevices) / port.bdf;
    make_directories(directory / "uio" / uio);
    write_file(directory / "vendor", kVendorId);
    write_file(directory / "device", kDeviceId);
    write_file(directory / "subsystem_vendor", kVendorId);
    write_file(directory / "subsystem_device", "0x000c\n");
    write_file(directory / "class", "0x020000\n");
    write_file(directory / "max_vfs", "0\n");
    write_file(directory / "numa_node", "0\n");
    write_file(directory / "resource", resource_text());
    // EAL takes the driver from the link's last component; igb_uio has it map resource0 itself.
    make_symlink("../igb_uio", directory / "driver");

    const fs::path uio_device = fs::path(kClass) / "uio" / uio / "device";
    make_directories(uio_device);
    write_file(uio_device / "config", config_space());

    const fs::path resource = directory / "resource0";
    resources_.emplace_back(open(resource.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600));
    if (!resources_.back()) throw tree_error("cannot create " + resource.string());
}

}  // namespace zecorx::soft82599
