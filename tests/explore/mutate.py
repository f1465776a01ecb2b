#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes a mutated copy of one file: mutate.py TABLE FILE NAME OUTPUT (see mutations.txt, and
plants.txt in tests/hostile)."""

import re
import sys


def find(table, name):
    """The function of one mutation, the text taken out of it and the text put there."""
    for block in table.split("\n\n"):
        head, *lines = block.split("\n")
        if head.startswith(name + " "):
            removed, added = ("\n".join(line[1:] for line in lines[1:] if line.startswith(sign))
                              for sign in "-+")
            return head.split()[2], removed, added
    sys.exit(f"no mutation {name}")


def mutate(text, function, removed, added):
    """The text with that place of that function changed."""
    pattern = rf"^\w[^;{{}}#]*\b{function}\([^;]*?\)\n{{.*?^}}$"
    bodies = list(re.finditer(pattern, text, re.M | re.S))
    if len(bodies) != 1:
        sys.exit(f"the table is out of date: {function} is defined {len(bodies)} times")
    start, end = bodies[0].span()
    body = text[start:end]
    if body.count(removed) != 1:
        sys.exit(f"the table is out of date: {function} has {body.count(removed)} times "
                 f"{removed!r}")
    return text[:start] + body.replace(removed, added) + text[end:]


def main():
    table, source, name, output = sys.argv[1:]
    with open(table, encoding="utf-8") as file:
        function, removed, added = find(file.read(), name)
    with open(source, encoding="utf-8") as file:
        text = mutate(file.read(), function, removed, added)
    with open(output, "w", encoding="utf-8") as file:
        file.write(text)


main()
