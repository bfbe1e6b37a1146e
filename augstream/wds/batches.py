"""Batching in a webdataset pipeline without looking ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from webdataset import filters

from ..errors import RecipeError


class Batched:
    """A stage that gathers samples into batches, and gives each batch as soon as it is full.

    webdataset's own asks for the next sample before it gives a batch, so that a consumer that stops between two batches
    has lost one. Arguments are those of ``wds.batched``.
    """

    def __init__(
        self,
        batchsize: int,
        collation_fn: Callable[[list[Any]], Any] | None = filters.default_collation_fn,
        partial: bool = True,
    ) -> None:
        if isinstance(batchsize, bool) or not isinstance(batchsize, int) or batchsize < 1:
            msg = f"batchsize must be 1 or more samples, got {batchsize!r}"
            raise RecipeError(msg)
        self.batchsize = batchsize
        self.collation_fn = collation_fn
        self.partial = partial

    def __repr__(self) -> str:
        return f"augstream.wds.batched({self.batchsize}, partial={self.partial})"

    def __call__(self, source: Iterable[Any]) -> Iterator[Any]:
        """The batches of `source`."""
        gathered: list[Any] = []
        for sample in source:
            gathered.append(sample)
            if len(gathered) == self.batchsize:
                yield self._collated(gathered)
                gathered = []
        if gathered and self.partial:
            yield self._collated(gathered)

    def _collated(self, samples: list[Any]) -> Any:
        return samples if self.collation_fn is None else self.collation_fn(samples)


def batched(
    batchsize: int,
    collation_fn: Callable[[list[Any]], Any] | None = filters.default_collation_fn,
    partial: bool = True,
) -> Batched:
    """``wds.batched`` without its look-ahead; see `Batched`."""
    return Batched(batchsize, collation_fn, partial)
