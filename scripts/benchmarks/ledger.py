"""What a ledger costs a stream: two loaders of the same batches take turns, and one of them keeps a ledger."""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from contender import BATCH_SIZE, transforms
from harness import say, table
from pictures import shards

import augstream as A
from augstream.ledgers.fold import fold, sums
from augstream.ledgers.marks import Told, marks_of


def run(arguments: Namespace) -> list[dict[str, Any]]:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    paths = shards(arguments.data, 500 if arguments.quick else 2000, arguments.side)
    rows = [
        whole_stream(paths, recipe, 48 if arguments.quick else 160) for recipe in arguments.recipes.split(",")
    ]
    rows.append(whole_stream(paths, "R1", 48 if arguments.quick else 160, device="cpu"))
    rows += [
        alone("fold of 224 x 224 x 3 floats", _fold),
        alone("fold of 224 x 224 x 3 bytes", _fold_bytes),
        alone("marks of the rest of a sample", _rest, BATCH_SIZE),
    ]
    print(table([[row["what"], row["figure"]] for row in rows], ["what", "it costs"]))
    return rows


def whole_stream(
    paths: list[str], recipe: str, num_batches: int, device: str | None = None
) -> dict[str, Any]:
    """CPU time of a batch with a ledger and without, in this process; each pair is of the same batch.

    device: floats are made there, and the ledger is of bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        loaders = [
            A.StreamLoader(
                A.StreamDataset(
                    paths, transforms(A, recipe, A.ToTensorV2), batch_size=BATCH_SIZE, seed=1, drop_last=True
                ),
                ledger=ledger,
            )
            for ledger in (None, Path(folder) / "run.ledger")
        ]
        if device is not None:
            loaders = [loader.to(device) for loader in loaders]
        ratios, own = in_turn(loaders, num_batches)
        size = (Path(folder) / "run.ledger").stat().st_size / (num_batches + 3)
    more, us = statistics.median(ratios) - 1, statistics.median(own)
    figure = f"{more:+.2%} CPU time, {us:.1f} us a sample, {size:.0f} bytes a batch of {BATCH_SIZE}"
    return {
        "what": f"the whole stream, {recipe}" + ("" if device is None else ", floats made on the device"),
        "figure": figure,
        "more": more,
        "us": us,
        "line_bytes": size,
    }


def in_turn(loaders: list[A.StreamLoader], num_batches: int) -> tuple[list[float], list[float]]:
    """What the second of two loaders takes more CPU time for each batch than the first: ratios, and us a sample."""
    iterators = [_forever(loader) for loader in loaders]
    ratios, own = [], []
    for number in range(num_batches + 3):
        spent = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            started = time.process_time()
            next(iterators[which])
            spent[which] = time.process_time() - started
        if number >= 3:
            ratios.append(spent[1] / spent[0])
            own.append((spent[1] - spent[0]) / BATCH_SIZE * 1e6)
        say(f"batch {number} of {num_batches}")
    return ratios, own


def _forever(loader: A.StreamLoader) -> Any:
    while True:
        for batch in loader:
            yield len(batch["image"])


def alone(what: str, function: Any, num: int = 1) -> dict[str, Any]:
    """The least time of many calls, in microseconds, by what each does `num` of."""
    times = []
    for _ in range(300):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    us = min(times) * 1e6 / num
    return {"what": what, "figure": f"{us:.1f} us", "us": us}


_IMAGE = np.random.default_rng(0).standard_normal((3, 224, 224), np.float32)
_BYTES = np.random.default_rng(0).integers(0, 256, (3, 224, 224), np.uint8)
_NAMES = [("train-000000.tar", f"{number:08d}") for number in range(BATCH_SIZE)]
_BATCH = {"image": np.stack([_IMAGE] * BATCH_SIZE), "cls": np.arange(BATCH_SIZE)}
_TOLD = [Told(sums(_BYTES), 1)] * BATCH_SIZE


def _fold() -> None:
    fold(_IMAGE)


def _fold_bytes() -> None:
    fold(_BYTES)


def _rest() -> None:
    """A batch whose images were read before."""
    marks_of(_BATCH, _NAMES, BATCH_SIZE, {"image": _TOLD})
