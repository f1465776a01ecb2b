#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares what `gpuq-bench values` wrote with what Hugging Face transformers compute.

    python3 compare.py MODEL_DIR VALUES_DIR [--dtype float32]

Prints, for each value that both have, the root of the squares of the differences over that of what
transformers compute, in the order of the layers: where the figures jump up is where something is
wrong. In float32, with weights as they are, all of them are below 1e-5.
"""

import argparse
import os

import numpy
import torch
import transformers

import make


def main():
    parser = argparse.ArgumentParser(description="Compares values with those of transformers.")
    parser.add_argument("model")
    parser.add_argument("values")
    parser.add_argument("--dtype", default="float32", help="in which transformers compute")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    text = numpy.load(os.path.join(args.values, "tokens.npy")).tolist()
    with torch.no_grad():
        model = make.read_model(args.model, getattr(torch, args.dtype))
        right = make.values_of(model, text)
        right["logits"] = make.logits_of(model, text)
    for name, expected in right.items():
        path = os.path.join(args.values, name + ".npy")
        if not os.path.exists(path):
            print(f"{name:24}  missing")
            continue
        found, expected = numpy.load(path).astype("f8"), expected.numpy().astype("f8")
        off = numpy.linalg.norm(found - expected) / numpy.linalg.norm(expected)
        print(f"{name:24}  {off:.2e}")


if __name__ == "__main__":
    main()
