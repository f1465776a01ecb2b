# SPDX-License-Identifier: MIT
"""The shape of `gpuq-bench decode` and `prefill` in llama.cpp (its Python package and gguf), in
process, on as many threads: random weights are written as GGUF and timed. Prints one JSON object,
{"llama": VERSION, "decode": [SECONDS, ...] of single steps, "prefill": [SECONDS, ...] of whole
prompts}, or {"error": REASON}."""

import json
import os
import sys
import tempfile
import time

try:
    import gguf
    import llama_cpp
    import numpy as np
except Exception as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
    sys.exit(0)

SHAPE, TYPE = json.loads(sys.argv[1]), sys.argv[2]
THREADS, CONTEXT, STEPS, PROMPT, PROMPTS = (int(a) for a in sys.argv[3:8])
TYPES = {"bf16": gguf.GGMLQuantizationType.BF16, "int8": gguf.GGMLQuantizationType.Q8_0}


def tensors():
    """Names, rows and columns (0: a vector)."""
    s = SHAPE
    q, kv = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
    yield "token_embd.weight", s["vocab"], s["hidden"]
    for i in range(s["layers"]):
        for name, rows, columns in (
                ("attn_norm", s["hidden"], 0), ("attn_q", q, s["hidden"]),
                ("attn_k", kv, s["hidden"]), ("attn_v", kv, s["hidden"]),
                ("attn_output", s["hidden"], q), ("ffn_norm", s["hidden"], 0),
                ("ffn_gate", s["intermediate"], s["hidden"]),
                ("ffn_up", s["intermediate"], s["hidden"]),
                ("ffn_down", s["hidden"], s["intermediate"])):
            yield f"blk.{i}.{name}.weight", rows, columns
    yield "output_norm.weight", s["hidden"], 0


def data_of(rows, columns, random):
    if columns == 0:
        return np.ones(rows, np.float32), None
    block = (random.random((min(rows, 1024), columns), np.float32) - 0.5) / 16
    quantised = gguf.quants.quantize(block, TYPES[TYPE])
    return np.tile(quantised, (-(-rows // len(block)), 1))[:rows], TYPES[TYPE]


def write(path):
    s, random = SHAPE, np.random.default_rng(1)
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(s["positions"])
    w.add_embedding_length(s["hidden"])
    w.add_block_count(s["layers"])
    w.add_feed_forward_length(s["intermediate"])
    w.add_head_count(s["heads"])
    w.add_head_count_kv(s["kv_heads"])
    w.add_key_length(s["head_dim"])
    w.add_value_length(s["head_dim"])
    w.add_rope_dimension_count(s["head_dim"])
    w.add_rope_freq_base(500000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(s["vocab"])
    w.add_tokenizer_model("llama")
    w.add_token_list([f"t{i}" for i in range(s["vocab"])])
    w.add_token_scores([0.0] * s["vocab"])
    w.add_token_types([gguf.TokenType.NORMAL] * s["vocab"])
    for name, rows, columns in tensors():
        data, kind = data_of(rows, columns, random)
        w.add_tensor(name, data, raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def timed(model, tokens):
    start = time.perf_counter()
    model.eval(tokens)
    return time.perf_counter() - start


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.gguf")
        write(path)
        model = llama_cpp.Llama(path, n_ctx=max(CONTEXT + STEPS, PROMPT) + 8, n_threads=THREADS,
                                n_threads_batch=THREADS, n_batch=512, verbose=False)
        out = {"llama": llama_cpp.__version__, "decode": [], "prefill": []}
        prompt = [(7 * i + 3) % SHAPE["vocab"] for i in range(max(CONTEXT, PROMPT, 1))]
        for i in range(PROMPTS + 1 if PROMPTS > 0 else 0):
            model.reset()
            seconds = timed(model, prompt[:PROMPT])
            if i > 0:
                out["prefill"].append(seconds)
        if STEPS > 0:
            model.reset()
            model.eval(prompt[:CONTEXT])
            for i in range(STEPS):
                out["decode"].append(timed(model, [(5 * i + 1) % SHAPE["vocab"]]))
        print(json.dumps(out))


main()
