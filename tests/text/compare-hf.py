#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares libgpuq-text with the Hugging Face `tokenizers` library: the same ids, the same text
back, on random and on adversarial strings.

    compare-hf.py [-n COUNT] [--seed S] [--speed MIB] LIBRARY TOKENIZER.json...

LIBRARY is build/client/text/libgpuq-text.so. Strings hold no code points that are newer than the
Unicode of PCRE2, or than the tables that `tokenizers` has for what the file asks for, which are
older; `strings.py VERSION` lists those left out.
--speed also encodes a text of that size with both, A B A B on one thread, and prints the ratio.
Exit status 1 when anything differs.
"""

import argparse
import ctypes
import json
import os
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

from tokenizers import Tokenizer  # noqa: E402

from strings import UNICODE, Strings  # noqa: E402

SPECIAL, SKIP_SPECIAL = 1, 1


class Gpuq:
    def __init__(self, library, path):
        self.lib = ctypes.CDLL(library)
        for name in ["gpuq_encode", "gpuq_decode", "gpuq_decoder_push", "gpuq_decoder_finish"]:
            getattr(self.lib, name).restype = ctypes.c_int64
        self.lib.gpuq_error_detail.restype = ctypes.c_char_p
        self.tokenizer = self.make("gpuq_tokenizer_load", path.encode())
        self.encoder = self.make("gpuq_encoder_create", self.tokenizer)
        self.decoders = [self.make("gpuq_decoder_create", self.tokenizer, ctypes.c_uint32(flags))
                         for flags in (0, SKIP_SPECIAL)]

    def make(self, function, *arguments):
        made = ctypes.c_void_p()
        self.check(getattr(self.lib, function)(*arguments, ctypes.byref(made)))
        return made

    def check(self, result):
        if result < 0:
            raise RuntimeError(self.lib.gpuq_error_detail().decode())
        return result

    def encode(self, text, special):
        ids = ctypes.POINTER(ctypes.c_uint32)()
        n = self.check(self.lib.gpuq_encode(self.encoder, text, ctypes.c_size_t(len(text)),
                                            SPECIAL if special else 0, ctypes.byref(ids)))
        return ids[:n]

    def count(self, text):
        ids = ctypes.POINTER(ctypes.c_uint32)()
        return self.check(self.lib.gpuq_encode(self.encoder, text, ctypes.c_size_t(len(text)), 0,
                                               ctypes.byref(ids)))

    def decode(self, ids, skip):
        text = ctypes.c_char_p()
        array = (ctypes.c_uint32 * len(ids))(*ids)
        n = self.check(self.lib.gpuq_decode(self.decoders[skip], array, ctypes.c_size_t(len(ids)),
                                            ctypes.byref(text)))
        return ctypes.string_at(text, n).decode()

    def stream(self, ids):
        """Every piece has to be whole characters: decode() refuses others."""
        text = ctypes.c_char_p()
        parts = []
        for i in ids:
            n = self.check(self.lib.gpuq_decoder_push(self.decoders[0], i, ctypes.byref(text)))
            parts.append(ctypes.string_at(text, n).decode())
        n = self.check(self.lib.gpuq_decoder_finish(self.decoders[0], ctypes.byref(text)))
        return "".join(parts) + ctypes.string_at(text, n).decode()


def newest_unicode(text):
    """Of what `tokenizers` 0.23 knows about characters: it depends on who is asked."""
    if '"Punctuation"' in text:
        return "8.0"
    if any(f'"{form}"' in text for form in ["NFC", "NFD", "NFKC", "NFKD"]):
        return "9.0"
    return UNICODE


def differences(gpuq, hf, text, special):
    """Yields (what, expected, found)."""
    expected = hf.encode(text, add_special_tokens=special).ids
    ids = gpuq.encode(text.encode(), special)
    if ids != expected:
        yield "ids", expected, ids
        return
    for skip in (False, True):
        expected = hf.decode(ids, skip_special_tokens=skip)
        found = gpuq.decode(ids, skip)
        if found != expected:
            yield f"text, skip={skip}", expected, found
    whole = gpuq.decode(ids, False)
    # A run of byte tokens that is no text is replaced as a whole only when all of it is there.
    if "\ufffd" not in whole and gpuq.stream(ids) != whole:
        yield "stream", whole, gpuq.stream(ids)


def compare(gpuq, hf, strings, count):
    """All known characters one by one, then `count` texts. Returns how many differ."""
    texts = (["a%sb" % chr(c) for c in strings.known if c < 0x20000 or c % 16 == 0] +
             [strings.text() for _ in range(count)])
    bad = 0
    for i, text in enumerate(texts):
        for what, expected, found in differences(gpuq, hf, text, i % 2 == 0):
            bad += 1
            if bad <= 10:
                print(f"  {what} of {text!a}\n    expected {expected!a}\n    found    {found!a}")
    print(f"  {len(texts)} texts ({count} random and adversarial), {bad} differ")
    return bad


def random_ids(gpuq, hf, count, seed):
    """Ids in no sensible order: pieces of characters, special tokens anywhere."""
    r = Strings(seed).r
    size = hf.get_vocab_size()
    bad = 0
    for _ in range(count):
        ids = [r.randrange(size) for _ in range(r.randint(1, 12))]
        expected = hf.decode(ids, skip_special_tokens=False)
        found = gpuq.decode(ids, False)
        if expected != found:
            bad += 1
            if bad <= 5:
                print(f"  text of {ids}\n    expected {expected!a}\n    found    {found!a}")
    print(f"  {count} random lists of ids decoded, {bad} differ")
    return bad


def speed(gpuq, hf, mib):
    """Everyday text in documents of about 10 kB, as they would come."""
    strings = Strings(1)
    documents = [strings.document(10000) for _ in range(int(mib * 1048576 / 10000))]
    encoded = [d.encode() for d in documents]
    total = sum(len(e) for e in encoded)
    ours, theirs = [], []
    for _ in range(2):
        start = time.perf_counter()
        n = sum(gpuq.count(e) for e in encoded)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        m = sum(len(hf.encode(d, add_special_tokens=False)) for d in documents)
        theirs.append(time.perf_counter() - start)
    if n != m:
        print(f"  {n} tokens, expected {m}")
    print("  %.1f MB, %d tokens: gpuq %s MB/s, tokenizers %s MB/s, ratio %.1f" % (
        total / 1e6, n, " ".join("%.1f" % (total / 1e6 / t) for t in ours),
        " ".join("%.1f" % (total / 1e6 / t) for t in theirs), min(theirs) / min(ours)))
    return n != m


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", type=float, default=0)
    parser.add_argument("library")
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()
    bad = 0
    for path in arguments.files:
        with open(path, encoding="utf-8") as f:
            text = f.read()
        special = [t["content"] for t in json.loads(text)["added_tokens"]]
        strings = Strings(arguments.seed, special, newest_unicode(text))
        print(f"{path}: characters of Unicode {newest_unicode(text)}", flush=True)
        gpuq, hf = Gpuq(arguments.library, path), Tokenizer.from_file(path)
        bad += compare(gpuq, hf, strings, arguments.n)
        bad += random_ids(gpuq, hf, arguments.n // 10, arguments.seed)
        if arguments.speed > 0:
            bad += speed(gpuq, hf, arguments.speed)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
