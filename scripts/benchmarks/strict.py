"""What `strict` costs a stream: two loaders of the same batches take turns, and one looks at the global generators."""

from __future__ import annotations

import statistics
from argparse import Namespace
from functools import partial
from typing import Any

from contender import BATCH_SIZE, calm, transforms
from harness import table
from ledger import in_turn
from pictures import shards

import augstream as A
from augstream.transforms.leaks import private_opencv

LIMIT_US = 20


def run(arguments: Namespace) -> list[dict[str, Any]]:
    calm()
    paths = shards(arguments.data, 500, arguments.side)
    rows = []
    for recipe in arguments.recipes.split(","):
        for is_private in (False, True):
            token = private_opencv.set(is_private)  # as in workers, whose OpenCV generator nobody else needs
            try:
                ratios, own = in_turn(partial(_loader, paths, recipe), 48 if arguments.quick else 160)
            finally:
                private_opencv.reset(token)
            low, us, high = statistics.quantiles(own, n=4)
            more = statistics.median(ratios) - 1
            where = "as in a worker" if is_private else "in the trainer's process"
            rows.append({"what": f"{recipe}, {where}", "us": us, "low": low, "high": high, "more": more})
    lines = [
        [
            row["what"],
            f"{row['us']:.1f} us ({row['low']:.1f} to {row['high']:.1f}), {row['more']:+.2%}",
            f"{LIMIT_US} us",
        ]
        for row in rows
    ]
    print(table(lines, ["stream", "CPU time more a sample, median (quartiles)", "limit"]))
    return rows


def _loader(paths: list[str], recipe: str, strict: bool) -> A.StreamLoader:
    pipeline = transforms(A, recipe, A.ToTensorV2)
    dataset = A.StreamDataset(paths, pipeline, batch_size=BATCH_SIZE, seed=1, drop_last=True, strict=strict)
    return A.StreamLoader(dataset)
