#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The rules of the house, as a test: prints one TAP line for each rule, and each violation as
"# path:line: what is wrong". Exit status 0 when the tree is tidy, 1 when not.

    tests/tidy/tidy.py [ROOT]

A rule is a function with the decorator @rule. It gets the Tree, yields (path, line, message),
and may raise Skip with a reason.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys

MAX_COLUMNS = 100
MAX_FUNCTION = 70
MAX_MEDIAN = 20
MAX_FILE = 1000
MAX_BYTES = 200_000
MAX_WEIGHTS_BYTES = 8_000_000
OPENING_FROM = 50  # a .c file longer than this opens with a comment

# What each folder may include, besides itself. The longest prefix that fits a path counts.
LAYERS = {
    "shm": [],
    "client": ["shm"],
    "client/text": ["client"],
    "client/cuda": ["client"],
    "client/examples": ["client", "client/text"],
    "device": ["shm"],
    "kernels": ["shm", "device"],
    "graphs": ["shm", "device", "kernels"],
    "models": ["shm", "device", "kernels", "graphs"],
    "daemon": ["shm", "device", "kernels", "graphs", "models"],
    "tools": ["shm", "client", "client/text"],
    "bench": ["*"],
    "tests": ["*"],
}
# The explorer's door into the shipped headers, open only when GPUQ_EXPLORE is defined.
INCLUDES_ALLOWED = {("shm/atomics.h", "explore_atomics.h")}
# Folders whose headers may be included by their bare names; see `inc` in meson.build.
INCLUDE_FOLDERS = ["", "shm", "client"]

BANNED = {
    "strcpy": "snprintf or memcpy", "strcat": "snprintf", "sprintf": "snprintf",
    "vsprintf": "vsnprintf", "gets": "fgets", "atoi": "strtol", "atol": "strtol",
    "atoll": "strtoll", "atof": "strtod", "strtok": "strcspn or strtok_r",
    "alloca": "malloc or an array", "tmpnam": "mkstemp", "mktemp": "mkstemp",
    "system": "fork and exec", "popen": "fork and exec",
}
PRINTING = ["printf", "fprintf", "vprintf", "vfprintf", "puts", "fputs", "putchar", "perror"]
LIBRARIES = ["shm", "client", "client/text", "device", "kernels", "graphs", "models"]

ATOMICS = re.compile(r"\b(__atomic_\w+|__sync_\w+|_Atomic|stdatomic\.h|atomic_(?:load|store|"
                     r"exchange|compare_exchange|fetch_\w+|thread_fence|init)\w*)\b")
EXPORT = re.compile(r"^GPUQ_EXPORT\b[^;]*?\b(gpuq_\w+)\(", re.S)

RULES = []


class Skip(Exception):
    pass


def rule(function):
    RULES.append(function)
    return function


def blank_comments_and_strings(text):
    """Replaces comments and literals with spaces, so that lines and columns stay."""
    token = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.S)

    def blank(match):
        return re.sub(r"[^\n]", " ", match.group())

    return token.sub(blank, text)


class Tree:
    def __init__(self, root):
        self.root = root
        self.paths = sorted(p for p in self.list_paths() if os.path.isfile(self.full(p)))
        self.texts = {}
        self.codes = {}

    def full(self, path):
        return os.path.join(self.root, path)

    def list_paths(self):
        if os.path.exists(self.full(".git")) and shutil.which("git"):
            out = subprocess.run(
                ["git", "-c", "safe.directory=*", "-C", self.root, "ls-files", "-z", "--cached",
                 "--others", "--exclude-standard"], stdout=subprocess.PIPE, check=True).stdout
            return [os.fsdecode(p) for p in out.split(b"\0") if p]
        found = []
        for folder, folders, files in os.walk(self.root):
            folders[:] = [f for f in folders if not f.startswith((".", "build", "__py"))]
            found += [os.path.relpath(os.path.join(folder, f), self.root) for f in files]
        return found

    def text(self, path):
        """The file as text, or None when it is binary."""
        if path not in self.texts:
            with open(self.full(path), "rb") as f:
                data = f.read()
            self.texts[path] = None if b"\0" in data else data.decode("utf-8", "replace")
        return self.texts[path]

    def lines(self, path):
        return (self.text(path) or "").split("\n")

    def code(self, path):
        if path not in self.codes:
            self.codes[path] = blank_comments_and_strings(self.text(path) or "")
        return self.codes[path]

    def c_files(self):
        return [p for p in self.paths if p.endswith((".c", ".h", ".cu", ".cuh"))]

    def sources(self):
        """Files that people write and read as code."""
        return [p for p in self.paths if self.text(p) is not None and (
            p.endswith((".c", ".h", ".cu", ".cuh", ".py", ".sh", "meson.build", ".txt", ".map"))
            or self.text(p).startswith("#!"))]

    def layer(self, path):
        folder = os.path.dirname(path)
        while folder:
            if folder in LAYERS:
                return folder
            folder = os.path.dirname(folder)
        return None

    def functions(self, path):
        """(line, name, length) of each function: kernel style puts its braces in column 0."""
        lines = self.code(path).split("\n")
        for i, line in enumerate(lines):
            if line.rstrip() != "{" and not line.startswith("{ "):
                continue
            start = i
            while start > 0 and lines[start - 1].strip() and \
                    not lines[start - 1].startswith(("#", "}")) and \
                    not lines[start - 1].rstrip().endswith(";"):
                start -= 1
            end = next((j for j in range(i, len(lines)) if lines[j].startswith("}")), i)
            name = re.search(r"(\w+)\(", " ".join(lines[start:i]))
            yield start + 1, name.group(1) if name else "?", end - start + 1


def find_code(tree, path, pattern):
    for i, line in enumerate(tree.code(path).split("\n")):
        for match in pattern.finditer(line):
            yield i + 1, match


@rule
def includes_follow_the_layers(tree):
    """A folder includes only what lies below it."""
    quoted = re.compile(r"^\s*#\s*include\s+([\"<])([^\">]+)[\">]", re.M)
    for path in tree.c_files():
        layer = tree.layer(path)
        if layer is None:
            yield path, 1, "lies in a folder that the table of layers does not have"
            continue
        for match in quoted.finditer(tree.text(path)):
            line = tree.text(path).count("\n", 0, match.start()) + 1
            if (path, match.group(2)) in INCLUDES_ALLOWED:
                continue
            target = resolve(tree, path, match.group(2))
            if target is None:
                if match.group(1) == '"':
                    yield path, line, f'"{match.group(2)}" is not in the tree'
                continue
            below = tree.layer(target)
            allowed = LAYERS[layer] + [layer]
            if "*" not in allowed and below not in allowed:
                yield path, line, f"{layer}/ must not include {target}"


def resolve(tree, path, name):
    near = os.path.normpath(os.path.join(os.path.dirname(path), name))
    for candidate in [near] + [os.path.join(folder, name) for folder in INCLUDE_FOLDERS]:
        if candidate in tree.paths:
            return candidate
    return next((p for p in tree.paths if p.endswith("/" + name)), None)


@rule
def lines_fit_100_columns(tree):
    """At most 100 columns, a tab counting to the next multiple of 8."""
    for path in tree.sources():
        for i, line in enumerate(tree.lines(path)):
            columns = len(line.expandtabs(8))
            if columns > MAX_COLUMNS:
                yield path, i + 1, f"{columns} columns"


@rule
def functions_fit_70_lines(tree):
    """At most 70 lines from the signature to the closing brace."""
    for path in tree.c_files():
        for line, name, length in tree.functions(path):
            if length > MAX_FUNCTION:
                yield path, line, f"{name}() has {length} lines"


@rule
def half_of_the_functions_fit_20_lines(tree):
    """The median length, tests left out."""
    lengths = [length for path in tree.c_files() if not path.startswith("tests/")
               for _, _, length in tree.functions(path)]
    if lengths and statistics.median(lengths) > MAX_MEDIAN:
        yield ".", 0, f"the median function has {statistics.median(lengths)} lines"


@rule
def files_fit_1000_lines(tree):
    for path in tree.sources():
        n = tree.text(path).count("\n")
        if n >= MAX_FILE:
            yield path, n, f"{n} lines"


@rule
def no_banned_calls(tree):
    """Functions with a safer sibling."""
    pattern = re.compile(r"(?<![\w.>])(" + "|".join(BANNED) + r")\s*\(")
    for path in tree.c_files():
        for line, match in find_code(tree, path, pattern):
            name = match.group(1)
            yield path, line, f"{name}() is banned: use {BANNED[name]}"


@rule
def libraries_do_not_print(tree):
    pattern = re.compile(r"(?<![\w.>])(" + "|".join(PRINTING) + r")\s*\(")
    for path in tree.c_files():
        if tree.layer(path) not in LIBRARIES:
            continue
        for line, match in find_code(tree, path, pattern):
            yield path, line, f"{match.group(1)}() in a library: return an error instead"


@rule
def atomics_go_through_one_header(tree):
    """Raw atomics only in shm/atomics.h and in the explorer that replaces it."""
    for path in tree.c_files():
        if path == "shm/atomics.h" or path.startswith("tests/explore/"):
            continue
        for line, match in find_code(tree, path, ATOMICS):
            yield path, line, f"{match.group(1)}: use the helpers of shm/atomics.h"


@rule
def files_name_their_licence(tree):
    """SPDX in the first line; in the second one of a script."""
    for path in tree.sources():
        if path.endswith(("meson.build", ".txt", ".map")):
            continue
        head = tree.lines(path)[:2]
        line = 1 if head[0].startswith("#!") else 0
        if len(head) <= line or "SPDX-License-Identifier: MIT" not in head[line]:
            yield path, line + 1, "no SPDX-License-Identifier: MIT"


@rule
def files_open_with_their_purpose(tree):
    """Headers and .c files of more than 50 lines say in a comment what they are for."""
    for path in tree.c_files():
        lines = tree.lines(path)
        if path.endswith((".c", ".cu")) and len(lines) <= OPENING_FROM:
            continue
        if len(lines) < 2 or not lines[1].startswith("/*"):
            yield path, 2, "does not open with a comment that says what the file is for"


@rule
def clang_format_agrees(tree):
    program = shutil.which("clang-format-14") or shutil.which("clang-format")
    if program is None:
        raise Skip("clang-format is not installed")
    if not os.path.exists(tree.full(".clang-format")):
        raise Skip("no .clang-format here")
    paths = [p for p in tree.c_files()]
    run = subprocess.run([program, "--dry-run", "-Werror", "--style=file"] + paths, cwd=tree.root,
                         stderr=subprocess.PIPE, text=True)
    seen = set()
    for match in re.finditer(r"^(\S+?):(\d+):\d+: error", run.stderr, re.M):
        if match.group(1) not in seen:
            seen.add(match.group(1))
            yield match.group(1), int(match.group(2)), "run clang-format -i on this file"
    if run.returncode != 0 and not seen:
        yield ".", 0, run.stderr.strip().replace("\n", " ")


def exported(tree):
    """(line, name, is documented) of each public function. A comment covers the declarations
    that follow it without a blank line."""
    covered = False
    lines = tree.lines("client/gpuq.h")
    for i, line in enumerate(lines):
        if line.endswith("*/"):
            covered = not line.startswith("/* ---")
        elif not line.strip():
            covered = False
        elif line.startswith("GPUQ_EXPORT"):
            match = EXPORT.match("\n".join(lines[i:i + 6]))
            yield i + 1, match.group(1) if match else "?", covered


@rule
def errors_are_in_the_guide(tree):
    """docs/operations.md has a row for each error that the libraries name, and for no other."""
    guide = "docs/operations.md"
    if guide not in tree.paths:
        raise Skip(f"there is no {guide}")
    headers = {"client/gpuq.h", "client/text/gpuq-text.h", "client/cuda/gpuq-cuda.h"}
    named = set(re.findall(r"ERROR\((\w+),", tree.text("client/error.c"))) - {"code"}
    for header in headers & set(tree.paths):
        named |= set(re.findall(r"(?<![\w])-(E[A-Z0-9]+)\b", tree.text(header)))
    rows = {}
    for number, line in enumerate(tree.lines(guide), 1):
        if re.match(r"\| `(GPUQ_)?E[A-Z0-9]+`", line):
            rows.update({name: number for name in re.findall(r"`(\w+)`", line.split("|")[1])})
    for name in sorted(named - rows.keys()):
        yield guide, 1, f"{name} is missing"
    for name in sorted(rows.keys() - named):
        yield guide, rows[name], f"{name} is no error that the libraries name"


@rule
def public_functions_are_documented(tree):
    if "client/gpuq.h" not in tree.paths:
        raise Skip("no client/gpuq.h here")
    for line, name, documented in exported(tree):
        if not documented:
            yield "client/gpuq.h", line, f"{name}() has no comment directly above"


@rule
def public_functions_are_in_the_version_script(tree):
    """Each exported function by its name, and no name that is not one."""
    if "client/gpuq-client.map" not in tree.paths:
        raise Skip("no client/gpuq-client.map here")
    names = {name: line for line, name, _ in exported(tree)}
    listed = {}
    for i, line in enumerate(tree.lines("client/gpuq-client.map")):
        for name in re.findall(r"\b(gpuq_[\w*]+)\s*;", line):
            listed[name] = i + 1
    for name in names.keys() - listed.keys():
        yield "client/gpuq.h", names[name], f"{name}() is not in client/gpuq-client.map"
    for name in listed.keys() - names.keys():
        yield "client/gpuq-client.map", listed[name], f"{name} is not a function of gpuq.h"


@rule
def scripts_and_nothing_else_are_executable(tree):
    for path in tree.paths:
        executable = os.access(tree.full(path), os.X_OK)
        script = (tree.text(path) or "").startswith("#!")
        if executable != script:
            yield path, 1, "executable without #!" if executable else "a script: chmod +x"


@rule
def no_trailing_whitespace(tree):
    """Nor carriage returns; every file ends with one newline."""
    for path in tree.paths:
        text = tree.text(path)
        if not text or path.endswith(".npy") or path.startswith("tests/fuzz/corpus/"):
            continue
        for i, line in enumerate(tree.lines(path)):
            if line != line.rstrip(" \t\r"):
                yield path, i + 1, "trailing whitespace"
        if not text.endswith("\n") or text.endswith("\n\n"):
            yield path, text.count("\n"), "does not end with exactly one newline"


@rule
def nothing_is_left_to_do(tree):
    pattern = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    for path in tree.paths:
        for i, line in enumerate(tree.lines(path)):
            match = pattern.search(line)
            if match:
                yield path, i + 1, f"{match.group()}: do it, or open an issue"


@rule
def no_file_is_large(tree):
    for path in tree.paths:
        size = os.path.getsize(tree.full(path))
        if size > (MAX_WEIGHTS_BYTES if path.endswith(".safetensors") else MAX_BYTES):
            yield path, 1, f"{size} bytes"


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.dirname(here))
    tree = Tree(root)
    failed = 0
    for number, check in enumerate(RULES, 1):
        skip = ""
        violations = []
        try:
            violations = list(check(tree))
        except Skip as reason:
            skip = f" # SKIP {reason}"
        for path, line, message in violations:
            print(f"# {path}:{line}: {message}")
        failed += bool(violations)
        print(f"{'not ok' if violations else 'ok'} {number} - tidy: {check.__name__}{skip}")
    print(f"1..{len(RULES)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
