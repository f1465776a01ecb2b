#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints the table of tests/gpu/run from what its steps left in a folder: one row for each claim,
with what was measured, the target and the verdict.

    table.py DIR STEP...

DIR/STEP.note: status, seconds and a remark, separated by tabs; DIR/STEP.testlog.json: meson's log
of tests; DIR/STEP.bench.json: what gpuq-bench kept; DIR/raw.log: what tests/gpu/measure printed.
Exit status 0 when everything is met, 1 when
something failed or was missed, 3 when something only did not run.
"""

import json
import os
import re
import sys

RESULT = re.compile(r"^(ok|not ok)\b[^#\n]*(# SKIP)?", re.M)
WORST = {"missed": 1, "failed": 1, "not run": 3}


def load_lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def tests_row(step, path):
    """Counts single tests, as scripts/count-tests.py does."""
    passed = failed = skipped = 0
    for test in load_lines(path):
        results = RESULT.findall(test.get("stdout") or "")
        bad = sum(verdict == "not ok" for verdict, _ in results)
        skips = sum(verdict == "ok" and skip != "" for verdict, skip in results)
        failed += bad or test["result"] not in ("OK", "SKIP", "EXPECTEDFAIL")
        skipped += skips or test["result"] == "SKIP"
        passed += len(results) - bad - skips if results else test["result"] == "OK"
    verdict = "missed" if failed else "met" if passed else "not run"
    measured = f"{passed} passed, {failed} failed, {skipped} skipped"
    return (f"{step}: tests", measured, "0 failed", verdict)


def number(value):
    return f"{value:.4g}"


def check_row(step, check):
    sign = ">=" if check["at_least"] else "<="
    target = "" if check["limit"] is None else f"{sign} {number(check['limit'])}"
    if check["judged"]:
        verdict = "met" if check["pass"] else "missed"
    else:
        verdict = "reported"
    return (f"{step}: {check['what']}", number(check["value"]), target, verdict)


def torch_rows(step, rows):
    """PyTorch's own times, to stand beside those of the same operators through gpuqd."""
    for row in rows:
        if row.get("name", "").startswith("PyTorch"):
            p50_us = number(row["p50_ns"] / 1000)
            yield (f"{step}: {row['table']}: {row['name']}, p50 in us", p50_us, "", "reported")


def storm_rows(path):
    """The same storm without gpuq: p99 to the word of each capturing row over that of "nothing"."""
    with open(path, encoding="utf-8") as f:
        cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in f]
    quiet_us = None
    for row in cells:
        if len(row) != 10:
            continue
        if row[0] == "nothing":
            if quiet_us:
                return  # the next table: launches without a graph
            quiet_us = float(row[7])
        match = re.fullmatch(r"capture of (\d+) nodes, \d+/s", row[0])
        if match and quiet_us:
            yield (f"raw CUDA, {match.group(1)} nodes: p99 beside captures / quiet",
                   number(float(row[7]) / quiet_us), "", "reported")


def step_rows(folder, step):
    with open(os.path.join(folder, step + ".note"), encoding="utf-8") as f:
        status, seconds, remark = f.read().rstrip("\n").split("\t")
    rows = []
    tests = os.path.join(folder, step + ".testlog.json")
    bench = os.path.join(folder, step + ".bench.json")
    if os.path.exists(tests):
        rows.append(tests_row(step, tests))
    if os.path.exists(bench):
        with open(bench, encoding="utf-8") as f:
            result = json.load(f)
        rows += [check_row(step, check) for check in result["checks"]]
        rows += torch_rows(step, result["rows"])
    if step == "raw":
        rows += storm_rows(os.path.join(folder, "raw.log"))
    # A step whose rows say what is wrong needs none of its own.
    if status != "ok" and not any(row[3] == "missed" for row in rows):
        rows.append((step, remark or f"see {step}.log", "", status))
    elif status == "ok" and not rows:
        rows.append((step, f"done in {seconds} s", "", "met"))
    return rows


def main():
    folder, steps = sys.argv[1], sys.argv[2:]
    rows = []
    for step in steps:
        if os.path.exists(os.path.join(folder, step + ".note")):
            rows += step_rows(folder, step)
    width = [max(len(row[i]) for row in rows + [("what", "measured", "target", "")])
             for i in range(3)]
    print()
    for row in [("what", "measured", "target", "verdict"), *rows]:
        print("  ".join(text.ljust(w) for text, w in zip(row[:3], width)) + "  " + row[3])
    count = {name: sum(row[3] == name for row in rows)
             for name in ("met", "missed", "failed", "reported", "not run")}
    print("\n" + ", ".join(f"{n} {name}" for name, n in count.items() if n > 0))
    statuses = {WORST[row[3]] for row in rows if row[3] in WORST}
    return min(statuses, default=0)


if __name__ == "__main__":
    sys.exit(main())
