"""What the tests of streams and loaders share: a dataset, its digests, and stages that misbehave on purpose.

Stages are classes in a module of their own, so that spawned workers can import them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import augstream as A
from augstream.digest import digest


def crop_and_flip() -> A.Compose:
    return A.Compose([A.RandomResizedCrop(size=(24, 32)), A.HorizontalFlip(p=0.5)])


def dataset_of(shards: Any, transform: Any = None, **arguments: Any) -> A.StreamDataset:
    arguments = {"batch_size": 4, "seed": 137, "lanes": 3, "window": 16, **arguments}
    return A.StreamDataset(shards, crop_and_flip() if transform is None else transform, **arguments)


def digests(batches: Any) -> list[str]:
    return [digest(batch) for batch in batches]


def epochs_of(dataset: A.StreamDataset, num_epochs: int) -> list[list[str]]:
    """The digests of every batch of the first epochs, each computed by itself."""
    plan = dataset.stream.plan(dataset.topology())
    steps = range(plan.num_steps)
    return [
        [digest(dataset.stream.batch(epoch, plan.units_of_step(step))) for step in steps]
        for epoch in range(num_epochs)
    ]


@dataclass(frozen=True)
class ResizeByHand:
    """Cuts every picture to one size without Compose, and draws a number for each sample."""

    def __call__(self, sample: dict[str, Any], rng: Any) -> dict[str, Any]:
        return {**sample, "image": np.ascontiguousarray(sample["image"][:24, :32]), "drawn": rng.random()}


@dataclass(frozen=True)
class FailAt(ResizeByHand):
    """Raises at some keys."""

    keys: tuple[str, ...] = ()

    def __call__(self, sample: dict[str, Any], rng: Any) -> dict[str, Any]:
        if sample["__key__"] in self.keys:
            msg = f"no luck with {sample['__key__']}"
            raise OSError(msg)
        return super().__call__(sample, rng)


@dataclass(frozen=True)
class WrongSizeAt(ResizeByHand):
    """Leaves some keys' pictures too large."""

    keys: tuple[str, ...] = ()

    def __call__(self, sample: dict[str, Any], rng: Any) -> dict[str, Any]:
        if sample["__key__"] in self.keys:
            return {**super().__call__(sample, rng), "image": np.zeros((30, 40, 3), np.uint8)}
        return super().__call__(sample, rng)


@dataclass(frozen=True)
class NoArrayAt(ResizeByHand):
    """Makes some keys' pictures tensors that numpy has no type for."""

    keys: tuple[str, ...] = ()

    def __call__(self, sample: dict[str, Any], rng: Any) -> dict[str, Any]:
        given = super().__call__(sample, rng)
        if sample["__key__"] in self.keys:
            import torch

            given["image"] = torch.from_numpy(given["image"]).bfloat16()
        return given


@dataclass(frozen=True)
class DieAt(ResizeByHand):
    """Kills the worker that computes some keys: each time, or the first `times` times counted in `folder`."""

    keys: tuple[str, ...] = ()
    trainer: int = 0
    folder: str = ""
    times: int = 0
    signal: int = signal.SIGKILL

    def __call__(self, sample: dict[str, Any], rng: Any) -> dict[str, Any]:
        if sample["__key__"] in self.keys and os.getpid() != self.trainer and self._may():
            os.kill(os.getpid(), self.signal)
        return super().__call__(sample, rng)

    def _may(self) -> bool:
        """Whether this is one of the first `times` times, whichever process counts."""
        if not self.folder:
            return True
        for count in range(self.times):
            with contextlib.suppress(FileExistsError):
                (Path(self.folder) / str(count)).touch(exist_ok=False)
                return True
        return False


@dataclass(frozen=True)
class ExitAt(ResizeByHand):
    """Ends the process that computes some keys."""

    keys: tuple[str, ...] = ()

    def __call__(self, sample: dict[str, Any], rng: Any) -> dict[str, Any]:
        if sample["__key__"] in self.keys:
            sys.exit(3)
        return super().__call__(sample, rng)
