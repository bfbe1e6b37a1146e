"""What the tests of webdataset pipelines share; a module, so that spawned workers can import it."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from torch.utils.data import DataLoader

import augstream as A
from augstream.digest import digest

# webdataset leaves closing its files to the collector, which tells of it; and torch warns of more workers than cores.
PARDON = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.usefixtures("collected"),
]


@pytest.fixture
def collected() -> Iterator[None]:
    """What a test leaves open is closed before the next one, which may not pardon it."""
    yield
    gc.collect()


def crop_and_flip() -> A.Compose:
    return A.Compose([A.RandomCrop(16, 16), A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])


def plain(shards: Any, **arguments: Any) -> wds.WebDataset:
    """webdataset's own source, in file order."""
    return wds.WebDataset(shards, shardshuffle=False, empty_check=False, **arguments)


def seen(sample: dict[str, Any]) -> tuple[str, str]:
    """What a test remembers of a sample: its key, and the digest of its picture."""
    return sample["__key__"], digest(np.asarray(sample["jpg"]))


def only(image: Any) -> Any:
    """A picture in which each pixel is itself, whatever its colours: for transforms of geometry."""
    return image


def roll(image: Any, rng: np.random.Generator) -> Any:
    """Somebody's function of an image and a generator."""
    return np.roll(image, int(rng.integers(1 << 30)) % image.shape[1], axis=1)


class Jitter(torch.nn.Module):
    """Somebody's module, which draws from torch's global generator."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.float() * torch.rand(())


def loader(
    dataset: Any, num_workers: int, *, persistent: bool = False, method: str = "fork"
) -> DataLoader[Any]:
    """A stock DataLoader of samples, not of batches."""
    return DataLoader(
        dataset, batch_size=None, num_workers=num_workers, multiprocessing_context=method if num_workers else None,
        persistent_workers=persistent,
    )  # fmt: skip


def passed(items: Iterable[Any]) -> dict[str, str]:
    """Key -> digest of one pass in which every sample came once."""
    found = list(items)
    assert len(dict(found)) == len(found)
    return dict(found)


class DieOnce:
    """Kills the worker that first sees a certain sample."""

    def __init__(self, marker: str) -> None:
        self.marker = Path(marker)
        self.trainer = os.getpid()

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        if sample["__key__"] == "000017" and os.getpid() != self.trainer and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return sample


class Is:
    """Whether a sample is the one of a key."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, sample: dict[str, Any]) -> bool:
        return bool(sample["__key__"] == self.key)
