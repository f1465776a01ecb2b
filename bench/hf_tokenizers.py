# SPDX-License-Identifier: MIT
"""Times Hugging Face's `tokenizers` on one thread: TOKENIZER TEXT BYTES PASSES. The text is cut
into documents of so many bytes. Prints one JSON object, {"tokenizers": VERSION, "seconds": of the
fastest pass, "tokens": N}, or {"error": REASON}."""

import json
import os
import sys
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
try:
    import tokenizers
except Exception as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
    sys.exit(0)

t = tokenizers.Tokenizer.from_file(sys.argv[1])
with open(sys.argv[2], encoding="utf-8", newline="") as f:
    text = f.read()
size = int(sys.argv[3])
documents = [text[i:i + size] for i in range(0, len(text), size)]
best, n = None, 0
for _ in range(int(sys.argv[4])):
    start = time.perf_counter()
    n = sum(len(t.encode(d, add_special_tokens=False)) for d in documents)
    seconds = time.perf_counter() - start
    best = seconds if best is None else min(best, seconds)
print(json.dumps({"tokenizers": tokenizers.__version__, "seconds": best, "tokens": n}))
