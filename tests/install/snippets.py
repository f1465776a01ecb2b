#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes C files of what the README and the public headers show, so that it can be compiled.

    snippets.py SOURCE FOLDER LIBRARY

Each piece of code becomes a function of its own; one that is a function stands before the next.
What pieces take for granted, such as a connection, is declared here. Writes the files of one
library (gpuq-client or gpuq-text) to the folder and prints their names.
"""

import os
import re
import sys

COMMON = """
static struct gpuq *g;
static struct gpuq_channel *ch;
static struct gpuq_pipeline *pipeline;
static struct gpuq_buf *buf;
static struct gpuq_call *call, *step;
static struct gpuq_session *session;
static struct gpuq_tensor in[2], out;
static struct gpuq_row row;
static float weights[10 * 64];
static int32_t prompt[16], next, end = 2;
static uint32_t n_prompt = 16;
int32_t choose(const struct gpuq_row *r);
"""
# What the pieces of one file take for granted beside that.
CONTEXTS = {
    "README.md": "static struct gpuq_completion c;\n",
    "client/gpuq.h": "",
    "client/text/gpuq-text.h": """
static struct gpuq_sampler *s;
static struct gpuq_sampler_want want;
static struct gpuq_writer *w;
static struct gpuq_writer_options options, writer_options;
static struct gpuq_chat *c;
static struct gpuq_chat_options chat_options;
static struct gpuq_written written;
static struct gpuq_channel *channel;
static int n_tokens = 3;
""",
    "README.md with texts": """
static struct gpuq_completion c;
static struct gpuq_tokenizer *tokenizer;
static struct gpuq_writer *writer;
static struct gpuq_written written;
static uint32_t allowed[1], n_allowed = 1;
""",
}
HEADERS = {"gpuq-client": "gpuq.h", "gpuq-text": "gpuq-text.h"}
FILES = {
    "gpuq-client": ["README.md", "client/gpuq.h"],
    "gpuq-text": ["README.md", "client/text/gpuq-text.h"],
}
OF_TEXT = re.compile(r"gpuq_(writer|sampler|chat|tokenizer|encode)")


def pieces(path, text):
    if path.endswith(".md"):
        return re.findall(r"^```c\n(.*?)^```", text, re.M | re.S)
    found = re.findall(r"(?:^ \*\t.*\n)+", text, re.M)
    found = [re.sub(r"^ \*\t", "", piece, flags=re.M) for piece in found]
    return [piece for piece in found if re.search(r"\bgpuq_\w+\(.*;", piece)]


def joined(found):
    """With functions in front of what follows them."""
    functions = ""
    for piece in found:
        if re.match(r"static \w+ \w+\(", piece):
            functions += piece
        else:
            yield functions + "void piece(void);\nvoid piece(void)\n{\n%s}\n" % piece
            functions = ""


def program(library, context, piece):
    # Sentences between the code: "... fill x ..." and "(the same step with the full row)".
    piece = re.sub(r"^\.\.\. .* \.\.\.$", "", piece, flags=re.M)
    piece = re.sub(r"^(\t*)\((?:a|the) [^()]*\)", r"\1", piece, flags=re.M)
    return "#include <%s>\n#include <stdio.h>\n%s%s%s" % (
        HEADERS[library], COMMON, CONTEXTS[context], piece)


def main():
    source, folder, library = sys.argv[1:]
    for path in FILES[library]:
        with open(os.path.join(source, path), encoding="utf-8") as file:
            found = pieces(path, file.read())
        if path == "README.md":
            found = [p for p in found if bool(OF_TEXT.search(p)) == (library == "gpuq-text")]
        context = path
        if path == "README.md" and library == "gpuq-text":
            context = "README.md with texts"
        if not found:
            sys.exit("%s shows nothing" % path)
        for i, piece in enumerate(joined(found)):
            name = os.path.join(folder, "%s-%s-%d.c" % (library, os.path.basename(path), i + 1))
            with open(name, "w", encoding="utf-8") as file:
                file.write(program(library, context, piece))
            print(name)


main()
