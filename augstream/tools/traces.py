"""A batch computed sample by sample and transform by transform, so that computations can be compared at each step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..augment import NoStage, in_context
from ..foreign import ForeignStage, adapt
from ..order import SampleRef
from ..shards import ShardReader
from ..stream import Stream
from ..transforms.compose import ComposeStage
from ..transforms.watched import node_text, tapped
from .comparing import Difference, difference, kept

Around = Callable[[str, Callable[[], Any]], Any]
"""Called for each step with what it is called and what does it."""

COLLATE = "collate_fn"
DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Step:
    """What a sample, or with `collate_fn` a batch, is after a step: its values by name."""

    shard: str
    key: str
    where: str
    values: Any


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two traces of the same samples part: at which step, and in what."""

    shard: str
    key: str
    where: str
    what: Difference


def plainly(_where: str, run: Callable[[], Any]) -> Any:
    """Do a step, and nothing besides."""
    return run()


class Tracer:
    """Computes some samples of a stream step by step, as often as it is asked; `epoch` and `refs` say which."""

    def __init__(self, stream: Stream, epoch: int, refs: Sequence[SampleRef]) -> None:
        self.stream, self.epoch, self.refs = stream, epoch, tuple(refs)
        self._reader = ShardReader(stream.index)
        self._prefixes = list(_prefixes(stream.stage)) if isinstance(stream.stage, ForeignStage) else []

    def __reduce__(self) -> tuple[Any, ...]:
        return Tracer, (self.stream, self.epoch, self.refs)

    def trace(self, around: Around = plainly, *, backwards: bool = False) -> list[list[Step]]:
        """The steps of every sample, in order, or from the last sample to the first; then those of the batch."""
        traced = [self._sample(ref, around) for ref in (self.refs[::-1] if backwards else self.refs)]
        traced = traced[::-1] if backwards else traced
        collate_fn = self.stream.collate_fn
        if collate_fn is not None:
            samples = [
                {**steps[-1].values, "__key__": steps[-1].key, "__shard__": steps[-1].shard}
                for steps in traced
            ]
            batch = around(COLLATE, partial(collate_fn, samples))
            traced.append([Step("", "", COLLATE, kept(batch))])
        return traced

    def _sample(self, ref: SampleRef, around: Around) -> list[Step]:
        stream = self.stream
        shard, key = stream.index.names[ref.shard], stream.index.table(ref.shard).keys[ref.sample]
        address = stream.address(self.epoch, ref, key)
        raw = self._reader.read(ref.shard, ref.sample)
        steps: list[Step] = []

        def note(where: str, values: Any) -> None:
            before = steps[-1].values if steps else {}
            steps.append(Step(shard, key, where, _kept_beside(values, before)))

        try:
            sample = around(DECODE, partial(stream.fields.decode, raw, shard=shard))
            note(DECODE, sample)
            if isinstance(stream.stage, ComposeStage):
                self._compose(stream.stage, sample, address.key(), around, note)
            elif isinstance(stream.stage, ForeignStage):
                for where, stage in self._prefixes:
                    note(where, around(where, partial(stage, dict(sample), address.key())))
            elif not isinstance(stream.stage, NoStage):
                note("the stage", around("the stage", partial(stream.stage, sample, address.key())))
        except Exception as error:
            raise in_context(error, "trace", address) from error
        return steps

    def _compose(
        self, stage: ComposeStage, sample: Any, key: bytes, around: Around, note: Callable[[str, Any], None]
    ) -> None:
        def step(slot: bytes, node: Any, call: Any, run: Callable[[], None]) -> None:
            where = node_text(slot, node)
            around(where, run)
            note(where, call.data())

        compose = tapped(stage.compose, step)
        compose._watch = None
        call = compose._execute(stage.key(key), sample)
        note("the end of the Compose", compose._collect(call, sample))


def _kept_beside(values: Any, before: Any) -> Any:
    """A copy of `values`, of which what is as it was `before` takes no more memory."""
    found = {}
    for name, value in values.items():
        old = before.get(name) if isinstance(before, dict) else None
        is_old = (
            isinstance(value, np.ndarray) and isinstance(old, np.ndarray) and difference(old, value) is None
        )
        found[name] = old if is_old else kept(value)
    return found


def _prefixes(stage: ForeignStage) -> Iterator[tuple[str, ForeignStage]]:
    """The stages of the first 1, 2, … transforms of another library's pipeline, each named by its last one."""
    whole = stage.transform
    is_listed = isinstance(getattr(whole, "transforms", None), (list, tuple))
    children = list(whole.transforms if is_listed else getattr(whole, "_modules", {}).values())
    if not is_listed and type(whole).__name__ != "Sequential":
        children = []
    for position, child in enumerate(children[:-1]):
        if is_listed:
            shorter = copy.copy(whole)
            shorter.transforms = whole.transforms[: position + 1]
        else:
            shorter = whole[: position + 1]
        yield f"transform {position} {type(child).__name__}", adapt(shorter, stage.ordinal)
    name = getattr(whole, "__qualname__", None) or type(whole).__name__
    last = f"transform {len(children) - 1} {type(children[-1]).__name__}" if children else name
    yield last, adapt(whole, stage.ordinal)


def partings(one: list[list[Step]], other: list[list[Step]]) -> dict[str, Parting]:
    """The steps at which samples first part in two traces, each with the first sample that does so there."""
    found: dict[str, Parting] = {}
    for steps, others in zip(one, other, strict=True):
        for before, after in zip(steps, others, strict=False):
            what = None
            if before.where != after.where:
                what = Difference(before.where, text=f"{before.where} ran, then {after.where}")
            what = what or difference(before.values, after.values)
            if what is not None:
                found.setdefault(before.where, Parting(before.shard, before.key, before.where, what))
                break
    return found
