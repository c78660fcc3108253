#!/usr/bin/python3
"""Tests of scripts/lib/count-results. Usage: count_results_test.py SCRIPTS_DIRECTORY"""

import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import counted

SCRIPTS = pathlib.Path(sys.argv[1])

REPORT = """<?xml version="1.0" encoding="UTF-8"?>
<Catch2TestRun name="t">
  <TestCase name="a good one" filename="a.cpp" line="1">
    <OverallResult success="true" skips="0"/>
  </TestCase>
  <TestCase name="one &lt;that&gt; fails" filename="a.cpp" line="5">
    <Section name="s" filename="a.cpp" line="6">
      <Info filename="a.cpp" line="7"> x was 3 </Info>
      <Expression success="false" type="REQUIRE" filename="a.cpp" line="8">
        <Original> x == 4 </Original>
        <Expanded> 3 == 4 </Expanded>
      </Expression>
      <OverallResults successes="0" failures="1" expectedFailures="0" skipped="false"/>
    </Section>
    <OverallResult success="false" skips="0"/>
  </TestCase>
  <TestCase name="one that throws" filename="a.cpp" line="20">
    <Exception filename="a.cpp" line="20"> no such file </Exception>
    <OverallResult success="false" skips="0"/>
  </TestCase>
  <OverallResults successes="9" failures="2" expectedFailures="0" skips="0"/>
  <OverallResultsCases successes="1" failures="2" expectedFailures="0" skips="0"/>
</Catch2TestRun>
"""


class CountResults(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.reports = pathlib.Path(self.directory.name)
        self.log = self.reports / "meson.json"
        self.log.touch()

    def add(self, name, result, *, report=None, output=""):
        words = ["/bin/" + name, "argument"]
        with self.log.open("a") as log:
            log.write(json.dumps({"name": name, "result": result, "duration": 1.25, "stdout": output,
                                  "command": ["with-report", *words]}) + "\n")
        if report is not None:
            digest = hashlib.sha1(b"".join(word.encode() + b"\0" for word in words)).hexdigest()
            (self.reports / f"{digest}.xml").write_text(report)

    def run_it(self):
        done = subprocess.run([SCRIPTS / "lib/count-results", self.reports, self.log],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.stderr, "")
        lines = done.stdout.splitlines()
        return done.returncode, lines[:-1], lines[-1]

    def test_a_test_without_a_report_is_one_case(self):
        self.add("script", "OK", output="much to say")
        self.assertEqual(self.run_it(), (0, [], "1 passed, 0 failed"))

    def test_no_test_at_all_is_a_failure(self):
        self.assertEqual(self.run_it(), (1, ["No test ran."], "0 passed, 1 failed"))

    def test_says_which_cases_failed_and_why(self):
        self.add("good", "OK")
        self.add("bad", "FAIL", report=REPORT)
        status, said, count = self.run_it()
        self.assertEqual((status, count), (1, "2 passed, 2 failed"))
        self.assertEqual(said, ["",
                                "bad: FAIL after 1.2 s",
                                '  "one <that> fails"',
                                "    a.cpp:8: REQUIRE( x == 4 ) with 3 == 4",
                                "      x was 3",
                                '  "one that throws"',
                                "    a.cpp:20: no such file"])

    def test_shows_how_the_output_of_a_failed_test_ended(self):
        self.add("bad", "FAIL", output="".join(f"line {i}\n" for i in range(100)))
        status, said, count = self.run_it()
        self.assertEqual((status, count), (1, "0 passed, 1 failed"))
        self.assertEqual(said[2:5], ["  the last of its 100 lines:", "  | line 60", "  | line 61"])
        self.assertEqual(said[-1], "  | line 99")

    def test_a_report_that_is_cut_off_is_one_failed_case(self):
        self.add("killed", "TIMEOUT", report=REPORT[:300])
        status, said, count = self.run_it()
        self.assertEqual((status, said[1], count), (1, "killed: TIMEOUT after 1.2 s", "0 passed, 1 failed"))

    def test_a_crash_after_the_last_case_counts(self):
        passing = REPORT.replace('successes="1" failures="2"', 'successes="3" failures="0"')
        self.add("crashes", "ERROR", report=passing)
        self.assertEqual(self.run_it()[2], "3 passed, 1 failed")


if __name__ == "__main__":
    counted.main()
