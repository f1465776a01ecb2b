#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the manual pages of the libraries from their public headers, where everything that they
say is written once.

    api.py --list HEADER...              the names of all files that it makes
    api.py --make SCDOC FOLDER HEADER... makes them

A page is a section of a header, "/* --- Channels --- */", with its types, its functions and what
the comments say, and is named after its first function; each further function has a page that
points there. The opening comment of a header is a page named after the library.
"""

import os
import re
import subprocess
import sys
import textwrap

LIBRARIES = {
    "gpuq.h": ("gpuq-client", "client library of gpuq"),
    "gpuq-text.h": ("gpuq-text", "text for language models"),
    "gpuq-cuda.h": ("gpuq-cuda", "device buffers as CUDA device pointers"),
}
SECTION = re.compile(r"/\* --- (.+?) -+ \*/$")
FUNCTION = re.compile(r"^GPUQ_EXPORT\b[^;]*?\b(gpuq_\w+)\(")
ERRORS = re.compile(r"(?<=[.;:)] )Errors(?: in completions)?:? |^Errors(?: in completions)?:? ")


class Block:
    """A comment and the declarations that stand right behind it."""

    def __init__(self, comment, code):
        self.comment = comment
        self.code = code
        self.functions = [m.group(1) for m in map(FUNCTION.match, statements(code)) if m]


class Page:
    def __init__(self, header, title, blocks):
        self.header = header
        self.library = LIBRARIES[header][0]
        self.title = title
        self.blocks = blocks
        self.functions = [f for b in blocks for f in b.functions]


def statements(code):
    """Declarations that begin with GPUQ_EXPORT, each in one line."""
    return [" ".join(s.split()) + ";" for s in re.findall(r"^GPUQ_EXPORT\b[^;]*", code, re.M)]


def strip_comment(lines):
    text = [re.sub(r"^ ?\*( |$)|^ \*(?=\t)", "", line) for line in lines]
    text[0] = text[0].removeprefix("/*").removeprefix(" ")
    text[-1] = re.sub(r"\s*\*/$", "", text[-1])
    return "\n".join(text).strip("\n")


def take_comment(lines, at):
    end = at
    while not lines[end].rstrip().endswith("*/"):
        end += 1
    return strip_comment(lines[at:end + 1]), end + 1


def take_code(lines, at):
    """Up to the next empty line outside of braces."""
    depth, end = 0, at
    while end < len(lines) and (lines[end].strip() or depth > 0):
        depth += lines[end].count("{") - lines[end].count("}")
        end += 1
    return "\n".join(lines[at:end]), end


def read_blocks(lines):
    blocks, at = [], 0
    while at < len(lines):
        if not lines[at].strip() or lines[at].startswith(("#", "extern \"C\"", "}")):
            at += 1
            continue
        comment = ""
        if lines[at].startswith("/*"):
            comment, at = take_comment(lines, at)
        code = ""
        if at < len(lines) and lines[at].strip() and not lines[at].startswith("/*"):
            code, at = take_code(lines, at)
        blocks.append(Block(comment, code))
    return blocks


def read_header(path):
    """The opening comment, and a page for each section."""
    name = os.path.basename(path)
    with open(path, encoding="utf-8") as f:
        lines = f.read().split("\n")
    opening, at = take_comment(lines, 1)
    starts = [i for i in range(at, len(lines)) if SECTION.match(lines[i])]
    if not starts:
        body = [b for b in read_blocks(lines[at:]) if b.functions or b.comment]
        return opening, [Page(name, LIBRARIES[name][1], body)]
    pages = []
    for start, end in zip(starts, starts[1:] + [len(lines)]):
        title = SECTION.match(lines[start]).group(1)
        pages.append(Page(name, title, read_blocks(lines[start + 1:end])))
    return opening, pages


def escape(text):
    text = re.sub(r"([\\*_+])", r"\\\1", " ".join(text.split()))
    return "\\" + text if text[:1] in "-#[|].1234567890" and text[:1] else text


def is_literal(line):
    return line.startswith(("\t", "  "))


def paragraphs(comment):
    """Pairs: whether it is literal, and its lines."""
    found = []
    for line in comment.split("\n"):
        if not line.strip():
            found.append((None, []))
            continue
        literal = is_literal(line)
        if not found or found[-1][0] is not literal:
            found.append((literal, []))
        found[-1][1].append(line)
    return [(literal, lines) for literal, lines in found if lines]


def write_literal(lines):
    text = textwrap.dedent("\n".join(lines).expandtabs(8)).replace("\\", "\\\\")
    return "```\n" + text.rstrip() + "\n```\n\n"


def write_comment(comment, heading=""):
    """The text without its errors, and the errors: both as scdoc."""
    text, errors = "", ""
    for literal, lines in paragraphs(comment):
        if literal:
            text += write_literal(lines)
            continue
        parts = ERRORS.split(" ".join(" ".join(lines).split()), maxsplit=1)
        if parts[0].strip():
            text += escape(parts[0]) + "\n\n"
        if len(parts) > 1:
            errors += heading + escape(parts[1]) + "\n\n"
    return text, errors


def write_synopsis(page):
    text = ""
    for b in page.blocks:
        # Functions stand close together, types apart.
        types = b.code and not b.functions
        text += ("\n" if types and text else "") + b.code + ("\n" if b.code else "")
        text += "\n" if types else ""
    text = text.replace("GPUQ_EXPORT ", "").replace("\n\n\n", "\n\n").strip("\n").expandtabs(8)
    return f"```\n#include <{page.header}>\n\n{text}\n```\n\n"


def examples(comment):
    """Literal paragraphs of a comment that are code."""
    found = [lines for literal, lines in paragraphs(comment) if literal]
    return [lines for lines in found if any(line.rstrip().endswith(";") for line in lines)]


def write_page(page, opening, others):
    description, errors, shown = "", "", []
    for b in page.blocks:
        if not b.comment:
            continue
        names = ", ".join(f"*{f}*()" for f in b.functions)
        text, its_errors = write_comment(b.comment, names + ": " if names else "")
        description += (f"## {', '.join(f + '()' for f in b.functions)}\n\n" if names else "")
        description += text
        errors += its_errors
        shown += examples(b.comment)
    example = "".join(write_literal(e) for e in (shown or examples(opening))[:1])
    also = "".join(f", *{o.functions[0]}*(3)" for o in others if o is not page)
    return (f"{page.functions[0]}(3)\n\n# NAME\n\n{', '.join(page.functions)} - "
            f"{page.title[0].lower() + page.title[1:]}\n\n# SYNOPSIS\n\n{write_synopsis(page)}"
            f"Link with *-l{page.library}*, or what *pkg-config --libs {page.library}* says.\n\n"
            f"# DESCRIPTION\n\n{description}"
            f"# ERRORS\n\n{errors}Failures are the negative of an errno value or of an *enum "
            "gpuq_error*; *gpuq_error_detail*(3) has the sentence.\n\n"
            f"# EXAMPLE\n\n{example}# SEE ALSO\n\n*lib{page.library}*(3){also}\n")


def write_library(header, opening, pages):
    name, what = LIBRARIES[header]
    text, errors = write_comment(opening)
    rows = "".join(f"*{p.functions[0]}*(3)\n\t{escape(p.title)}\n\n" for p in pages)
    return (f"lib{name}(3)\n\n# NAME\n\nlib{name} - {what}\n\n# SYNOPSIS\n\n"
            f"*#include <{header}>*\n\n# DESCRIPTION\n\n{text}{errors}# PAGES\n\n{rows}"
            "# SEE ALSO\n\n*gpuq*(1), *gpuqd*(8)\n")


def read_all(paths):
    """What each library's page and its other pages are made from."""
    return [(os.path.basename(p), *read_header(p)) for p in paths]


def file_names(libraries):
    names = [f"lib{LIBRARIES[header][0]}.3" for header, _, _ in libraries]
    return names + [f + ".3" for _, _, pages in libraries for p in pages for f in p.functions]


def make(scdoc, folder, libraries):
    def write(name, scd):
        man = subprocess.run([scdoc], input=scd.encode(), stdout=subprocess.PIPE, check=False)
        if man.returncode != 0:
            sys.exit(f"api.py: scdoc refuses {name}:\n{scd}")
        put(name, man.stdout)

    def put(name, data):
        with open(os.path.join(folder, name + ".3"), "wb") as f:
            f.write(data)

    for header, opening, pages in libraries:
        write("lib" + LIBRARIES[header][0], write_library(header, opening, pages))
        for page in pages:
            write(page.functions[0], write_page(page, opening, pages))
            for function in page.functions[1:]:
                put(function, f".so man3/{page.functions[0]}.3\n".encode())


def main():
    if len(sys.argv) > 2 and sys.argv[1] == "--list":
        print("\n".join(file_names(read_all(sys.argv[2:]))))
    elif len(sys.argv) > 4 and sys.argv[1] == "--make":
        make(sys.argv[2], sys.argv[3], read_all(sys.argv[4:]))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
