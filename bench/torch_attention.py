# SPDX-License-Identifier: MIT
"""The shapes of `gpuq-bench attention` in PyTorch: one new token of each of 50 sequences over
contiguous keys and values. Prints one JSON object as torch_ops.py does."""

import json
import sys
import time

try:
    import torch
    from torch.nn.functional import scaled_dot_product_attention as attend
except Exception as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
    sys.exit(0)

SAMPLES, DEVICE, THREADS = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
SHAPES = {
    "f32, 32 heads of 64": (torch.float32, 32, 32, 64),
    "bf16, 32 heads of 64 over 8": (torch.bfloat16, 32, 8, 64),
}


def sample(dtype, heads, key_heads, columns):
    lengths = [1000 + i * 500 // 49 for i in range(50)]
    make = lambda *dims: torch.rand(*dims, dtype=dtype, device=DEVICE)
    sequences = [(make(1, key_heads, heads // key_heads, columns), make(1, key_heads, n, columns),
                  make(1, key_heads, n, columns)) for n in lengths]
    out = []
    for i in range(3 + SAMPLES):
        start = time.perf_counter_ns()
        for q, k, v in sequences:
            attend(q, k, v)
        if DEVICE.startswith("cuda"):
            torch.cuda.synchronize()
        if i >= 3:
            out.append(time.perf_counter_ns() - start)
    return out


torch.set_num_threads(THREADS)
way = "cuda_eager" if DEVICE.startswith("cuda") else "ops"
with torch.inference_mode():
    print(json.dumps({"torch": torch.__version__,
                      way: {title: sample(*shape) for title, shape in SHAPES.items()}}))
