"""What runs of one stream are compared by: the digest of every field of every batch, or the values themselves."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..digest import digest
from ..errors import RecipeError

if TYPE_CHECKING:
    from ..dataset import BatchDataset
    from ..loader import StreamLoader

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """One delivered batch: which, the digest of each of its fields, and its samples' keys."""

    epoch: int
    number: int
    fields: dict[str, str]
    keys: tuple[str, ...]

    @classmethod
    def of(cls, epoch: int, number: int, batch: Any) -> Seen:
        """What is remembered of `batch`."""
        named = named_values(batch)
        fields = {str(name): digest(value) for name, value in named.items()}
        return cls(epoch, number, fields, tuple(named.get("__key__", ())))


def named_values(batch: Any) -> dict[Any, Any]:
    """The values of a batch by name: its own, if it is a dict."""
    return batch if isinstance(batch, dict) else {"batch": batch}


def delivered(
    loader: StreamLoader, num_epochs: int, num_batches: int | None, first: int = 0
) -> Iterator[tuple[int, int, Any]]:
    """(epoch, number, batch) of the next epochs; of each no more than `num_batches`, the first numbered `first`."""
    for _ in range(num_epochs):
        epoch = loader.epoch
        left = None if num_batches is None else num_batches - first
        for number, batch in enumerate(islice(loader, left), first):
            yield epoch, number, batch
        loader.set_epoch(epoch + 1)
        first = 0


def seen(loader: StreamLoader, num_epochs: int, num_batches: int | None, first: int = 0) -> list[Seen]:
    """What is remembered of the batches that are `delivered`; `RecipeError` where none are asked for."""
    check_some(num_epochs=num_epochs, num_batches=num_batches)
    return [Seen.of(*found) for found in delivered(loader, num_epochs, num_batches, first)]


def check_some(**counts: int | None) -> None:
    """Raise `RecipeError` for a count below 1, None aside: of nothing, everything holds."""
    for name, count in counts.items():
        if count is not None and count < 1:
            msg = f"{name} must be at least 1, got {count}"
            raise RecipeError(msg)


def compare(expected: Sequence[Seen], found: Sequence[Seen], how: str) -> None:
    """Raise `AssertionError`, saying where the first difference is, unless both are equal."""
    for one, other in zip(expected, found, strict=False):
        if one == other:
            continue
        where = f"batch {one.number} of epoch {one.epoch}"
        if one.keys != other.keys:
            msg = f"{how}: {where} holds the samples {list(other.keys)}, and {list(one.keys)} before"
        else:
            names = sorted({*one.fields, *other.fields})
            names = [name for name in names if one.fields.get(name) != other.fields.get(name)]
            msg = f"{how}: {where} differs in {', '.join(map(repr, names))}; its samples are {list(one.keys)}"
        raise AssertionError(msg)
    if len(expected) != len(found):
        msg = f"{how}: {len(found)} batches, and {len(expected)} before"
        raise AssertionError(msg)


@contextmanager
def loading(dataset: BatchDataset, num_workers: int, **arguments: Any) -> Iterator[StreamLoader]:
    """A loader of `dataset` that is closed afterwards."""
    from ..loader import StreamLoader  # which imports torch

    with StreamLoader(dataset, num_workers=num_workers, **arguments) as loader:
        yield loader


@contextmanager
def global_generators(seed: int) -> Iterator[list[str]]:
    """Seed the global generators; afterwards name those that were moved, and put all back."""
    import torch

    def states() -> dict[str, Any]:
        return {
            "random": random.getstate(),
            "numpy": tuple(map(str, np.random.get_state())),  # noqa: NPY002  # the global one is meant
            "torch": torch.get_rng_state().numpy().tobytes(),
        }

    with seeded(seed, seed, seed):
        before, moved = states(), list[str]()
        yield moved
        moved += [name for name, state in states().items() if state != before[name]]


@contextmanager
def seeded(python: int, numpy: int, torch_seed: int) -> Iterator[None]:
    """Seed the global generators of random, numpy and torch, and put them back afterwards."""
    import torch

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  # the global one is meant
    random.seed(python)
    np.random.seed(numpy)  # noqa: NPY002
    torch.set_rng_state(torch.Generator().manual_seed(torch_seed).get_state())
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


@dataclass(frozen=True, slots=True)
class Difference:
    """How two values of one name differ. row: the first entry that does, of a list or of an array's first axis.

    changed, total: elements, or, of an image (H, W, C) or (C, H, W), pixels, as `unit` says. most: the largest absolute
    difference, None where there is none to take. text: the difference, where it is not one of elements.
    """

    name: str
    row: int | None = None
    changed: int = 0
    total: int = 0
    unit: str = "values"
    most: float | None = None
    text: str = ""

    def __str__(self) -> str:
        if self.text:
            return f"{self.name!r}: {self.text}"
        by = "" if self.most is None else f", by up to {self.most:g}"
        return f"{self.name!r}: {self.changed} of {self.total} {self.unit} differ{by}"


def kept(value: Any) -> Any:
    """A copy of `value` that nobody writes to: tensors as arrays, in dicts and lists."""
    if isinstance(value, Mapping):
        return {name: kept(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [kept(item) for item in value]
    to_numpy = getattr(value, "numpy", None)
    if callable(to_numpy) and hasattr(value, "detach"):
        return np.array(value.detach().cpu().numpy())
    return np.array(value) if isinstance(value, np.ndarray) else value


def difference(one: Any, other: Any, name: str = "") -> Difference | None:
    """The first difference between two values that `kept` gave, down to arrays; None if they are equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return Difference(name, text=f"fields {sorted(map(str, one))}, then {sorted(map(str, other))}")
        pairs = [(f"{name}.{key}" if name else str(key), one[key], other[key]) for key in one]
        return next((found for key, a, b in pairs if (found := difference(a, b, key))), None)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            found = difference(a, b, f"{name}[{place}]")
            if found is not None:
                return replace(found, row=place)
        return None
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return _array_difference(name, one, other)
    if _equal(one, other):
        return None
    return Difference(name, text=f"{one!r:.60}, then {other!r:.60}")


def _equal(one: Any, other: Any) -> bool:
    try:
        return digest(one) == digest(other)
    except RecipeError:  # of a kind that has no digest
        return type(one) is type(other) and bool(one == other)


def _array_difference(name: str, one: Array, other: Array) -> Difference | None:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return Difference(name, text=f"{one.shape} {one.dtype}, then {other.shape} {other.dtype}")
    if one.dtype.hasobject:
        return difference(one.tolist(), other.tolist(), name)
    if digest(one) == digest(other):
        return None
    is_changed = one != other
    if one.dtype.kind in "fc":
        is_changed &= ~(np.isnan(one) & np.isnan(other))
    most = None
    if one.dtype.kind in "biuf":
        gaps = np.abs(one.astype(np.float64) - other.astype(np.float64))
        most = float(np.nanmax(gaps, initial=0.0))
    rows = np.flatnonzero(is_changed.reshape(len(one), -1).any(axis=1)).tolist() if one.ndim else []
    channels = {1, 3, 4}
    axis = next((axis for axis in (-1, 0) if one.ndim == 3 and one.shape[axis] in channels), None)
    shown = is_changed if axis is None else is_changed.any(axis=axis)
    unit = "values" if axis is None else "pixels"
    return Difference(name, rows[0] if rows else None, int(shown.sum()), int(shown.size), unit, most)
