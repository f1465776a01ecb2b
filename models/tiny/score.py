#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Samples from the model and scores what it writes.

    score.py [--model DIR] [--seed N] [--text-seed N] [--tokens FILE] [--show N]

Says what the loss on held-out stories is, how many sentences the reader of stories.py accepts, in
how many samples nobody gives away, uses or loses what somebody else has, in how many nothing at
all is wrong, and how many runs of 20 tokens stand in the training text (FILE, from train.py
--tokens).
"""

import argparse
import collections
import os
import textwrap

import numpy as np
import torch
from tokenizers import Tokenizer

import corpus
import net as network
from stories import Reader, split

RUN = 20
PART = 1 << 22


@torch.no_grad()
def held_out_loss(net, ids):
    """Over windows that begin where a story does and do not overlap."""
    length = net.config["max_position_embeddings"]
    starts = []
    for start in np.flatnonzero(ids == 0):
        if start + length < len(ids) and (not starts or start >= starts[-1] + length):
            starts.append(start)
    rows = np.stack([ids[start:start + length + 1] for start in starts]).astype(np.int64)
    losses = [network.loss(net, row) for row in torch.from_numpy(rows).to(net.cos.device).split(8)]
    print(f"held-out loss: {torch.stack(losses).mean().item():.4f} nats a token over "
          f"{len(rows) * length} tokens")


@torch.no_grad()
def sample(net, count, length, temperature, seed):
    """`count` rows of `length` ids, from the end of a story on."""
    device = net.cos.device
    draw = torch.Generator(device).manual_seed(seed)
    ids = torch.zeros(count, 1, dtype=torch.long, device=device)
    for _ in range(length):
        odds = torch.softmax(net(ids)[:, -1].float() / temperature, dim=-1)
        ids = torch.cat((ids, torch.multinomial(odds, 1, generator=draw)), dim=1)
    return ids[:, 1:].cpu().numpy()


def pieces(row):
    """The stories, or parts of stories, in a row of ids."""
    ends = np.flatnonzero(row == 0)
    return [piece[piece != 0].tolist() for piece in np.split(row, ends)]


def read_sample(row, tokenizer):
    """([(sentence, event or None, complaints)], ...) of one sample."""
    read = []
    for piece in pieces(row):
        reader = Reader()
        for sentence in split(tokenizer.decode(piece))[0]:
            read.append((sentence, *reader.read(sentence)))
    return read


def run_hashes(ids):
    """One number for each run of RUN ids."""
    odd = np.random.default_rng(0).integers(1 << 62, size=RUN, dtype=np.uint64) * 2 + 1
    count = len(ids) - RUN + 1
    total = np.zeros(max(0, count), dtype=np.uint64)
    for k in range(RUN if count > 0 else 0):
        total += ids[k:k + count].astype(np.uint64) * odd[k]
    return total


def runs_in(rows, text):
    """How many runs of the rows stand in the text, and of how many."""
    hashes = np.concatenate([run_hashes(row) for row in rows])
    wanted = np.unique(hashes)
    seen = np.zeros(len(wanted), dtype=bool)
    # The text is long: looked at in parts, each of which is looked up among the few of the rows.
    for start in range(0, len(text) - RUN + 1, PART):
        part = run_hashes(text[start:start + PART + RUN - 1])
        at = np.minimum(np.searchsorted(wanted, part), len(wanted) - 1)
        seen[at[wanted[at] == part]] = True
    return int(seen[np.searchsorted(wanted, hashes)].sum()), len(hashes)


def report(rows, tokenizer):
    read = [read_sample(row, tokenizer) for row in rows]
    flat = [sentence for one in read for sentence in one]
    accepted = sum(event is not None for _, event, _ in flat)
    print(f"sentences accepted: {accepted} of {len(flat)} ({accepted / max(1, len(flat)):.1%})")
    holds = sum(not any("has" in wrong for _, _, wrong in one) for one in read)
    print(f"who has what consistent: {holds} of {len(read)} stories ({holds / len(read):.1%})")
    clean = sum(all(event and not wrong for _, event, wrong in one) for one in read)
    print(f"nothing wrong at all: {clean} of {len(read)} stories ({clean / len(read):.1%})")
    kinds = collections.Counter(kind for _, _, wrong in flat for kind in set(wrong))
    print("sentences with complaints:", dict(sorted(kinds.items())))
    for sentence, event, wrong in flat:
        if event is None or wrong:
            print(f"  {wrong if event else 'not accepted'}: {sentence}")


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default=here)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--tokens", help="ids of the training text")
    parser.add_argument("--text-seed", type=int, help="train.py's --seed, for the held-out text")
    parser.add_argument("--show", type=int, default=0, help="samples to print")
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
    net = network.load(args.model, device)
    if args.text_seed is not None:
        path = os.path.join(args.model, "tokenizer.json")
        held_out_loss(net, corpus.tokens(args.text_seed, "held out", 1, path))
    rows = sample(net, args.count, args.length, args.temperature, args.seed)
    print(f"{args.count} samples of {args.length} tokens, temperature {args.temperature}, "
          f"seed {args.seed}")
    report(rows, tokenizer)
    if args.tokens:
        seen, count = runs_in(rows, np.load(args.tokens))
        print(f"runs of {RUN} tokens in the training text: {seen} of {count}")
    for row in rows[:args.show]:
        text = tokenizer.decode(row.tolist(), skip_special_tokens=False)
        print("\n" + textwrap.fill(text, 96))


if __name__ == "__main__":
    main()
