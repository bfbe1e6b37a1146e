"""What decoding less gains: a part of an image with the same pixels, or the image at a reduced scale with others.

Samples are cropped (RandomResizedCrop to 224) and not normalised, so that decoding is nearly all there is to do. The
difference is the mean of |a - b| over all values of the results, in steps of 256, `a` being the exact result.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import contender
import numpy as np
from harness import Burst, race, table, timed
from pictures import photographs, shards

import augstream as A

KINDS = {"480 pixels wide, like ImageNet's": (480, 500), "photographs, 2,500 pixels wide": (2500, 24)}
LIMITS = {("scaled", 2500): 2.5}
BATCH_SIZE = 12


def run(arguments: Namespace) -> list[dict[str, Any]]:
    contender.calm()
    rows = []
    for kind, (side, count) in KINDS.items():
        paths = photographs(arguments.data, count) if side > 1000 else shards(arguments.data, count, side)
        streams = {mode: stream(paths, mode) for mode in ("full", "region", "scaled")}
        contenders = {
            mode: burst(made, 10 * BATCH_SIZE if side < 1000 else BATCH_SIZE)
            for mode, made in streams.items()
        }
        result = race(contenders, reference="full", rounds=arguments.rounds)
        steps = range(2 if arguments.quick else count // BATCH_SIZE)
        exact = [pixels(streams["full"], step) for step in steps]
        for row in result.rows():
            mode = row["contender"]
            found = [
                np.abs(pixels(streams[mode], step) - a).mean() for step, a in zip(steps, exact, strict=True)
            ]
            rows.append(
                {
                    "images": kind,
                    "difference": float(np.mean(found)),
                    "limit": LIMITS.get((mode, side)),
                    **row,
                }
            )
    lines = [
        [
            row["images"], row["contender"], f"{row['cpu']['rate']:,.0f}",
            f"{row['cpu']['ratio']:.2f} ({row['cpu']['lowest']:.2f}-{row['cpu']['highest']:.2f})",
            "" if row["limit"] is None else f"{row['limit']:g}", f"{row['difference']:.2f}",
        ]
        for row in rows
    ]  # fmt: skip
    print(table(lines, ["images", "decode=", "images/CPU-s", "times the full decode", "limit", "difference"]))
    return rows


def stream(paths: list[str], mode: Any) -> Any:
    compose = A.Compose([A.RandomResizedCrop(size=(224, 224))])
    return A.StreamDataset(paths, compose, batch_size=BATCH_SIZE, seed=1, drop_last=True, decode=mode).stream


def burst(definition: Any, images: int) -> Callable[[], Burst]:
    maker, step = definition.maker(), 0

    def some() -> None:
        nonlocal step
        for _ in range(images // BATCH_SIZE):
            maker.make(0, range(step, step + 1))
            step = (step + 1) % 2

    return timed(some, scale=images)


def pixels(definition: Any, step: int) -> Any:
    return definition.batch(0, range(step, step + 1))["image"].astype(np.float32)
