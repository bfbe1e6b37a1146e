"""What grows with what: throughput with image size, batch size and workers; order and resume with size and place."""

from __future__ import annotations

import statistics
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from harness import race
from pictures import shards
from start import SHARES, once
from throughput import Contender

NAKED = "naked"


def streams(arguments: Namespace) -> dict[str, list[list[float]]]:
    """Throughput as a share of the naked decode of the same images: by image side, batch size and workers."""
    rounds = 1 if arguments.quick else 3
    sides = {side: shards(arguments.data, 100 if side > 480 else 500, side) for side in (240, 480, 960, 1920)}
    curves: dict[str, list[list[float]]] = {}
    for curve, points in {
        "image side": [(side, sides[side], {}) for side in sides],
        "batch size": [(size, sides[480], {"batch_size": size}) for size in (8, 32, 64, 256)],
        "workers": [(workers, sides[480], {"workers": workers}) for workers in (0, 1, 2, 4)],
    }.items():
        curves[curve] = []
        for at, paths, more in points:
            images = max(64, 256 * 480 // (at if curve == "image side" else 480))
            spec = {"kind": "augstream", "recipe": "R1", "workers": 0, **more}
            pair = {
                NAKED: Contender({"kind": "naked"}, paths, images),
                "ours": Contender(spec, paths, images),
            }
            try:
                for contender in pair.values():
                    contender()
                result = race(pair, reference=NAKED, rounds=rounds, progress=False)
            finally:
                for contender in pair.values():
                    contender.close()
            wall, cpu = (statistics.median(result.ratios("ours", clock)) for clock in ("wall_s", "cpu_s"))
            curves[curve].append([at, wall, cpu])
            print(
                f"{curve} {at}: {wall:.2f} of the naked decode by the clock, {cpu:.2f} by CPU time",
                flush=True,
            )
    return curves


ORDER = """
import os, time
from augstream.index import ShardIndex
from augstream.order import EpochOrder, Recipe
index = ShardIndex.synthetic({shards}, {each})
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
begun = time.perf_counter()
order = EpochOrder(index, Recipe(seed=1, batch_size=64), 3)
refs = order.refs(range(order.num_units * 95 // 100, order.num_units * 95 // 100 + 1))
print(time.perf_counter() - begun, resident() - before)
"""


def orders() -> list[list[float]]:
    """Seconds and MB of an epoch's order and a batch late in it, by the number of samples."""
    points = []
    for num_shards in (2, 20, 200, 2_000, 20_000, 200_000):
        code = ORDER.format(shards=num_shards, each=10_000)
        ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        seconds, size_bytes = map(float, ran.stdout.split())
        points.append([num_shards * 10_000, seconds, size_bytes / 1e6])
        print(
            f"{num_shards * 10_000:,} samples: {seconds * 1000:.1f} ms, {size_bytes / 1e6:.1f} MB", flush=True
        )
    return points


def resumes(arguments: Namespace) -> list[list[float]]:
    """Seconds to the first batch, by the place in the epoch."""
    paths = shards(arguments.data, 500 if arguments.quick else 2000)
    points = []
    for share in SHARES:
        found = [once({"kind": "augstream", "workers": 2, "share": share}, paths)[1] for _ in range(3)]
        points.append([share, statistics.median(found)])
        print(f"resumed at {share:.0%}: {points[-1][1]:.3f} s", flush=True)
    return points


def run(arguments: Namespace) -> dict[str, Any]:
    found = {**streams(arguments), "order": orders(), "resume": resumes(arguments)}
    if arguments.plot:
        plot(found, arguments.json.with_suffix(".png"))
    return found


def plot(found: dict[str, Any], path: Path) -> None:
    """One picture of all curves."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    for axis, name in zip(axes.flat, ("image side", "batch size", "workers"), strict=False):
        at, wall, cpu = zip(*found[name], strict=True)
        axis.plot(at, wall, "o-", label="by the clock")
        axis.plot(at, cpu, "s--", label="by CPU time")
        axis.set(xlabel=name, ylabel="share of the naked decode", ylim=(0, None))
        axis.legend()
    at, seconds, megabytes = zip(*found["order"], strict=True)
    axes[1, 0].plot(at, seconds, "o-")
    axes[1, 0].set(xlabel="samples", xscale="log", ylabel="order and a late batch, s", ylim=(0, None))
    axes[1, 1].plot(at, megabytes, "o-")
    axes[1, 1].set(xlabel="samples", xscale="log", ylabel="memory for that, MB", ylim=(0, None))
    at, seconds = zip(*found["resume"], strict=True)
    axes[1, 2].plot(at, seconds, "o-")
    axes[1, 2].set(
        xlabel="resumed at this share of the epoch", ylabel="to the first batch, s", ylim=(0, None)
    )
    figure.savefig(path, dpi=120)
    print(f"plotted in {path}")
