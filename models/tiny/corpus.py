# SPDX-License-Identifier: MIT
"""The text to train on and its tokens: the same for the same seed, however many processes write."""

import multiprocessing
import os

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from stories import Writer

END = "<|endoftext|>"
SHARD = 1000  # stories of one seed


def stories(seed, part, shard):
    writer = Writer(f"{seed} {part} {shard}")
    return [writer.story() for _ in range(SHARD)]


def train_tokenizer(seed, path, size=2000, shards=20):
    """Byte-level BPE on the first shards of the text; a text begins with the end of the one
    before it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[END], show_progress=False,
                                  initial_alphabet=alphabet)
    tokenizer.train_from_iterator(
        (story for shard in range(shards) for story in stories(seed, "train", shard)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A {END} $B", special_tokens=[(END, 0)])
    with open(path, "w", encoding="utf-8") as f:
        f.write(tokenizer.to_str(pretty=True) + "\n")


def encode_shard(job):
    seed, part, shard, path = job
    tokenizer = Tokenizer.from_file(path)
    ids = [i for story in stories(seed, part, shard) for i in tokenizer.encode(story).ids]
    return np.array(ids, dtype=np.uint16)


def tokens(seed, part, shards, tokenizer_path, jobs=None):
    """The ids of all stories of the part, one after the other, each behind an END."""
    work = [(seed, part, shard, tokenizer_path) for shard in range(shards)]
    with multiprocessing.get_context("fork").Pool(jobs or os.cpu_count()) as pool:
        return np.concatenate(pool.map(encode_shard, work, chunksize=1))
