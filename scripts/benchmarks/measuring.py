"""What `augstream bench` and `loader.stats` cost the stream that they measure: batches in turn, with and without."""

from __future__ import annotations

import dataclasses
import statistics
import time
from argparse import Namespace
from typing import Any

import contender
from harness import table
from pictures import shards

import augstream as A
from augstream.dataset import made_locally
from augstream.tools.profiling import Watch, WatchedStage
from augstream.workers.slots import LocalSlots

LIMIT = 0.02


def run(arguments: Namespace) -> list[dict[str, Any]]:
    """Race a stream against itself under the stopwatches of `augstream bench`, by CPU time."""
    contender.calm()
    paths = shards(arguments.data, 500, arguments.side)
    rows = []
    for recipe in arguments.recipes.split(","):
        compose = contender.transforms(A, recipe, A.ToTensorV2)
        dataset = A.StreamDataset(paths, compose, batch_size=contender.BATCH_SIZE, seed=1, drop_last=True)
        watched = dataclasses.replace(dataset.stream, stage=WatchedStage(dataset.stream.stage, Watch()))
        plan = dataset.stream.plan(dataset.topology())
        both = [(stream.maker(), LocalSlots()) for stream in (dataset.stream, watched)]
        ratios = []
        for turn in range(-1, (2 if arguments.quick else 6) * arguments.rounds):
            units, spent = plan.units_of_step(turn % plan.num_steps), [0.0, 0.0]
            for which in (0, 1) if turn % 2 else (1, 0):
                begun = time.process_time()
                made_locally(*both[which], 0, units, ())
                spent[which] = time.process_time() - begun
            if turn >= 0:
                ratios.append(spent[1] / spent[0] - 1)
        low, middle, high = statistics.quantiles(ratios, n=4)
        rows.append({"recipe": recipe, "overhead": middle, "low": low, "high": high, "limit": LIMIT})
    lines = [
        [
            row["recipe"],
            f"{row['overhead']:+.1%} ({row['low']:+.1%} to {row['high']:+.1%})",
            f"{row['limit']:.0%}",
        ]
        for row in rows
    ]
    print(table(lines, ["recipe", "CPU time more under the stopwatches, median (quartiles)", "limit"]))
    return rows
