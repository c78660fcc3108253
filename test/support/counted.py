"""Runs the tests of the program that imports it, and counts them for scripts/test."""

import os
import pathlib
import sys
import unittest
import xml.etree.ElementTree as ElementTree


def write_counts(path: str, result: unittest.TestResult) -> None:
    failed = len(result.failures) + len(result.errors)
    root = ElementTree.Element("Catch2TestRun", name=pathlib.Path(sys.argv[0]).name)
    ElementTree.SubElement(root, "OverallResultsCases", expectedFailures="0", failures=str(failed),
                           successes=str(max(0, result.testsRun - failed)))
    ElementTree.ElementTree(root).write(path)


def main() -> None:
    """With REPORT_FILE set, the test cases are counted there, as scripts/lib/count-results reads
    it."""
    outcome = unittest.main(argv=sys.argv[:1], exit=False, verbosity=2).result
    if "REPORT_FILE" in os.environ:
        write_counts(os.environ["REPORT_FILE"], outcome)
    sys.exit(0 if outcome.wasSuccessful() else 1)
