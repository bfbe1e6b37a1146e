"""Batching in a webdataset pipeline without looking ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from webdataset import filters

from ..errors import RecipeError, SampleError
from .iteration import enclosing_iteration


class CollationError(SampleError):
    """Samples that don't go together in a batch."""


class Clock:
    """Which batch of its own a source is in, counted from 0, and whether the sample it gave is the batch's last."""

    __slots__ = ("batch", "is_last")

    def __init__(self) -> None:
        self.batch = 0
        self.is_last = False


class Batched:
    """A stage that gathers samples into batches, and gives each batch as soon as it is full.

    webdataset's own asks for the next sample before it gives a batch, so that a consumer that stops between two batches
    has lost one. Behind a source of ours, batches are the source's, shorter where stages between drop samples.
    Arguments are those of ``wds.batched``.
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
        around = enclosing_iteration(self)
        clock = None if around is None else getattr(around.f_locals["self"].pipeline[0], "clock", None)
        gathered: list[Any] = []
        batch = 0
        for sample in source:
            if clock is not None and clock.batch != batch:
                if gathered:
                    yield self._collated(gathered)
                    gathered = []
                    batch += 1
                if clock.batch != batch:
                    raise SampleError(_all_dropped(batch))
            gathered.append(sample)
            if len(gathered) == self.batchsize or (clock is not None and clock.is_last):
                yield self._collated(gathered)
                gathered = []
                batch += 1
        if gathered and self.partial:
            yield self._collated(gathered)
            batch += 1
        if clock is not None and self.partial and clock.batch != batch:
            raise SampleError(_all_dropped(batch))

    def _collated(self, samples: list[Any]) -> Any:
        if self.collation_fn is None:
            return samples
        try:
            return self.collation_fn(samples)
        except Exception as error:
            keys = [sample.get("__key__") for sample in samples if isinstance(sample, Mapping)]
            named = f", {keys[0]!r} to {keys[-1]!r}" if keys else ""
            msg = (
                f"the collation of {len(samples)} samples{named} failed: {type(error).__name__}: {error}; "
                "make them alike in a stage before, or pass batched(..., collation_fn=...)"
            )
            raise CollationError(msg) from error


def _all_dropped(batch: int) -> str:
    return (
        f"the stages left none of the samples of batch {batch} of this worker, and a batch cannot be empty; choose "
        "samples by their shards, or make batches larger"
    )


def batched(
    batchsize: int,
    collation_fn: Callable[[list[Any]], Any] | None = filters.default_collation_fn,
    partial: bool = True,
) -> Batched:
    """``wds.batched`` without its look-ahead; see `Batched`."""
    return Batched(batchsize, collation_fn, partial)
