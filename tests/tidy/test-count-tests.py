#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks scripts/count-tests.py, on whose last line everybody relies: each way in which a test
can end is counted once, and none of the bad ones is lost."""

import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
COUNTER = os.path.join(os.path.dirname(os.path.dirname(HERE)), "scripts", "count-tests.py")


def program(result, stdout="", stderr=""):
    return {"name": "p", "result": result, "stdout": stdout, "stderr": stderr}


# what: programs in a log (None: there is no log), arguments, last line, a line before it
CASES = [
    ("nothing", [], [], "0 passed, 0 failed, 0 skipped", ""),
    ("one program without TAP", [program("OK", "fine\n")], [], "1 passed, 0 failed, 0 skipped", ""),
    ("single tests of a program", [program("OK", "ok 1 - a: x\nok 2 - a: y\n1..2\n")], [],
     "2 passed, 0 failed, 0 skipped", ""),
    ("a failed test", [program("FAIL", "ok 1 - a: x\n# why\nnot ok 2 - a: y # signal 11\n")], [],
     "1 passed, 1 failed, 0 skipped", "FAILED: build: p: a: y (signal 11)"),
    ("a skipped test", [program("OK", "ok 1 - a: x\nok 2 - a: y # SKIP no flux\n")], [],
     "1 passed, 0 failed, 1 skipped", "skipped: build: p: a: y: no flux"),
    ("a skipped program", [program("SKIP", "no NumPy\n")], [],
     "0 passed, 0 failed, 1 skipped", "skipped: build: p: no NumPy"),
    ("a program of skipped tests", [program("SKIP", "ok 1 - a: x # SKIP no flux\n")], [],
     "0 passed, 0 failed, 1 skipped", ""),
    ("a crash after passed tests", [program("FAIL", "ok 1 - a: x\n")], [],
     "1 passed, 1 failed, 0 skipped", "FAILED: build: p: fail: ok 1 - a: x"),
    ("a timeout", [program("TIMEOUT")], [], "0 passed, 1 failed, 0 skipped", ""),
    ("an error", [program("ERROR", "", "cannot run\n")], [], "0 passed, 1 failed, 0 skipped",
     "FAILED: build: p: error: cannot run"),
    ("a missing log", None, [], "0 passed, 1 failed, 0 skipped", ""),
    ("a failed build", [program("OK")], ["--failed", "build of gcc"],
     "1 passed, 1 failed, 0 skipped", "FAILED: build of gcc"),
]


def count(programs, arguments):
    with tempfile.TemporaryDirectory() as root:
        log = os.path.join(root, "build", "meson-logs", "testlog.json")
        os.makedirs(os.path.dirname(log))
        if programs is not None:
            with open(log, "w", encoding="utf-8") as f:
                f.writelines(json.dumps(p) + "\n" for p in programs)
        return subprocess.run([sys.executable, COUNTER] + arguments + [log],
                              stdout=subprocess.PIPE, text=True)


def main():
    failed = 0
    for number, (what, programs, arguments, last, before) in enumerate(CASES, 1):
        run = count(programs, arguments)
        lines = run.stdout.strip().split("\n")
        good = lines[-1] == last and (run.returncode != 0) == (" 0 failed" not in last) and \
            (not before or before in lines[:-1])
        failed += not good
        if not good:
            print(f"# status {run.returncode}: {lines}")
        print(f"{'ok' if good else 'not ok'} {number} - count-tests: {what}")
    print(f"1..{len(CASES)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
