#!/usr/bin/python3
"""Tests of bench-report. Usage: bench_report_test.py BENCH_REPORT SAMPLE_RESULTS"""

import html.parser
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

import counted

PROGRAM, SAMPLE = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
VOID_ELEMENTS = {"meta"}
SECTION_HEADINGS = {"receive": "Receive", "segmented": "Segmented frames", "jumbo": "Jumbo frames",
                    "vms": "Many VMs", "idle": "Idle VMs", "latency": "Latency",
                    "attach": "Attach and detach", "memory": "Memory of a VM"}


def sample() -> dict:
    return json.loads(SAMPLE.read_text(encoding="utf-8"))


def short_sample() -> dict:
    """With less to draw."""
    results = sample()
    return {**results, "receive": results["receive"][:2], "attach": results["attach"][:2]}


def run(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run([PROGRAM, *arguments], env={**os.environ, **environment}, text=True,
                          capture_output=True, timeout=60, check=False)


def medians(value) -> list[float]:
    """Of every stat in there."""
    if isinstance(value, list):
        return [median for item in value for median in medians(item)]
    if not isinstance(value, dict):
        return []
    if "median" in value:
        return [value["median"]]
    return medians(list(value.values()))


class Page(html.parser.HTMLParser):
    """The text and the attributes of a page in which every element that starts ends."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.attributes, self.texts = [], [], []
        self.cells, self.headings = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            raise AssertionError(f"</{tag}> at {self.getpos()} ends nothing")

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "small"):
            self.cells.append(data)
        if self.open and self.open[-1] in ("h2", "h3"):
            self.headings.append(data)


class ReportOfSample(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.kept = tempfile.TemporaryDirectory()
        cls.directory = pathlib.Path(cls.kept.name) / "made" / "by it"
        cls.result = run(SAMPLE, cls.directory)
        cls.html = (cls.directory / "report.html").read_text(encoding="utf-8")
        cls.page = Page(cls.html)
        cls.markdown = (cls.directory / "report.md").read_text(encoding="utf-8")

    @classmethod
    def tearDownClass(cls):
        cls.kept.cleanup()

    def test_is_made_without_a_word(self):
        self.assertEqual((self.result.returncode, self.result.stdout, self.result.stderr),
                         (0, "", ""))

    def test_has_every_element_closed(self):
        self.assertEqual(self.page.open, [])

    def test_needs_nothing_but_itself(self):
        references = [value for name, value in self.page.attributes
                      if name in ("src", "href", "xlink:href")]
        self.assertTrue(all(reference.startswith("#") for reference in references), references)
        self.assertNotIn("<script", self.html)
        self.assertNotIn("@import", self.html)

    def test_has_each_id_once_and_no_reference_to_another(self):
        ids = [value for name, value in self.page.attributes if name == "id"]
        self.assertEqual(len(ids), len(set(ids)))
        used = re.findall(r'(?:href="|url\()#([^")]*)', self.html)
        self.assertEqual(set(used) - set(ids), set())

    def test_has_the_verdict_of_every_target(self):
        for target in sample()["targets"]:
            word = {True: "met", False: "not met", None: "not measured"}[target["met"]]
            measured = "–" if target["measured"] is None else f"{target['measured']:.3f}"
            wanted = [target["name"], target["wanted"], measured.rstrip("0"), word]
            place = self.page.cells.index(target["name"])
            self.assertEqual(self.page.cells[place:place + 4], wanted)
            line = next(line for line in self.markdown.splitlines() if measured in line)
            self.assertIn(word, line)
            self.assertIn(target["name"], line.replace("\\", ""))

    def test_says_where_a_target_was_measured_worst(self):
        self.assertIn("1518 bytes, fake guest, split ring", self.page.cells)

    def test_has_machine_versions_settings_and_command(self):
        for text in ("Sample CPU <not measured>", "48 KiB", "DPDK 22.11.11", "200000",
                     sample()["command"], sample()["started"]):
            self.assertIn(text, "".join(self.page.texts))
            self.assertIn(text, self.markdown.replace("\\", ""))

    def test_has_every_scenario(self):
        headings = set(SECTION_HEADINGS.values())
        self.assertLessEqual(headings, set(self.page.headings))
        self.assertLessEqual(headings, set(re.findall(r"^## (.*)$", self.markdown, re.MULTILINE)))

    def test_has_every_configuration_of_receive(self):
        for text in ("Fake guest, linux-mergeable buffers, split ring, 256 entries, mrg_rxbuf on, "
                     "NIC buffers of 2048 bytes",
                     "Virtio-user guest, dpdk buffers, packed ring, 1024 entries, mrg_rxbuf off, "
                     "NIC buffers of 2048 bytes"):
            self.assertIn(text, self.page.headings)
            self.assertIn(f"### {text}", self.markdown.replace("\\", ""))

    def test_has_every_median(self):
        for median in medians(sample()):
            decimals = 0 if median >= 99.95 else 1 if median >= 9.995 else 2
            self.assertIn(f"{median:.{decimals}f}", self.page.cells)
            self.assertIn(f"| {median:.{decimals}f} (", self.markdown)

    def test_has_minimum_and_maximum_with_the_median(self):
        stat = sample()["vms"][0]["cycles"]
        extremes = f"{stat['min']:.1f}–{stat['max']:.1f}"
        place = self.page.cells.index(extremes)
        self.assertEqual(self.page.cells[place - 1], f"{stat['median']:.1f}")
        self.assertIn(f"| {stat['median']:.1f} ({extremes}) |", self.markdown)

    def test_has_the_parts_of_the_memory_and_what_they_leave(self):
        parts = sample()["memory"]["parts"]
        rest = sample()["memory"]["per_vm_bytes"] - sum(parts.values())
        for name, size in {**parts, "other": rest}.items():
            self.assertEqual(self.page.cells[self.page.cells.index(name) + 1], str(size))

    def test_has_the_plots_in_the_page_and_in_files(self):
        inline = re.findall(r"<svg.*?</svg>", self.html, re.DOTALL)
        names = re.findall(r"!\[.*?\]\((.*?)\)", self.markdown)
        self.assertEqual(names, [f"{name}.svg" for name in (
            "receive-01-warm", "receive-01-flushed", "receive-02-warm", "segmented-01-warm",
            "jumbo-01-warm", "vms", "idle", "latency", "attach", "memory")])
        self.assertEqual(len(inline), len(names))
        for svg in inline + [(self.directory / name).read_text("utf-8") for name in names]:
            self.assertEqual(ElementTree.fromstring(svg).tag, "{http://www.w3.org/2000/svg}svg")

    def test_has_axes_with_units_and_a_backend_in_one_colour(self):
        warm = (self.directory / "receive-01-warm.svg").read_text("utf-8")
        latency = (self.directory / "latency.svg").read_text("utf-8")
        for text in ("frame size, bytes", "cycles a frame", "zero-copy", "rte_vhost", "floor"):
            self.assertIn(f">{text}</text>", warm)
        self.assertIn(">ns (p50 full, p99 pale)</text>", latency)
        for colour in ("#0969c3", "#d1670a", "#8a3fb0"):
            self.assertIn(colour, warm)
            self.assertIn(colour, latency)
            self.assertNotIn(colour, self.html.partition("</style>")[2])

    def test_draws_a_target_in_the_plots_that_it_is_about(self):
        warm, flushed = ((self.directory / f"receive-01-{cache}.svg").read_text("utf-8")
                         for cache in ("warm", "flushed"))
        everywhere, warm_only = "wanted &lt;= 1.1<", "wanted &lt;= 1.35<"
        self.assertTrue(everywhere in warm and everywhere in flushed)
        self.assertTrue(warm_only in warm and warm_only not in flushed)
        self.assertIn("wanted &gt;= 10 at 1518<", warm)

    def test_draws_no_target_for_whole_frames_where_frames_are_cut(self):
        segmented = (self.directory / "segmented-01-warm.svg").read_text("utf-8")
        self.assertNotIn("wanted", segmented)


class OtherResults(unittest.TestCase):
    def setUp(self):
        kept = tempfile.TemporaryDirectory()
        self.addCleanup(kept.cleanup)
        self.directory = pathlib.Path(kept.name)

    def report(self, results, **environment) -> subprocess.CompletedProcess:
        """A run with these results, as they are if they are text."""
        path = self.directory / "results.json"
        path.write_text(results if isinstance(results, str) else json.dumps(results), "utf-8")
        return run(path, self.directory / "out", **environment)

    def page(self, results) -> Page:
        done = self.report(results)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return Page((self.directory / "out" / "report.html").read_text("utf-8"))

    def assert_refused(self, done: subprocess.CompletedProcess, *words: str):
        """With one line that has these words, and no page."""
        self.assertEqual(done.returncode, 1)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertFalse((self.directory / "out" / "report.html").exists())

    def test_sections_that_were_not_measured_are_left_out(self):
        keys = list(SECTION_HEADINGS)
        absent = {key: value for key, value in short_sample().items() if key not in keys[::2]}
        empty = {**short_sample(), **{key: type(absent[key])() for key in keys[1::2]}}
        for results, there in ((absent, keys[1::2]), (empty, keys[::2])):
            headings = [heading for heading in self.page(results).headings
                        if heading in SECTION_HEADINGS.values()]
            self.assertEqual(headings, [SECTION_HEADINGS[key] for key in there])

    def test_only_the_format_is_needed(self):
        self.assertEqual(self.page({"format": 1}).headings, ["Machine and settings"])

    def test_unknown_keys_and_what_was_not_measured_do_no_harm(self):
        results = short_sample()
        results["unknown"] = {"a": [1]}
        entry = results["receive"][0]
        entry.update(unknown={"a": 1}, ratios={})
        entry["backends"].update({"floor": {}, "another": {"cycles": {"min": 4321, "median": 4321,
                                                                      "max": 4321}}})
        entry["backends"]["copy"]["cycles"] = None
        page = self.page(results)
        self.assertIn("4321", page.cells)
        self.assertIn("–", page.cells)

    def test_text_is_no_markup(self):
        name = 'a <b> | "c" & *d*, 64'
        page = self.page({"format": 1, "targets": [{"name": name, "wanted": "<= 1", "measured": 1,
                                                    "met": True}]})
        self.assertEqual(page.cells[0], name)
        markdown = (self.directory / "out" / "report.md").read_text("utf-8")
        self.assertIn(r'| a \<b> \| "c" & \*d\*, 64 | \<= 1 | 1 | met |', markdown)

    def test_a_file_that_is_not_json_is_refused(self):
        self.assert_refused(self.report('{"format": 1,'), "results.json", "not JSON", "--json")
        (self.directory / "results.json").write_bytes(b"\xff\xfe")
        self.assert_refused(run(self.directory / "results.json", self.directory / "out"),
                            "not JSON")

    def test_another_format_is_refused(self):
        self.assert_refused(self.report({"format": 2}), "results.json", "format 2", "knows 1",
                            "zecorx-bench")
        self.assert_refused(self.report([1]), "format null")

    def test_a_section_in_another_form_is_refused(self):
        results = short_sample()
        del results["vms"][3]["cycles"]["median"]
        self.assert_refused(self.report(results), "results.json", "'vms'", "median", "zecorx-bench")
        self.assert_refused(self.report({"format": 1, "idle": ["x"]}), "'idle'")
        self.assert_refused(self.report({"format": 1, "memory": [1]}), "'memory'")

    def test_a_file_that_is_not_there_is_refused(self):
        path = self.directory / "nowhere.json"
        self.assert_refused(run(path, self.directory / "out"), str(path), "No such file", "--json")

    def test_a_directory_that_cannot_be_written_is_refused(self):
        (self.directory / "out").write_text("a file")
        self.assert_refused(self.report({"format": 1}), str(self.directory / "out"), "File exists",
                            "give a directory")

    def test_wrong_usage_prints_the_usage(self):
        for arguments in ((), (SAMPLE,), (SAMPLE, self.directory, "more"), ("--unknown",)):
            done = run(*arguments)
            self.assertEqual(done.returncode, 2)
            self.assertIn("usage: bench-report", done.stderr)

    def test_without_matplotlib_the_package_is_named(self):
        # Stands before Debian's directory of packages, and is as good as none.
        (self.directory / "matplotlib.py").write_text("raise ImportError('none here')")
        done = self.report({"format": 1}, PYTHONPATH=str(self.directory))
        self.assert_refused(done, "python3-matplotlib", "none here")


if __name__ == "__main__":
    counted.main()
