#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Trains the small tokenizers in data/ and writes the cases that the tests run with them.

    make-tokenizers.py [FOLDER]

Needs the Hugging Face `tokenizers` library (made with 0.23.3), which is the authority: NAME.json
is a tokenizer, NAME.cases has lines of JSON: [text, with special tokens, ids, decoded], where
decoded is null when it is the text.
"""

import json
import os
import sys

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)

from strings import FOREIGN, Strings

GPT2_ALPHABET = pre_tokenizers.ByteLevel.alphabet()
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CASES = 223  # of each tokenizer


def corpus():
    return [Strings(i).document(2000) for i in range(60)] + FOREIGN * 3


def train(tokenizer, size, alphabet=(), special=()):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(special),
                                  initial_alphabet=sorted(alphabet), show_progress=False,
                                  limit_alphabet=600)
    tokenizer.train_from_iterator(corpus(), trainer)
    return json.loads(tokenizer.to_str())


def added(*tokens):
    return [AddedToken(**t) for t in tokens]


def gpt2():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.decoder = decoders.ByteLevel()
    data = train(t, 1200, GPT2_ALPHABET, ["<|endoftext|>"])
    # As old files write it: no type, empty strings, merges in one string.
    model = data["model"]
    data["model"] = {"dropout": None, "unk_token": "", "continuing_subword_prefix": "",
                     "end_of_word_suffix": "", "fuse_unk": False, "vocab": model["vocab"],
                     "merges": [" ".join(m) for m in model["merges"]]}
    return data


def split_bytes(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def llama3():
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = split_bytes(CL100K % "{1,3}")
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([])
    data = train(t, 1200, GPT2_ALPHABET)
    t = Tokenizer.from_str(json.dumps(data))
    t.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
                          "<|end_header_id|>", "<|eot_id|>"])
    start = ("<|begin_of_text|>", t.token_to_id("<|begin_of_text|>"))
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A",
                                      pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                                      special_tokens=[start])])
    data = json.loads(t.to_str())
    # Tokens that no merges lead to: what ignore_merges is about.
    data["model"]["merges"] = data["model"]["merges"][:-200] + [
        m for i, m in enumerate(data["model"]["merges"][-200:]) if i % 2]
    return data


def qwen():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = split_bytes(CL100K % "")
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.decoder = decoders.ByteLevel()
    data = train(t, 1200, GPT2_ALPHABET)
    t = Tokenizer.from_str(json.dumps(data))
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.add_tokens(added(dict(content="<tool_call>", normalized=False, lstrip=True),
                       dict(content="<think>", normalized=False, rstrip=True),
                       dict(content="</think>", normalized=True, lstrip=True, rstrip=True)))
    return json.loads(t.to_str())


def o200k():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = split_bytes(O200K)
    t.decoder = decoders.ByteLevel()
    return train(t, 1000, GPT2_ALPHABET, ["<|endoftext|>", "<|return|>"])


SENTENCEPIECE = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]


def drop_special(data, kept):
    """Byte tokens are the model's, not added ones."""
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] in kept]
    return data


def llama_decoder(tokens):
    return decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                              decoders.Fuse()] + tokens)


def llama2():
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"),
                                         normalizers.Replace(" ", "\u2581")])
    # Words are cut for the training only, as sentencepiece does it.
    t.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    t.decoder = llama_decoder([decoders.Strip(" ", 1, 0)])
    data = drop_special(train(t, 1600, (), SENTENCEPIECE), SENTENCEPIECE[:3])
    data["pre_tokenizer"] = None
    t = Tokenizer.from_str(json.dumps(data))
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return json.loads(t.to_str())


def mistral():
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    t.decoder = llama_decoder([decoders.Strip(" ", 1, 0)])
    data = drop_special(train(t, 1400, (), SENTENCEPIECE), SENTENCEPIECE[:3])
    data["pre_tokenizer"]["split"] = False
    t = Tokenizer.from_str(json.dumps(data))
    t.add_special_tokens(["[INST]", "[/INST]"])
    t.add_tokens(added(dict(content="[TOOL]", normalized=True)))
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B", special_tokens=[("<s>", 1), ("</s>", 2)])
    return json.loads(t.to_str())


def metaspace():
    """No bytes to fall back on: unknown tokens, one by one. Truncated from the left."""
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([
        normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(),
        normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    t.decoder = decoders.Metaspace(prepend_scheme="always")
    data = train(t, 900, (), ["<unk>", "<s>", "</s>"])
    data["truncation"] = {"direction": "Left", "max_length": 24, "strategy": "LongestFirst",
                          "stride": 0}
    t = Tokenizer.from_str(json.dumps(data))
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return json.loads(t.to_str())


def flags():
    """Added tokens with every flag; padded."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.Digits(individual_digits=True)])
    data = train(t, 700, (), ["<unk>"])
    t = Tokenizer.from_str(json.dumps(data))
    t.add_tokens(added(
        dict(content="<left>", lstrip=True, normalized=False),
        dict(content="<right>", rstrip=True, normalized=False),
        dict(content="<both>", lstrip=True, rstrip=True, normalized=True),
        dict(content="Maria", single_word=True, normalized=True),
        dict(content="Zürich", single_word=True, normalized=True, rstrip=True),
        dict(content="Peter", single_word=True, normalized=False, lstrip=True),
        dict(content="Peterson", normalized=False),
        dict(content="Pet", normalized=False, single_word=True),
        dict(content="  ", normalized=False),
        dict(content="é", normalized=True)))
    t.add_special_tokens(added(dict(content="<mask>", lstrip=True, special=True),
                               dict(content="<mask><mask>", special=True)))
    t.enable_padding(direction="left", pad_id=0, pad_token="<unk>", length=6, pad_to_multiple_of=4)
    return json.loads(t.to_str())


def pieces():
    """Stages behind the byte alphabet, all behaviours of Split, marks on parts of words."""
    t = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##",
                             end_of_word_suffix="</w>"))
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("merged_with_previous"),
        pre_tokenizers.Split(Regex(r"[A-Z]\w*"), "merged_with_next"),
        pre_tokenizers.Split(Regex(r"\S+"), "contiguous", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
        pre_tokenizers.Split("\u0120", "removed")])
    t.decoder = decoders.Sequence([decoders.Replace(Regex("</w>|##"), ""), decoders.ByteLevel()])
    return train(t, 900, (), ["<unk>"])


KINDS = [gpt2, llama3, qwen, o200k, llama2, mistral, metaspace, flags, pieces]


def cases(tokenizer, data, seed):
    """Short texts first of all; each is encoded with or without special tokens."""
    strings = Strings(seed, [t["content"] for t in data["added_tokens"]], "8.0")
    texts = ["", " ", "a", "Hello world", " Hello  world \n", "It's 12345 o'clock, they'LL say."]
    while len(texts) < CASES:
        text = strings.text()
        if text not in texts and len(text) <= 60:
            texts.append(text)
    for i, text in enumerate(texts):
        ids = tokenizer.encode(text, add_special_tokens=i % 2 == 0).ids
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        yield [text, i % 2 == 0, ids, None if decoded == text else decoded]


def dump(value):
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n"


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "data")
    for seed, kind in enumerate(KINDS):
        data = kind()
        path = os.path.join(folder, kind.__name__)
        with open(path + ".json", "w", encoding="ascii") as f:
            f.write(dump(data))
        tokenizer = Tokenizer.from_file(path + ".json")
        with open(path + ".cases", "w", encoding="ascii") as f:
            f.writelines(dump(case) for case in cases(tokenizer, data, seed))
        print(f"{kind.__name__}: {tokenizer.get_vocab_size()} tokens, "
              f"{os.path.getsize(path + '.json')} + {os.path.getsize(path + '.cases')} bytes")


if __name__ == "__main__":
    main()
