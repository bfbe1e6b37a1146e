"""One raster target on its way through a pipeline: what has been decided about it, and, late, its pixels.

Crops, flips and right-angle turns are kept as a box and one of the eight symmetries of the square; neighbouring
point operations on uint8 as one table; normalisation as a table of floats. They cost nothing until pixels are asked
for, and then touch memory once. All of it is exact: the pixels are those of the operations done one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import RecipeError
from .levels import Levels, Room, as_levels, write_levels
from .lookup import MAX_CV_CHANNELS, UINT8, composed, look_up

Image = npt.NDArray[Any]
Table = npt.NDArray[np.uint8]  # (256,) or (256, C)
Box = tuple[int, int, int, int]  # y0, x0, y1, x1: half-open
Work = Callable[[Image], Image]

_CV_DTYPE_CHARS = frozenset("BbHhifd")  # numpy's codes of uint8 … float64
_CV_TRANSPOSE_BYTES = frozenset({1, 2, 3, 4, 6, 8, 12, 16, 24, 32})
_CV_PIXELS = frozenset(  # what OpenCV turns: (code of the dtype, number of channels, or 0 for no such axis)
    (char, num_channels)
    for char in _CV_DTYPE_CHARS
    for num_channels in range(max(_CV_TRANSPOSE_BYTES) + 1)
    if np.dtype(char).itemsize * max(1, num_channels) in _CV_TRANSPOSE_BYTES
)
_FLOAT32 = np.dtype(np.float32)

# A symmetry of the square is a number: these of its bits are set if the image is transposed, and then if its rows, and
# its columns, are reversed. Transposing what is reversed reverses it the other way.
_TRANSPOSED, _ROWS, _COLUMNS = 4, 2, 1
_TURNED_OVER = (4, 6, 5, 7, 0, 2, 1, 3)
_CV_FLIPS = {_COLUMNS: 1, _ROWS: 0, _ROWS | _COLUMNS: -1}
_CV_TURNS = {
    _TRANSPOSED | _ROWS: cv2.ROTATE_90_COUNTERCLOCKWISE,
    _TRANSPOSED | _COLUMNS: cv2.ROTATE_90_CLOCKWISE,
}
_STEPS = {0: slice(None), _ROWS: slice(None, None, -1), _COLUMNS: slice(None, None, -1)}


class Source(Protocol):
    """An image that is not decoded yet, whose size is known: pixels come when a canvas asks for them."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def decode(self, box: Box | None, at_least: tuple[int, int] | None = None) -> Image:
        """The pixels of `box`, or of the whole image; (H, W, C) uint8, equal to that part of the full decode.

        `at_least` is the size that they will be resized to. A source made to may then give fewer pixels of the same
        box, but no fewer than that.
        """
        ...


class Later:
    """The image of `size` that `work` makes of a canvas's pixels, when they are asked for; a `Source`.

    `resizes`: whether it is a picture of the whole canvas, for which fewer pixels would do if there are still enough.
    """

    __slots__ = ("_canvas", "_resizes", "dtype", "shape", "work")

    def __init__(self, canvas: Canvas, size: tuple[int, int], work: Work, *, resizes: bool) -> None:
        self._canvas, self._resizes = canvas, resizes
        self.shape: tuple[int, ...] = (*size, *canvas.shape[2:])
        self.dtype = canvas.dtype
        self.work = work

    @property
    def size_bytes(self) -> int:
        """The memory that it keeps until then."""
        return self._canvas.size_bytes

    def decode(self, box: Box | None, at_least: tuple[int, int] | None = None) -> Image:
        """The pixels of `box`, or all; the work is done each time."""
        height, width = self.shape[:2]
        array = self.work(self._canvas.readable((height, width) if self._resizes else None))
        if box is None:
            return array
        y0, x0, y1, x1 = box
        return array[y0:y1, x0:x1]


class Canvas:
    """An image or mask, and the exact operations that are pending on it.

    `shape` is (H, W) or (H, W, C) as the pending operations leave it, known without pixels. `is_mask` says whether it
    is a label map, which point operations leave alone and interpolation must not mix.
    """

    __slots__ = (
        "_array", "_box", "_levels", "_source", "_symmetry", "_table",
        "dtype", "is_mask", "is_pending", "layout", "room", "shape",
    )  # fmt: skip

    def __init__(self, array: Image | Source, *, is_mask: bool = False) -> None:
        self.is_mask = is_mask
        self.layout: str | None = None
        self.room: Room | None = None
        """Who sees the planes of uint8, if it is the last that is done to them that they become floats."""
        if isinstance(array, np.ndarray):
            self._start(array if array.flags.c_contiguous else np.ascontiguousarray(array))
        else:
            self._wait(array)

    def _start(self, array: Image) -> None:
        """Have nothing pending on `array`; OpenCV would take bytes of another order for those of its own."""
        dtype = array.dtype
        if dtype is not UINT8 and not dtype.isnative:  # the first is quicker to ask
            dtype = dtype.newbyteorder("=")
            array = array.astype(dtype)
        self._array: Image | None = array
        self._source: Source | None = None
        self.shape: tuple[int, ...] = array.shape
        self.dtype = dtype
        self.is_pending = False
        self._box: Box | None = None
        self._symmetry = 0
        self._table: Table | None = None
        self._levels: Levels | None = None

    def _wait(self, source: Source) -> None:
        """Have nothing pending but what `source` will give."""
        self._array = self._box = self._table = self._levels = None
        self._source = source
        self.shape = source.shape
        self.dtype = source.dtype
        self.is_pending = True
        self._symmetry = 0

    # Views

    def crop(self, y0: int, x0: int, y1: int, x1: int) -> None:
        """Keep rows y0 to y1 and columns x0 to x1, which lie inside the image."""
        height, width = self.shape[:2]
        self.is_pending = True
        if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
            msg = f"crop rows {y0}:{y1}, columns {x0}:{x1} do not lie inside the {height} x {width} image"
            raise RecipeError(msg)
        self.shape = (y1 - y0, x1 - x0, *self.shape[2:])
        if self._symmetry:
            if self._symmetry & _ROWS:
                y0, y1 = height - y1, height - y0
            if self._symmetry & _COLUMNS:
                x0, x1 = width - x1, width - x0
            if self._symmetry & _TRANSPOSED:
                y0, x0, y1, x1 = x0, y0, x1, y1
        if self._box is not None:
            top, left = self._box[:2]
            y0, x0, y1, x1 = y0 + top, x0 + left, y1 + top, x1 + left
        self._box = (y0, x0, y1, x1)

    def hflip(self) -> None:
        """Reverse the columns."""
        self.is_pending = True
        self._symmetry ^= _COLUMNS

    def vflip(self) -> None:
        """Reverse the rows."""
        self.is_pending = True
        self._symmetry ^= _ROWS

    def transpose(self) -> None:
        """Swap rows and columns."""
        self.is_pending = True
        self._symmetry = _TURNED_OVER[self._symmetry]
        self.shape = (self.shape[1], self.shape[0], *self.shape[2:])

    # Tables

    def table(self, table: Table) -> None:
        """Replace every uint8 value v of channel c by table[v], or table[v, c] where the table is (256, C)."""
        self.is_pending = True
        if self.dtype != UINT8:
            msg = f"a uint8 table was given for an image of dtype {self.dtype}"
            raise RecipeError(msg)
        self._table = table if self._table is None else composed(table, self._table)

    def levels(self, levels: Levels) -> None:
        """Replace every uint8 value v of channel c by levels.table[v, c]; the image is float32 from now on."""
        self.is_pending = True
        if self.dtype != UINT8:
            msg = f"a table of floats was given for an image of dtype {self.dtype}"
            raise RecipeError(msg)
        self._levels = levels
        self.dtype = _FLOAT32

    def take_float_table(self) -> npt.NDArray[np.float32] | None:
        """The table of floats (256, C) that is pending, and all tables before it, taken off, so that the image stays
        uint8; None if there is none."""
        if self._levels is None:
            return None
        table: npt.NDArray[np.float32] = self._levels.table
        if self._table is not None:
            table = composed(table, self._table)
            table = table if table.ndim == 2 else table[:, None]
        self._table = self._levels = None
        self.dtype = UINT8
        return table

    # Pixels

    def set(self, array: Image) -> None:
        """Go on with `array` instead, which nobody else may change."""
        self._start(array if array.flags.c_contiguous else np.ascontiguousarray(array))

    def later(self, size: tuple[int, int], work: Work, *, resizes: bool = False) -> None:
        """Go on with the image of `size` that `work` makes of this one, at once if its pixels are here, else later.

        `work` gets what `readable` gives, is a function of that alone, and keeps dtype and channels. `resizes`: it
        shows the whole image, so that a source may give fewer pixels, but no fewer than `size`.
        """
        if self._array is not None:
            self.set(work(self.readable()))
        else:
            self._wait(Later(self._moved(), size, work, resizes=resizes))

    def _moved(self) -> Canvas:
        """A canvas with all that is pending here."""
        other = Canvas.__new__(Canvas)
        other._array, other._source = self._array, self._source
        other._box, other._symmetry, other._table, other._levels = (
            self._box, self._symmetry, self._table, self._levels,
        )  # fmt: skip
        other.shape, other.dtype, other.is_pending = self.shape, self.dtype, self.is_pending
        other.is_mask, other.layout, other.room = self.is_mask, None, None
        return other

    @property
    def waiting(self) -> Source | None:
        """Where pixels will come from; None if they are here."""
        return self._source if self._array is None else None

    @property
    def size_bytes(self) -> int:
        """The memory that it keeps: of its pixels, or of what they will be made from."""
        if self._array is not None:
            return self._array.nbytes
        return int(getattr(self._source, "size_bytes", 0))

    def readable(self, at_least: tuple[int, int] | None = None) -> Image:
        """The pixels as an array that OpenCV reads without a copy: contiguous but for a crop of a larger image.

        With `at_least`, the size that they will be resized to, a source that is made to may give fewer pixels.
        """
        array = self._placed(at_least)
        if self._levels is not None:
            return as_levels(array, self._table, self._levels)
        return array if self._table is None else look_up(array, self._table)

    def pixels(self) -> Image:
        """The pixels as a C-contiguous array; computed once."""
        array = self._array
        if array is None or self.is_pending:
            array = self.readable()
            array = array if array.flags.c_contiguous else np.ascontiguousarray(array)
            self._start(array)
        return array

    def finish(self, out: Image | None = None) -> Image:
        """The finished pixels, in `out` itself if it has their shape and dtype, else in an array of their own.

        The layout is (C, H, W) if `layout` is "chw".
        """
        if self.layout == "chw" and len(self.shape) in {2, 3}:
            return self._planes(out)
        array = self._array
        if array is None or self.is_pending:
            array = self.readable()
        if out is not None and out.shape == array.shape and out.dtype == array.dtype:
            np.copyto(out, array)
            return out
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)

    def _planes(self, out: Image | None) -> Image:
        """The pixels as planes (C, H, W), each written once."""
        array = self.readable() if self._levels is None else self._placed()
        height, width = array.shape[:2]
        num_channels = array.shape[2] if array.ndim == 3 else 1
        shape = (num_channels, height, width)
        if out is None or out.shape != shape or out.dtype != self.dtype:
            out = np.empty(shape, self.dtype)
        if array.size:
            array = array.reshape(height, width, num_channels)
            if self._levels is None:
                _split(array, out)
            else:
                write_levels(array, self._table, self._levels, out, self.room)
        return out

    def _placed(self, at_least: tuple[int, int] | None = None) -> Image:
        """The pixels cropped and turned, with no table looked up."""
        array = self._array
        if array is not None:
            if self._box is not None:
                y0, x0, y1, x1 = self._box
                array = array[y0:y1, x0:x1]
        elif self._source is not None:
            if at_least is not None and self._symmetry & _TRANSPOSED:
                at_least = at_least[1], at_least[0]
            array = self._source.decode(self._box, at_least)
        else:
            msg = "a canvas without array or source"
            raise AssertionError(msg)
        return _oriented(array, self._symmetry) if self._symmetry else array


def _split(array: Image, out: Image) -> None:
    """Write channel c of (H, W, C) `array` to the plane out[c]."""
    if (
        array.dtype.char in _CV_DTYPE_CHARS
        and 1 < array.shape[2] <= MAX_CV_CHANNELS
        and out.flags.c_contiguous
    ):
        cv2.split(array, list(out))
    else:
        np.copyto(out, array.transpose(2, 0, 1))


def _oriented(array: Image, symmetry: int) -> Image:
    """The image transposed, then its rows reversed, then its columns reversed, as `symmetry` says."""
    shape = array.shape
    num_channels = shape[2] if len(shape) == 3 else 0
    if (array.dtype.char, num_channels) not in _CV_PIXELS or not array.size:
        turned = array.swapaxes(0, 1) if symmetry & _TRANSPOSED else array
        return np.ascontiguousarray(turned[_STEPS[symmetry & _ROWS], _STEPS[symmetry & _COLUMNS]])
    if symmetry in _CV_FLIPS:
        turned = cv2.flip(array, _CV_FLIPS[symmetry])
    elif symmetry in _CV_TURNS:
        turned = cv2.rotate(array, _CV_TURNS[symmetry])
    else:
        turned = cv2.transpose(array)
        if symmetry != _TRANSPOSED:
            turned = cv2.flip(turned, -1)
    return turned.reshape(*turned.shape[:2], 1) if num_channels == 1 else turned  # OpenCV drops the axis
