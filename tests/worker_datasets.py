"""Datasets and transforms that workers must be able to import, whatever way they are started."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

import augstream as A

IMAGE = np.zeros((1, 1), np.float64)


class Draw(A.ImageOnlyTransform):
    """Writes into the image the number in [0, 1) that it drew."""

    def get_params(self) -> dict[str, Any]:
        return {"drawn": self.py_random.random()}

    def apply(self, img: np.ndarray, drawn: float = 0.0, **params: Any) -> np.ndarray:
        return np.full_like(img, drawn)


def drawn(compose: Any) -> float:
    """What the next call of `compose` draws."""
    return float(compose(image=IMAGE)["image"][0, 0])


class Seen(NamedTuple):
    """What a dataset's item says of its making."""

    index: int
    worker: int
    torch_seed: int
    effective_seed: int
    drawn: float


class Drawing(Dataset[Seen]):
    """Items that show what their Compose drew; `inside` makes it where it is first needed, in the worker."""

    def __init__(
        self, seed: int | None, *, inside: bool = False, num_items: int = 8, **arguments: Any
    ) -> None:
        self.seed = seed
        self.arguments = arguments
        self.num_items = num_items
        self.compose = None if inside else self.made()

    def made(self) -> A.Compose:
        return A.Compose([Draw(p=1)], seed=self.seed, **self.arguments)

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> Seen:
        if self.compose is None:
            self.compose = self.made()
        info = get_worker_info()
        value = drawn(self.compose)
        effective = self.compose.effective_seed
        worker = -1 if info is None else info.id
        return Seen(index, worker, torch.initial_seed(), -1 if effective is None else effective, value)


class Addressed(Dataset[tuple[int, float]]):
    """Items whose augmentation is addressed by epoch and index."""

    def __init__(self, num_items: int = 12) -> None:
        self.compose = A.Compose([Draw(p=1)], seed=137)
        self.num_items = num_items

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, drawn(self.compose.at(3, index))


def as_is(items: list[Any]) -> list[Any]:
    """A collate function that does nothing."""
    return items


def epoch(
    dataset: Dataset[Any], method: str | None = "fork", torch_seed: int | None = 0, **arguments: Any
) -> list[Any]:
    """All items of one pass of a new DataLoader."""
    return passed(loader(dataset, method, torch_seed, **arguments))


def loader(
    dataset: Dataset[Any], method: str | None = "fork", torch_seed: int | None = 0, **arguments: Any
) -> DataLoader[Any]:
    """A DataLoader whose torch seeds follow from `torch_seed`, or from torch's global generator if it is None."""
    settings: dict[str, Any] = {"num_workers": 2, "batch_size": 2, "collate_fn": as_is, **arguments}
    if settings["num_workers"]:
        settings["multiprocessing_context"] = method
    if torch_seed is not None:
        settings["generator"] = torch.Generator().manual_seed(torch_seed)
    return DataLoader(dataset, **settings)


def passed(batches: DataLoader[Any]) -> list[Any]:
    """All items of one pass."""
    return [item for batch in batches for item in batch]
