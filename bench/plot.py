# SPDX-License-Identifier: MIT
"""Draws what `gpuq-bench graphs --plot FILE` kept: for each round the latency of every replay over
time with the captures shaded, and all their distributions.

    plot.py ROUNDS.json FILE.svg
"""

import json
import sys

try:
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
except Exception as error:
    sys.exit(f"gpuq-bench: --plot needs matplotlib, which this Python cannot import: {error}")

COLORS = ["tab:blue", "tab:green", "tab:red"]


def draw_timeline(axes, panel, color):
    for begin, end in panel["captures_ms"]:
        axes.axvspan(begin, end, color="0.85", linewidth=0)
    time_ms = [t for t, _ in panel["replays_ms_us"]]
    latency_us = [latency for _, latency in panel["replays_ms_us"]]
    axes.plot(time_ms, latency_us, ".", markersize=2, color=color, rasterized=True)
    axes.set_yscale("log")
    axes.set_ylabel("latency, \u00b5s")
    axes.set_title(f"{panel['title']} ({panel['kernels']} kernels each, shaded)"
                   if panel["captures_ms"] else panel["title"], fontsize=10)


def draw_distributions(axes, panels):
    for panel, color in zip(panels, COLORS):
        latency_us = sorted(latency for _, latency in panel["replays_ms_us"])
        above = [1 - i / len(latency_us) for i in range(len(latency_us))]
        axes.plot(latency_us, above, color=color, label=panel["title"])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("latency, \u00b5s")
    axes.set_ylabel("share of replays above")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=9)


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        panels = json.load(f)
    rows = len(panels) + 1
    figure, axes = pyplot.subplots(rows, 1, figsize=(10, 2.6 * rows), constrained_layout=True)
    top = max(latency for panel in panels for _, latency in panel["replays_ms_us"])
    low = min(latency for panel in panels for _, latency in panel["replays_ms_us"])
    for place, panel, color in zip(axes, panels, COLORS):
        draw_timeline(place, panel, color)
        place.set_ylim(low * 0.8, top * 1.2)
    axes[rows - 2].set_xlabel("time, ms")
    draw_distributions(axes[-1], panels)
    figure.savefig(sys.argv[2], format="svg")


main()
