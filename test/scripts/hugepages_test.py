#!/usr/bin/python3
"""Tests of scripts/hugepages. Usage: hugepages_test.py SCRIPTS_DIRECTORY"""

import unittest

import counted
from fake_host import FakeHost

GLOBAL_FILE = "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
NODE_FILE = "sys/devices/system/node/node{}/hugepages/hugepages-2048kB/nr_hugepages"
SYSCTL_FILE = "etc/sysctl.d/90-zecorx-hugepages.conf"


class HostCase(unittest.TestCase):
    def setUp(self):
        self.host = FakeHost()
        self.addCleanup(self.host.close)

    def assert_done(self, *arguments):
        done = self.host.run("hugepages", *arguments)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def assert_refused(self, arguments, *words):
        """With one line that has these words, and nothing written."""
        done = self.host.run("hugepages", *arguments)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertEqual(self.host.journal(), [])


class OneNode(HostCase):
    def setUp(self):
        super().setUp()
        self.host.add_huge_pages(0, total=100, free=60, most=1000)

    def test_status_shows_pages_and_mounts_and_changes_nothing(self):
        for arguments in ((), ("--status",)):
            shown = self.assert_done(*arguments)
            self.assertIn("node 0     2 MiB: 100 pages, 60 free (120 of 200 MiB)", shown)
            self.assertIn("hugetlbfs:  not mounted", shown)
        self.assertEqual(self.host.journal(), [])
        self.host.write("proc/mounts", "hugetlbfs /dev/hugepages hugetlbfs rw,pagesize=2M 0 0")
        self.assertIn("hugetlbfs:  /dev/hugepages", self.assert_done())

    def test_reserves_so_many_pages_in_all_and_shows_before_and_after(self):
        shown = self.assert_done("--pages", 512)
        self.assertEqual(self.host.journal(), [f"{GLOBAL_FILE} = 512"])
        self.assertEqual(shown.splitlines(), [
            "before:", "node 0     2 MiB: 100 pages, 60 free (120 of 200 MiB)",
            "now:", "node 0     2 MiB: 512 pages, 472 free (944 of 1024 MiB)"])

    def test_rounds_mebibytes_up_to_whole_pages(self):
        self.assert_done("--mem", 1023)
        self.assertEqual(self.host.journal(), [f"{GLOBAL_FILE} = 512"])

    def test_never_takes_pages_away(self):
        self.assert_done("--pages", 99)
        self.assert_done("--pages", 100)
        self.assertEqual(self.host.journal(), [])

    def test_says_when_the_kernel_gave_fewer_and_how_to_get_more(self):
        done = self.host.run("hugepages", "--pages", 2000)
        self.assertEqual(done.returncode, 1)
        self.assertIn("now:\nnode 0     2 MiB: 1000 pages", done.stdout)
        for words in ("gave 1000 of 2000 pages of 2 MiB", "hugepagesz=2M hugepages=2000"):
            self.assertIn(words, done.stderr)

    def test_persists_what_was_asked_for(self):
        self.assertIn("at boot: 512 pages", self.assert_done("--mem", 1024, "--persist"))
        self.assertIn("\nvm.nr_hugepages = 512", self.host.read(SYSCTL_FILE))

    def test_persists_also_what_only_a_fresh_boot_can_give(self):
        self.assertEqual(self.host.run("hugepages", "--pages", 2000, "--persist").returncode, 1)
        self.assertIn("\nvm.nr_hugepages = 2000", self.host.read(SYSCTL_FILE))

    def test_persists_no_pages_of_another_size_or_of_a_node(self):
        self.host.add_huge_pages(0, total=0, free=0, most=1000, kib=1048576)
        self.assert_refused(("--mem", 2048, "--size", "1G", "--persist"),
                            "hugepagesz=1G hugepages=2", "command line")
        self.assert_refused(("--pages", 20, "--node", "0", "--persist"),
                            "hugepagesz=2M hugepages=0:20")

    def test_free_releases_what_is_unused(self):
        self.assert_done("--free")
        self.assertEqual(self.host.journal(), [f"{GLOBAL_FILE} = 40"])
        self.assert_done("--free")
        self.assertEqual(len(self.host.journal()), 1)

    def test_free_leaves_pages_that_are_promised_to_somebody(self):
        self.host.write("sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", 50)
        self.assert_done("--free")
        self.assertEqual(self.host.journal(), [f"{GLOBAL_FILE} = 90"])

    def test_free_names_the_file_that_brings_them_back(self):
        self.assert_done("--pages", 100, "--persist")
        done = self.host.run("hugepages", "--free")
        self.assertEqual(done.returncode, 0)
        self.assertIn(SYSCTL_FILE, done.stderr)

    def test_what_cannot_be_written_is_said(self):
        self.host.kernel["failing_writes"] = {"nr_hugepages": "Read-only file system"}
        done = self.host.run("hugepages", "--pages", 512)
        self.assertEqual(done.returncode, 1)
        self.assertIn("Read-only file system", done.stderr)

    def test_reserves_pages_of_another_size(self):
        self.assert_refused(("--mem", 2048, "--size", "1G"), "no huge pages of 1 GiB", "2 MiB")
        self.host.add_huge_pages(0, total=0, free=0, most=1000, kib=1048576)
        self.assertIn("1 GiB: 2 pages, 2 free (2048 of 2048 MiB)",
                      self.assert_done("--mem", 2047, "--size", "1G"))

    def test_wrong_usage_is_refused(self):
        for arguments, words in ((("--pages", "0"), "--pages"), (("--pages", "1x"), "'1x'"),
                                 (("--mem",), "--mem"), (("--size", "4M"), "'4M'"),
                                 (("--pages", 1, "--mem", 2), "one of them"),
                                 (("--persist",), "--pages"), (("--unknown",), "--help"),
                                 (("--node", 3, "--pages", 1), "no NUMA node 3")):
            self.assert_refused(arguments, words)


class TwoNodes(HostCase):
    def setUp(self):
        super().setUp()
        self.host.add_huge_pages(0, total=0, free=0, most=300)
        self.host.add_huge_pages(1, total=10, free=10, most=300)

    def test_the_kernel_spreads_pages_over_the_nodes(self):
        shown = self.assert_done("--pages", 400)
        self.assertIn("now:\nnode 0     2 MiB: 200 pages, 200 free (400 of 400 MiB)\n"
                      "node 1     2 MiB: 200 pages, 200 free", shown)

    def test_pages_of_one_node_are_reserved_there(self):
        self.assert_done("--pages", 100, "--node", 1)
        self.assertEqual(self.host.journal(), [f"{NODE_FILE.format(1)} = 100"])

    def test_fewer_pages_than_asked_of_a_node_are_said(self):
        done = self.host.run("hugepages", "--pages", 400, "--node", 1)
        self.assertEqual(done.returncode, 1)
        self.assertIn("gave 300 of 400", done.stderr)
        self.assertIn("hugepages=1:400", done.stderr)

    def test_free_releases_those_of_one_node(self):
        self.assert_done("--pages", 100, "--node", 0)
        self.assert_done("--free", "--node", 1)
        self.assertEqual(self.host.journal()[-1], f"{NODE_FILE.format(1)} = 0")
        self.assertIn("node 0     2 MiB: 100 pages", self.assert_done())


if __name__ == "__main__":
    counted.main()
