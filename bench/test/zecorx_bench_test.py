#!/usr/bin/python3
"""Tests of zecorx-bench by its short form. Usage: zecorx_bench_test.py ZECORX_BENCH"""

import json
import math
import pathlib
import subprocess
import sys
import tempfile
import unittest

import counted

PROGRAM = pathlib.Path(sys.argv[1]).resolve()
BACKENDS = {"floor", "zero-copy", "copy", "rte_vhost"}
RATIOS = {"zero-copy/floor", "rte_vhost/zero-copy", "copy/rte_vhost"}
# What one of our VMs may take, and more than a wrong sum would leave.
PER_VM_BYTES = (1 << 20, 16 << 20)


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([PROGRAM, *map(str, arguments)], text=True, capture_output=True,
                          timeout=240, check=False)


def points(results: dict) -> list[dict]:
    return [point for key in ("receive", "segmented", "jumbo") for point in results[key]]


def stats(value) -> list[dict]:
    """All of them in there."""
    if isinstance(value, list):
        return [stat for item in value for stat in stats(item)]
    if not isinstance(value, dict):
        return []
    return [value] if "median" in value else stats(list(value.values()))


class ShortForm(unittest.TestCase):
    """The program itself ends with an error if a frame is lost or comes with other bytes."""

    @classmethod
    def setUpClass(cls):
        cls.kept = tempfile.TemporaryDirectory()
        cls.directory = pathlib.Path(cls.kept.name) / "report"
        cls.done = run("--short", "--report", cls.directory, "--json", cls.directory / "same.json")
        if cls.done.returncode != 0:
            raise AssertionError(cls.done.stderr)
        cls.results = json.loads((cls.directory / "results.json").read_text("utf-8"))

    @classmethod
    def tearDownClass(cls):
        cls.kept.cleanup()

    def test_says_nothing_but_its_tables(self):
        self.assertEqual(self.done.stderr, "")
        self.assertIn("Targets", self.done.stdout)

    def test_writes_the_same_for_json_and_for_the_report(self):
        self.assertEqual(json.loads((self.directory / "same.json").read_text("utf-8")),
                         self.results)
        self.assertTrue((self.directory / "report.html").exists())

    def test_has_every_section_in_format_1(self):
        self.assertEqual(self.results["format"], 1)
        wanted = {"command", "started", "machine", "versions", "settings", "receive", "segmented",
                  "jumbo", "vms", "idle", "stalled", "latency", "attach", "memory", "targets"}
        self.assertLessEqual(wanted, set(self.results))
        for section in wanted:
            self.assertTrue(self.results[section], section)

    def test_compares_all_backends_with_each_guest_and_ring_layout(self):
        setups = {(point["guest"], point["layout"]) for point in self.results["receive"]}
        self.assertEqual(setups, {(guest, layout) for guest in ("fake", "virtio-user")
                                  for layout in ("split", "packed")})
        for point in points(self.results):
            self.assertEqual(set(point["backends"]), BACKENDS, point)
            self.assertEqual(set(point["ratios"]), RATIOS, point)

    def test_measures_each_size_warm_and_flushed(self):
        for key, sizes in (("receive", {64, 1518}), ("segmented", {64, 1024, 1518}),
                           ("jumbo", {1518, 4096, 9000})):
            found = {(point["size"], point["cache"]) for point in self.results[key]}
            self.assertEqual(found, {(size, cache) for size in sizes
                                     for cache in ("warm", "flushed")})

    def test_zero_copy_copies_no_frame_to_speak_of(self):
        for point in points(self.results):
            self.assertGreaterEqual(point["backends"]["zero-copy"]["zero_copy_share"], 0.98, point)

    def test_every_figure_lies_between_its_minimum_and_maximum(self):
        found = stats(self.results)
        self.assertGreater(len(found), 100)
        for stat in found:
            self.assertTrue(all(math.isfinite(value) for value in stat.values()), stat)
            self.assertTrue(stat["min"] <= stat["median"] <= stat["max"], stat)

    def test_cycles_latencies_and_times_are_positive(self):
        for key in ("receive", "segmented", "jumbo", "vms", "latency", "attach"):
            for stat in stats(self.results[key]):
                self.assertGreater(stat["min"], 0, key)

    def test_one_vm_is_what_many_are_compared_with(self):
        one = [entry for entry in self.results["vms"] if entry["vms"] == 1]
        self.assertTrue(one)
        for entry in one:
            self.assertEqual(entry["ratio_to_one"], {"min": 1, "median": 1, "max": 1})

    def test_the_parts_of_a_vms_memory_are_all_of_it(self):
        memory = self.results["memory"]
        self.assertAlmostEqual(sum(memory["parts"].values()), memory["per_vm_bytes"], delta=8)
        self.assertTrue(PER_VM_BYTES[0] < memory["per_vm_bytes"] < PER_VM_BYTES[1], memory)

    def test_a_target_is_judged_exactly_where_it_was_measured(self):
        for target in self.results["targets"]:
            self.assertEqual(target["measured"] is None, target["met"] is None, target)
            if target["measured"] is None:
                continue
            sign, limit = target["wanted"].split()
            met = {"<=": target["measured"] <= float(limit), ">": target["measured"] > float(limit),
                   ">=": target["measured"] >= float(limit)}[sign]
            self.assertEqual(target["met"], met, target)


class CommandLine(unittest.TestCase):
    def assert_refused(self, status: int, done: subprocess.CompletedProcess, *words: str):
        """With one line that has these words."""
        self.assertEqual((done.returncode, done.stdout), (status, ""))
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)

    def test_help_names_options_and_scenarios(self):
        done = run("--help")
        self.assertEqual(done.returncode, 0)
        for word in ("--repetitions", "--check", "segmented", "attach"):
            self.assertIn(word, done.stdout)
        self.assertTrue(run("--version").stdout.startswith("zecorx-bench "))

    def test_what_cannot_be_measured_is_refused_with_what_can(self):
        for arguments, words in ((("--sizes", "63"), ("--sizes 63", "64")),
                                 (("--sizes", "64,1519"), ("1519", "1518")),
                                 (("--scenarios", "all"), ("'all'", "receive")),
                                 (("--guests", "qemu"), ("fake", "virtio-user")),
                                 (("--rings", "100"), ("100", "2^n")),
                                 (("--vms", "64"), ("64", "63")),
                                 (("--memory", "17"), ("17", "multiple of 2")),
                                 (("--repetitions", "0"), ("from 1",)),
                                 (("--size", "64"), ("--size", "--help")),
                                 (("more",), ("--help",))):
            self.assert_refused(2, run(*arguments), *words)

    def test_what_the_machine_lacks_is_said_before_anything_is_measured(self):
        self.assert_refused(1, run("--huge-mem", 1000000), "1000000 MiB", "vm.nr_hugepages")
        self.assert_refused(1, run("--json", "/nowhere/file"), "/nowhere/file")

    def test_only_what_was_asked_for_is_measured(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "results.json"
            done = run("--short", "--scenarios", "receive", "--guests", "fake", "--sizes", "256",
                       "--cache", "warm", "--layouts", "packed", "--json", path)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            results = json.loads(path.read_text("utf-8"))
        self.assertNotIn("vms", results)
        self.assertEqual([(point["size"], point["layout"]) for point in results["receive"]],
                         [(256, "packed")])

    def test_check_fails_exactly_if_a_target_is_missed(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "results.json"
            done = run("--short", "--scenarios", "memory", "--check", "--json", path)
            targets = json.loads(path.read_text("utf-8"))["targets"]
        missed = any(target["met"] is False for target in targets)
        self.assertEqual(done.returncode, 1 if missed else 0)


if __name__ == "__main__":
    counted.main()
