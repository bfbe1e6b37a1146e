"""Ledgers to break, and ledgers that lie with their chain in order."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st
from mutations import MAX_CASE_BYTES, mutated
from texts import as_bytes, values

from augstream.ledgers.ledger import START, VERSION, Ledger, Line, chained
from augstream.ledgers.marks import Marks, marks_of

WORDS = (
    b"0 0 1 4 ",
    b"-",
    b"0 1 0 0 ",
    b"18446744073709551616",
    b"9223372036854775807",
    b'{"ledger":%d}\n' % VERSION,
    b"A" * 64,
    b"\n",
    b"image=AAAA",
)


def header(batch_size: int = 4, unit: int = 2) -> dict[str, Any]:
    """A header as a loader writes it, as far as anybody reads it."""
    recipe = {"seed": 1, "batch_size": batch_size, "unit": unit, "lanes": 8}
    made = {"python": "3.11.7", "machine": "x86_64", "numpy": "2.4.6"}
    whose = {"rank": 0, "world_size": 1}
    return {
        "ledger": VERSION,
        "recipe": recipe,
        "index": "0" * 32,
        "transform": None,
        **whose,
        "made with": made,
    }


def marks(number: int) -> Marks:
    names = [("a.tar", f"{number}/{place}") for place in range(4)]
    return marks_of({"image": np.full((4, 2), number), "cls": list(range(4))}, names, 4)


@cache
def seeds() -> list[bytes]:
    """A ledger of six batches, and one whose batches are of another size."""
    found = []
    for units_per_batch in (2, 4):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "run.ledger"
            ledger = Ledger(path, header(2 * units_per_batch))
            for number in range(6):
                first = number % 3 * units_per_batch
                ledger.note(number // 3, range(first, first + units_per_batch), 4, marks(number))
            ledger.close()
            found.append(path.read_bytes())
    return found


def linked(data: bytes) -> bytes:
    """The ledger with the chain mended, as far as its lines are lines."""
    chain, lines = START, []
    for text in data.split(b"\n"):
        parts = text.split(b" ")
        try:
            line = Line.parse(text + b"\n")
            chain = chained(chain, line.epoch, line.units, line.marks.digest)
        except Exception:  # noqa: BLE001  # no line, or one that the library is to judge
            lines.append(text)
        else:
            lines.append(b" ".join([*parts[:4], chain.hex().encode(), *parts[5:]]))
    return b"\n".join(lines)


def mutant(rng: Random) -> bytes:
    """A ledger broken in a few places; mostly with its chain mended."""
    data = mutated(rng, seeds(), words=WORDS)
    return data if rng.random() < 0.3 else linked(data)


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """Ledgers of extreme numbers and any header, their chain in order."""
    numbers = st.sampled_from([0, 0, 1, 2, 3, 5, 2**31, 2**62, 2**63, 2**64 - 1, 2**64, 10**30, -1])
    head = header(draw(st.sampled_from([4, 4, 1, 0, -1])), draw(st.sampled_from([2, 2, 1, 0, -2])))
    for _ in range(draw(st.integers(0, 2))):
        head[draw(st.sampled_from([*head, "x"]))] = draw(values())
    text = as_bytes(head) + b"\n"
    for _ in range(draw(st.integers(0, 5))):
        num = draw(st.integers(0, 3))
        short = b"" if draw(st.booleans()) else bytes(6 * num)
        units = range(draw(numbers), draw(numbers))
        text += Line(
            draw(numbers), units, num, START, Marks(bytes(16), short, (("a b", bytes(3)),))
        ).to_bytes()
    return linked(text)[:MAX_CASE_BYTES]
