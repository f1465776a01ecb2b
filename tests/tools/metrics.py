#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What gpuq-exporter serves against what docs/metrics.md says, and promtool's opinion of it, of
the alerts and of their tests; prints TAP.

    metrics.py EXPORTER SYNTHETIC_GPUQD SOURCE_ROOT
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

EXPORTER, GPUQD, ROOT = sys.argv[1:4]
RULES = os.path.join(ROOT, "docs/prometheus")


def served(folder):
    """The text that the exporter makes of made-up statistics."""
    socket = os.path.join(folder, "gpuq-0")
    with subprocess.Popen([GPUQD, socket, "3", "4"], stdout=subprocess.PIPE) as daemon:
        try:
            daemon.stdout.readline()  # "ready"
            # The second look knows what is a difference between two.
            return subprocess.run([EXPORTER, "--once", "-s", socket], check=True, text=True,
                                  capture_output=True).stdout
        finally:
            daemon.terminate()


def parse(text):
    """{name: (type, labels, meaning)}; labels None where there is no sample."""
    helps, types, labels = {}, {}, {}
    for line in text.splitlines():
        if match := re.match(r"# HELP (\S+) (.*)", line):
            helps[match[1]] = match[2]
        elif match := re.match(r"# TYPE (\S+) (\S+)", line):
            types[match[1]] = match[2]
        elif match := re.match(r"(\w+)\{(.*)\} ", line):
            name = match[1]
            if name not in types:
                name = re.sub(r"_(bucket|sum|count)$", "", name)
            labels[name] = [label for label in re.findall(r'(\w+)="', match[2])
                            if label not in ("socket", "le")]
    return {name: (types[name], labels.get(name), helps[name]) for name in types}


def documented():
    table = {}
    with open(os.path.join(ROOT, "docs/metrics.md"), encoding="utf-8") as file:
        for line in file:
            if match := re.match(r"\| `(gpuq_\w+)` \| (\w+) \| ([\w, ]*) \| (.*) \|$", line):
                table[match[1]] = (match[2], [label for label in match[3].split(", ") if label],
                                   match[4])
    return table


def check_table(text):
    real, told = parse(text), documented()
    problems = [f"{name} is served, but not in docs/metrics.md" for name in real
                if name not in told]
    problems += [f"{name} is in docs/metrics.md, but not served" for name in told
                 if name not in real]
    for name in real.keys() & told.keys():
        for what, is_, said in zip(("type", "labels", "meaning"), real[name], told[name]):
            if is_ is not None and is_ != said:
                problems.append(f"{name}: {what} is {is_}, but docs/metrics.md says {said}")
    if len(real) < 50:
        problems.append(f"only {len(real)} metrics")
    if list(real) != [name for name in told if name in real] and not problems:
        problems.append("docs/metrics.md has another order")
    return problems


def check_names(text):
    """What promtool does not look at: units, and one name in one place."""
    problems = []
    for name, (kind, _, meaning) in parse(text).items():
        if (kind == "counter") != name.endswith("_total"):
            problems.append(f"{name} is a {kind}")
        if re.search(r"_(ms|us|ns|milliseconds|percent|kb|mb)(_|$)", name):
            problems.append(f"{name} is not in a base unit")
        if not meaning.endswith("."):
            problems.append(f"{name}: its meaning is no sentence")
    return problems


def promtool(*arguments, text=None):
    if shutil.which("promtool") is None:
        return None
    done = subprocess.run(["promtool", *arguments], input=text, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=RULES)
    return done.returncode, done.stdout.splitlines()


def check_promtool_metrics(text):
    answer = promtool("check", "metrics", text=text)
    return None if answer is None else answer[1] + ["failed"] * (answer[0] != 0)


def check_rules(_):
    answer = promtool("check", "rules", "gpuq.rules.yml")
    return None if answer is None else answer[1] * (answer[0] != 0)


def check_alerts(_):
    answer = promtool("test", "rules", "gpuq.test.yml")
    return None if answer is None else answer[1] * (answer[0] != 0)


def check_alerts_are_tested(_):
    with open(os.path.join(RULES, "gpuq.rules.yml"), encoding="utf-8") as file:
        alerts = re.findall(r"alert: (\w+)", file.read())
    with open(os.path.join(RULES, "gpuq.test.yml"), encoding="utf-8") as file:
        tested = re.findall(r"alertname: (\w+)", file.read())
    return [f"alert {alert} has no test" for alert in alerts if alert not in tested]


def check_metrics_exist(text):
    """Every metric that alerts and dashboard name is one."""
    names, problems = parse(text), []
    for path in ("prometheus/gpuq.rules.yml", "grafana/gpuq.json"):
        with open(os.path.join(ROOT, "docs", path), encoding="utf-8") as file:
            for name in sorted(set(re.findall(r"\bgpuq_\w+", file.read()))):
                if name not in names and re.sub(r"_(bucket|sum|count)$", "", name) not in names:
                    problems.append(f"{path} names {name}, which is not served")
    return problems


def main():
    checks = [check_table, check_names, check_promtool_metrics, check_rules, check_alerts,
              check_alerts_are_tested, check_metrics_exist]
    with tempfile.TemporaryDirectory() as folder:
        text = served(folder)
    failed = False
    print(f"1..{len(checks)}")
    for number, check in enumerate(checks, 1):
        problems = check(text)
        for problem in problems or []:
            print(f"# {problem}")
        failed |= bool(problems)
        result = "not ok" if problems else "ok"
        skip = "" if problems is not None else " # SKIP promtool is not installed (prometheus)"
        print(f"{result} {number} - metrics: {check.__name__.removeprefix('check_')}{skip}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
