"""From uint8 to float32: what takes each value's place as a table, and arithmetic that gives the table's bits sooner.

The table is the definition. A look-up is scalar, though, four times as slow as a vector's multiplication and addition.
So `Normalize` and `ToFloat` define their tables by an operation that is rounded once, and whose results are the same on
any machine that has it: a fused multiply-add, a division. Where the machine's instructions are found to give the
table's bits, they do the work; elsewhere the table does. The bytes are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import RecipeError
from .lookup import MAX_CV_CHANNELS, composed, empty_planes, interleaved, look_up, look_up_in_place, planes
from .pointwise import LEVELS, FloatTable, Table, channels_of

Image = npt.NDArray[Any]

_WORTHWHILE = 1024  # values a plane, from which on arithmetic is quicker than the table
_TAILS = (*range(2, 150), 1000)  # lengths that end at every place of any vector, and of four in a row
_CLOSE = 5e-7


class Room(Protocol):
    """Somebody who wants to see the planes of uint8 that become floats."""

    def planes(self, shape: tuple[int, ...]) -> Image:
        """Where planes of this shape (C, H, W) are to be put, each contiguous."""
        ...

    def seen(self) -> None:
        """Look at the planes, which are there, and will be changed."""
        ...


class Line(NamedTuple):
    """scale * v + shift, both of them float32 numbers, rounded once to float32."""

    scale: float
    shift: float

    def column(self) -> npt.NDArray[np.float32]:
        """The 256 results: float64 holds each product, and with ordinary constants each sum, exactly."""
        return (np.arange(256.0) * self.scale + self.shift).astype(np.float32)

    def is_exact(self) -> bool:
        """Whether `write` gives the bits of `column` on this machine."""
        return _is_exact_here(self)

    def write(self, plane: Image, out: Image) -> None:
        """Write the results for a contiguous uint8 plane, of which the least is 0 and the greatest 255, to `out`.

        OpenCV shows its scaling conversion only as a normalization between these two.
        """
        scale, shift = self
        cv2.normalize(plane, out, shift, shift + 255 * scale, cv2.NORM_MINMAX, cv2.CV_32F)


class Quotient(NamedTuple):
    """v / divisor of float32 numbers."""

    divisor: float

    def column(self) -> npt.NDArray[np.float32]:
        """The 256 results."""
        return LEVELS / np.float32(self.divisor)

    def is_exact(self) -> bool:
        """Division is rounded rightly everywhere."""
        return True

    def write(self, plane: Image, out: Image) -> None:
        """Write the results for a uint8 plane to `out`."""
        np.divide(plane, np.float32(self.divisor), out=out)


Step = Line | Quotient


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """What takes the values' place: (256, C) or (256, 1) float32, and if known a step for each column that gives it."""

    table: FloatTable
    steps: tuple[Step, ...] = ()

    def first(self, num_columns: int) -> Levels:
        """The same for the first channels only."""
        if num_columns == self.table.shape[1]:
            return self
        return Levels(self.table[:, :num_columns], self.steps[:num_columns])


def levels_of(steps: Sequence[Step]) -> Levels:
    """The levels that the steps, one a channel, define."""
    return Levels(np.stack([step.column() for step in steps], axis=1), tuple(steps))


def normalized_levels(offset: Image, divisor: Image) -> Levels:
    """v -> (v - offset) / divisor for float64 constants (C,): as lines if these are right to 5e-7, else a table."""
    exact = (np.arange(256.0)[:, None] - offset) * (1.0 / divisor)
    with np.errstate(over="ignore"):
        scales, shifts = (1.0 / divisor).astype(np.float32), (-offset / divisor).astype(np.float32)
        table = exact.astype(np.float32)
    if not (np.isfinite(scales).all() and np.isfinite(shifts).all()):
        return Levels(table)
    lines = levels_of([Line(*pair) for pair in zip(scales.tolist(), shifts.tolist(), strict=True)])
    return lines if np.abs(lines.table - exact).max() <= _CLOSE else Levels(table)


def _is_exact_here(line: Line) -> bool:
    """Whether this machine's OpenCV gives the bits of the line's column: fused instructions, at every place."""
    column = line.column()
    if not line.scale > 0 or not np.isfinite(column).all():
        return False
    for size in _TAILS:
        values = (np.arange(size) * 37 + size).astype(np.uint8)
        values[-2:] = 0, 255
        out = np.empty((1, size), np.float32)
        line.write(values[None], out)
        if out.tobytes() != column[values].tobytes():
            return False
    return True


@lru_cache(maxsize=1024)
def _are_exact_here(steps: tuple[Step, ...]) -> bool:
    """Found out once for all constants: it takes half a millisecond."""
    return bool(steps) and all(step.is_exact() for step in steps)


def as_levels(image: Image, table: Table | None, levels: Levels) -> Image:
    """A uint8 image (H, W[, C]) looked up in `table`, if there is one, and then in `levels`; new, contiguous."""
    num_channels = channels_of(image.shape)
    if not _is_quick(levels, image.shape) or (len(levels.steps) > 1 and num_channels > MAX_CV_CHANNELS):
        return look_up(image, levels.table if table is None else composed(levels.table, table))
    if len(levels.steps) == 1:
        values = image if table is None else look_up(image, table)
        out = np.empty(image.shape, np.float32)
        if isinstance(levels.steps[0], Quotient):
            levels.steps[0].write(values, out)
            return out
        values = image.copy() if values is image else values
        _write(values.reshape(1, len(values), -1), levels, out.reshape(1, len(values), -1))
        return out
    found = planes(image)
    if table is not None:
        _look_up_planes(found, table)
    floats = empty_planes((num_channels, *image.shape[:2]), np.dtype(np.float32))
    _write(found, levels, floats)
    return interleaved(floats)


def write_levels(
    image: Image, table: Table | None, levels: Levels, out: Image, room: Room | None = None
) -> None:
    """Write channel c of a uint8 image (H, W, C), looked up in `table`, if there is one, and `levels`, to out[c].

    room: where the planes of uint8 are put, and seen with `table` looked up, before they are looked up in `levels`.
    """
    height, width, num_channels = image.shape
    found = planes(image, None if room is None else room.planes((num_channels, height, width)))
    is_quick = out.flags.c_contiguous and _is_quick(levels, image.shape)
    if table is not None and (is_quick or room is not None):
        _look_up_planes(found, table)
        table = None
    if room is not None:
        room.seen()
    if is_quick:
        _write(found, levels, out)
        return
    columns = np.ascontiguousarray((levels.table if table is None else composed(levels.table, table)).T)
    for channel, plane in enumerate(found):
        cv2.LUT(plane, columns[channel % len(columns)], out[channel])


def _look_up_planes(found: Image, table: Table) -> None:
    """Look plane c of `found` up, in place."""
    for channel, plane in enumerate(found):
        look_up_in_place(plane, table if table.ndim == 1 else table[:, channel % table.shape[1]])


def _write(found: Image, levels: Levels, out: Image) -> None:
    """Write plane c of `found`, ours to change, looked up in `levels`, to out[c]."""
    table, num_columns = levels.table, len(levels.steps)
    for channel, (plane, written) in enumerate(zip(found, out, strict=True)):
        column = channel % num_columns
        # by numbers, for what deals with arrays of two takes as long as a plane does
        last = table.item(plane.item(-2), column), table.item(plane.item(-1), column)
        plane[-1, -2], plane[-1, -1] = 0, 255
        levels.steps[column].write(plane, written)
        written[-1, -2], written[-1, -1] = last


def _is_quick(levels: Levels, shape: tuple[int, ...]) -> bool:
    """Whether there is arithmetic that is exact on this machine, and worth its while for an image of `shape`."""
    known, num_channels = levels.table.shape[1], channels_of(shape)
    if known not in {1, num_channels}:
        msg = f"the pipeline's constants are for {known} channels, and the image has {num_channels}"
        raise RecipeError(msg)
    return shape[0] * shape[1] >= _WORTHWHILE and shape[1] >= 2 and _are_exact_here(levels.steps)
