"""The stream as a definition, and the pure run of it in one process: *compute these units of this epoch*.

A `Stream` is everything that decides what a batch holds. A `Maker` computes batches of a stream in whatever
process it is made: the trainer, a worker of ours, a DataLoader's worker. It keeps what is costly to make
(open shards, the order of the epoch it is in), and nothing that its results depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any, Literal

import numpy as np

from .augment import Sample, Stage, image_of, in_context, run_stage
from .collate import IMAGE, Batch, Empty, Rows, collate, odd_ones
from .decode import Fields
from .encoded import EncodedImage
from .errors import AugstreamError, RecipeError, SampleError
from .order import EpochOrder, Recipe, SampleRef
from .plan import Plan, Topology
from .seeding import Address, sample_key, stream_key
from .shards import IndexedShards, ShardReader

OnError = Literal["raise", "skip"]
Scope = tuple[str, ...]
CollateFn = Callable[[list[Sample]], Any]
Skips = Collection[tuple[str, str]]
Progress = Callable[[int], None]

FULL_SCOPE: Scope = ("shard", "worker", "epoch")


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that was left out of its batch: its shard's name, its key, and why."""

    shard: str
    key: str
    why: str


@dataclass(slots=True)
class Times:
    """Where the time went, in nanoseconds of this process, since it began to count."""

    read: int = 0
    decode: int = 0
    augment: int = 0
    collate: int = 0


@dataclass(frozen=True, slots=True)
class Made:
    """A batch as it was computed: the batch, what was left out of it, and what it cost."""

    batch: Any
    num_samples: int
    skipped: tuple[Skipped, ...]
    times: Times


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """What every batch of every epoch holds follows from this value alone.

    index: the shards. recipe: the order. fields: how a sample's bytes become values. stage: the
    augmentation. scope: which of shard, worker and epoch a sample's randomness depends on; "shard" always.
    on_error: what becomes of a sample that fails. collate_fn: makes the batch from a list of samples,
    instead of `collate.collate`. with_address: put ``__address__`` into every sample and batch.
    """

    index: IndexedShards
    recipe: Recipe
    fields: Fields
    stage: Stage
    scope: Scope = FULL_SCOPE
    on_error: OnError = "raise"
    collate_fn: CollateFn | None = None
    with_address: bool = False
    verify_checksums: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.scope, str) or not {"shard"} <= set(self.scope) <= set(FULL_SCOPE):
            msg = (
                f"scope must hold 'shard', and may hold 'worker' and 'epoch', got {self.scope!r}; "
                "leave out 'epoch' to augment each sample the same in every epoch"
            )
            raise RecipeError(msg)
        if self.on_error not in {"raise", "skip"}:
            msg = f"on_error must be 'raise' or 'skip', got {self.on_error!r}"
            raise RecipeError(msg)
        if self.collate_fn is not None and not callable(self.collate_fn):
            msg = f"collate_fn must be a function of a list of samples, got {self.collate_fn!r}"
            raise RecipeError(msg)

    def order(self, epoch: int) -> EpochOrder:
        """The order of an epoch."""
        return EpochOrder(self.index, self.recipe, epoch)

    def plan(self, topology: Topology, start_unit: int = 0) -> Plan:
        """Who computes what, of an epoch from `start_unit` on; the same for every epoch."""
        return Plan.of(self.recipe, self.index.total, topology, start_unit)

    def address(self, epoch: int, ref: SampleRef, key: str) -> Address:
        """Where the randomness of a sample lives, as far as the scope goes."""
        return Address(
            seed=self.recipe.seed,
            epoch=epoch if "epoch" in self.scope else None,
            worker=ref.lane if "worker" in self.scope else None,
            shard=self.index.names[ref.shard],
            sample=key,
        )

    def batch(self, epoch: int, units: range) -> Any:
        """The batch of the canonical units `units` of `epoch`, with numpy arrays, computed here and now."""
        return Maker(self).make(epoch, units).batch

    def sample(self, epoch: int, shard: str, key: str) -> Sample:
        """The augmented sample `key` of the shard named `shard` in `epoch`; no other sample is read."""
        position = self.index.position(shard)
        number = self.index.table(position).find(key)
        ref = SampleRef(position, number, self.order(epoch).lane_of_shard(position))
        return Maker(self).sample(epoch, ref)


@dataclass(slots=True)
class _Epoch:
    """What a maker keeps of the epoch it is in."""

    order: EpochOrder
    stream_keys: dict[int, bytes] = field(default_factory=dict)


class Maker:
    """Computes batches and samples of a stream in this process: a pure function with warm caches.

    Not promised: thread safety of one instance.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._reader = ShardReader(stream.index, verify_checksums=stream.verify_checksums)
        self._epochs: dict[int, _Epoch] = {}
        self._guess: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        self._times = Times()
        self._encoded: frozenset[str] = getattr(stream.stage, "sources", frozenset())

    def _epoch(self, epoch: int) -> _Epoch:
        found = self._epochs.get(epoch)
        if found is None:
            if len(self._epochs) > 1:  # the one before and the one ahead
                del self._epochs[min(self._epochs)]
            found = self._epochs[epoch] = _Epoch(self.stream.order(epoch))
        return found

    def refs(self, epoch: int, units: range) -> list[SampleRef]:
        """The samples of consecutive canonical units."""
        return self._epoch(epoch).order.refs(units)

    def name(self, ref: SampleRef) -> tuple[str, str]:
        """The shard's name and the key of a sample."""
        index = self.stream.index
        return index.names[ref.shard], index.table(ref.shard).keys[ref.sample]

    def _key(self, epoch: int, ref: SampleRef, key: str) -> bytes:
        """The key of a sample's randomness."""
        keys = self._epoch(epoch).stream_keys
        stream = keys.get(ref.shard)
        if stream is None:
            address = self.stream.address(epoch, ref, key)
            stream = keys[ref.shard] = stream_key(
                address.seed, shard=address.shard, worker=address.worker, epoch=address.epoch
            )
        return sample_key(stream, key)

    def sample(self, epoch: int, ref: SampleRef, rows: Rows | None = None) -> Sample:
        """One sample, read, decoded and augmented; its image in the next of `rows`.

        Raises `SampleError` with shard, key, epoch and address for whatever decoding or augmenting raises,
        and `ShardError` where the shard itself is at fault.
        """
        stream, times = self.stream, self._times
        started = perf_counter_ns()
        raw = self._reader.read(ref.shard, ref.sample)
        times.read += (read := perf_counter_ns()) - started
        key: str = raw["__key__"]
        late: list[EncodedImage] = []
        what = "decode"
        try:
            shard = stream.index.names[ref.shard]
            decoded = stream.fields.decode(raw, shard=shard, encoded=self._encoded)
            late = [value for value in decoded.values() if isinstance(value, EncodedImage)]
            times.decode += (done := perf_counter_ns()) - read
            what = "augment"
            out = None if rows is None else rows.out()
            sample = run_stage(stream.stage, decoded, self._key(epoch, ref, key), out)
        except Exception as error:
            if any(image.failed for image in late):
                what = "decode"
            raise in_context(error, what, stream.address(epoch, ref, key)) from error
        sample["__key__"], sample["__shard__"] = key, stream.index.names[ref.shard]
        if stream.with_address:
            sample["__address__"] = str(stream.address(epoch, ref, key))
        spent = sum([image.spent_ns for image in late])
        times.decode += spent
        times.augment += perf_counter_ns() - done - spent
        return sample

    def make(
        self,
        epoch: int,
        units: range,
        *,
        empty: Empty = np.empty,
        skips: Skips = (),
        progress: Progress | None = None,
    ) -> Made:
        """The batch of some consecutive canonical units, its arrays in memory that `empty` gives.

        skips: (shard, key) of samples to leave out. progress: called with each sample's place in the batch
        before it is computed, and with their number before collating; what it raises ends the work.
        """
        self._times = Times()
        refs = self.refs(epoch, units)
        rows = Rows(empty, len(refs), self._guess) if self.stream.collate_fn is None else None
        samples: list[Sample] = []
        skipped: list[Skipped] = []
        for place, ref in enumerate(refs):
            if progress is not None:
                progress(place)
            if skips and self.name(ref) in skips:
                skipped.append(Skipped(*self.name(ref), "it killed its worker"))
                continue
            try:
                sample = self.sample(epoch, ref, rows)
            except SampleError as error:
                if self.stream.on_error == "raise":
                    raise
                skipped.append(Skipped(*self.name(ref), str(error)))
                continue
            image = image_of(sample, IMAGE) if rows is not None else None
            if rows is not None and image is not None:
                sample[IMAGE] = rows.put(image)
            samples.append(sample)
        if progress is not None:
            progress(len(refs))
        started = perf_counter_ns()
        samples = self._without_odd_ones(samples, skipped)
        if not samples:
            raise _all_failed(skipped, epoch)
        batch = self._collate(epoch, samples, rows, empty)
        self._times.collate += perf_counter_ns() - started
        return Made(batch, len(samples), tuple(skipped), self._times)

    def _without_odd_ones(self, samples: list[Sample], skipped: list[Skipped]) -> list[Sample]:
        """The samples whose image is of the usual size, where others are to be skipped."""
        if self.stream.on_error == "raise" or self.stream.collate_fn is not None or not samples:
            return samples
        odd = set(odd_ones(samples))
        for place in sorted(odd):
            sample = samples[place]
            shape = getattr(sample.get(IMAGE), "shape", None)
            why = f"its image {shape} or its fields {sorted(map(str, sample))} are not those of its batch"
            skipped.append(Skipped(sample["__shard__"], sample["__key__"], why))
        return [sample for place, sample in enumerate(samples) if place not in odd] if odd else samples

    def _collate(self, epoch: int, samples: list[Sample], rows: Rows | None, empty: Empty) -> Any:
        collate_fn = self.stream.collate_fn
        try:
            if collate_fn is not None:
                return collate_fn(samples)
            self._guess = None if rows is None else rows.guess
            stack = None if rows is None else rows.stack(len(samples))
            batch: Batch = collate(samples, empty=empty, stacked=None if stack is None else {IMAGE: stack})
        except SampleError as error:
            error.epoch = epoch if error.epoch is None else error.epoch
            raise
        except AugstreamError:
            raise
        except Exception as error:
            first, last = samples[0], samples[-1]
            name = getattr(collate_fn, "__qualname__", repr(collate_fn))
            msg = (
                f"collate_fn {name} failed on {len(samples)} samples of epoch {epoch}, {first['__key__']!r} "
                f"of {first['__shard__']!r} to {last['__key__']!r} of {last['__shard__']!r}: "
                f"{type(error).__name__}: {error}"
            )
            raise SampleError(msg, epoch=epoch) from error
        return batch


def _all_failed(skipped: Sequence[Skipped], epoch: int) -> SampleError:
    first = skipped[0]
    msg = (
        f"all {len(skipped)} samples of a batch failed in epoch {epoch}, and a batch cannot be empty, not "
        f"even with on_error='skip'; the first was {first.key!r} of shard {first.shard!r}: {first.why}"
    )
    return SampleError(msg, shard=first.shard, key=first.key, epoch=epoch)
