#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The manual: every public function and every program is in it, each page has what a page needs,
and a page of functions has their declarations.

    test-man.py SOURCE BUILD
"""

import json
import os
import re
import subprocess
import sys

PARTS = ["NAME", "SYNOPSIS", "DESCRIPTION", "ERRORS", "EXAMPLE", "SEE ALSO"]
MAPS = ["client/gpuq-client.map", "client/text/gpuq-text.map", "client/cuda/gpuq-cuda.map"]

results = []


def check(name, problems):
    results.append(not problems)
    print(f"{'not ok' if problems else 'ok'} {len(results)} - man: {name}")
    for problem in problems:
        print(f"# {problem}")


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def headings(page):
    return re.findall(r"^\.SH \"?(.*?)\"?$", page, re.M)


def plain(page):
    """What a reader sees, with single spaces."""
    return re.sub(r"\s+", " ", re.sub(r"\\f.|\\&|\\", "", page))


def functions(source):
    return {f for m in MAPS for f in re.findall(r"^\t(gpuq_\w+);", read(f"{source}/{m}"), re.M)}


def main(source, build):
    folder = os.path.join(build, "docs", "man")
    pages = {name[:-2]: read(os.path.join(folder, name))
             for name in os.listdir(folder) if name.endswith(".3")}
    whole = {n: p for n, p in pages.items() if not p.startswith(".so ")}
    links = {n: re.match(r"\.so man3/(\w+)\.3$", p.strip()) for n, p in pages.items()
             if n not in whole}

    exported = functions(source)
    named = {n for n in pages if not n.startswith("lib")}
    check("every public function has a page, and nothing else",
          [f"{f} has none" for f in sorted(exported - named)] +
          [f"{n} is no public function" for n in sorted(named - exported)])
    check("links lead to a page that names them",
          [n for n, m in links.items()
           if m is None or m[1] not in whole or n not in plain(whole[m[1]])])
    check("a page of functions has every part",
          [f"{n}: {headings(p)}" for n, p in sorted(whole.items())
           if not n.startswith("lib") and headings(p) != PARTS])
    check("examples are not empty",
          [n for n, p in sorted(whole.items()) if not n.startswith("lib") and
           ";" not in p.split('.SH EXAMPLE')[1].split(".SH")[0]])
    missing = []
    for function in sorted(exported & named):
        page = whole.get(function) or whole[links[function][1]]
        if not re.search(rf"\b{function}\(\s?[^)]", plain(page).split(" DESCRIPTION ")[0]):
            missing.append(function)
    check("declarations are there", missing)

    installed = json.loads(subprocess.run(["meson", "introspect", "--installed", build],
                                          stdout=subprocess.PIPE, check=True).stdout)
    paths = list(installed.values())
    programs = {os.path.basename(p) for p in paths if re.search(r"/bin/[^/]+$", p)}
    manuals = {os.path.basename(p)[:-2] for p in paths if re.search(r"/man/man[18]/", p)}
    check("every program has a page, and nothing else",
          [f"{p} has none" for p in sorted(programs - manuals)] +
          [f"{m} is no program" for m in sorted(manuals - programs)])
    print(f"1..{len(results)}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
