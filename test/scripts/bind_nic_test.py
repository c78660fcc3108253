#!/usr/bin/python3
"""Tests of scripts/bind-nic. Usage: bind_nic_test.py SCRIPTS_DIRECTORY"""

import shutil
import subprocess
import unittest

import counted
from fake_host import FakeHost

NIC = "0000:03:00.0"
SECOND = "0000:03:00.1"
BIND_STEPS = ["state/{0} = ixgbe -", "devices/{0}/driver_override = vfio-pci",
              "drivers/ixgbe/unbind = {0}", "drivers_probe = {0}"]


def bind_steps(bdf):
    return [step.format(bdf) for step in BIND_STEPS]


class HostCase(unittest.TestCase):
    def setUp(self):
        self.host = FakeHost()
        self.addCleanup(self.host.close)

    def assert_done(self, *arguments, says=()):
        done = self.host.run("bind-nic", *arguments)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for words in says:
            self.assertIn(words, done.stdout)
        return done

    def assert_refused(self, *arguments, says=()):
        """With one line that has these words, and nothing written."""
        done = self.host.run("bind-nic", *arguments)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        for words in says:
            self.assertIn(words, done.stderr)
        self.assertEqual([line for line in self.host.journal() if " = " in line], [])


class Bind(HostCase):
    def test_takes_the_nic_from_its_driver_by_driver_override(self):
        self.host.add_nic(NIC)
        self.assert_done(NIC, says=[f"{NIC}: bound to vfio-pci", "ixgbe", f"--restore {NIC}"])
        self.assertEqual(self.host.journal(), bind_steps(NIC))
        self.assertEqual(self.host.driver_of(NIC), "vfio-pci")

    def test_takes_a_short_address_in_capitals(self):
        self.host.add_nic("0000:0a:00.0")
        self.assert_done("0A:00.0")
        self.assertEqual(self.host.driver_of("0000:0a:00.0"), "vfio-pci")

    def test_takes_a_nic_without_driver(self):
        self.host.add_nic(NIC, driver=None)
        self.assert_done(NIC, says=["no driver"])
        self.assertEqual(self.host.driver_of(NIC), "vfio-pci")
        self.assertNotIn(f"drivers/ixgbe/unbind = {NIC}", self.host.journal())

    def test_loads_the_driver_if_it_is_missing(self):
        self.host.add_nic(NIC)
        (self.host.sys / "bus/pci/drivers/vfio-pci").rmdir()
        self.assert_done(NIC)
        self.assertEqual(self.host.journal(), ["modprobe vfio-pci", *bind_steps(NIC)])

    def test_done_twice_changes_nothing_the_second_time(self):
        self.host.add_nic(NIC)
        self.assert_done(NIC)
        before = self.host.journal()
        self.assert_done(NIC, says=["bound to vfio-pci already"])
        self.assertEqual(self.host.journal(), before)
        self.assertEqual(self.host.read(f"state/{NIC}"), "ixgbe -")

    def test_takes_several_nics_of_one_group(self):
        self.host.add_nic(NIC)
        self.host.add_nic(SECOND, interface="eth3")
        self.assert_done(NIC, SECOND)
        self.assertEqual(self.host.journal(), bind_steps(NIC) + bind_steps(SECOND))

    def test_checks_all_before_it_touches_the_first(self):
        self.host.add_nic(NIC)
        self.host.add_nic(SECOND, interface="eth3")
        self.host.set_default_routes("eth3")
        self.assert_refused(NIC, SECOND, says=[SECOND])

    def test_binds_a_uio_driver_without_an_iommu_and_warns(self):
        self.host.add_nic(NIC, group=None)
        done = self.host.run("bind-nic", "--driver", "uio_pci_generic", NIC)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("write to all of the host's memory", done.stderr)
        self.assertEqual(self.host.driver_of(NIC), "uio_pci_generic")

    def test_goes_from_one_of_its_drivers_to_another_and_remembers_the_first(self):
        self.host.add_nic(NIC, group=None)
        self.host.set_noiommu(True)
        for driver in ("vfio-pci", "uio_pci_generic"):
            done = self.host.run("bind-nic", "--driver", driver, NIC)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.host.read(f"state/{NIC}"), "ixgbe -")


class Refusal(HostCase):
    def test_of_what_is_not_there_or_no_ethernet_controller(self):
        self.host.add_device("0000:04:00.0", pci_class="0x010802", driver="nvme")
        self.assert_refused("04:00.0", says=["0000:04:00.0", "no Ethernet", "0x010802", "--status"])
        self.assert_refused("05:00.0", says=["no PCI device 0000:05:00.0", "--status"])
        self.assert_refused("5:0", says=["'5:0'", "03:00.0"])

    def test_of_a_nic_with_virtual_functions(self):
        self.host.add_nic(NIC, sriov_numvfs=4)
        self.assert_refused("--force", NIC, says=["4 virtual functions", "echo 0 >", "sriov_numvfs"])

    def test_of_the_interface_with_a_default_route(self):
        self.host.add_nic(NIC)
        for family in (4, 6):
            with self.subTest(family=family):
                self.host.set_default_routes("eth2", family=family)
                self.assert_refused(NIC, says=[f"{NIC} is eth2", "default route goes through eth2"])
                self.assert_refused("--force", NIC)

    def test_of_one_of_several_next_hops(self):
        self.host.add_nic(NIC)
        self.host.set_default_routes("eth0", "eth2")
        self.assert_refused(NIC, says=["default route goes through eth2"])

    def test_not_of_an_interface_whose_name_only_contains_that_of_the_route(self):
        self.host.add_nic(NIC)
        self.host.set_default_routes("eth20")
        self.assert_done(NIC)

    def test_of_a_nic_under_what_has_the_default_route(self):
        for name, enslaves in (("br0", True), ("bond0", True), ("eth2.10", False)):
            with self.subTest(name=name):
                host = self.host = FakeHost()
                self.addCleanup(host.close)
                host.add_nic(NIC)
                host.add_interface(name, up=True, on=["eth2"], enslaves=enslaves)
                host.set_default_routes(name)
                self.assert_refused("--force", NIC, says=[f"default route goes through {name}"])

    def test_of_a_nic_three_storeys_below_the_default_route(self):
        self.host.add_nic(NIC)
        self.host.add_interface("bond0", on=["eth2"], enslaves=True)
        self.host.add_interface("bond0.10", on=["bond0"])
        self.host.add_interface("br10", on=["bond0.10"], enslaves=True)
        self.host.set_default_routes("br10")
        self.assert_refused("--force", NIC, says=["default route goes through br10"])

    def test_not_of_a_nic_beside_the_bridge_with_the_default_route(self):
        self.host.add_nic(NIC)
        self.host.add_interface("eth0", up=True)
        self.host.add_interface("br0", on=["eth0"], enslaves=True)
        self.host.set_default_routes("br0")
        self.assert_done(NIC)

    def test_if_routes_cannot_be_read(self):
        self.host.add_nic(NIC)
        (self.host.root / "routes6").unlink()
        done = self.host.run("bind-nic", NIC)
        self.assertEqual(done.returncode, 1)
        self.assertIn("iproute2", done.stderr)
        self.assertEqual(self.host.driver_of(NIC), "ixgbe")

    def test_of_an_interface_that_is_up_with_an_address_unless_forced(self):
        self.host.add_nic(NIC)
        self.host.set_up("eth2", "192.0.2.9/24", "192.0.2.10/24")
        self.assert_refused(NIC, says=["192.0.2.9/24, 192.0.2.10/24", "ip link set eth2 down",
                                       "--force"])
        self.assert_done("--force", NIC)

    def test_of_an_interface_whose_vlan_has_an_address_unless_forced(self):
        self.host.add_nic(NIC)
        self.host.set_up("eth2")
        self.host.add_interface("eth2.10", on=["eth2"])
        self.host.set_up("eth2.10", "192.0.2.9/24")
        self.assert_refused(NIC, says=["eth2.10 is up", "--force"])

    def test_of_an_interface_that_is_up_in_a_bridge_unless_forced(self):
        self.host.add_nic(NIC)
        self.host.set_up("eth2")
        self.host.add_interface("br0", on=["eth2"], enslaves=True)
        self.assert_refused(NIC, says=["part of br0", "--force"])
        self.assert_done("--force", NIC)

    def test_of_a_group_with_a_device_that_the_kernel_drives(self):
        self.host.add_nic(NIC)
        self.host.add_nic(SECOND, interface="eth3")
        self.host.add_device("0000:04:00.0", pci_class="0x010802", driver="nvme", group=7)
        self.assert_refused(NIC, says=["group 7", f"{SECOND} (ixgbe)", "0000:04:00.0 (nvme)"])
        self.assert_refused(NIC, SECOND, says=["group 7 with 0000:04:00.0 (nvme);"])

    def test_not_of_a_group_with_bridges_and_what_nobody_drives(self):
        self.host.add_nic(NIC)
        self.host.add_device("0000:00:01.0", pci_class="0x060400", driver="pcieport", group=7)
        self.host.add_device("0000:04:00.0", pci_class="0x010802", group=7)
        self.host.add_device("0000:04:00.1", pci_class="0x010802", driver="vfio-pci", group=7)
        self.assert_done(NIC)

    def test_without_an_iommu_group(self):
        self.host.add_nic(NIC, group=None)
        self.assert_refused(NIC, says=["no IOMMU group", "BIOS", "intel_iommu=on", "amd_iommu=on",
                                       "--unsafe-no-iommu", "anywhere"])

    def test_not_in_vfios_noiommu_mode_but_a_warning(self):
        self.host.add_nic(NIC, group=None)
        self.host.set_noiommu(True)
        done = self.host.run("bind-nic", NIC)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("--unsafe-no-iommu", done.stderr)

    def test_of_a_uio_driver_behind_an_iommu_that_translates(self):
        self.host.add_nic(NIC)
        self.host.add_driver("igb_uio")
        self.assert_refused("--driver", "igb_uio", NIC, says=["vfio-pci", "iommu=pt"])
        self.host.write("sys/kernel/iommu_groups/7/type", "identity")
        self.assertEqual(self.host.run("bind-nic", "--driver", "igb_uio", NIC).returncode, 0)

    def test_if_the_driver_cannot_be_loaded(self):
        self.host.add_nic(NIC)
        done = self.host.run("bind-nic", "--driver", "igb_uio", NIC)
        self.assertEqual(done.returncode, 1)
        self.assertIn("dpdk-kmods-dkms", done.stderr)
        self.assertEqual(self.host.driver_of(NIC), "ixgbe")

    def test_of_wrong_usage(self):
        for arguments, words in (((), "--status"), (("--driver", "ixgbe", NIC), "'ixgbe'"),
                                 (("--all",), "--restore"), (("--unknown",), "--help"),
                                 (("--restore",), "no PCI address")):
            self.assert_refused(*arguments, says=[words])


class HalfWay(HostCase):
    """What cannot be finished is undone."""

    def setUp(self):
        super().setUp()
        self.host.add_nic(NIC)

    def assert_put_back(self, *words):
        done = self.host.run("bind-nic", NIC)
        self.assertEqual(done.returncode, 1)
        for word in (*words, f"{NIC} is as it was, with ixgbe"):
            self.assertIn(word, done.stderr)
        self.assertEqual(self.host.driver_of(NIC), "ixgbe")
        self.assertEqual(self.host.read(f"sys/bus/pci/devices/{NIC}/driver_override"), "(null)")
        self.assertFalse((self.host.root / "state" / NIC).exists())

    def test_when_the_new_driver_does_not_take_the_nic(self):
        self.host.kernel["refusing_drivers"] = ["vfio-pci"]
        self.assert_put_back("did not bind", "vfio-pci", "dmesg")

    def test_when_the_kernel_cannot_be_asked_to_probe_it_binds_directly(self):
        self.host.kernel["not_probed"] = [NIC]
        self.assert_put_back("vfio-pci")
        self.assertIn(f"drivers/ixgbe/bind = {NIC}", self.host.journal())

    def test_when_the_old_driver_does_not_let_go(self):
        self.host.kernel["failing_writes"] = {"ixgbe/unbind": "Device or resource busy"}
        self.assert_put_back("from ixgbe (Device or resource busy)")

    def test_says_so_when_the_old_driver_does_not_come_back_and_can_be_restored_later(self):
        self.host.kernel["refusing_drivers"] = ["vfio-pci", "ixgbe"]
        done = self.host.run("bind-nic", NIC)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"try 'bind-nic --restore {NIC}' again", done.stderr)
        self.host.kernel["refusing_drivers"] = []
        self.assert_done("--restore", NIC)
        self.assertEqual(self.host.driver_of(NIC), "ixgbe")

    def test_leaves_the_nics_before_it_bound(self):
        self.host.add_nic(SECOND, interface="eth3")
        self.host.kernel["failing_writes"] = {f"{SECOND}/driver_override": "Permission denied"}
        done = self.host.run("bind-nic", NIC, SECOND)
        self.assertEqual(done.returncode, 1)
        self.assertEqual([self.host.driver_of(bdf) for bdf in (NIC, SECOND)], ["vfio-pci", "ixgbe"])

    def test_when_nothing_can_be_remembered_nothing_is_done(self):
        self.host.kernel["failing_writes"] = {f"state/{NIC}": "No space left on device"}
        done = self.host.run("bind-nic", NIC)
        self.assertEqual(done.returncode, 1)
        self.assertIn("No space left on device", done.stderr)
        self.assertEqual(self.host.journal(), [f"state/{NIC} = ixgbe -"])


class Restore(HostCase):
    def test_gives_the_nic_back_to_its_driver(self):
        self.host.add_nic(NIC)
        self.assert_done(NIC)
        bound = len(self.host.journal())
        self.assert_done("--restore", NIC, says=["ixgbe"])
        self.assertEqual(self.host.journal()[bound:], [
            f"devices/{NIC}/driver_override = ", f"drivers/vfio-pci/unbind = {NIC}",
            f"drivers_probe = {NIC}"])
        self.assertEqual(self.host.driver_of(NIC), "ixgbe")
        self.assertFalse((self.host.root / "state" / NIC).exists())

    def test_loads_the_old_driver_and_binds_it_if_probing_does_not(self):
        self.host.add_nic(NIC)
        self.assert_done(NIC)
        (self.host.sys / "bus/pci/drivers/ixgbe").rmdir()
        self.host.kernel["not_probed"] = [NIC]
        self.assert_done("--restore", NIC)
        self.assertEqual(self.host.journal()[-3:], ["modprobe ixgbe", f"drivers_probe = {NIC}",
                                                    f"drivers/ixgbe/bind = {NIC}"])
        self.assertEqual(self.host.driver_of(NIC), "ixgbe")

    def test_leaves_a_nic_without_driver_if_it_had_none(self):
        self.host.add_nic(NIC, driver=None)
        self.assert_done(NIC)
        self.assert_done("--restore", NIC, says=["no driver"])
        self.assertIsNone(self.host.driver_of(NIC))

    def test_puts_an_earlier_driver_override_back(self):
        self.host.add_nic(NIC, driver_override="ixgbe")
        self.assert_done(NIC)
        self.assert_done("--restore", NIC)
        self.assertEqual(self.host.read(f"sys/bus/pci/devices/{NIC}/driver_override"), "ixgbe")

    def test_of_all(self):
        self.host.add_nic(NIC)
        self.host.add_nic(SECOND, interface="eth3")
        self.assert_done(NIC, SECOND)
        self.assert_done("--restore", "--all", says=[NIC, SECOND])
        self.assertEqual([self.host.driver_of(bdf) for bdf in (NIC, SECOND)], ["ixgbe"] * 2)
        self.assert_done("--restore", "--all", says=["nothing to restore"])

    def test_of_a_nic_that_somebody_else_bound_leaves_the_choice_to_the_kernel(self):
        self.host.add_nic(NIC, driver="vfio-pci", driver_override="vfio-pci")
        self.host.add_driver("ixgbe")
        self.assert_done("--restore", NIC)
        self.assertEqual(self.host.driver_of(NIC), "ixgbe")

    def test_done_twice_changes_nothing_the_second_time(self):
        self.host.add_nic(NIC)
        self.assert_done("--restore", NIC, says=["nothing to restore", "ixgbe"])
        self.assertEqual(self.host.journal(), [])

    def test_forgets_a_nic_that_is_gone(self):
        self.host.write(f"state/{NIC}", "ixgbe -")
        self.assert_done("--restore", "--all", says=["gone"])
        self.assertFalse((self.host.root / "state" / NIC).exists())

    def test_waits_for_nobody_who_has_the_nic_open(self):
        self.host.add_nic(NIC, driver="vfio-pci")
        descriptors = self.host.proc / "4321" / "fd"
        descriptors.mkdir(parents=True)
        self.host.write("proc/4321/comm", "zecorx-vhost")
        (descriptors / "9").symlink_to("/dev/vfio/77")
        self.assertEqual(self.host.run("bind-nic", "--restore", NIC).returncode, 0)
        self.assert_done(NIC)
        before = self.host.journal()
        (descriptors / "10").symlink_to("/dev/vfio/7")
        done = self.host.run("bind-nic", "--restore", NIC)
        self.assertEqual(done.returncode, 1)
        self.assertIn("process 4321 (zecorx-vhost)", done.stderr)
        self.assertEqual(self.host.journal(), before)


class Status(HostCase):
    def test_lists_ethernet_controllers_with_driver_group_and_what_was_before(self):
        self.host.add_nic(NIC)
        self.host.add_nic(SECOND, interface="eth3", group=8, pci_id="8086:1572")
        self.host.add_device("0000:04:00.0", pci_class="0x010802", driver="nvme")
        self.assert_done(NIC)
        lines = self.assert_done("--status").stdout.splitlines()
        self.assertEqual([line.split() for line in lines[1:]], [
            [NIC, "8086:10fb", "vfio-pci", "-", "7", "ixgbe"],
            [SECOND, "8086:1572", "ixgbe", "eth3", "8"]])


# The NIC's interface is one end of a veth pair; the fake host's class/net is the namespace's.
IN_NAMESPACE = """
set -e
mkdir "$0/netns-sys"
mount -t sysfs sysfs "$0/netns-sys"
ip link add eth2 type veth peer name wire
ip link set eth2 up
ip link set wire up
{setup}
shift
exec "$@"
"""


def has_namespaces() -> bool:
    """Not without root, nor in a chroot, whose root cannot be made private."""
    try:
        return subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True,
                              timeout=60, check=False).returncode == 0
    except FileNotFoundError:
        return False


@unittest.skipUnless(has_namespaces(), "needs a network and a mount namespace")
class InNetworkNamespace(HostCase):
    """With the interfaces, routes and links of a real kernel."""

    def run_after(self, setup, *arguments):
        self.host.add_nic(NIC)
        shutil.rmtree(self.host.sys / "class/net")
        (self.host.sys / "class/net").symlink_to(self.host.root / "netns-sys/class/net")
        prefix = ["unshare", "--net", "--mount", "bash", "-c", IN_NAMESPACE.format(setup=setup),
                  self.host.root, "-"]
        return self.host.run("bind-nic", *arguments, NIC, real_tools=["ip"], prefix=prefix)

    def assert_refused_after(self, setup, *words):
        done = self.run_after(setup, "--force")
        self.assertEqual(done.returncode, 1, done.stdout)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertEqual(self.host.journal(), [])

    def test_a_default_route_of_the_interface_is_found(self):
        self.assert_refused_after("ip address add 192.0.2.2/24 dev eth2; "
                                  "ip route add default via 192.0.2.1", "through eth2")

    def test_an_ipv6_default_route_is_found(self):
        self.assert_refused_after("ip -6 route add default dev eth2", "through eth2")

    def test_a_default_route_in_another_table_is_found(self):
        self.assert_refused_after("ip route add default dev eth2 table 100", "through eth2")

    def test_a_default_route_of_the_bridge_is_found(self):
        self.assert_refused_after(
            "ip link add br0 type bridge; ip link set eth2 master br0; ip link set br0 up; "
            "ip address add 192.0.2.2/24 dev br0; ip route add default via 192.0.2.1", "through br0")

    def test_a_default_route_of_what_stands_on_it_is_found(self):
        for kind in ("vlan id 10", "macvlan"):
            link = f"ip link add eth2.10 link eth2 type {kind}"
            supported = subprocess.run(
                ["unshare", "--net", "sh", "-c", f"ip link add eth2 type veth && {link}"],
                capture_output=True, timeout=60, check=False).returncode == 0
            with self.subTest(kind=kind):
                if not supported:
                    self.skipTest("not in this kernel")
                self.host = FakeHost()
                self.addCleanup(self.host.close)
                self.assert_refused_after(f"{link}; ip link set eth2.10 up; "
                                          "ip route add default dev eth2.10", "through eth2.10")

    def test_an_address_is_in_the_way_unless_forced(self):
        done = self.run_after("ip address add 192.0.2.2/24 dev eth2")
        self.assertEqual(done.returncode, 1)
        self.assertIn("192.0.2.2/24", done.stderr)

    def test_an_idle_interface_is_in_nobodys_way(self):
        done = self.run_after("ip address add 192.0.2.2/24 dev wire; "
                              "ip route add default via 192.0.2.1")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(self.host.driver_of(NIC), "vfio-pci")


if __name__ == "__main__":
    counted.main()
