"""The ledger of a run: a file with one line a batch, by which two runs can be compared, or one with its own repeat.

A ledger is text. Lines that begin with ``{`` are JSON, and say what writes from here on: the recipe, the rank, releases
of libraries. Every other line is a batch: epoch, first unit and the unit after its last, number of samples, the chain
(64 hex digits over this line's batch and the chain before it), and the batch's marks in base 64.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import struct
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ..errors import LedgerError
from ..plan import Topology
from .marks import DIGEST_BYTES, SHORT_BYTES, Marks

_log = logging.getLogger("augstream.ledger")

VERSION = 3
CHAIN_BYTES = 32
START = bytes(CHAIN_BYTES)
"""The chain before the first batch."""

_MAX_LINE_BYTES = 1 << 24
_MAX_SHOWN = 8
_LIMIT = 1 << 63
_HEAD = b'{"ledger"'
_LIBRARIES = ("numpy", "cv2", "PIL", "torch", "augstream")


def chained(previous: bytes, epoch: int, units: range, digest: bytes) -> bytes:
    """The chain after the batch of some units: 32 bytes over it and all before it."""
    place = struct.pack("<QQQ", epoch, units.start, units.stop)
    state = blake2b(previous, digest_size=CHAIN_BYTES, person=b"augstream/chain")
    state.update(place + digest)
    return state.digest()


@dataclass(frozen=True, slots=True)
class Line:
    """A batch in a ledger."""

    epoch: int
    units: range
    num_samples: int
    chain: bytes
    marks: Marks

    @property
    def place(self) -> tuple[int, int, int]:
        """What lines are in order by: epoch, first unit, and the unit after the last."""
        return self.epoch, self.units.start, self.units.stop

    def to_bytes(self) -> bytes:
        """The line as it is in the file."""
        fields = ",".join([f"{_quoted(path)}={_encoded(short)}" for path, short in self.marks.fields])
        parts = [
            str(self.epoch), str(self.units.start), str(self.units.stop), str(self.num_samples), self.chain.hex(),
            _encoded(self.marks.digest), fields or "-", _encoded(self.marks.samples) or "-",
        ]  # fmt: skip
        return (" ".join(parts) + "\n").encode()

    @classmethod
    def parse(cls, line: bytes) -> Line:
        """The batch of a line; ValueError if it is none."""
        epoch, start, stop, num, chain, digest, fields, samples = line.decode("ascii").rstrip("\n").split(" ")
        named = [field.split("=") for field in fields.split(",")] if fields != "-" else []
        marks = Marks(
            digest=_decoded(digest),
            samples=b"" if samples == "-" else _decoded(samples),
            fields=tuple((unquote(path), _decoded(short)) for path, short in named),
        )
        found = cls(int(epoch), range(int(start), int(stop)), int(num), bytes.fromhex(chain), marks)
        sizes = len(found.chain), len(marks.digest), len(marks.samples) or found.num_samples * 2 * SHORT_BYTES
        if sizes != (CHAIN_BYTES, DIGEST_BYTES, found.num_samples * 2 * SHORT_BYTES) or not line.endswith(
            b"\n"
        ):
            raise ValueError(line)
        if not (0 <= found.epoch < _LIMIT and 0 <= found.units.start < found.units.stop < _LIMIT):
            raise ValueError(line)
        return found

    def by_unit(self, size: int) -> list[Line]:
        """The batch unit by unit, each of `size` samples, with their short digests in place of a digest.

        A batch that lacks samples, so that nobody can tell whose they are, stays whole.
        """
        pairs = self.samples()
        if len(pairs) != size * len(self.units):
            return [replace(self, marks=replace(self.marks, digest=self.marks.samples, fields=()))]
        units = []
        for number, unit in enumerate(self.units):
            part = pairs[number * size : (number + 1) * size]
            short = b"".join([name + rest for name, rest in part])
            units.append(Line(self.epoch, range(unit, unit + 1), len(part), b"", Marks(short, short, ())))
        return units

    def samples(self) -> list[tuple[bytes, bytes]]:
        """For each sample, the short digests of its name and of its fields; none if the rows are not samples."""
        short, all_of_them = SHORT_BYTES, self.marks.samples
        return [
            (all_of_them[at : at + short], all_of_them[at + short : at + 2 * short])
            for at in range(0, len(all_of_them), 2 * short)
        ]


def _quoted(path: str) -> str:
    return path if path.isascii() and path.isidentifier() else quote(path, safe=".")


def _encoded(data: bytes) -> str:
    return b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return b64decode(text + "=" * (-len(text) % 4), validate=True)


@dataclass(slots=True)
class Reader:
    """Reads a ledger: iterate its batches, in the order of the file, in constant memory.

    Raises `LedgerError` for a line that is no batch, or does not follow from the one before, and for a ledger of
    another version. The last line is let alone if it is torn, as a machine that lost its power may leave it;
    `end_bytes` is then where it begins.
    """

    path: Path
    header: dict[str, Any] | None = None
    """Of what was read last."""
    end_bytes: int = 0
    chain: bytes = START

    def __iter__(self) -> Iterator[Line]:
        self.header, self.end_bytes, self.chain = None, 0, START
        with self.path.open("rb") as file:
            lines = iter(lambda: file.readline(_MAX_LINE_BYTES), b"")
            for number, text in enumerate(lines, 1):
                try:
                    line = self._read(text)
                except (ValueError, RecursionError) as error:
                    if len(text) < _MAX_LINE_BYTES and not text.endswith(b"\n"):  # the last, and torn
                        return
                    msg = (
                        f"{self.path}: line {number} of the ledger is broken: {text[:60]!r}; what is before it can be "
                        "trusted, so cut the file there, or begin another"
                    )
                    raise LedgerError(msg) from error
                self.end_bytes += len(text)
                if line is not None:
                    yield line

    def headers(self) -> list[dict[str, Any]]:
        """All headers of the ledger: one for each time that something else began to write it."""
        found: list[dict[str, Any]] = []
        for _ in self:
            if self.header is not None and self.header not in found:
                found.append(self.header)
        if self.header is not None and self.header not in found:
            found.append(self.header)
        return found

    def _read(self, text: bytes) -> Line | None:
        """The batch of a line, or None if it is a header's."""
        if text.startswith(b"{"):
            header = json.loads(text) if text.endswith(b"\n") else None
            if not isinstance(header, dict):
                raise ValueError(text)
            version = header.get("ledger")
            if type(version) is int and version != VERSION:
                msg = (
                    f"{self.path}: a ledger of version {version}, whose digests are others; this release reads and "
                    f"writes {VERSION}: begin another ledger, or compare this one with the release that wrote it"
                )
                raise LedgerError(msg)
            if not _is_header(header):
                raise ValueError(text)
            self.header = header
            return None
        line = Line.parse(text)
        if self.header is None or line.chain != chained(
            self.chain, line.epoch, line.units, line.marks.digest
        ):
            raise ValueError(text)
        self.chain = line.chain
        return line


def _is_header(header: Mapping[str, Any]) -> bool:
    """Whether a header says, of the right kinds, what is asked of it."""
    recipe, made_with = header.get("recipe"), header.get("made with")
    if header.get("ledger") != VERSION or not isinstance(recipe, dict) or not isinstance(made_with, dict):
        return False
    counts = recipe.get("batch_size"), recipe.get("unit")
    return {"index", "transform"} <= header.keys() and all(
        type(count) is int and count > 0 for count in counts
    )


class Ledger:
    """Appends a line for each batch that a loader delivers, and holds repeats against what is there.

    A batch of a place that the ledger has already, as after resuming from an older checkpoint, is compared with its
    line, and not written again: so the ledger of a run that was interrupted is that of one that was not. Raises
    `LedgerError` where the two differ, and for a file that somebody else writes to meanwhile.

    A line is written with one call, and complete when the batch is delivered. Nothing waits for the disk: what the
    operating system had not written when the machine failed is missing, and a line that is torn by that is dropped.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self._header = dict(header)
        self._file: int | None = None
        self._end_bytes = 0
        self._chain = START
        self._last = (-1, -1, -1)
        self._known: dict[tuple[int, int], Line] = {}
        self._known_from = self._last

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}  # a copy opens the file itself

    def note(self, epoch: int, units: range, num_samples: int, marks: Marks) -> None:
        """Append a batch, or hold it against its line."""
        if self._file is None:
            self._open()
        place = (epoch, units.start, units.stop)
        if place <= self._last:
            before = self._lines_from(place).get(place[:2])
            if before is not None:
                _check_repeat(self.path, before, Line(epoch, units, num_samples, b"", marks))
                if before.units == units:
                    return
        self._chain = chained(self._chain, epoch, units, marks.digest)
        self._append(Line(epoch, units, num_samples, self._chain, marks).to_bytes())
        if place > self._last:
            self._last = place
            self._known, self._known_from = {}, place

    def _lines_from(self, place: tuple[int, int, int]) -> dict[tuple[int, int], Line]:
        """The lines at `place` and after it."""
        if not self._known or place < self._known_from:
            lines = Reader(self.path)
            self._known = {line.place[:2]: line for line in lines if line.place >= place}
            self._known_from = place
        return self._known

    def _open(self) -> None:
        """Open or make the file, and cut a torn line off."""
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            msg = (
                f"{self.path}: the ledger cannot be opened: {error.strerror}; name a file, in a folder that is there "
                "and may be written to"
            )
            raise LedgerError(msg) from error
        reader = Reader(self.path)
        for line in reader:
            self._last = max(self._last, line.place)
        self._chain, self._end_bytes = reader.chain, reader.end_bytes
        torn = os.fstat(self._file).st_size - self._end_bytes
        if torn and self._end_bytes == 0 and not _HEAD.startswith(os.pread(self._file, len(_HEAD), 0)):
            msg = f"{self.path}: there is a file, and it is no ledger; give the ledger another name"
            raise LedgerError(msg)
        if torn:
            _log.warning(
                "%s: the last line of the ledger is torn, and is dropped (%d bytes)", self.path, torn
            )
            os.ftruncate(self._file, self._end_bytes)
        if reader.header != self._header:
            self._append(json.dumps(self._header).encode() + b"\n")

    def _append(self, text: bytes) -> None:
        if self._file is None:
            return
        try:
            written = os.write(self._file, text)
        except OSError as error:
            msg = (
                f"{self.path}: the ledger cannot be written: {error.strerror}; make room, then iterate again"
            )
            raise LedgerError(msg) from error
        self._end_bytes += len(text)
        if written != len(text) or os.lseek(self._file, 0, os.SEEK_CUR) != self._end_bytes:
            msg = (
                f"{self.path}: the ledger was changed while it was written, by another loader perhaps, or the disk is "
                "full; every loader and every rank needs a ledger of its own"
            )
            raise LedgerError(msg)

    def close(self) -> None:
        """Close the file; the next batch opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _check_repeat(path: Path, before: Line, now: Line) -> None:
    """Raise `LedgerError` unless the batch is that of the line, or, being of another size, has the same samples."""
    if now.units == before.units:
        found = differences(before, now)
    else:
        pairs = zip(before.samples(), now.samples(), strict=False)
        found = differences(before, now) if any(one != other for one, other in pairs) else []
    if not found:
        return
    msg = (
        f"{path}: this run does not repeat what the ledger has: epoch {before.epoch}, units {before.units.start} to "
        f"{before.units.stop - 1}: {'; '.join(found)}. To go on with other shards, transforms or releases, begin "
        "another ledger; otherwise see augstream.testing.assert_repeatable"
    )
    raise LedgerError(msg)


def differences(one: Line, other: Line) -> list[str]:
    """In words, how two batches of a place differ: which samples, in what, and which fields; nothing if they don't."""
    if one.marks.digest == other.marks.digest:
        return []
    said = []
    if one.num_samples != other.num_samples:
        said.append(f"{one.num_samples} samples against {other.num_samples}")
    pairs = list(zip(one.samples(), other.samples(), strict=False))
    moved = [place for place, (left, right) in enumerate(pairs) if left[0] != right[0]]
    changed = [
        place for place, (left, right) in enumerate(pairs) if left[0] == right[0] and left[1] != right[1]
    ]
    if moved:
        said.append(f"other samples at {_places(moved)}")
    if changed:
        said.append(f"the same samples with other bytes at {_places(changed)}")
    if not moved:
        left, right = dict(one.marks.fields), dict(other.marks.fields)
        fields = sorted({*left, *right}, key=lambda name: (name not in left, name))
        differ = [repr(name) for name in fields if left.get(name) != right.get(name)]
        same = [repr(name) for name in fields if left.get(name) == right.get(name)]
        if differ:
            said.append(f"{' and '.join(differ)} differ{'s' if len(differ) == 1 else ''}")
        if differ and same:
            said.append(f"{' and '.join(same)} {'is' if len(same) == 1 else 'are'} equal")
    return said or ["the digests of the batch differ, and no shorter one does"]


def _places(places: list[int]) -> str:
    more = f" and {len(places) - _MAX_SHOWN} more" if len(places) > _MAX_SHOWN else ""
    return f"place{'' if len(places) == 1 else 's'} {', '.join(map(str, places[:_MAX_SHOWN]))}{more}"


def path_of_rank(path: str | os.PathLike[str], topology: Topology) -> Path:
    """The file of this rank: ``run.ledger`` of a single rank, ``run.rank1-of-4.ledger`` of one of four."""
    whole = Path(path).absolute()
    if topology.world_size == 1:
        return whole
    return whole.with_name(f"{whole.stem}.rank{topology.rank}-of-{topology.world_size}{whole.suffix}")


def header_of(state: Mapping[str, Any], topology: Topology) -> dict[str, Any]:
    """What stands at the head of a ledger: whose it is, and what it was made with."""
    made = {
        name: str(sys.modules[name].__version__)
        for name in _LIBRARIES
        if hasattr(sys.modules.get(name), "__version__")
    }
    return {
        "ledger": VERSION,
        "recipe": state["recipe"],
        "index": state["index"],
        "transform": state["transform"],
        "rank": topology.rank,
        "world_size": topology.world_size,
        "made with": {"python": platform.python_version(), "machine": platform.machine(), **made},
    }
