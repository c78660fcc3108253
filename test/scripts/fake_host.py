"""A host without hardware: a tree that looks like /sys and /proc, and tools/ in front of PATH."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

SCRIPTS = pathlib.Path(sys.argv[1]).resolve()
TOOLS = pathlib.Path(__file__).resolve().parent / "tools"
LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max open files            {files}                1048576              files
Max locked memory         {locked}            {locked}            bytes
"""


class FakeHost:
    """Made of files in a temporary directory; close() removes them."""

    def __init__(self):
        self.kept = tempfile.TemporaryDirectory(prefix="zecorx-fake-host.")
        self.root = pathlib.Path(self.kept.name).resolve()
        self.sys, self.proc = self.root / "sys", self.root / "proc"
        # What tools/tee goes by: the drivers and interfaces that the kernel has for devices; devices
        # that it does not probe; drivers whose probe fails; ends of paths that cannot be written,
        # with the reason; and how many huge pages each node has room for.
        self.kernel = {"drivers": {}, "interfaces": {}, "not_probed": [], "refusing_drivers": [],
                       "failing_writes": {}, "most_pages": {}}
        for directory in ("sys/bus/pci/devices", "sys/class/net", "sys/class/iommu", "proc/self",
                          "sys/kernel/iommu_groups", "addresses", "etc/sysctl.d", "plugins"):
            (self.root / directory).mkdir(parents=True)
        self.write("sys/bus/pci/drivers_probe", "")
        self.write("modules", "vfio-pci\nuio_pci_generic\nixgbe")
        self.set_default_routes()
        self.add_driver("vfio-pci")

    def close(self):
        self.kept.cleanup()

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def read(self, path):
        return (self.root / path).read_text().strip()

    def run(self, script, *arguments, real_tools=(), prefix=()):
        """The script on this host, without those of tools/ that are named."""
        (self.root / "kernel.json").write_text(json.dumps(self.kernel))
        tools = self.root / "bin"
        shutil.rmtree(tools, ignore_errors=True)
        tools.mkdir()
        for tool in TOOLS.iterdir():
            if tool.name not in real_tools:
                (tools / tool.name).symlink_to(tool)
        environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}",
                       "FAKE_HOST": str(self.root), "SYSFS_ROOT": str(self.sys),
                       "PROC_ROOT": str(self.proc), "ETC_ROOT": str(self.root / "etc"),
                       "BIND_NIC_STATE": str(self.root / "state"),
                       "DPDK_PLUGINS": str(self.root / "plugins")}
        return subprocess.run([*prefix, SCRIPTS / script, *map(str, arguments)], env=environment,
                              text=True, capture_output=True, timeout=60, check=False)

    def journal(self):
        """What was written, as 'path = value', and loaded; the paths without sys/bus/pci/."""
        file = self.root / "journal"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.replace("sys/bus/pci/", "") for line in lines]

    # PCI devices

    def device(self, bdf):
        return self.sys / "bus/pci/devices" / bdf

    def driver_of(self, bdf):
        link = self.device(bdf) / "driver"
        return link.readlink().name if link.is_symlink() else None

    def add_driver(self, name):
        directory = self.sys / "bus/pci/drivers" / name
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def add_device(self, bdf, driver=None, pci_class="0x020000", pci_id="8086:10fb", group=None,
                   **attributes):
        """Attributes are further files of the device."""
        directory = self.sys / "devices/pci0000:00" / bdf
        vendor, device = pci_id.split(":")
        for name, value in {"class": pci_class, "vendor": f"0x{vendor}", "device": f"0x{device}",
                            "driver_override": "(null)", "numa_node": "-1", **attributes}.items():
            self.write(directory / name, value)
        self.device(bdf).symlink_to(directory)
        if driver:
            (directory / "driver").symlink_to(self.add_driver(driver))
        if group is not None:
            self.join_group(bdf, group)

    def add_nic(self, bdf, interface="eth2", driver="ixgbe", group=7, **attributes):
        """The kernel drives it, if there is a driver."""
        self.add_device(bdf, driver=driver, group=group, **attributes)
        self.kernel["drivers"][bdf] = "ixgbe"
        self.kernel["interfaces"][bdf] = interface
        if driver == "ixgbe":
            (self.device(bdf) / "net" / interface).mkdir(parents=True)
            self.add_interface(interface)

    def join_group(self, bdf, group):
        directory = self.sys / "kernel/iommu_groups" / str(group)
        (directory / "devices").mkdir(parents=True, exist_ok=True)
        (directory / "devices" / bdf).symlink_to(self.device(bdf))
        self.write(directory / "type", "DMA-FQ")
        (self.device(bdf) / "iommu_group").symlink_to(directory)

    def set_noiommu(self, on):
        self.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y" if on else "N")

    # Interfaces

    def add_interface(self, name, up=False, on=(), enslaves=False):
        """It stands on others, as a bridge or bond does if it enslaves them, as a VLAN if not."""
        directory = self.sys / "class/net" / name
        self.write(directory / "flags", "0x1003" if up else "0x1002")
        self.write(directory / "operstate", "up" if up else "down")
        for lower in on:
            below = self.sys / "class/net" / lower
            (directory / f"lower_{lower}").symlink_to(below)
            (below / f"upper_{name}").symlink_to(directory)
            if enslaves:
                (below / "master").symlink_to(directory)

    def set_up(self, name, *addresses):
        self.write(self.sys / "class/net" / name / "flags", "0x1003")
        self.write(f"addresses/{name}", "\n".join(
            f"4: {name}    inet {address} scope global {name}" for address in addresses))

    def set_default_routes(self, *interfaces, family=4):
        """With several interfaces one route, with several next hops."""
        hops = [{"gateway": "192.0.2.1", "dev": name} for name in interfaces]
        routes = [{"dst": "default", "nexthops": hops} if len(hops) > 1
                  else {"dst": "default", **hop} for hop in hops[:1]]
        for number in (4, 6):
            text = json.dumps(routes if number == family else [], separators=(",", ":"))
            self.write(f"routes{number}", text)

    # Memory

    def add_huge_pages(self, node, total, free, most, kib=2048):
        """On a node that has room for `most`."""
        self.kernel["most_pages"][f"node{node}"] = most
        places = [self.sys / f"devices/system/node/node{node}/hugepages",
                  self.sys / "kernel/mm/hugepages"]
        for place in places:
            directory = place / f"hugepages-{kib}kB"
            for name, more in (("nr_hugepages", total), ("free_hugepages", free),
                               ("resv_hugepages", 0), ("surplus_hugepages", 0)):
                file = directory / name
                self.write(file, more + (int(file.read_text()) if file.exists() else 0))
        self.write("proc/meminfo", "MemTotal:       16384000 kB\nHugepagesize:       2048 kB")
        self.write("proc/mounts", "sysfs /sys sysfs rw 0 0")

    # Limits

    def set_limits(self, files=1024, locked=8388608, capabilities="000001ffffffffff"):
        self.write("proc/self/limits", LIMITS.format(files=files, locked=locked))
        self.write("proc/self/status", f"Name:\tawk\nCapEff:\t{capabilities}")
