#!/usr/bin/python3
"""Tests of scripts/check-host. Usage: check_host_test.py SCRIPTS_DIRECTORY"""

import json
import pathlib
import re
import shutil
import unittest

import counted
from fake_host import SCRIPTS, FakeHost

NIC = "0000:03:00.0"
INSTALLED_PLUGINS = sorted(pathlib.Path("/usr/lib").glob("*/dpdk/pmds-*/librte_net_*.so"))
NAMES = ["cpus", "iommu", "vfio", "dma entries", "huge pages", "nic", "iommu group", "numa",
         "memory lock", "open files", "memory maps", "io_uring", "qemu", "dpdk"]


class HostCase(unittest.TestCase):
    """On a host that has all that is needed, until a test takes something away."""

    def setUp(self):
        self.host = host = FakeHost()
        self.addCleanup(host.close)
        host.write("sys/devices/system/cpu/online", "0-7,16-23")
        host.write("sys/devices/system/cpu/isolated", "4-7")
        (host.sys / "class/iommu/dmar0").mkdir()
        host.write("proc/cmdline", "quiet intel_iommu=on iommu=pt")
        host.add_nic(NIC, driver="vfio-pci", numa_node=0)
        (host.sys / "module/vfio_pci").mkdir(parents=True)
        host.set_noiommu(False)
        self.dma_entries = "sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
        host.write(self.dma_entries, 65535)
        host.add_huge_pages(0, total=600, free=512, most=1000)
        host.write("sys/devices/system/node/node0/cpulist", "0-7")
        host.set_limits()
        host.write("proc/sys/vm/max_map_count", 65530)
        host.write("proc/sys/kernel/io_uring_disabled", 0)
        host.write("qemu-version", "QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7)")
        host.write("plugins/librte_net_ixgbe.so.23", "")

    def check(self, *arguments):
        """The status and the lines, as pairs of state and text, by name."""
        done = self.host.run("check-host", *arguments)
        self.assertEqual(done.stderr, "")
        lines = {}
        for line in done.stdout.splitlines():
            state, name, text = re.fullmatch(r"(ok  |TODO)  (.{12})  (.*)", line).groups()
            lines.setdefault(name.strip(), []).append((state.strip(), text))
        todos = [name for name, found in lines.items() if "TODO" in dict(found)]
        self.assertEqual(done.returncode, 1 if todos else 0, done.stdout)
        return lines, todos

    def assert_todo(self, name, *words, arguments=()):
        """This is all there is to do, and its line has these words."""
        lines, todos = self.check(*arguments)
        self.assertEqual(todos, [name], lines)
        text = "\n".join(text for state, text in lines[name] if state == "TODO")
        for word in words:
            self.assertIn(word, text)

    def assert_ok(self, name, *words, arguments=()):
        """There is nothing to do, and a line of this name has these words."""
        lines, todos = self.check(*arguments)
        self.assertEqual(todos, [], lines)
        text = "\n".join(text for state, text in lines[name])
        for word in words:
            self.assertIn(word, text)


class Lines(HostCase):
    def test_are_all_there_and_ok_on_a_host_that_is_ready(self):
        lines, todos = self.check()
        self.assertEqual((list(lines), todos), (NAMES, []))

    def test_of_cpus(self):
        self.assert_ok("cpus", "16, of which 4-7 are isolated", "--lcores")
        self.host.write("sys/devices/system/cpu/isolated", "")
        self.assert_ok("cpus", "none isolated", "isolcpus=")
        self.host.write("sys/devices/system/cpu/online", "0")
        self.assert_todo("cpus", "1 CPU", "at least 2")

    def test_of_an_iommu(self):
        self.assert_ok("iommu", "dmar0, groups: 1;", "iommu=pt: the kernel's own")
        self.host.write("proc/cmdline", "intel_iommu=on")
        self.assert_ok("iommu", "iommu=pt spares")

    def test_of_a_missing_iommu(self):
        (self.host.sys / "class/iommu/dmar0").rmdir()
        for words, remedy in (("quiet", "boot with intel_iommu=on or amd_iommu=on"),
                              ("intel_iommu=on", "enable VT-d or AMD-Vi in the BIOS"),
                              ("intel_iommu=off", "take intel_iommu=off off"),
                              ("iommu=off quiet", "take iommu=off off")):
            self.host.write("proc/cmdline", words)
            self.assert_todo("iommu", "none", remedy)

    def test_of_vfio(self):
        self.host.set_noiommu(True)
        self.assert_todo("vfio", "no-IOMMU mode", "echo 0 >")
        self.host.set_noiommu(False)
        shutil.rmtree(self.host.sys / "module/vfio_pci")
        self.assert_todo("vfio", "vfio_pci not loaded", "modprobe")

    def test_of_dma_entries(self):
        self.assert_ok("dma entries", "65535 mappings allowed")
        self.host.write(self.dma_entries, 100)
        self.assert_todo("dma entries", "100 mappings allowed", "echo 65535 >", "dma_entry_limit")

    def test_of_huge_pages(self):
        self.assert_ok("huge pages", "512 x 2 MiB free, 1024 MiB needed", arguments=("--mem", 1024))
        self.assert_todo("huge pages", "scripts/hugepages --mem 1025", arguments=("--mem", 1025))

    def test_of_huge_pages_of_two_sizes(self):
        self.host.add_huge_pages(0, total=1, free=1, most=1, kib=1048576)
        self.assert_ok("huge pages", "512 x 2 MiB + 1 x 1 GiB free", arguments=("--mem", 2048))

    def test_of_no_huge_pages(self):
        shutil.rmtree(self.host.sys / "kernel/mm")
        shutil.rmtree(self.host.sys / "devices/system/node")
        self.assert_todo("huge pages", "none free, 256 MiB needed")

    def test_of_a_nic_that_the_kernel_drives(self):
        self.host.add_nic("0000:05:00.0", interface="eth5", pci_id="8086:1533")
        self.assert_ok("nic", f"{NIC} (8086:10fb): vfio-pci; has VMDq",
                       "0000:05:00.0 (8086:1533): ixgbe, eth5 down; VMDq unknown")
        self.assert_todo("nic", "eth5 down", "scripts/bind-nic 0000:05:00.0",
                         arguments=("--pci", "05:00.0"))

    def test_of_no_nic_that_is_bound(self):
        (self.host.device(NIC) / "driver").unlink()
        self.assert_todo("nic", "none is bound", "scripts/bind-nic", "--pci soft")

    def test_of_what_is_no_nic(self):
        self.host.add_device("0000:04:00.0", pci_class="0x010802", driver="nvme")
        self.assert_todo("nic", "0000:04:00.0 is no Ethernet controller",
                         arguments=("--pci", "04:00.0"))
        self.assert_todo("nic", "0000:09:00.0", arguments=("--pci", "09:00.0"))

    def test_of_virtual_functions(self):
        self.host.write(self.host.device(NIC) / "sriov_numvfs", 2)
        self.assert_todo("nic", "2 virtual functions", "echo 0 >")
        self.host.write(self.host.device(NIC) / "sriov_numvfs", 0)
        self.assert_ok("nic")
        (self.host.device(NIC) / "physfn").symlink_to(self.host.sys / "devices/0000:02:00.0")
        self.assert_todo("nic", "virtual function", "0000:02:00.0")

    def test_of_an_iommu_group(self):
        self.assert_ok("iommu group", f"{NIC} is in group 7")
        self.host.write("sys/kernel/iommu_groups/7/name", "vfio-noiommu")
        self.assert_todo("iommu group", f"none for {NIC}", "BIOS", "--unsafe-no-iommu")

    def test_of_numa_nodes(self):
        self.assert_ok("numa", "node 0, CPUs 0-7", "1024 MiB of huge pages free there")
        self.host.write(self.host.device(NIC) / "numa_node", -1)
        self.assert_ok("numa", "no particular node")

    def test_of_a_numa_node_without_huge_pages_or_cpus(self):
        self.host.write(self.host.device(NIC) / "numa_node", 1)
        self.host.add_huge_pages(1, total=0, free=0, most=0)
        self.host.write("sys/devices/system/node/node1/cpulist", "16-23")
        self.assert_todo("numa", "node 1, 0 MiB", "scripts/hugepages --mem 256 --node 1")
        self.host.write("sys/devices/system/node/node1/cpulist", "")
        self.assert_todo("numa", "node 1, which has no CPUs")

    def test_of_the_memory_lock_limit(self):
        self.host.set_limits(capabilities="0000000000004000")
        self.assert_ok("memory lock", "8192 KiB", "CAP_IPC_LOCK overrides")
        self.host.set_limits(capabilities="000001ffffffbfff")
        self.assert_todo("memory lock", "8192 KiB", "ulimit -l unlimited", "LimitMEMLOCK=infinity")
        self.host.set_limits(locked="unlimited", capabilities="0000000000000000")
        self.assert_ok("memory lock", "unlimited")

    def test_of_open_files(self):
        self.assert_ok("open files", "1024 allowed")
        self.host.set_limits(files=256)
        self.assert_todo("open files", "256 allowed", "ulimit -n", "LimitNOFILE=")

    def test_of_memory_maps(self):
        self.assert_ok("memory maps", "65530 allowed")
        self.host.write("proc/sys/vm/max_map_count", 1000)
        self.assert_todo("memory maps", "1000 allowed", "sysctl vm.max_map_count=65530")

    def test_of_io_uring_which_only_nics_without_an_iommu_need(self):
        self.host.write("proc/sys/kernel/io_uring_disabled", 2)
        self.assert_ok("io_uring", "disabled; only NICs without an IOMMU need it")
        driver = self.host.device(NIC) / "driver"
        driver.unlink()
        driver.symlink_to(self.host.add_driver("igb_uio"))
        self.assert_todo("io_uring", NIC, "sysctl kernel.io_uring_disabled=0")
        self.host.write("proc/sys/kernel/io_uring_disabled", 1)
        self.assert_ok("io_uring", "enabled")
        (self.host.proc / "sys/kernel/io_uring_disabled").unlink()
        self.assert_ok("io_uring", "enabled")

    def test_of_qemu(self):
        self.assert_ok("qemu", "7.2.19")
        self.host.write("qemu-version", "QEMU emulator version 10.0.2")
        self.assert_ok("qemu", "10.0.2")
        self.host.write("qemu-version", "QEMU emulator version 4.2.1")
        self.assert_todo("qemu", "4.2.1", "5.0 or newer")
        self.host.write("qemu-version", "")
        self.assert_ok("qemu", "no qemu-system-x86_64 here")

    def test_of_dpdks_drivers_of_the_nics_that_are_known(self):
        self.host.add_nic("0000:05:00.0", driver="vfio-pci", pci_id="8086:1521")
        self.assert_todo("dpdk", "librte_net_e1000", "librte-net-e1000-23")
        self.host.write("plugins/librte_net_e1000.so.23", "")
        self.assert_ok("dpdk")
        (self.host.root / "plugins/librte_net_ixgbe.so.23").unlink()
        self.assert_todo("dpdk", "librte_net_ixgbe", "librte-net-ixgbe23")


class Usage(HostCase):
    def test_wrong_is_refused(self):
        for arguments, words in ((("--mem", "1.5"), "'1.5'"), (("--pci", "eth0"), "eth0"),
                                 (("--unknown",), "--help")):
            done = self.host.run("check-host", *arguments)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn(words, done.stderr)


class KnownNics(unittest.TestCase):
    @unittest.skipUnless(INSTALLED_PLUGINS, "needs DPDK's drivers")
    def test_are_all_driven_by_dpdk(self):
        driven = set()
        for name in ("ixgbe", "e1000", "i40e"):
            plugin = next(path for path in INSTALLED_PLUGINS if path.stem == f"librte_net_{name}")
            # What DPDK's build leaves in the file for dpdk-pmdinfo.
            for info in re.findall(rb"PMD_INFO_STRING= (\{[^}]*\})", plugin.read_bytes()):
                info = json.loads(info)
                if not info["name"].endswith("_vf"):
                    driven |= {f"{ids[0]:04x}:{ids[1]:04x}" for ids in info["pci_ids"]}
        known = re.findall(r"8086:[0-9a-f]{4}", (SCRIPTS / "check-host").read_text("utf-8"))
        self.assertGreater(len(known), 60)
        self.assertEqual(len(known), len(set(known)))
        self.assertEqual(set(known) - driven, set())


if __name__ == "__main__":
    counted.main()
