"""What the framework itself costs: pictures of 8 x 8, so that there is nothing to do."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import albumentations
import numpy as np
import torch
from harness import race, table, timed

import augstream as A
from augstream.foreign import adapt
from augstream.seeding import Draws, sample_key, stream_key
from augstream.transforms.leaks import Watch

IMAGE = np.zeros((8, 8, 3), np.uint8)


def of_image(image: Any, rng: np.random.Generator) -> Any:
    return np.roll(image, rng.integers(8), axis=1)


def of_sample(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "image": sample["image"][:, ::-1]}


def adapters() -> dict[str, tuple[Any, float | None]]:
    """Other people's augmentations, and what they cost where their generators are seeded by address."""
    flips = albumentations.Compose([albumentations.HorizontalFlip(p=0)] * 8)
    stages = {
        "eight flips of 2.0.8": adapt(flips), "a torch module": adapt(torch.nn.Identity()),
        "f(image, rng)": adapt(of_image), "f(sample)": adapt(of_sample),
    }  # fmt: skip
    calls: dict[str, tuple[Any, float | None]] = {"eight flips of 2.0.8": (lambda: flips(image=IMAGE), None)}
    for name, stage in stages.items():
        calls[f"{name}, adapted"] = (lambda stage=stage: stage({"image": IMAGE}, b"0" * 16), 100.0)
    return calls


def run(arguments: Namespace) -> list[dict[str, Any]]:
    empty, noops = A.Compose([], seed=1), A.Compose([A.NoOp(p=1)] * 5, seed=1)
    strict, watch = noops.stage(strict=True), Watch()
    their_empty = albumentations.Compose([], seed=1)
    their_noops = albumentations.Compose([albumentations.NoOp(p=1)] * 5, seed=1)
    stage, stream, draws = noops.stage(), stream_key(1, shard="a.tar", worker=0, epoch=0), Draws()

    def address() -> float:
        """What a sample's address costs: its key, the stage's key, and a number at a slot."""
        draws.move(stage.key(sample_key(stream, "00000017")), b"\0\0")
        return draws.random()

    calls = {
        "empty Compose": (lambda: empty(image=IMAGE), 3.0),
        "empty Compose, 2.0.8": (lambda: their_empty(image=IMAGE), None),
        "five NoOps": (lambda: noops(image=IMAGE), 15.0),
        "five NoOps, 2.0.8": (lambda: their_noops(image=IMAGE), None),
        "five NoOps at an address": (lambda: noops.at(3, 14)(image=IMAGE), None),
        "five NoOps as a stage": (lambda: stage({"image": IMAGE}, b"0" * 16), None),
        "address and keys of a sample": (address, 10.0),
        "five NoOps as a strict stage": (lambda: strict({"image": IMAGE}, b"0" * 16), None),
        "what strict adds to a sample": (lambda: watch.moved(watch.look()), 20.0),
        **adapters(),
    }
    contenders = {name: timed(call, seconds=0.02) for name, (call, _) in calls.items()}
    result = race(contenders, reference="empty Compose, 2.0.8", rounds=arguments.rounds * 5, progress=False)
    rows = []
    for name, (_, limit) in calls.items():
        us = sorted(1e6 * burst.cpu_s / burst.items for burst in result.bursts[name])
        rows.append({"what": name, "us": us[len(us) // 2], "lowest_us": us[0], "limit_us": limit})
    lines = [
        [
            row["what"], f"{row['us']:.1f}", f"{row['lowest_us']:.1f}",
            "" if row["limit_us"] is None else f"{row['limit_us']:g}",
        ]
        for row in rows
    ]  # fmt: skip
    print(table(lines, ["8 x 8 pixels", "us, median", "us, lowest", "limit"]))
    return rows
