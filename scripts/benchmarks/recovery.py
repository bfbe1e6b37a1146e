"""How long the stream stands still when a worker is killed."""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from argparse import Namespace
from typing import Any

import contender
from harness import table
from pictures import shards

import augstream as A


def gaps(paths: list[str], method: str, kills: int) -> tuple[list[float], list[float]]:
    """Seconds of the longest wait after each kill, and of every other wait."""
    compose = contender.transforms(A, "R1", A.ToTensorV2)
    dataset = A.StreamDataset(paths, compose, batch_size=16, seed=1)
    rng = random.Random(5)
    after: list[float] = []
    usual: list[float] = []
    with A.StreamLoader(dataset, num_workers=2, multiprocessing_context=method, max_respawns=10**6) as loader:
        batches = contender.forever(lambda: loader)
        for _ in range(20):
            next(batches)
        while len(after) < kills:
            os.kill(rng.choice(loader.worker_pids), signal.SIGKILL)
            waits = []
            for _ in range(10):
                begun = time.perf_counter()
                next(batches)
                waits.append(time.perf_counter() - begun)
            after.append(max(waits))
            for _ in range(rng.randrange(8, 14)):
                begun = time.perf_counter()
                next(batches)
                usual.append(time.perf_counter() - begun)
    return after, usual


def turns(paths: list[str], epochs: int) -> tuple[list[float], list[float]]:
    """Seconds of the wait for each epoch's first batch, and for its others, of a small dataset in short epochs."""
    compose = contender.transforms(A, "R1", A.ToTensorV2)
    dataset = A.StreamDataset(paths[:1], compose, batch_size=16, seed=1, drop_last=True)
    firsts: list[float] = []
    others: list[float] = []
    with A.StreamLoader(dataset, num_workers=2) as loader:
        for _ in range(epochs):
            begun = time.perf_counter()
            for step, _batch in enumerate(loader):
                (others if step else firsts).append(time.perf_counter() - begun)
                begun = time.perf_counter()
    return firsts[1:], others


def run(arguments: Namespace) -> list[dict[str, Any]]:
    """Kill workers, and count the seconds; then see whether anything stands still when an epoch ends."""
    paths = shards(arguments.data, 500, arguments.side)
    rows = []
    firsts, others = turns(paths, 30)
    rows.append(
        {
            "method": "(no kill: an epoch's turn)", "kills": 0, "median_s": statistics.median(firsts),
            "highest_s": max(firsts), "usual_s": statistics.median(others), "limit_s": 2 * max(others),
        }
    )  # fmt: skip
    for method, limit in (("fork", 0.5), ("spawn", 5.0)):
        after, usual = gaps(paths, method, 5 if arguments.quick else 30)
        rows.append(
            {
                "method": method, "kills": len(after), "median_s": statistics.median(after), "highest_s": max(after),
                "usual_s": statistics.median(usual), "limit_s": limit,
            }
        )  # fmt: skip
    lines = [
        [
            row["method"], str(row["kills"]), f"{row['median_s']:.3f}", f"{row['highest_s']:.3f}",
            f"{row['usual_s']:.3f}", f"{row['limit_s']:.3g}",
        ]
        for row in rows
    ]  # fmt: skip
    header = [
        "start method",
        "kills",
        "longest wait after a kill, median s",
        "highest",
        "usual wait",
        "limit",
    ]
    print(table(lines, header))
    return rows
