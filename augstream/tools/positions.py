"""From a position in a ledger to the stream and the samples that were there, computed again and held against it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..dataset import StreamDataset
from ..device import placed
from ..errors import AugstreamError, LedgerError
from ..ledgers.ledger import Line, differences
from ..ledgers.marks import short_of_name
from ..order import Recipe
from ..transforms.deferral import TABLE
from .diff import Run

_POSITION = re.compile(r"(?P<ledger>.+?):(?P<epoch>\d+):(?P<unit>\d+)(:(?P<place>\d+))?")


@dataclass(frozen=True, slots=True)
class Position:
    """A batch in a ledger, or a sample of it: ``run.ledger:EPOCH:UNIT`` or ``run.ledger:EPOCH:UNIT:PLACE``."""

    ledger: str
    epoch: int
    unit: int
    place: int | None

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """The position whose text form is `text`; None if it is none."""
        found = _POSITION.fullmatch(text)
        if found is None or text.startswith("seed="):
            return None
        place = found["place"]
        return cls(
            found["ledger"], int(found["epoch"]), int(found["unit"]), None if place is None else int(place)
        )


@dataclass(frozen=True, slots=True)
class Found:
    """The stream of a ledger, and the batch at a position of it.

    names: (shard, key) of its samples. verdict: whether the batch is now what the ledger says, in words, and `repeats`
    whether it is; None where that cannot be told.
    """

    dataset: StreamDataset
    line: Line
    names: list[tuple[str, str]]
    repeats: bool | None
    verdict: str


def find(position: Position, make: Callable[[Recipe], StreamDataset]) -> Found:
    """The batch at `position` of the stream that `make` makes of the ledger's recipe.

    Raises `LedgerError` where the ledger has no such batch, is of other shards, or of a mixture, whose samples are
    addressed in their own streams.
    """
    run = Run.of(position.ledger)
    line = run.line(position.epoch, position.unit)
    if run.is_mixture:
        msg = f"{position.ledger} is of a mixture; replay its samples by their addresses, with with_address=True"
        raise LedgerError(msg)
    header = run.headers[-1]
    dataset = make(Recipe.from_dict(header["recipe"]))
    if dataset.index.fingerprint != header["index"]:
        msg = (
            f"{position.ledger} is of other shards: their index is {header['index']}, that of the shards given is "
            f"{dataset.index.fingerprint}; give all shards of the run, in their order"
        )
        raise LedgerError(msg)
    names = _names(dataset, line)
    if position.place is not None and position.place >= len(names):
        msg = f"the batch has {len(names)} samples, got place {position.place}; places are counted from 0"
        raise LedgerError(msg)
    return Found(dataset, line, names, *_repeated(dataset, line))


def _names(dataset: StreamDataset, line: Line) -> list[tuple[str, str]]:
    """(shard, key) of the samples that were delivered: those of the units, but for what was skipped."""
    stream = dataset.stream
    maker = stream.maker()
    names = [maker.name(ref) for ref in maker.refs(line.epoch, line.units)]
    told = [name for name, _ in line.samples()]
    if len(names) == len(told):
        return names
    kept = iter(names)
    found = [next((name for name in kept if short_of_name(name) == short), None) for short in told]
    return [name for name in found if name is not None]


def _repeated(dataset: StreamDataset, line: Line) -> tuple[bool | None, str]:
    """Whether the batch, computed now, is that of the line; and that in words."""
    stream = dataclasses.replace(dataset.stream, marks=True, on_error="skip")
    is_deferred = any(name == TABLE for name, _ in line.marks.fields)
    definition = placed(stream, "cpu", defer=True)[0] if is_deferred else stream
    try:
        made = definition.maker().make(line.epoch, line.units)
    except AugstreamError as error:
        return None, f"the batch cannot be computed: {error}"
    if made.marks is None or [name for name, _ in made.marks.fields] != [
        name for name, _ in line.marks.fields
    ]:
        return (
            None,
            "the ledger is of other fields, or of a collate_fn: pass --fields, or compare runs with diff",
        )
    now = dataclasses.replace(line, num_samples=made.num_samples, marks=made.marks)
    found = differences(line, now)
    if found:
        return False, f"the batch is not what the ledger has: {'; '.join(found)}"
    return True, "the batch is what the ledger has, to the byte"
