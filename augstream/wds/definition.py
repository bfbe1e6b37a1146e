"""A webdataset pipeline as a definition: its stages run over one batch at a time, so that any batch comes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np
from webdataset import filters
from webdataset.tariterators import base_plus_ext
from webdataset.utils import PipelineStage

from ..ambient import GlobalGenerators
from ..augment import Sample
from ..batching import Made, Progress, Skipped, Skips, Times
from ..collate import Empty
from ..errors import AugstreamError, SampleError
from ..ledgers.marks import marks_of
from ..order import SampleRef
from ..stream import Maker, Stream
from .batches import Batched, CollationError
from .stage import EPOCH, LANE, VISIT

_NOWHERE = bytes(16)


@dataclass(frozen=True, slots=True)
class Members:
    """Which members of the shards are samples' members, and under which names: webdataset's two arguments.

    select: of a member's name (``000012.jpg``), whether it is wanted. rename: its new name, before `select` sees it.
    """

    select: Callable[[str], bool] | None = None
    rename: Callable[[str], str] | None = None

    def applied(self, raw: Sample) -> Sample | None:
        """The sample with the members that are wanted; None if none is."""
        if self.select is None and self.rename is None:
            return raw
        given: Sample = {name: value for name, value in raw.items() if name.startswith("__")}
        keys = set()
        for suffix, value in raw.items():
            if suffix.startswith("__"):
                continue
            name = f"{raw['__key__']}.{suffix}"
            name = name if self.rename is None else self.rename(name)
            key, new_suffix = base_plus_ext(name)
            if key is None or (self.select is not None and not self.select(name)):
                continue
            keys.add(key)
            given["__key__"], given[new_suffix.lower()] = key, value
        if len(keys) > 1:
            msg = (
                f"rename_files makes members of sample {raw['__key__']!r} into members of several: "
                f"{', '.join(sorted(keys))}; a sample must stay one"
            )
            raise SampleError(msg, key=raw["__key__"])
        return given if keys else None


@dataclass(frozen=True, slots=True, eq=False)
class PipelineStream(Stream):
    """A stream whose samples run through webdataset's stages instead of being decoded, augmented and collated by us.

    stages: run batch by batch, in this order; one of them may be a `Batched`. members: which members there are.
    urls: what ``__url__`` is for each shard, if not where it lies.
    """

    stages: tuple[Any, ...] = ()
    members: Members = Members()
    urls: tuple[str, ...] = ()

    @property
    def is_batched(self) -> bool:
        """Whether the stages make a batch of the samples."""
        return any(isinstance(stage, Batched) for stage in self.stages)

    def maker(self) -> PipelineMaker:
        """Something that computes batches of this stream in this process."""
        return PipelineMaker(self)


class PipelineMaker(Maker):
    """Computes batches of a pipeline in this process."""

    stream: PipelineStream

    def __init__(self, stream: PipelineStream) -> None:
        super().__init__(stream)
        self._lent = GlobalGenerators()

    def make(
        self,
        epoch: int,
        units: range,
        *,
        empty: Empty = np.empty,
        skips: Skips = (),
        progress: Progress | None = None,
    ) -> Made:
        """The batch of some units, as the stages make it, or collated as webdataset does if they make none."""
        refs = self.refs(epoch, units)
        self.times = Times()
        outputs, skipped, count = self.outputs(epoch, refs, skips=skips, progress=progress)
        if not outputs:
            first = self.name(refs[0])
            msg = (
                f"the stages left none of the {len(refs)} samples of a batch in epoch {epoch} (the first was "
                f"{first[1]!r} of shard {first[0]!r}), and a batch cannot be empty; choose samples by their shards, "
                "or make batches larger"
            )
            raise SampleError(msg, shard=first[0], key=first[1], epoch=epoch)
        batch = outputs[0] if self.stream.is_batched else filters.default_collation_fn(outputs)
        marks = None
        if self.stream.marks:
            left_out = {(one.shard, one.key) for one in skipped}
            names = [name for name in map(self.name, refs) if name not in left_out]
            marks = marks_of(batch, names, count)
        return Made(batch, count, tuple(skipped), self.times, marks)

    def outputs(
        self,
        epoch: int,
        refs: list[SampleRef],
        *,
        skips: Skips = (),
        progress: Progress | None = None,
        visit: int = 0,
        stages: tuple[Any, ...] | None = None,
    ) -> tuple[list[Any], list[Skipped], int]:
        """What the stages make of some samples, what was skipped, and how many samples went in.

        With ``on_error="skip"``, a sample that fails is left out, and the stages run once more over the others.
        """
        run = _Run(self, epoch, refs, progress, visit)
        skipped = [Skipped(*name, "it killed its worker") for name in map(self.name, refs) if name in skips]
        left_out = {(one.shard, one.key) for one in skipped}
        while True:
            try:
                return (
                    run.outputs(self._lent, self.stream.stages if stages is None else stages, left_out),
                    skipped,
                    run.count,
                )
            except SampleError as error:
                name = (error.shard, error.key)
                if (
                    self.stream.on_error == "raise"
                    or error.shard is None
                    or error.key is None
                    or name in left_out
                ):
                    raise
                left_out.add((error.shard, error.key))
                skipped.append(Skipped(error.shard, error.key, str(error)))

    def raw(self, epoch: int, ref: SampleRef, visit: int) -> Sample | None:
        """A sample as webdataset would read it, with its epoch and lane; None if none of its members is wanted."""
        started = perf_counter_ns()
        raw = self._reader.read(ref.shard, ref.sample)
        if self.stream.urls:
            raw["__url__"] = self.stream.urls[ref.shard]
        given = self.stream.members.applied(raw)
        if given is not None:
            given[EPOCH], given[LANE] = epoch, ref.lane
            if visit:
                given[VISIT] = visit
        self.times.read += perf_counter_ns() - started
        return given

    def key(self, epoch: int, ref: SampleRef) -> bytes:
        """The key of a sample's randomness, where stages draw from global generators."""
        return self._key(epoch, ref, self.name(ref)[1])

    def sample(self, epoch: int, ref: SampleRef) -> Sample:
        """What the stages before batching make of one sample alone."""
        stages: list[Any] = []
        for stage in self.stream.stages:
            if isinstance(stage, Batched):
                break
            stages.append(stage)
        outputs = self.outputs(epoch, [ref], stages=tuple(stages))[0]
        if not outputs:
            shard, key = self.name(ref)
            msg = f"the stages leave sample {key!r} of shard {shard!r} out"
            raise SampleError(msg, shard=shard, key=key, epoch=epoch)
        sample: Sample = outputs[0]
        return sample


class _Run:
    """One run of the stages over the samples of a batch."""

    def __init__(
        self, maker: PipelineMaker, epoch: int, refs: list[SampleRef], progress: Progress | None, visit: int
    ) -> None:
        self._maker, self._epoch, self._refs, self._progress, self._visit = (
            maker,
            epoch,
            refs,
            progress,
            visit,
        )
        self._at: SampleRef | None = None
        self._interruption: Exception | None = None
        self.count = 0

    def outputs(
        self, lent: GlobalGenerators, stages: tuple[Any, ...], left_out: set[tuple[str, str]]
    ) -> list[Any]:
        """What the stages make of the samples that are not left out."""
        started = perf_counter_ns()
        self._at, self.count = None, 0
        try:
            with lent.at(_NOWHERE):
                return list(_chained(self._samples(lent, left_out), stages))
        except Exception as error:
            if error is self._interruption or self._at is None or isinstance(error, CollationError):
                raise
            if isinstance(error, AugstreamError) and not isinstance(error, SampleError):
                raise
            shard, key = self._maker.name(self._at)
            if isinstance(error, SampleError) and (error.shard, error.key) == (shard, key):
                raise
            raise _in_context(error, shard, key, self._epoch) from error
        finally:
            self._maker.times.augment += perf_counter_ns() - started

    def _samples(self, lent: GlobalGenerators, left_out: set[tuple[str, str]]) -> Iterator[Sample]:
        maker = self._maker
        for place, ref in enumerate(self._refs):
            self._tell(place)
            if left_out and maker.name(ref) in left_out:
                continue
            self._at = ref
            sample = maker.raw(self._epoch, ref, self._visit)
            if sample is not None:
                self.count += 1
                lent.move(maker.key(self._epoch, ref))
                yield sample
        self._tell(len(self._refs))

    def _tell(self, place: int) -> None:
        if self._progress is None:
            return
        try:
            self._progress(place)
        except Exception as error:
            self._interruption = error
            raise


def _in_context(error: Exception, shard: str, key: str, epoch: int) -> SampleError:
    """`error` as the `SampleError` of the sample that the stages were at."""
    what = str(error) if isinstance(error, SampleError) else f"{type(error).__name__}: {error}"
    msg = (
        f"the stages failed on sample {key!r} of shard {shard!r} in epoch {epoch}: {what}\n"
        f"  to run them on it alone: dataset.sample(epoch={epoch}, shard={shard!r}, key={key!r})"
    )
    return SampleError(msg, shard=shard, key=key, epoch=epoch)


def _chained(samples: Iterator[Any], stages: tuple[Any, ...]) -> Any:
    """The stages one behind the other, as webdataset chains them."""
    for stage in stages:
        samples = stage.run(samples) if isinstance(stage, PipelineStage) else stage(samples)
    return samples
