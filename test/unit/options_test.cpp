#include "options.h"

#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

namespace zecorx {
namespace {

using Catch::Matchers::ContainsSubstring;

Options parse(std::vector<const char*> words) {
    words.insert(words.begin(), "zecorx-vhost");
    return parse_options(static_cast<int>(words.size()), words.data());
}

std::string error_of(std::vector<const char*> words) {
    try {
        parse(std::move(words));
    } catch (const OptionError& error) {
        return error.what();
    }
    return "";
}

class ConfigFile {
  public:
    explicit ConfigFile(const std::string& text) {
        path_ = "/tmp/zecorx-options-XXXXXX";
        const int fd = ::mkstemp(path_.data());
        REQUIRE(fd >= 0);
        ::close(fd);
        std::ofstream(path_) << text;
    }
    ~ConfigFile() { std::remove(path_.c_str()); }
    const char* path() const { return path_.c_str(); }

  private:
    std::string path_;
};

}  // namespace

TEST_CASE("the shortest command line serves one VM with the software NIC") {
    const Options options = parse({"--vdev", "net_vhost0"});
    REQUIRE(options.vms.size() == 1);
    CHECK(options.vms[0].name == "net_vhost0");
    CHECK(options.vms[0].socket_path == runtime_directory() + "/net_vhost0.sock");
    CHECK(options.vms[0].macs.empty());
    CHECK_FALSE(options.vms[0].client);
    CHECK(options.nics.at(0).soft);
    CHECK(options.worker_cpus.size() == 1);
}

TEST_CASE("statistics come as often as every tenth of a second") {
    const auto interval = [](const char* seconds) {
        return parse({"--vdev", "a", "--stats-interval", seconds}).stats_interval;
    };
    CHECK(interval("0.1") == std::chrono::milliseconds(100));
    CHECK(interval("2.5") == std::chrono::milliseconds(2500));
    CHECK(interval("86400") == std::chrono::hours(24));
    CHECK(interval("0") == std::chrono::milliseconds(0));
}

TEST_CASE("every option takes the value it is given") {
    const Options options = parse({"--vdev",
                                   "a,iface=/run/a.sock,mac=52:54:00:00:00:0a,client=1",
                                   "--vdev=b",
                                   "--pci",
                                   "0000:03:00.1",
                                   "--lcores",
                                   "0",
                                   "--huge-mem",
                                   "512",
                                   "--idle-sleep",
                                   "off",
                                   "--stats-interval",
                                   "5",
                                   "--stats-format",
                                   "json",
                                   "--log-level",
                                   "debug",
                                   "--",
                                   "--legacy-mem",
                                   "--log-level",
                                   "lib.eal:8"});
    REQUIRE(options.vms.size() == 2);
    CHECK(options.vms[0].socket_path == "/run/a.sock");
    REQUIRE(options.vms[0].macs.size() == 1);
    CHECK(options.vms[0].macs[0].to_string() == "52:54:00:00:00:0a");
    CHECK(options.vms[0].client);
    CHECK_FALSE(options.nics.at(0).soft);
    CHECK(options.nics.at(0).bdf == "0000:03:00.1");
    CHECK(options.worker_cpus == std::vector<unsigned>{0});
    CHECK(options.huge_memory == 512);
    CHECK(options.idle_sleep.count() == 0);
    CHECK(options.stats_interval == std::chrono::seconds(5));
    CHECK(options.stats_format == StatsFormat::kJson);
    CHECK(options.log_level == "debug");
    CHECK(options.eal_args == std::vector<std::string>{"--legacy-mem", "--log-level", "lib.eal:8"});
}

TEST_CASE("what follows soft goes to the software NIC, commas included") {
    const Options options = parse({"--vdev", "a", "--pci", "soft,wire=pcap:in.pcap,out.pcap"});
    CHECK(options.nics.at(0).soft);
    CHECK(options.nics.at(0).soft_args == "wire=pcap:in.pcap,out.pcap");
}

TEST_CASE("without further keys a VM gets what a port usually gives") {
    const Options options = parse({"--vdev", "a"});
    const VmOptions& vm = options.vms[0];
    CHECK_FALSE(vm.learn);
    CHECK_FALSE(vm.vlan.has_value());
    CHECK(vm.trunk.empty());
    CHECK_FALSE(vm.promisc);
    CHECK(vm.allmulti);
    CHECK(vm.zerocopy);
    CHECK_FALSE(vm.rxbuf.has_value());
    CHECK(options.nics.at(0).mtu == 1500);
}

TEST_CASE("a VM's keys say which frames it gets") {
    const Options options = parse({"--vdev",
                                   "a,mac=52:54:00:00:00:0a,mac=52:54:00:00:00:0b,learn=1,"
                                   "vlan=4094,promisc=1,allmulti=0,zerocopy=0,rxbuf=16384",
                                   "--vdev", "b,trunk=20:10:100-103:101,rxbuf=auto"});
    const VmOptions& access = options.vms[0];
    REQUIRE(access.macs.size() == 2);
    CHECK(access.macs[1].to_string() == "52:54:00:00:00:0b");
    CHECK(access.learn);
    CHECK(access.vlan == 4094);
    CHECK(access.promisc);
    CHECK_FALSE(access.allmulti);
    CHECK_FALSE(access.zerocopy);
    CHECK(access.rxbuf == 16384u);
    CHECK(options.vms[1].trunk == std::vector<std::uint16_t>{10, 20, 100, 101, 102, 103});
    CHECK_FALSE(options.vms[1].rxbuf.has_value());
}

TEST_CASE("keys of a VM that contradict themselves or the port are refused") {
    const auto error = [](const char* keys) {
        const std::string vdev = std::string("a,") + keys;
        return error_of({"--vdev", vdev.c_str()});
    };
    for (const char* vlan : {"vlan=0", "vlan=4095", "vlan=x", "vlan=-1", "vlan=10-11"}) {
        CHECK_THAT(error(vlan), ContainsSubstring("VLAN ID from 1 to 4094"));
    }
    for (const char* trunk : {"trunk=0", "trunk=1:", "trunk=:1", "trunk=5-4", "trunk=1-4095",
                              "trunk=1-2-3", "trunk=1;2", "trunk=-"}) {
        CHECK_THAT(error(trunk), ContainsSubstring("as in 10:20:100-110"));
    }
    CHECK_THAT(error("vlan=1,trunk=2"), ContainsSubstring("exclude each other"));
    CHECK_THAT(error("trunk=1,trunk=2"), ContainsSubstring("given twice"));
    for (const char* rxbuf : {"rxbuf=0", "rxbuf=1000", "rxbuf=17408", "rxbuf=1k"}) {
        CHECK_THAT(error(rxbuf), ContainsSubstring("multiple of 1024 up to 16384"));
    }
    CHECK_THAT(error("learn=2"), ContainsSubstring("learn=2 must be 0 or 1"));
    CHECK_THAT(error("promisc=yes"), ContainsSubstring("must be 0 or 1"));
    CHECK_THAT(error("mac=52:54:00:00:00:01,mac=52:54:00:00:00:01"),
               ContainsSubstring("52:54:00:00:00:01 is given twice"));
}

TEST_CASE("all VMs together fit the filters of one port") {
    CHECK(parse({"--vdev", "a,trunk=1-64", "--vdev", "b,vlan=64"}).vms.size() == 2);
    CHECK_THAT(error_of({"--vdev", "a,trunk=1-64", "--vdev", "b,vlan=65"}),
               ContainsSubstring("65 VLANs, but a port filters 64"));
    std::vector<std::string> vdevs;
    for (int vm = 0; vm < 8; ++vm) {
        vdevs.push_back("v" + std::to_string(vm));
        for (int mac = 0; mac < 16; ++mac) {
            char text[] = ",mac=52:54:00:00:00:00";
            std::snprintf(text, sizeof text, ",mac=52:54:00:00:%02x:%02x", vm, mac);
            vdevs.back() += text;
        }
    }
    std::vector<const char*> words;
    for (const std::string& vdev : vdevs) words.insert(words.end(), {"--vdev", vdev.c_str()});
    CHECK_THAT(error_of(words), ContainsSubstring("128 MAC addresses, but a port filters 127"));
}

TEST_CASE("the MTU belongs to the port, whichever it is") {
    const NicOptions real = parse({"--vdev", "a", "--pci", "0000:03:00.1,mtu=9216"}).nics.at(0);
    CHECK_FALSE(real.soft);
    CHECK(real.bdf == "0000:03:00.1");
    CHECK(real.mtu == 9216);
    const NicOptions soft =
        parse({"--vdev", "a", "--pci", "soft,idle=0,mtu=68,wire=gen:mtu=9,size=60"}).nics.at(0);
    CHECK(soft.mtu == 68);
    CHECK(soft.soft_args == "idle=0,wire=gen:mtu=9,size=60");
    CHECK(parse({"--vdev", "a", "--pci", "soft,mtu=2000"}).nics.at(0).soft_args.empty());
    for (const char* pci : {"soft,mtu=67", "soft,mtu=9217", "soft,mtu=", "0000:03:00.1,mtu=x"}) {
        CHECK_THAT(error_of({"--vdev", "a", "--pci", pci}),
                   ContainsSubstring("must be 68 to 9216"));
    }
    CHECK_THAT(error_of({"--vdev", "a", "--pci", "0000:03:00.1,wire=tap:x"}),
               ContainsSubstring("wire=tap:x"));
}

TEST_CASE("a configuration file is read, and the command line wins over it") {
    const ConfigFile file("# comment\nvdev = a,mac=52:54:00:00:00:0a\nvdev = b\nhuge-mem = 128\n");
    const Options options = parse({"--config", file.path(), "--huge-mem", "300", "--vdev", "c"});
    REQUIRE(options.vms.size() == 3);
    CHECK(options.vms[0].name == "c");
    CHECK(options.vms[1].name == "a");
    CHECK(options.huge_memory == 300);
}

TEST_CASE("the sample configuration file is valid") {
    const Options options = parse({"--config", SAMPLE_CONFIG});
    CHECK(options.vms.size() == 1);
}

TEST_CASE("what cannot be used is refused with the remedy") {
    CHECK_THAT(error_of({}), ContainsSubstring("--vdev net_vhost0"));
    CHECK_THAT(error_of({"--vdef", "a"}), ContainsSubstring("--vdef"));
    CHECK_THAT(error_of({"--vde", "a"}), ContainsSubstring("--vde"));
    CHECK_THAT(error_of({"stray"}), ContainsSubstring("belongs to no option"));
    CHECK_THAT(error_of({"--vdev", "a,colour=red"}), ContainsSubstring("iface, client, mac"));
    CHECK_THAT(error_of({"--vdev", "a,mac"}), ContainsSubstring("has no value"));
    CHECK_THAT(error_of({"--vdev", "a,mac=zz"}), ContainsSubstring("52:54:00:12:34:56"));
    CHECK_THAT(error_of({"--vdev", "a,mac=01:00:5e:00:00:01"}), ContainsSubstring("unicast"));
    CHECK_THAT(error_of({"--vdev", "a,client=2"}), ContainsSubstring("must be 0 or 1"));
    CHECK_THAT(error_of({"--vdev", "a,client=1,client=1"}), ContainsSubstring("given twice"));
    CHECK_THAT(error_of({"--vdev", ""}), ContainsSubstring("net_vhost0"));
    CHECK_THAT(error_of({"--vdev", "a/b"}), ContainsSubstring("net_vhost0"));
    CHECK_THAT(error_of({"--vdev", "a", "--vdev", "a"}), ContainsSubstring("name a"));
    CHECK_THAT(error_of({"--vdev", "a,iface=/x", "--vdev", "b,iface=/x"}),
               ContainsSubstring("socket /x"));
    CHECK_THAT(error_of({"--vdev", "a,mac=52:54:00:00:00:01", "--vdev", "b,mac=52:54:00:00:00:01"}),
               ContainsSubstring("MAC address"));
    const std::string path = "a,iface=/" + std::string(200, 'x');
    CHECK_THAT(error_of({"--vdev", path.c_str()}), ContainsSubstring("longer than"));
    CHECK_THAT(error_of({"--vdev", "a", "--pci", "eth0"}), ContainsSubstring("0000:03:00.0"));
    CHECK_THAT(error_of({"--vdev", "a", "--lcores", "4095"}), ContainsSubstring("expected CPU"));
    CHECK_THAT(error_of({"--vdev", "a", "--lcores", "1000"}), ContainsSubstring("allowed"));
    CHECK_THAT(error_of({"--vdev", "a", "--lcores", "0,0"}), ContainsSubstring("twice"));
    CHECK_THAT(error_of({"--vdev", "a", "--idle-sleep", "-1"}), ContainsSubstring("or off"));
    CHECK_THAT(error_of({"--vdev", "a", "--huge-mem", "lots"}), ContainsSubstring("huge-mem"));
    CHECK_THAT(error_of({"--vdev", "a", "--huge-mem=-5"}), ContainsSubstring("huge-mem -5"));
    for (const char* interval : {"-1", "0.05", "86401", "nan", "inf", "1s", "1e3", "0x1"}) {
        INFO(interval);
        const std::string option = std::string("--stats-interval=") + interval;
        CHECK_THAT(error_of({"--vdev", "a", option.c_str()}), ContainsSubstring("0.1 to 86400"));
    }
    CHECK_THAT(error_of({"--config", "/tmp"}), ContainsSubstring("not a regular file"));
    CHECK_THAT(error_of({"--vdev", "a", "--stats-format", "xml"}), ContainsSubstring("json"));
    CHECK_THAT(error_of({"--vdev", "a", "--log-level", "loud"}), ContainsSubstring("warning"));
    CHECK_THAT(error_of({"--config", "/nonexistent"}), ContainsSubstring("No such file"));
    const ConfigFile file("vdef = a\n");
    CHECK_THAT(error_of({"--config", file.path()}), ContainsSubstring("vdef"));
}

TEST_CASE("help names every option and needs nothing else") {
    CHECK(parse({"--help"}).help);
    CHECK(parse({"-V"}).version);
    for (const char* option :
         {"--vdev", "--pci", "--config", "--lcores", "--huge-mem", "--idle-sleep",
          "--stats-interval", "--stats-format", "--log-level", "--version"}) {
        CHECK_THAT(help_text(), ContainsSubstring(option));
    }
}

TEST_CASE("several ports are named by the VMs that are on them") {
    const Options options =
        parse({"--vdev", "a,port=soft2", "--vdev", "b,port=0000:03:00.1", "--pci", "soft", "--pci",
               "soft,wire=gen:size=60", "--pci", "0000:03:00.1", "--vdev", "c,port=net_tap0",
               "--port", "net_tap0,iface=t0,mtu=1400,longest=1514,persist"});
    REQUIRE(options.nics.size() == 4);
    CHECK(options.nics[0].name == "soft");
    CHECK(options.nics[1].name == "soft2");
    CHECK(options.nics[1].soft_args == "wire=gen:size=60");
    CHECK(options.nics[2].bdf == "0000:03:00.1");
    CHECK_FALSE(options.nics[3].soft);
    CHECK(options.nics[3].device_args == "net_tap0,iface=t0,persist");
    CHECK(options.nics[3].mtu == 1400);
    CHECK(options.nics[3].longest_frame == 1514);
    CHECK(options.vms[0].port == "soft2");
    CHECK(options.vms[2].port == "net_tap0");
}

TEST_CASE("the ports of the command line replace those of a configuration file") {
    const ConfigFile file("pci = 0000:03:00.0\npci = 0000:03:00.1\nvdev = a,port=0000:03:00.1\n");
    CHECK(parse({"--config", file.path()}).nics.size() == 2);
    const Options options = parse({"--config", file.path(), "--pci", "0000:03:00.1"});
    REQUIRE(options.nics.size() == 1);
    CHECK(options.nics[0].bdf == "0000:03:00.1");
}

TEST_CASE("a VM is on the only port there is") {
    CHECK(parse({"--vdev", "a"}).vms[0].port == "soft");
    CHECK(parse({"--vdev", "a", "--port", "net_af_packet0,iface=eth1"}).vms[0].port ==
          "net_af_packet0");
}

TEST_CASE("ports that cannot be meant are refused with the remedy") {
    CHECK_THAT(error_of({"--vdev", "a", "--pci", "soft", "--port", "net_tap0"}),
               ContainsSubstring("port=soft or port=net_tap0"));
    CHECK_THAT(error_of({"--vdev", "a,port=net_tap1", "--port", "net_tap0"}),
               ContainsSubstring("there is no port net_tap1; there are: net_tap0"));
    CHECK_THAT(error_of({"--vdev", "a", "--port", "0000:03:00.1"}),
               ContainsSubstring("this one is for --pci"));
    CHECK_THAT(error_of({"--vdev", "a", "--port", "net_tap0", "--port", "net_tap0,iface=x"}),
               ContainsSubstring("the port net_tap0 is given twice"));
    CHECK_THAT(error_of({"--vdev", "a", "--port", "net_tap0,longest=60"}),
               ContainsSubstring("longest=60 must be 1514 to 9234"));
}

TEST_CASE("NICs that nothing confines have to be asked for") {
    CHECK_FALSE(parse({"--vdev", "a"}).unsafe_no_iommu);
    CHECK(parse({"--vdev", "a", "--unsafe-no-iommu"}).unsafe_no_iommu);
    const ConfigFile file("vdev = a\nunsafe-no-iommu = true\n");
    CHECK(parse({"--config", file.path()}).unsafe_no_iommu);
}

}  // namespace zecorx
