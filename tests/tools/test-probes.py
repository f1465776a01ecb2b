#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Static probes: those in the ELF notes of gpuqd and of the client library are the ones that
docs/bpftrace/README.md lists, with as many arguments; and the scripts there use no other ones.

    test-probes.py GPUQD LIBRARY FOLDER
"""

import pathlib
import re
import subprocess
import sys

failures = 0


def check(number, name, complaints):
    global failures
    for complaint in complaints:
        print(f"# {complaint}")
    print(f"{'not ok' if complaints else 'ok'} {number} - probes: {name}")
    failures += bool(complaints)


def notes(path):
    """Name -> number of arguments, of the provider gpuq. A probe may be in several places."""
    text = subprocess.run(["readelf", "--wide", "--notes", path], check=True, text=True,
                          stdout=subprocess.PIPE).stdout
    found = {}
    pattern = r"Provider: gpuq\s+Name: (\S+)\s+Location: [^\n]*\n\s+Arguments: ([^\n]*)"
    for name, arguments in re.findall(pattern, text):
        # An argument is size@place, and a place may have blanks: count what has an @.
        found.setdefault(name, set()).add(arguments.count("@"))
    return found


def listed(text):
    """Name -> number of arguments, of a table whose rows are | `name` | when | arguments |."""
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \|$", text, re.M)
    return {name: {arguments.count(",") + 1} for name, arguments in rows}


def differences(what, have, want):
    for name in sorted(set(have) | set(want)):
        if name not in want:
            yield f"{what}: {name} is not in the README"
        elif name not in have:
            yield f"{what}: {name} is in the README only"
        elif have[name] != want[name]:
            yield f"{what}: {name} has {have[name]} arguments, the README says {want[name]}"


def script_errors(path, daemon, library):
    """Each part of a script: the probes that it is for, and a body up to the next ones."""
    parts = re.split(r"^(?=usdt:|BEGIN|END|interval:)", path.read_text(), flags=re.M)
    uses = 0
    for part in parts:
        match = re.match(r"usdt:(\S+):gpuq:(\w+)\n", part)
        if not match:
            continue
        uses += 1
        known = daemon if match[1].endswith("/gpuqd") else library
        if match[2] not in known:
            yield f"{path.name}: there is no probe {match[2]} in {match[1]}"
            continue
        most = max(map(int, re.findall(r"\barg(\d)\b", part)), default=-1)
        if most >= min(known[match[2]]):
            yield f"{path.name}: {match[2]} has no arg{most}"
    if uses == 0:
        yield f"{path.name} uses no probe"


def main():
    folder = pathlib.Path(sys.argv[3])
    readme = (folder / "README.md").read_text()
    of_daemon, of_library = readme.split("In `libgpuq-client.so`", 1)
    daemon, library = notes(sys.argv[1]), notes(sys.argv[2])
    scripts = sorted(folder.glob("*.bt"))

    print("1..3")
    check(1, "gpuqd has those that the README lists",
          list(differences("gpuqd", daemon, listed(of_daemon))))
    check(2, "the library has those that the README lists",
          list(differences("library", library, listed(of_library))))
    errors = [e for s in scripts for e in script_errors(s, daemon, library)]
    errors += [f"{s.name} is not in the README" for s in scripts if s.name not in readme]
    check(3, "scripts use what is there", errors if len(scripts) >= 3 else ["no scripts"])
    return failures != 0


sys.exit(main())
