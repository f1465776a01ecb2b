#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the example data beside this script. All of it is synthetic, and the same at every run.

prices.csv    one line for each of 10 days and 64 invented assets: 28 daily log returns, newest
              first, then range, gap, change of volume and volatility of that day. The prices are
              random walks with a common market factor.
weights.csv   a momentum score: one weight for each of the 32 features.
x.npy         f32 [500,64]: pictures of digits, 8x8 pixels in 0..1, drawn from the font below,
              shifted, dimmed and covered with noise.
labels.npy    i32 [500]: which digit each of them is.
w.npy         f32 [10,64], bias.npy f32 [10]: a linear classifier trained here, by gradient descent
              on 3000 other pictures.

    python3 make-data.py
"""

import math
import os
import random
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
ASSETS, DAYS, LAGS = 64, 10, 28
TRAIN, TEST, PIXELS, DIGITS = 3000, 500, 64, 10

FONT = """
.###. ..#.. .###. ####. ...#. ##### ..##. ##### .###. .###.
#...# .##.. #...# ....# ..##. #.... .#... ....# #...# #...#
#..## ..#.. ....# ....# .#.#. ####. #.... ...#. #...# #...#
#.#.# ..#.. ...#. .###. #..#. ....# ####. ..#.. .###. .####
##..# ..#.. ..#.. ....# ##### ....# #...# .#... #...# ....#
#...# ..#.. .#... ....# ...#. #...# #...# .#... #...# ...#.
.###. .###. ##### ####. ...#. .###. .###. .#... .###. .##..
"""


def write_csv(name, lines):
    with open(os.path.join(HERE, name), "w", encoding="ascii") as f:
        f.write("\n".join(lines) + "\n")


def write_npy(name, code, descr, shape, values):
    """NumPy's format, version 1.0."""
    dims = ", ".join(str(n) for n in shape) + ("," if len(shape) == 1 else "")
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}"
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    with open(os.path.join(HERE, name), "wb") as f:
        f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode("ascii"))
        f.write(struct.pack(f"<{len(values)}{code}", *values))


def make_prices(rng):
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    names = set()
    while len(names) < ASSETS:
        names.add("".join(rng.choice(letters) for _ in range(3)))
    total = DAYS + LAGS
    market = [rng.gauss(0.0002, 0.008) for _ in range(total)]
    features = [f"return_{i}" for i in range(1, LAGS + 1)]
    features += ["range", "gap", "volume", "volatility"]
    rows = []
    for name in sorted(names):
        beta, own = rng.uniform(0.5, 1.5), rng.uniform(0.005, 0.025)
        returns = [beta * m + rng.gauss(0, own) for m in market]
        for day in range(DAYS):
            recent = returns[day + 1:day + LAGS + 1][::-1]
            mean = sum(recent) / LAGS
            volatility = math.sqrt(sum((r - mean) ** 2 for r in recent) / LAGS)
            extra = [abs(recent[0]) + abs(rng.gauss(0, own)), rng.gauss(0, own / 3),
                     rng.gauss(0, 0.3), volatility]
            cells = ",".join(f"{v:.4f}" for v in recent + extra)
            rows.append((day, name, f"2024-03-{day + 4:02d},{name},{cells}"))
    write_csv("prices.csv", ["day,asset," + ",".join(features)] + [r[2] for r in sorted(rows)])
    decay = [0.9 ** i for i in range(LAGS)]
    weights = [d / sum(decay) * 10 for d in decay] + [-0.5, 0.8, 0.05, -1.0]
    write_csv("weights.csv", ["name," + ",".join(features),
                              "momentum," + ",".join(f"{w:.6f}" for w in weights)])


def draw(rng, digit):
    rows = [line.split()[digit] for line in FONT.strip().split("\n")]
    left, top = rng.choice([1, 1, 1, 2]), rng.choice([0, 0, 0, 1])
    ink = rng.uniform(0.6, 1.0)
    picture = []
    for y in range(8):
        for x in range(8):
            on = 0 <= y - top < 7 and 0 <= x - left < 5 and rows[y - top][x - left] == "#"
            picture.append(min(1.0, max(0.0, (ink if on else 0.0) + rng.gauss(0, 0.22))))
    return picture


def logits(weights, bias, picture):
    return [b + sum(w * p for w, p in zip(row, picture)) for row, b in zip(weights, bias)]


def train(rng, pictures, labels):
    weights = [[0.0] * PIXELS for _ in range(DIGITS)]
    bias = [0.0] * DIGITS
    order = list(range(len(pictures)))
    for epoch in range(15):
        rng.shuffle(order)
        rate = 0.1 / (1 + epoch)
        for i in order:
            scores = logits(weights, bias, pictures[i])
            top = max(scores)
            powers = [math.exp(s - top) for s in scores]
            for digit in range(DIGITS):
                error = powers[digit] / sum(powers) - (digit == labels[i])
                step = rate * error
                bias[digit] -= step
                weights[digit] = [w - step * p for w, p in zip(weights[digit], pictures[i])]
    return weights, bias


def make_digits(rng):
    labels = [i % DIGITS for i in range(TRAIN + TEST)]
    pictures = [draw(rng, digit) for digit in labels]
    weights, bias = train(rng, pictures[:TRAIN], labels[:TRAIN])
    test, test_labels = pictures[TRAIN:], labels[TRAIN:]
    right = 0
    for picture, label in zip(test, test_labels):
        scores = logits(weights, bias, picture)
        right += scores.index(max(scores)) == label
    print(f"accuracy {right / TEST:.3f}")
    write_npy("x.npy", "f", "<f4", (TEST, PIXELS), [p for picture in test for p in picture])
    write_npy("labels.npy", "i", "<i4", (TEST,), test_labels)
    write_npy("w.npy", "f", "<f4", (DIGITS, PIXELS), [w for row in weights for w in row])
    write_npy("bias.npy", "f", "<f4", (DIGITS,), bias)


if __name__ == "__main__":
    make_prices(random.Random(1))
    make_digits(random.Random(2))
