# SPDX-License-Identifier: MIT
"""The operators of `gpuq-bench op` in PyTorch, in process, tensors that stay where they are: on the
CPU with one thread, and where the device is a GPU on it too, eagerly and as a CUDA graph, each
waited for. Prints one JSON object: {"torch": VERSION, WAY: {TITLE: [NANOSECONDS, ...]}, ...}, or
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
DEVICE = sys.argv[2]
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


def calls(device):
    """The operators, each writing into a tensor of its own."""
    torch.manual_seed(1)
    x, w32, w64 = (torch.rand(n, 64, device=device) for n in (32, 32, 64))
    prices, weights = torch.rand(32, 64, 32, device=device), torch.rand(32, device=device)
    y32, y64, z64, scores = (torch.empty(32, n, device=device) for n in (32, 64, 64, 64))
    w32t, w64t = w32.t(), w64.t()
    return {
        "gemv b32 i64 o32": lambda: torch.mm(x, w32t, out=y32),
        "gemv b32 i64 o64": lambda: torch.mm(x, w64t, out=y64),
        "softmax b32 d64": lambda: torch.softmax(x, -1, out=z64),
        "price b32 a64 f32": lambda: torch.matmul(prices, weights, out=scores),
    }


def waited(call):
    def run():
        call()
        torch.cuda.synchronize()
    return run


def graph_of(call):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


torch.set_num_threads(1)
result = {"torch": torch.__version__}
with torch.inference_mode():
    if not DEVICE.startswith("cuda"):
        result["ops"] = {title: sample(call) for title, call in calls("cpu").items()}
    elif torch.cuda.is_available():
        on_device = calls(DEVICE)
        result["cuda_eager"] = {t: sample(waited(c)) for t, c in on_device.items()}
        result["cuda_graph"] = {t: sample(waited(graph_of(c))) for t, c in on_device.items()}
    else:
        result = {"error": "its CUDA finds no device"}
print(json.dumps(result))
