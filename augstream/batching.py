"""From samples to batches, whatever the samples come from: left out, collated, counted, and never reordered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np

from .augment import Sample, image_of
from .collate import IMAGE, Array, Batch, Empty, Rows, collate, odd_ones
from .errors import AugstreamError, SampleError
from .ledgers.coded import TOLD
from .ledgers.content import content
from .ledgers.marks import Marks, marks_of
from .plan import Plan, Topology

OnError = Literal["raise", "skip"]
CollateFn = Callable[[list[Sample]], Any]
Skips = Collection[tuple[str, str]]
Progress = Callable[[int], None]
Ref = TypeVar("Ref")

_MAX_AHEAD = 64  # samples begun before the first of them is finished
_MAX_AHEAD_BYTES = 1 << 24
_KEPT_BYTES = 1 << 24  # glibc heeds no block above 32 MiB


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
    transfer: int = 0


@dataclass(frozen=True, slots=True)
class Made:
    """A batch as it was computed: the batch, what was left out of it, what it cost, and, if wanted, its marks."""

    batch: Any
    num_samples: int
    skipped: tuple[Skipped, ...]
    times: Times
    marks: Marks | None = None


class Begun(Protocol):
    """A sample that was read, and of which something is left to do. `size_bytes`: the memory it keeps, about."""

    size_bytes: int

    def finish(self, rows: Rows | None) -> Sample:
        """The sample; its image in the next of `rows`."""


class Definition(Protocol):
    """What every batch of every epoch holds: a stream, or a mixture of streams; a value that pickles."""

    @property
    def on_error(self) -> OnError:
        """What becomes of a sample that fails."""

    @property
    def marks(self) -> bool:
        """Whether its batches come with their marks, for a ledger."""

    def plan(self, topology: Topology, start_unit: int = 0) -> Plan:
        """Who computes what, of an epoch from `start_unit` on; the same for every epoch."""

    def maker(self) -> Batcher[Any]:
        """Something that computes its batches in this process."""


class Batcher(Generic[Ref]):
    """Computes batches of a definition in this process: a pure function with warm caches.

    A subclass says which samples some units hold, what they are called, and how to compute one; `Ref` is
    what it calls a sample. Not promised: thread safety of one instance.
    """

    def __init__(self, on_error: OnError, collate_fn: CollateFn | None, *, marks: bool) -> None:
        self._on_error, self._collate_fn, self._marks = on_error, collate_fn, marks
        self._guess: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        self.times = Times()
        _keep_freed_memory()

    def refs(self, epoch: int, units: range) -> list[Ref]:
        """The samples of consecutive canonical units."""
        raise NotImplementedError

    def name(self, ref: Ref) -> tuple[str, str]:
        """The shard's name and the key of a sample: together unique."""
        raise NotImplementedError

    def begin(self, epoch: int, ref: Ref) -> Begun:
        """Read a sample, and decide what can be decided about it without its pixels."""
        raise NotImplementedError

    def sample(self, epoch: int, ref: Ref) -> Sample:
        """One sample, read, decoded and augmented."""
        return self.begin(epoch, ref).finish(None)

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
        before it is begun and before it is finished, and with their number before collating; what it raises
        ends the work.
        """
        self.times = Times()
        refs = self.refs(epoch, units)
        rows = Rows(empty, len(refs), self._guess) if self._collate_fn is None else None
        samples: list[Sample] = []
        skipped: list[Skipped] = []
        for place, begun in self._begun(epoch, refs, skips, progress):
            if progress is not None:
                progress(place)
            if isinstance(begun, Skipped):
                skipped.append(begun)
                continue
            try:
                if isinstance(begun, Exception):
                    raise begun
                sample = begun.finish(rows)
                image = image_of(sample, IMAGE) if rows is not None else None
            except SampleError as error:
                if self._on_error == "raise":
                    raise
                skipped.append(Skipped(*self.name(refs[place]), str(error)))
                continue
            if rows is not None and image is not None:
                self._put(sample, image, rows)
            samples.append(sample)
        if progress is not None:
            progress(len(refs))
        started = perf_counter_ns()
        samples = self._without_odd_ones(samples, skipped)
        if not samples:
            raise _all_failed(skipped, epoch)
        names = [_name_of(sample) for sample in samples] if self._marks else []
        batch = self._collate(epoch, samples, rows, empty)
        marks = _marks_of(batch, names, samples) if self._marks else None
        self.times.collate += perf_counter_ns() - started
        return Made(batch, len(samples), tuple(skipped), self.times, marks)

    def _put(self, sample: Sample, image: Array, rows: Rows) -> None:
        """Put the image at its row; for a ledger it is read now, while the processor has it at hand."""
        sample[IMAGE] = image = rows.put(image)
        if self._marks and TOLD not in sample:
            sample[TOLD] = content(image)

    def _begun(
        self, epoch: int, refs: Sequence[Ref], skips: Skips, progress: Progress | None
    ) -> Iterator[tuple[int, Begun | Skipped | Exception]]:
        """The place of each sample, and the sample begun, or why it is not: in their order, some ahead of their turn.

        What is short and leaves pixels alone is done for some samples in a row, for after each decoded image the
        processor has forgotten it all, and does it at half the pace. An error waits for its sample's turn.
        """
        place = 0
        while place < len(refs):
            ahead: list[tuple[int, Begun | Skipped | Exception]] = []
            size_bytes = 0
            while place < len(refs) and len(ahead) < _MAX_AHEAD and size_bytes < _MAX_AHEAD_BYTES:
                if progress is not None:
                    progress(place)
                if skips and self.name(refs[place]) in skips:
                    ahead.append((place, Skipped(*self.name(refs[place]), "it killed its worker")))
                else:
                    try:
                        begun = self.begin(epoch, refs[place])
                    except Exception as error:  # noqa: BLE001  # raised at its turn
                        ahead.append((place, error))
                    else:
                        ahead.append((place, begun))
                        size_bytes += begun.size_bytes
                place += 1
            yield from ahead

    def _without_odd_ones(self, samples: list[Sample], skipped: list[Skipped]) -> list[Sample]:
        """The samples whose image is of the usual size, where others are to be skipped."""
        if self._on_error == "raise" or self._collate_fn is not None or not samples:
            return samples
        odd = set(odd_ones(samples))
        for place in sorted(odd):
            sample = samples[place]
            shape = getattr(sample.get(IMAGE), "shape", None)
            why = f"its image {shape} or its fields {sorted(map(str, sample))} are not those of its batch"
            skipped.append(Skipped(sample["__shard__"], sample["__key__"], why))
        return [sample for place, sample in enumerate(samples) if place not in odd] if odd else samples

    def _collate(self, epoch: int, samples: list[Sample], rows: Rows | None, empty: Empty) -> Any:
        collate_fn = self._collate_fn
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
            what = "collating" if collate_fn is None else f"collate_fn {name}"
            msg = (
                f"{what} failed on {len(samples)} samples of epoch {epoch}, {first['__key__']!r} "
                f"of {first['__shard__']!r} to {last['__key__']!r} of {last['__shard__']!r}: "
                f"{type(error).__name__}: {error}"
            )
            raise SampleError(msg, epoch=epoch) from error
        return batch


def _name_of(sample: Sample) -> tuple[str, str]:
    """What `Batcher.name` says of a sample."""
    shard, source = sample["__shard__"], sample.get("__source__")
    return shard if source is None else f"{source}/{shard}", sample["__key__"]


def _marks_of(batch: Any, names: list[tuple[str, str]], samples: list[Sample]) -> Marks:
    """The marks of a batch, from what its samples' images are told by."""
    told = [sample[TOLD] for sample in samples if TOLD in sample]
    return marks_of(batch, names, len(samples), {IMAGE: told} if len(told) == len(samples) else None)


def _keep_freed_memory() -> None:
    """Let the allocator keep what encoded and decoded images give back, for those that come next.

    glibc hands freed memory back to the system, and each fresh page costs more than filling it, until the process has
    freed a block this large once: from then on it keeps twice as much, and maps only larger blocks. That is 4 % of the
    time of the whole stream. Other allocators do not notice.

    Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, "dynamic".
    """
    np.empty(_KEPT_BYTES, np.uint8)


def _all_failed(skipped: Sequence[Skipped], epoch: int) -> SampleError:
    first = skipped[0]
    msg = (
        f"all {len(skipped)} samples of a batch failed in epoch {epoch}, and a batch cannot be empty, not "
        "even with on_error='skip', for each rank must have one: take larger batches, or write the shard without "
        f"them; the first was {first.key!r} of shard {first.shard!r}: {first.why}"
    )
    return SampleError(msg, shard=first.shard, key=first.key, epoch=epoch)
