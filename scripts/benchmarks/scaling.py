"""What grows with what: throughput with image size, batch size and workers; index and order with the number of
samples; resuming with the place."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from typing import Any

from harness import race, say
from pictures import shards
from scaling_plot import plot
from start import SHARES, once
from throughput import Contender

NAKED = "naked"
SIDES = {240: 500, 480: 500, 960: 100, 1920: 100}  # pixels: samples
BATCH_SIZES = (8, 32, 64, 256)
WORKERS = (0, 1, 2, 4)
NUM_SAMPLES = (20_000, 200_000, 2_000_000, 20_000_000, 200_000_000, 2_000_000_000)
MORE_SHARDS, LARGER_SHARDS = "10,000 samples a shard", "1,000 shards"
NUM_SHARDS = {MORE_SHARDS: lambda samples: samples // 10_000, LARGER_SHARDS: lambda _: 1_000}


def run(arguments: Namespace) -> dict[str, Any]:
    found = {
        "throughput": throughputs(arguments),
        "index": indexes(3 if arguments.quick else 9),
        "resume": resumes(arguments),
        "cores": len(os.sched_getaffinity(0)),
    }
    if arguments.plot:
        path = arguments.json.with_suffix(".png")
        plot(found, path)
        print(f"plotted in {path}")
    return found


def throughputs(arguments: Namespace) -> dict[str, list[dict[str, float]]]:
    """R1 by image side, batch size and number of workers, beside the naked decode of the same images."""
    sides = {side: shards(arguments.data, count, side) for side, count in SIDES.items()}
    curves: dict[str, list[dict[str, float]]] = {}
    for curve, points in {
        "image side": [(side, sides[side], {}) for side in sides],
        "batch size": [(size, sides[480], {"batch_size": size}) for size in BATCH_SIZES],
        "workers": [(workers, sides[480], {"workers": workers}) for workers in WORKERS],
    }.items():
        curves[curve] = []
        for at, paths, more in points:
            images = 256 * 480 // max(480, at) if curve == "image side" else 256
            if curve == "workers":  # what they had begun before the clock started must not count for much
                images = 1280 if arguments.quick else 2560
            point = throughput(paths, {"workers": 0, **more}, images, 3 if arguments.quick else 7)
            curves[curve].append({"at": at, **point})
            print(
                f"{curve} {at}: {point['rate']:,.0f} images a second, {point['share']:.2f} of the naked decode by the "
                f"clock, {point['cpu_share']:.2f} by CPU time",
                flush=True,
            )
    return curves


def throughput(paths: list[str], more: dict[str, Any], images: int, rounds: int) -> dict[str, float]:
    """Images a second of the stream, and as shares of the naked decode in the same rounds; the medians."""
    pair = {
        NAKED: Contender({"kind": NAKED}, paths, min(images, 256)),
        "ours": Contender({"kind": "augstream", "recipe": "R1", **more}, paths, images),
    }
    try:
        for contender in pair.values():
            contender()  # the first burst warms up, and counts for nothing
        rows = {row["contender"]: row for row in race(pair, reference=NAKED, rounds=rounds).rows()}
    finally:
        for contender in pair.values():
            contender.close()
    ours = rows["ours"]
    return {
        "rate": ours["wall"]["rate"], "cpu_rate": ours["cpu"]["rate"], "naked_rate": rows[NAKED]["wall"]["rate"],
        "share": ours["wall"]["ratio"], "cpu_share": ours["cpu"]["ratio"],
    }  # fmt: skip


INDEX = """
import time, tracemalloc
from augstream.index import ShardIndex
from augstream.order import EpochOrder, Recipe

def steps(note):
    index = ShardIndex.synthetic({shards}, {each})
    note()
    order = EpochOrder(index, Recipe(seed=1, batch_size=64), 3)
    note()
    late = order.num_units * 95 // 100
    order.refs(range(late, late + 1))
    note()

def seconds():
    times = [time.perf_counter()]
    steps(lambda: times.append(time.perf_counter()))
    return [after - before for before, after in zip(times, times[1:])]

def peak_bytes():
    tracemalloc.start()
    steps(lambda: None)
    return tracemalloc.get_traced_memory()[1]

seconds()  # the first time finds nothing warm
best = [min(column) for column in zip(*[seconds() for _ in range({rounds})])]
print(*best, peak_bytes())
"""


def indexes(rounds: int) -> dict[str, list[dict[str, float]]]:
    """Seconds of a synthetic index, of an epoch's order, and of a batch late in it, and the bytes of it all at most."""
    curves: dict[str, list[dict[str, float]]] = {}
    for kind, num_shards in NUM_SHARDS.items():
        curves[kind] = []
        for samples in NUM_SAMPLES:
            count = num_shards(samples)
            code = INDEX.format(shards=count, each=samples // count, rounds=rounds)
            ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            index_s, order_s, batch_s, peak_bytes = map(float, ran.stdout.split())
            curves[kind].append(
                {
                    "at": samples,
                    "index_s": index_s,
                    "order_s": order_s,
                    "batch_s": batch_s,
                    "bytes": peak_bytes,
                }
            )
            print(
                f"{samples:,} samples, {kind}: index {index_s * 1e3:.2f} ms, order of an epoch {order_s * 1e3:.2f} ms, "
                f"a late batch {batch_s * 1e3:.2f} ms; {peak_bytes / 1e6:.2f} MB at most",
                flush=True,
            )
    return curves


def resumes(arguments: Namespace) -> list[dict[str, Any]]:
    """Seconds to the first batch, by the place in the epoch, in turns."""
    paths = shards(arguments.data, 500 if arguments.quick else 2000)
    seconds: dict[float, list[float]] = {share: [] for share in SHARES}
    for _ in range(3 if arguments.quick else 9):
        for share, found in seconds.items():
            found.append(once({"kind": "augstream", "workers": 2, "share": share}, paths)[1])
            say(f"resumed at {share:.0%}")
    say("")
    for share, found in seconds.items():
        found.sort()
        print(f"resumed at {share:.0%}: {found[len(found) // 2]:.3f} s ({found[0]:.3f}-{found[-1]:.3f})")
    return [{"at": share, "seconds": found} for share, found in seconds.items()]
