#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the checker: a small tidy tree passes every rule, and one planted violation turns
exactly its own rule red."""

import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

SPDX = "/* SPDX-License-Identifier: MIT */\n"
HEADER = SPDX + "/* a.h: an example. */\n"
GPUQ_H = SPDX + """/* gpuq.h: an example. */
#define GPUQ_EXPORT

/* Does one thing. */
GPUQ_EXPORT int gpuq_one(void);
GPUQ_EXPORT int gpuq_two(
	const char *a_first_and_longest_argument, const char *a_second_and_shorter_argument);
"""
MAP = "GPUQ_0 {\nglobal:\n\tgpuq_one;\n\tgpuq_two;\nlocal:\n\t*;\n};\n"

TIDY = {
    "shm/a.h": HEADER,
    "shm/atomics.h": SPDX + "/* atomics.h: an example. */\n",
    "client/gpuq.h": GPUQ_H,
    "client/gpuq-client.map": MAP,
    "daemon/main.c": SPDX + '#include "shm/a.h"\n\nint main(void)\n{\n\treturn 0;\n}\n',
    "check": "#!/bin/bash\n# SPDX-License-Identifier: MIT\ntrue\n",
}


def function(lines):
    return "int f(void)\n{\n" + "\tf();\n" * (lines - 3) + "}\n"


# rule: files that break it
PLANTED = [
    ("includes_follow_the_layers", {"shm/b.c": SPDX + '#include "client/gpuq.h"\n'}),
    ("includes_follow_the_layers", {"daemon/b.c": SPDX + "#include <gpuq.h>\n"}),
    ("includes_follow_the_layers", {"shm/b.c": SPDX + '#include "nowhere.h"\n'}),
    ("includes_follow_the_layers", {"elsewhere/b.c": SPDX}),
    ("lines_fit_100_columns", {"shm/b.c": SPDX + "/*\n * " + "x" * 98 + "\n */\n"}),
    ("lines_fit_100_columns", {"shm/b.c": SPDX + "/*\n\t\t" + "x" * 85 + "\n */\n"}),
    ("functions_fit_70_lines", {
        "shm/b.c": SPDX + "/* b.c: one too long. */\n\n" + function(5) + "\n" + function(71)}),
    ("half_of_the_functions_fit_20_lines", {
        "shm/b.c": SPDX + "/* b.c: two rather long. */\n\n" + function(40) + "\n" + function(30)}),
    ("files_fit_1000_lines", {"shm/b.c": SPDX + "/*\n" + " *\n" * 998 + " */\n"}),
    ("no_banned_calls", {"shm/b.c": SPDX + "int x = atoi(s);\n"}),
    ("libraries_do_not_print", {"client/b.c": SPDX + 'int x = printf("x");\n'}),
    ("atomics_go_through_one_header", {"shm/b.c": SPDX + "int x = __sync_fetch(y);\n"}),
    ("atomics_go_through_one_header", {"shm/b.c": SPDX + "#include <stdatomic.h>\n"}),
    ("atomics_go_through_one_header", {"shm/b.c": SPDX + "_Atomic int x;\n"}),
    ("files_name_their_licence", {"shm/b.c": "int x;\n"}),
    ("files_name_their_licence", {"script": "#!/bin/bash\ntrue\n"}),
    ("files_open_with_their_purpose", {"shm/b.h": SPDX + "int x;\n"}),
    ("files_open_with_their_purpose", {"shm/b.c": SPDX + "int x;\n" * 51}),
    ("clang_format_agrees", {"shm/b.c": SPDX + "int  x;\n"}),
    ("errors_are_in_the_guide", {
        "client/error.c": SPDX + "int x = ERROR(GPUQ_EONE, 1) + ERROR(GPUQ_ETWO, 2);\n",
        "docs/operations.md": "| `GPUQ_EONE` | it is one | take another |\n"}),
    ("errors_are_in_the_guide", {
        "client/error.c": SPDX + "int x = ERROR(GPUQ_EONE, 1);\n",
        "docs/operations.md": "| `GPUQ_EONE` | | |\n| `ETWO`, `ETHREE` | | |\n"}),
    ("public_functions_are_documented", {
        "client/gpuq.h": GPUQ_H + "\nGPUQ_EXPORT int gpuq_three(void);\n",
        "client/gpuq-client.map": MAP.replace("gpuq_two;", "gpuq_two;\n\tgpuq_three;")}),
    ("public_functions_are_in_the_version_script", {
        "client/gpuq-client.map": MAP.replace("gpuq_two", "gpuq_too")}),
    ("scripts_and_nothing_else_are_executable", {"shm/b.c": (SPDX, 0o755)}),
    ("scripts_and_nothing_else_are_executable", {"check": (TIDY["check"], 0o644)}),
    ("no_trailing_whitespace", {"notes.md": "one \ntwo\n"}),
    ("no_trailing_whitespace", {"notes.md": "one"}),
    ("nothing_is_left_to_do", {"notes.md": "TO" "DO: more\n"}),
    ("no_file_is_large", {"notes.md": "x\n" * 100_001}),
]


def write(root, files):
    for path, content in files.items():
        mode = 0o755 if isinstance(content, str) and content.startswith("#!") else 0o644
        if isinstance(content, tuple):
            content, mode = content
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as f:
            f.write(content)
        os.chmod(full, mode)


def red_rules(files):
    """Names of the rules that fail on the tidy tree with these files put over it."""
    with tempfile.TemporaryDirectory() as root:
        shutil.copy(os.path.join(ROOT, ".clang-format"), root)
        write(root, TIDY)
        write(root, files)
        run = subprocess.run([sys.executable, os.path.join(HERE, "tidy.py"), root],
                             stdout=subprocess.PIPE, text=True)
    lines = run.stdout.split("\n")
    red = [line.split("tidy: ")[1] for line in lines if line.startswith("not ok ")]
    skipped = [line.split("tidy: ")[1].split(" #")[0] for line in lines if "# SKIP" in line]
    if (run.returncode != 0) != bool(red):
        red.append(f"exit status {run.returncode}")
    return red, skipped


def main():
    failed = 0
    cases = [("nothing", {})] + PLANTED
    for number, (name, files) in enumerate(cases, 1):
        red, skipped = red_rules(files)
        expected = [] if name == "nothing" else [name]
        skip = ""
        if name in skipped:
            skip, expected = f" # SKIP {name} cannot run here", []
        good = red == expected
        failed += not good
        if not good:
            print(f"# planted in {', '.join(files)}; red: {', '.join(red) or 'nothing'}")
        print(f"{'ok' if good else 'not ok'} {number} - test-tidy: {name} is caught{skip}")
    print(f"1..{len(cases)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
