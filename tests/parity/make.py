#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the models of tests/parity/data and asks Hugging Face transformers what they compute.

    python3 make.py [--out DIR] [NAME...]

Each model is small and has random weights. It is written, read back by transformers as anybody
would read it, and run; what comes out goes to NAME/expected/model.safetensors. README.md says what
is in there. Nothing here is needed to run the tests.
"""

import argparse
import json
import os
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file

LONG = 300  # crosses blocks of 16 tokens, chunks of 256 and every window
# Where the logits of the long text are kept: the ends of blocks, windows and chunks.
POSITIONS = [0, 1, 14, 15, 16, 17, 31, 32, 47, 48, 49, 63, 64, 100, 127, 128, 200, 254, 255, 256,
             257, 272, 298, 299]
GREEDY = 64
MARGIN = 0.02  # least distance of the two greatest logits while decoding, in their deviations
DISTINCT = 24  # tokens, at least, that a decoded text has

SMALL = dict(vocab_size=128, hidden_size=32, intermediate_size=80, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512,
             tie_word_embeddings=False, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "rope_theta": 20000.0, "factor": 4.0}


class Case:
    """A model: what of SMALL it has otherwise, and how its files are written."""

    def __init__(self, name, kind, dtype="float32", old=False, shards=1, values=False, **changes):
        self.name, self.kind, self.dtype = name, kind, getattr(torch, dtype)
        self.old, self.shards, self.values, self.changes = old, shards, values, changes

    def config(self):
        cls = {"llama": transformers.LlamaConfig, "mistral": transformers.MistralConfig,
               "qwen2": transformers.Qwen2Config, "qwen3": transformers.Qwen3Config}[self.kind]
        rope = dict(self.changes.get("rope_parameters", PLAIN))
        return cls(**{**SMALL, **self.changes, "rope_parameters": rope, "dtype": self.dtype})


CASES = [
    Case("llama-mha", "llama", shards=3),
    Case("llama-gqa-tied", "llama", old=True, num_key_value_heads=2, tie_word_embeddings=True,
         vocab_size=257, rope_parameters={"rope_type": "default", "rope_theta": 500000.0}),
    Case("llama-mqa-wide-heads", "llama", num_key_value_heads=1, head_dim=24,
         num_attention_heads=2),
    Case("llama-linear", "llama", old=True, num_key_value_heads=2, rope_parameters=LINEAR),
    Case("llama-llama3", "llama", values=True, num_key_value_heads=2, head_dim=16,
         attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3),
    Case("mistral-window", "mistral", num_key_value_heads=2, head_dim=16, num_hidden_layers=3,
         sliding_window=48),
    Case("qwen2", "qwen2", num_key_value_heads=2, tie_word_embeddings=True, vocab_size=211,
         rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
    Case("qwen2-windows", "qwen2", num_key_value_heads=1, num_hidden_layers=3,
         use_sliding_window=True, sliding_window=33, max_window_layers=1),
    Case("qwen3", "qwen3", values=True, num_key_value_heads=2, head_dim=32, hidden_size=48,
         vocab_size=173, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
    Case("llama-llama3-bf16", "llama", dtype="bfloat16", old=True, num_key_value_heads=2,
         head_dim=16, hidden_size=64, intermediate_size=160, tie_word_embeddings=True,
         rope_parameters=LLAMA3),
    Case("mistral-bf16", "mistral", dtype="bfloat16", old=True, num_key_value_heads=1,
         hidden_size=64, intermediate_size=144, sliding_window=None, vocab_size=129),
    Case("qwen2-bf16", "qwen2", dtype="bfloat16", num_key_value_heads=2, hidden_size=64,
         intermediate_size=160),
    Case("qwen3-bf16", "qwen3", dtype="bfloat16", shards=2, num_key_value_heads=4, head_dim=8,
         hidden_size=64, intermediate_size=160, tie_word_embeddings=True),
]


# --- Files ---------------------------------------------------------------------------------------

def randomise(model, seed, gain):
    """Weights that make of each layer more than a small change, and logits far apart."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        x = torch.randn(p.shape, generator=g)
        if name.endswith("norm.weight"):
            x = 1 + 0.25 * x
        elif name.endswith("bias"):
            x = 0.5 * x
        elif "lm_head" in name or (model.config.tie_word_embeddings and "embed" in name):
            x = x * 3 / p.shape[1] ** 0.5
        elif "embed" not in name:
            x = x * gain / p.shape[1] ** 0.5
        p.data.copy_(x)


def write_old_config(folder):
    """As transformers wrote it before version 5."""
    path = os.path.join(folder, "config.json")
    with open(path) as f:
        config = json.load(f)
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    if kind == "linear":  # the oldest key
        config["rope_scaling"] = {"type": kind, **rope}
    elif kind != "default":
        config["rope_scaling"] = {"rope_type": kind, **rope}
    else:
        config["rope_scaling"] = None
    config["torch_dtype"] = config.pop("dtype")
    with open(path, "w") as f:
        json.dump(config, f, indent=2, sort_keys=True)
        f.write("\n")


def write_model(case, seed, folder):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(case.config()).to(case.dtype)
    # Less for bfloat16: it is the rounding of transformers' own activations that layers amplify.
    randomise(model, seed, 1.6 if case.dtype == torch.float32 else 1.1)
    shutil.rmtree(folder, ignore_errors=True)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    model.save_pretrained(folder, max_shard_size=size // case.shards + 1)
    if case.old:
        write_old_config(folder)
    generation = os.path.join(folder, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)


def read_model(folder, dtype):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager")
    return model.eval()


# --- What transformers computes ------------------------------------------------------------------

def logits_of(model, text):
    return model(torch.tensor([text])).logits[0].float()


def greedy_of(model, text):
    """The tokens, and the least margin."""
    text, least = list(text), 1e9
    for _ in range(GREEDY):
        row = logits_of(model, text)[-1]
        top = row.topk(2)
        least = min(least, float((top.values[0] - top.values[1]) / row.std()))
        text.append(int(top.indices[0]))
    return text[-GREEDY:], least


def values_of(model, text):
    """What the layers pass on, by name: embedding, layer.N.NAME, and norm, which is the last."""
    found, hooks = {}, []
    module = sys.modules[type(model).__module__]
    kept = module.eager_attention_forward

    def keep(name, x):
        found[name] = x.detach().float().reshape(len(text), -1).clone()

    def attention(layer, q, k, v, *args, **kwargs):
        n = layer.layer_idx
        for name, x in (("q", q), ("k", k), ("v", v)):
            keep(f"layer.{n}.{name}", x.transpose(1, 2))
        out = kept(layer, q, k, v, *args, **kwargs)
        keep(f"layer.{n}.context", out[0])
        return out

    for n, layer in enumerate(model.model.layers):
        hooks += [
            layer.post_attention_layernorm.register_forward_pre_hook(
                lambda m, args, n=n: keep(f"layer.{n}.attended", args[0])),
            layer.mlp.down_proj.register_forward_pre_hook(
                lambda m, args, n=n: keep(f"layer.{n}.mlp", args[0])),
            layer.register_forward_hook(
                lambda m, args, out, n=n: keep(
                    f"layer.{n}.out", out[0] if isinstance(out, tuple) else out))]
    for name, part in (("embedding", model.model.embed_tokens), ("norm", model.model.norm)):
        hooks.append(part.register_forward_hook(
            lambda m, args, out, name=name: keep(name, out)))
    module.eager_attention_forward = attention
    logits_of(model, text)
    module.eager_attention_forward = kept
    for hook in hooks:
        hook.remove()
    return found


def expect(case, folder):
    """Everything for expected/, and how clear the decoding was; None when not clear enough."""
    model = read_model(folder, case.dtype)
    g = torch.Generator().manual_seed(1)
    vocab = model.config.vocab_size
    texts = [torch.randint(3, vocab, (n,), generator=g).tolist() for n in (1, 8, LONG)]
    out = {"positions": torch.tensor(POSITIONS, dtype=torch.int32)}
    models = {"logits": model}
    if case.dtype == torch.float32:
        greedy, margin = greedy_of(model, texts[1])
        if margin < MARGIN or len(set(greedy)) < DISTINCT:
            return None
        out["greedy"] = torch.tensor(greedy, dtype=torch.int32)
        told = f"margin {margin:.3f}, {len(set(greedy))} tokens, "
    else:
        models["exact"] = read_model(folder, torch.float32)
        told = ""
    for text in texts:
        n = len(text)
        out[f"text.{n}"] = torch.tensor(text, dtype=torch.int32)
        for name, m in models.items():
            rows = logits_of(m, text)
            out[f"{name}.{n}"] = (rows[POSITIONS] if n == LONG else rows).contiguous()
    if case.values:
        out.update(values_of(model, texts[1]))
    double = logits_of(model.double(), texts[2])[POSITIONS]
    off = (out[f"logits.{LONG}"] - double).norm() / double.norm()
    return out, told + f"{off:.1e} from the same in double, logits' deviation {double.std():.2f}"


def make(case, out):
    folder = os.path.join(out, case.name)
    for seed in range(1, 200):
        write_model(case, seed, folder)
        found = expect(case, folder)
        if found is not None:
            break
    expected, told = found
    os.mkdir(os.path.join(folder, "expected"))
    save_file(expected, os.path.join(folder, "expected", "model.safetensors"))
    print(f"{case.name}: seed {seed}, {told}", flush=True)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description="Makes the models of tests/parity/data.")
    parser.add_argument("--out", default=os.path.join(here, "data"))
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    with torch.no_grad():
        for case in CASES:
            if not args.names or case.name in args.names:
                make(case, args.out)


if __name__ == "__main__":
    main()
