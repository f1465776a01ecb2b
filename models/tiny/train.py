#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Trains the model on stories and writes a folder in the format of Hugging Face.

    train.py [--out DIR] [--seed N] [--steps N] [--shards N] [--tokens FILE]

Runs on a CUDA device if there is one. Takes the tokenizer.json that is in DIR, or trains one.
--tokens keeps the ids of the training text, which score.py needs.
"""

import argparse
import math
import os
import time

import numpy as np
import torch

import corpus
import net as network

WARMUP = 200


def rate(step, steps, top):
    if step < WARMUP:
        return top * (step + 1) / WARMUP
    part = (step - WARMUP) / max(1, steps - WARMUP)
    return top * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))


def optimizer_for(net, top):
    matrices = [p for p in net.parameters() if p.dim() == 2]
    others = [p for p in net.parameters() if p.dim() < 2]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1},
                              {"params": others, "weight_decay": 0.0}],
                             lr=top, betas=(0.9, 0.98), fused=torch.cuda.is_available())


def train(net, ids, args, device):
    """Windows begin where a story does; what is in args.out after each report is the model of
    that moment."""
    step_loss = torch.compile(network.loss) if device == "cuda" else network.loss
    optimizer = optimizer_for(net, args.rate)
    picker = torch.Generator(device).manual_seed(args.seed)
    offsets = torch.arange(args.length + 1, device=device)
    stories = (ids[:-args.length] == 0).nonzero()
    start = time.time()
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, args.steps, args.rate)
        at = stories[torch.randint(len(stories), (args.batch,), generator=picker, device=device)]
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = step_loss(net, ids[at + offsets].long())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % max(1, args.steps // 20) == 0 or step == args.steps - 1:
            print(f"step {step} loss {loss.item():.4f} {time.time() - start:.0f} s", flush=True)
            network.save(net, args.out)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", default=here)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=14000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--shards", type=int, default=480, help="of 1,000 stories")
    parser.add_argument("--tokens", help="where to keep the ids of the text, or where they are")
    args = parser.parse_args()

    os.makedirs(args.out, exist_ok=True)
    tokenizer = os.path.join(args.out, "tokenizer.json")
    if args.tokens and os.path.exists(args.tokens):
        text = np.load(args.tokens)
    else:
        if not os.path.exists(tokenizer):
            corpus.train_tokenizer(args.seed, tokenizer)
        text = corpus.tokens(args.seed, "train", args.shards, tokenizer)
        if args.tokens:
            np.save(args.tokens, text)
    print(f"{len(text)} tokens to train on", flush=True)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    net = network.Llama(network.CONFIG).to(device)
    print(f"{sum(p.numel() for p in net.parameters())} parameters", flush=True)
    train(net, torch.from_numpy(text.astype(np.int16)).to(device), args, device)


if __name__ == "__main__":
    main()
