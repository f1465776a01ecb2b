#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Adds up single tests over several runs of `meson test`, and ends with the line

    N passed, N failed, N skipped

    count-tests.py [--failed NAME]... TESTLOG.json...

A program that prints TAP counts with each of its lines, any other as one test; a program that
ended badly without a failed line counts as one failure more. NAME is a step that failed before
it could run tests. Exit status 1 when anything failed. A missing log is a failure.
"""

import argparse
import json
import re
import sys

RESULT = re.compile(r"^(ok|not ok)\b[ \d]*-?\s*([^#]*?)\s*(?:# ?(.*))?$", re.M)


class Totals:
    def __init__(self):
        self.passed = 0
        self.failures = []
        self.skips = []

    def add_program(self, where, test):
        name = f"{where}: {test['name']}"
        result = test["result"]
        lines = RESULT.findall(test.get("stdout") or "")
        failures = [f"{name}: {title}" + (f" ({why})" if why else "")
                    for verdict, title, why in lines if verdict == "not ok"]
        skips = [f"{name}: {title}: {why[5:]}" for verdict, title, why in lines
                 if verdict == "ok" and why.startswith("SKIP ")]
        self.failures += failures
        self.skips += skips
        self.passed += len(lines) - len(failures) - len(skips)
        if result == "SKIP" and not lines:
            self.skips.append(f"{name}: {last_line(test)}")
        elif result == "OK" and not lines:
            self.passed += 1
        elif result not in ("OK", "SKIP", "EXPECTEDFAIL") and not failures:
            self.failures.append(f"{name}: {result.lower()}: {last_line(test)}")


def last_line(test):
    text = ((test.get("stdout") or "") + (test.get("stderr") or "")).strip()
    return text.split("\n")[-1] if text else "no reason given"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--failed", action="append", default=[])
    parser.add_argument("logs", nargs="*")
    args = parser.parse_args()
    totals = Totals()
    totals.failures += args.failed
    for path in args.logs:
        where = path.split("/")[-3] if path.count("/") >= 2 else path
        try:
            with open(path, encoding="utf-8") as f:
                tests = [json.loads(line) for line in f]
        except OSError as e:
            totals.failures.append(f"{where}: {e.strerror}: {path}")
            continue
        for test in tests:
            totals.add_program(where, test)
    for skip in totals.skips:
        print(f"skipped: {skip}")
    for failure in totals.failures:
        print(f"FAILED: {failure}")
    print(f"{totals.passed} passed, {len(totals.failures)} failed, {len(totals.skips)} skipped")
    return 1 if totals.failures else 0


if __name__ == "__main__":
    sys.exit(main())
