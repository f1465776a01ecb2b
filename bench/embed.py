# SPDX-License-Identifier: MIT
"""Turns a text file into a C string constant: embed.py INPUT OUTPUT NAME."""

import sys

source, target, name = sys.argv[1:]
with open(source, encoding="ascii") as f:
    lines = f.read().split("\n")
with open(target, "w", encoding="ascii") as f:
    f.write(f"static const char {name}[] =\n")
    for line in lines:
        escaped = line.replace("\\", "\\\\").replace('"', '\\"')
        f.write(f'\t"{escaped}\\n"\n')
    f.write(";\n")
