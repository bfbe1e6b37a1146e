"""What a ledger costs a stream: two loaders of the same batches take turns, and one of them keeps a ledger."""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from contender import BATCH_SIZE, transforms
from harness import say, table
from pictures import shards

import augstream as A
from augstream.ledgers.content import content
from augstream.ledgers.marks import marks_of

WARM_UP = 3  # batches that are not counted


def run(arguments: Namespace) -> list[dict[str, Any]]:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    paths = shards(arguments.data, 500 if arguments.quick else 2000, arguments.side)
    rows = [
        whole_stream(paths, recipe, 48 if arguments.quick else 160) for recipe in arguments.recipes.split(",")
    ]
    rows.append(whole_stream(paths, "R1", 48 if arguments.quick else 160, device="cpu"))
    rows += [
        alone("content of 224 x 224 x 3 floats", _floats),
        alone("content of 224 x 224 x 3 bytes", _bytes),
        alone("marks of the rest of a sample", _rest, BATCH_SIZE),
    ]
    print(table([[row["what"], row["figure"]] for row in rows], ["what", "it costs"]))
    return rows


def whole_stream(
    paths: list[str], recipe: str, num_batches: int, device: str | None = None
) -> dict[str, Any]:
    """CPU time of a batch with a ledger and without, in this process.

    device: floats are made there, and the ledger is of bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        ledgers: list[Path] = []

        def make(keeps_one: bool) -> A.StreamLoader:
            pipeline = transforms(A, recipe, A.ToTensorV2)
            dataset = A.StreamDataset(paths, pipeline, batch_size=BATCH_SIZE, seed=1, drop_last=True)
            if keeps_one:
                ledgers.append(Path(folder) / f"{len(ledgers)}.ledger")
            loader = A.StreamLoader(dataset, ledger=ledgers[-1] if keeps_one else None)
            return loader if device is None else loader.to(device)

        ratios, own = in_turn(make, num_batches)
        sizes = [ledger.stat().st_size for ledger in ledgers]
    size = sum(sizes) / (num_batches + len(sizes) * WARM_UP)
    more, us = statistics.median(ratios) - 1, statistics.median(own)
    figure = f"{more:+.2%} CPU time, {us:.1f} us a sample, {size:.0f} bytes a batch of {BATCH_SIZE}"
    return {
        "what": f"the whole stream, {recipe}" + ("" if device is None else ", floats made on the device"),
        "figure": figure,
        "more": more,
        "us": us,
        "line_bytes": size,
    }


def in_turn(make: Callable[[bool], A.StreamLoader], num_batches: int) -> tuple[list[float], list[float]]:
    """What `make(True)` takes more CPU time for each batch than `make(False)`: ratios, and us a sample.

    Each pair is of the same batch. Of two equal loaders the one that is made last may well take half a per cent more,
    by where its memory lies: so each is the last for half of the batches.
    """
    ratios, own = [], []
    for order in ((False, True), (True, False)):
        iterators = {which: _forever(make(which)) for which in order}
        for number in range(num_batches // 2 + WARM_UP):
            spent = {}
            for which in order if number % 2 else order[::-1]:
                started = time.process_time()
                next(iterators[which])
                spent[which] = time.process_time() - started
            if number >= WARM_UP:
                ratios.append(spent[True] / spent[False])
                own.append((spent[True] - spent[False]) / BATCH_SIZE * 1e6)
            say(f"batch {number} of {num_batches // 2}")
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
_TOLD = [content(_BYTES)] * BATCH_SIZE


def _floats() -> None:
    content(_IMAGE)


def _bytes() -> None:
    content(_BYTES)


def _rest() -> None:
    """A batch whose images were read before."""
    marks_of(_BATCH, _NAMES, BATCH_SIZE, {"image": _TOLD})
