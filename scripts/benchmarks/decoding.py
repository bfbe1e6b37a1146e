"""What decoding less gains: a part of an image with the same pixels, or the image at a reduced scale with others.

Samples are cropped (RandomResizedCrop to 224) and not normalised, so that decoding is nearly all there is to do. The
difference is the mean of |a - b| over all values of the results, in steps of 256, `a` being the exact result. The naked
decode is a loop in a process of its own, and pays, with large photographs, for pages that the C library gives back and
takes anew with each of them; a stream keeps them.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import contender
import numpy as np
from harness import Burst, Race, race, table, timed
from pictures import photographs, shards
from throughput import Contender

import augstream as A

KINDS = {"480 pixels wide, like ImageNet's": (480, 500), "photographs, 2,500 pixels wide": (2500, 24)}
LIMITS = {("scaled", 2500): 2.5}
BATCH_SIZE = 12
NAKED = "naked cv2.imdecode"
HEADER = [
    "images",
    "decode=",
    "images/CPU-s",
    "times the naked decode",
    "times decode='full'",
    "limit",
    "difference",
]


def run(arguments: Namespace) -> list[dict[str, Any]]:
    contender.calm()
    rows = []
    for kind, (side, count) in KINDS.items():
        paths = photographs(arguments.data, count) if side > 1000 else shards(arguments.data, count, side)
        streams = {mode: stream(paths, mode) for mode in ("full", "region", "scaled")}
        images = 10 * BATCH_SIZE if side < 1000 else BATCH_SIZE
        naked = Contender({"kind": "naked"}, paths, images)
        try:
            naked()  # the first burst warms up, and counts for nothing
            contenders = {NAKED: naked, **{mode: burst(made, images) for mode, made in streams.items()}}
            result = race(contenders, reference="full", rounds=arguments.rounds)
        finally:
            naked.close()
        steps = range(2 if arguments.quick else count // BATCH_SIZE)
        exact = [pixels(streams["full"], step) for step in steps]
        to_naked = {row["contender"]: row["cpu"]["ratio"] for row in Race(NAKED, result.bursts).rows()}
        for row in result.rows():
            mode = row["contender"]
            rows.append(
                {
                    "images": kind,
                    "difference": None if mode == NAKED else difference(exact, streams[mode], steps),
                    "limit": LIMITS.get((mode, side)),
                    "to_naked": to_naked[mode],
                    **row,
                }
            )
    print(table([line(row) for row in rows], HEADER))
    return rows


def difference(exact: list[Any], other: Any, steps: range) -> float:
    """The mean difference of a stream's pixels to the exact ones, over so many steps."""
    return float(
        np.mean([np.abs(pixels(other, step) - a).mean() for step, a in zip(steps, exact, strict=True)])
    )


def line(row: dict[str, Any]) -> list[str]:
    cpu = row["cpu"]
    return [
        row["images"], row["contender"], f"{cpu['rate']:,.0f}", f"{row['to_naked']:.2f}",
        f"{cpu['ratio']:.2f} ({cpu['lowest']:.2f}-{cpu['highest']:.2f})",
        "" if row["limit"] is None else f"{row['limit']:g}",
        "" if row["difference"] is None else f"{row['difference']:.2f}",
    ]  # fmt: skip


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
