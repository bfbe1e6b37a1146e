"""The command `diff`: where two runs part, by their ledgers; and the one line by which they can be compared from afar.

Each run is one ledger, or one a rank: they are merged by the place of each batch, so that neither the number of ranks
nor that of workers matters, nor how often a run was interrupted.
"""

from __future__ import annotations

import argparse
import heapq
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from shlex import quote
from typing import Any

from ..cli import add_command, say
from ..errors import LedgerError
from ..ledgers.ledger import START, Line, Reader, chained, differences

_RANK = re.compile(r"\.rank\d+-of-\d+$")


def register_diff(subparsers: Any) -> None:
    """``augstream diff A B``: where the runs of two ledgers part."""
    parser = add_command(subparsers, "diff")
    parser.add_argument("runs", nargs="+", metavar="LEDGER",
                        help="a ledger; if ranks wrote theirs beside it, those of all ranks")  # fmt: skip
    parser.add_argument(
        "--head", action="store_true", help="print 64 digits that stand for the whole run, for each ledger"
    )
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    if parsed.head:
        for name in parsed.runs:
            say(Run.of(name).head())
        return 0
    if len(parsed.runs) != 2:
        msg = f"diff compares two ledgers, got {len(parsed.runs)}; with --head any number"
        raise LedgerError(msg)
    one, other = (Run.of(name) for name in parsed.runs)
    found = compare(one, other)
    say(*report(one, other, found))
    return 1 if found.parted or not found.num_equal else 0


@dataclass
class Run:
    """The ledger or ledgers of one run; `headers` are those that were met while reading."""

    name: str
    paths: list[Path]
    headers: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, name: str) -> Run:
        """The run whose ledger is `name`, with those of its ranks, if there are any."""
        path = Path(name)
        ranks = sorted(path.parent.glob(f"{escape(path.stem)}.rank*-of-*{escape(path.suffix)}"))
        paths = [rank for rank in ranks if _RANK.search(rank.stem)]
        if path.exists():
            paths.append(path)
        if not paths:
            msg = f"there is no ledger {name}, nor one of a rank beside it; StreamLoader(ledger={name!r}) writes it"
            raise LedgerError(msg)
        run = cls(name, paths)
        for one in paths:
            run.headers += Reader(one).headers()
        return run

    @property
    def sizes(self) -> set[Any]:
        """The batch sizes that the run had."""
        return {header["recipe"]["batch_size"] for header in self.headers}

    @property
    def is_mixture(self) -> bool:
        """Whether it streamed a mixture, whose samples have their addresses in the streams of its datasets."""
        return any("weights" in header["recipe"] for header in self.headers)

    def lines(self, *, by_unit: bool = False) -> Iterator[Line]:
        """All batches in the order of their places, each once; `LedgerError` if the run has two for one place.

        by_unit: units in place of batches, with short digests only; a batch that lacks samples stays whole.
        """
        before: Line | None = None
        for line in heapq.merge(*[self._sorted(path, by_unit) for path in self.paths], key=_place):
            if before is not None and line.place == before.place:
                if line.marks.digest != before.marks.digest:
                    found = "; ".join(differences(before, line))
                    msg = f"{self.name}: the run contradicts itself at {_where(line)}: {found}"
                    raise LedgerError(msg)
                continue
            before = line
            yield line

    def _sorted(self, path: Path, by_unit: bool) -> Iterator[Line]:
        """The batches of one file; in constant memory, unless the run went back to places that it had not had."""
        last = (-1, -1, -1)
        is_sorted = True
        for line in Reader(path):
            is_sorted &= line.place > last
            last = line.place
        lines: Iterable[Line] = Reader(path) if is_sorted else sorted(Reader(path), key=_place)
        if not by_unit or not self.headers:
            return iter(lines)
        size = self.headers[-1]["recipe"]["unit"]
        return (unit for line in lines for unit in line.by_unit(size))

    def head(self) -> str:
        """64 hex digits over all batches: equal for equal runs, however many ranks and workers they had."""
        chain = START
        for line in self.lines():
            chain = chained(chain, line.epoch, line.units, line.marks.digest)
        return chain.hex()

    def line(self, epoch: int, unit: int) -> Line:
        """The batch that holds a unit; `LedgerError` if the run has none."""
        for line in self.lines():
            if line.epoch == epoch and unit in line.units:
                return line
        msg = f"{self.name}: the ledger has no batch with unit {unit} of epoch {epoch}"
        raise LedgerError(msg)


def _place(line: Line) -> tuple[int, int, int]:
    return line.place


@dataclass
class Comparison:
    """What comparing two runs found; `parted` is the first pair of batches that differ."""

    num_equal: int = 0
    num_samples: int = 0
    num_different: int = 0
    what: str = "batches"
    parted: tuple[Line, Line] | None = None
    num_before: int = 0
    """Equal ones before they part."""
    num_only: list[int] = field(default_factory=lambda: [0, 0])
    only: tuple[list[Line], list[Line]] = field(default_factory=lambda: ([], []))
    """The first and the last that only one of the runs has."""

    def add(self, left: Line, right: Line) -> None:
        """Count what both have of one place."""
        if left.marks.digest == right.marks.digest:
            self.num_equal += 1
            self.num_samples += left.num_samples
            self.num_before += self.parted is None
            return
        self.num_different += 1
        if self.parted is None:
            self.parted = left, right

    def add_only(self, which: int, line: Line) -> None:
        """Count what only one run has."""
        self.num_only[which] += 1
        self.only[which][1:] = [line]


def compare(one: Run, other: Run) -> Comparison:
    """Compare two runs in constant memory: batch by batch, or unit by unit where their batches differ in size."""
    found = Comparison()
    by_unit = len(one.sizes | other.sizes) > 1
    found.what = "units" if by_unit else "batches"
    runs = one.lines(by_unit=by_unit), other.lines(by_unit=by_unit)
    left, right = next(runs[0], None), next(runs[1], None)
    while left is not None or right is not None:
        if left is not None and right is not None and left.place == right.place:
            found.add(left, right)
            left, right = next(runs[0], None), next(runs[1], None)
        elif left is not None and (right is None or left.place < right.place):
            found.add_only(0, left)
            left = next(runs[0], None)
        elif right is not None:
            found.add_only(1, right)
            right = next(runs[1], None)
    return found


def report(one: Run, other: Run, found: Comparison) -> Iterator[str]:
    """What was found, in lines."""
    if found.parted is not None:
        left, right = found.parted
        total = found.num_different + found.num_equal
        yield f"they part at {_where(left)}, after {found.num_before:,} {found.what} that are equal"
        for text in differences(left, right):
            yield f"  {text}"
        yield f"  {found.num_different:,} of the {total:,} {found.what} that both have differ"
        place = first_difference(left, right)
        at = f"{left.epoch}:{left.units.start}" + ("" if place is None else f":{place}")
        if one.is_mixture:
            yield "to see it: augstream replay ADDRESS SHARDS --pipeline ..., by its __address__ (with_address=True)"
        else:
            yield f"to see it: augstream replay {quote(f'{one.paths[0]}:{at}')} SHARDS --pipeline ..."
    elif not found.num_equal:
        yield f"they have none of their {found.what} in common"
    else:
        yield f"equal in all that both have: {found.num_equal:,} {found.what}, {found.num_samples:,} samples"
    for which, run in enumerate((one, other)):
        if not run.headers:
            yield f"{run.name} is empty: its run had not begun"
        lines = found.only[which]
        if lines:
            span = _where(lines[0]) + (f" to {_where(lines[-1])}" if len(lines) > 1 else "")
            yield f"only {run.name} has {found.num_only[which]:,}: {span}"
    yield from unlike(one, other)


def first_difference(left: Line, right: Line) -> int | None:
    """The place in the batch of the first sample that differs, if that can be told."""
    pairs = zip(left.samples(), right.samples(), strict=False)
    return next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), None)


def unlike(one: Run, other: Run) -> Iterator[str]:
    """What the two runs say of themselves that is not alike, the number of their ranks aside."""
    if not one.headers or not other.headers:
        return
    ours, theirs = (_flat(run.headers[-1]) for run in (one, other))
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            yield f"  {name}: {ours.get(name)!r} against {theirs.get(name)!r}"


def _flat(header: Mapping[str, Any]) -> dict[str, Any]:
    found = {"index": header["index"], "transform": header["transform"]}
    for group in ("recipe", "made with"):
        found |= {f"{group}: {name}": value for name, value in header[group].items()}
    return found


def _where(line: Line) -> str:
    """The place of a batch, as `augstream replay` counts."""
    first, last = line.units.start, line.units.stop - 1
    return f"epoch {line.epoch}, " + (f"unit {first}" if first == last else f"units {first} to {last}")
