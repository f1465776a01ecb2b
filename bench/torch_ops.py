# SPDX-License-Identifier: MIT
"""The operators of `gpuq-bench op` in PyTorch: one thread, in process, tensors that stay where
they are. Prints one JSON object: {"torch": VERSION, "ops": {TITLE: [NANOSECONDS, ...]}}, or
{"error": REASON}. The samples are whole calls, as Python sees them."""

import json
import sys
import time

try:
    import torch
except Exception as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
    sys.exit(0)

SAMPLES = int(sys.argv[1])
WARM = SAMPLES // 10 + 1


def sample(call):
    out = []
    clock = time.perf_counter_ns
    for i in range(WARM + SAMPLES):
        start = clock()
        call()
        end = clock()
        if i >= WARM:
            out.append(end - start)
    return out


torch.set_num_threads(1)
torch.manual_seed(1)
x = torch.rand(32, 64)
w32, w64 = torch.rand(32, 64), torch.rand(64, 64)
prices, weights = torch.rand(32, 64, 32), torch.rand(32)
y32, y64, scores = torch.empty(32, 32), torch.empty(32, 64), torch.empty(32, 64)
w32t, w64t = w32.t(), w64.t()

with torch.inference_mode():
    ops = {
        "gemv b32 i64 o32": sample(lambda: torch.mm(x, w32t, out=y32)),
        "gemv b32 i64 o64": sample(lambda: torch.mm(x, w64t, out=y64)),
        "softmax b32 d64": sample(lambda: torch.softmax(x, -1, out=y64)),
        "price b32 a64 f32": sample(lambda: torch.matmul(prices, weights, out=scores)),
    }
print(json.dumps({"torch": torch.__version__, "ops": ops}))
