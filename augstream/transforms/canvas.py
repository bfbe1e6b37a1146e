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
from .lookup import look_up, planes

Image = npt.NDArray[Any]
Table = npt.NDArray[np.uint8]  # (256,) or (256, C)
FloatTable = npt.NDArray[np.float32]  # (256, C)
Box = tuple[int, int, int, int]  # y0, x0, y1, x1: half-open
Work = Callable[[Image], Image]

_CV_DTYPE_CHARS = frozenset("BbHhifd")  # numpy's codes of uint8 … float64
_CV_TRANSPOSE_BYTES = frozenset({1, 2, 3, 4, 6, 8, 12, 16, 24, 32})
_MAX_CV_CHANNELS = 4


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
        "_array", "_box", "_flip_x", "_flip_y", "_float_table", "_source", "_table",
        "_transposed", "dtype", "is_mask", "is_pending", "layout", "shape",
    )  # fmt: skip

    def __init__(self, array: Image | Source, *, is_mask: bool = False) -> None:
        self.is_mask = is_mask
        self.layout: str | None = None
        if isinstance(array, np.ndarray):
            self._source: Source | None = None
            self._start(array if array.flags.c_contiguous else np.ascontiguousarray(array))
        else:
            self._source = array
            self._start(None)

    def _start(self, array: Image | None) -> None:
        """Have nothing pending on `array`, or on the source."""
        self._array = array
        given = self._source if array is None else array
        if given is None:
            msg = "a canvas needs an array or a source"
            raise AssertionError(msg)
        self.shape: tuple[int, ...] = given.shape
        self.dtype = given.dtype
        self.is_pending = array is None
        self._box: Box | None = None
        self._transposed = self._flip_y = self._flip_x = False
        self._table: Table | None = None
        self._float_table: FloatTable | None = None

    # Views

    def crop(self, y0: int, x0: int, y1: int, x1: int) -> None:
        """Keep rows y0 to y1 and columns x0 to x1, which lie inside the image."""
        height, width = self.shape[:2]
        self._touch()
        if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
            msg = f"crop rows {y0}:{y1}, columns {x0}:{x1} do not lie inside the {height} x {width} image"
            raise RecipeError(msg)
        self.shape = (y1 - y0, x1 - x0, *self.shape[2:])
        if self._flip_y:
            y0, y1 = height - y1, height - y0
        if self._flip_x:
            x0, x1 = width - x1, width - x0
        if self._transposed:
            y0, x0, y1, x1 = x0, y0, x1, y1
        if self._box is not None:
            top, left = self._box[:2]
            y0, x0, y1, x1 = y0 + top, x0 + left, y1 + top, x1 + left
        self._box = (y0, x0, y1, x1)

    def hflip(self) -> None:
        """Reverse the columns."""
        self._touch()
        self._flip_x = not self._flip_x

    def vflip(self) -> None:
        """Reverse the rows."""
        self._touch()
        self._flip_y = not self._flip_y

    def transpose(self) -> None:
        """Swap rows and columns."""
        self._touch()
        self._transposed = not self._transposed
        self._flip_y, self._flip_x = self._flip_x, self._flip_y
        self.shape = (self.shape[1], self.shape[0], *self.shape[2:])

    def rot90(self, turns: int) -> None:
        """Turn by `turns` right angles counter-clockwise, as `numpy.rot90` does."""
        turns %= 4
        if turns == 2:
            self.vflip()
            self.hflip()
        elif turns:
            self.transpose()
            if turns == 1:
                self.vflip()
            else:
                self.hflip()

    # Tables

    def table(self, table: Table) -> None:
        """Replace every uint8 value v of channel c by table[v], or table[v, c] where the table is (256, C)."""
        self._touch()
        if self.dtype != np.uint8 or self._float_table is not None:
            msg = f"a uint8 table was given for an image of dtype {self.dtype}"
            raise RecipeError(msg)
        self._table = table if self._table is None else _composed(table, self._table)

    def float_table(self, table: FloatTable) -> None:
        """Replace every uint8 value v of channel c by the float32 table[v, c]; the image is float32 from now on."""
        self._touch()
        if self.dtype != np.uint8 or self._float_table is not None:
            msg = f"a table of floats was given for an image of dtype {self.dtype}"
            raise RecipeError(msg)
        self._float_table = table if self._table is None else _composed(table, self._table)
        self._table = None
        self.dtype = np.dtype(np.float32)

    def take_float_table(self) -> FloatTable | None:
        """The table of floats that is pending, taken off, so that the image stays uint8; None if there is none."""
        table, self._float_table = self._float_table, None
        if table is not None:
            self.dtype = np.dtype(np.uint8)
        return table

    # Pixels

    def set(self, array: Image) -> None:
        """Go on with `array` instead, which nobody else may change."""
        self._touch()
        self._source = None
        self._start(array if array.flags.c_contiguous else np.ascontiguousarray(array))

    def later(self, size: tuple[int, int], work: Work, *, resizes: bool = False) -> None:
        """Go on with the image of `size` that `work` makes of this one, once pixels are needed.

        `work` gets what `readable` gives, is a function of that alone, and keeps dtype and channels. `resizes`: it
        shows the whole image, so that a source may give fewer pixels, but no fewer than `size`.
        """
        self._touch()
        inner = Canvas.__new__(Canvas)
        for name in _STATE:
            setattr(inner, name, getattr(self, name))
        self._source = Later(inner, size, work, resizes=resizes)
        self._start(None)

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
        array = self._cropped(at_least)
        if self._float_table is not None:
            array = _oriented(array, self._transposed, self._flip_y, self._flip_x)
            array = look_up(array, self._float_table)
        else:
            if self._table is not None:
                array = look_up(array, self._table)
            array = _oriented(array, self._transposed, self._flip_y, self._flip_x)
        return array

    def pixels(self) -> Image:
        """The pixels as a C-contiguous array; computed once."""
        if self._array is not None and not self.is_pending:
            return self._array
        array = self._contiguous()
        self._source = None
        self._start(array)
        return array

    def _contiguous(self) -> Image:
        array = self.readable() if self._array is None or self.is_pending else self._array
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)

    def finish(self, out: Image | None = None) -> Image:
        """The finished pixels, in `out` itself if it has their shape and dtype, else in an array of their own.

        The layout is (C, H, W) if `layout` is "chw".
        """
        if self.layout != "chw" or len(self.shape) not in {2, 3}:
            array = self._contiguous()
            if out is not None and out.shape == array.shape and out.dtype == array.dtype:
                np.copyto(out, array)
                return out
            return array
        return self._planes(out)

    def _planes(self, out: Image | None) -> Image:
        """The pixels as planes (C, H, W), each written once."""
        dtype = self.dtype
        table = self.take_float_table()
        array = self.readable()
        height, width = array.shape[:2]
        num_channels = array.shape[2] if array.ndim == 3 else 1
        shape = (num_channels, height, width)
        if out is None or out.shape != shape or out.dtype != dtype:
            out = np.empty(shape, dtype)
        if array.size:
            _write_planes(array.reshape(height, width, num_channels), table, out)
        return out

    def _cropped(self, at_least: tuple[int, int] | None = None) -> Image:
        if self._array is None:
            if self._source is None:
                msg = "a canvas without array or source"
                raise AssertionError(msg)
            if at_least is not None and self._transposed:
                at_least = at_least[1], at_least[0]
            return self._source.decode(self._box, at_least)
        if self._box is None:
            return self._array
        y0, x0, y1, x1 = self._box
        return self._array[y0:y1, x0:x1]

    def _touch(self) -> None:
        """Note that something is pending from here on."""
        if self.layout is not None:
            msg = "a transform stands after ToTensorV2, which must be the last one of its Compose"
            raise RecipeError(msg)
        self.is_pending = True


_STATE = tuple(name for name in Canvas.__slots__ if name != "layout")


def _composed(table: npt.NDArray[Any], first: Table) -> npt.NDArray[Any]:
    """The table that does `first`, then `table`; per channel if either is."""
    if first.ndim == 1:
        return table[first]
    if table.ndim == 1:
        return table[first]
    if table.shape[1] == 1:
        return table[:, 0][first]
    return np.take_along_axis(table, first.astype(np.intp), axis=0)


def _write_planes(array: Image, table: FloatTable | None, out: Image) -> None:
    """Write channel c of (H, W, C) `array`, looked up in column c of `table` if there is one, into plane out[c]."""
    num_channels = array.shape[2]
    if table is None:
        if (
            array.dtype.char in _CV_DTYPE_CHARS
            and 1 < num_channels <= _MAX_CV_CHANNELS
            and out.flags.c_contiguous
        ):
            for channel in range(num_channels):
                cv2.extractChannel(array, channel, out[channel])
        else:
            np.copyto(out, array.transpose(2, 0, 1))
        return
    if table.shape[1] not in {1, num_channels}:
        msg = f"the pipeline's constants are for {table.shape[1]} channels, and the image has {num_channels}"
        raise RecipeError(msg)
    columns = np.ascontiguousarray(table.T)
    for channel, plane in enumerate(planes(array)):
        cv2.LUT(plane, columns[channel % len(columns)], out[channel])


def _oriented(array: Image, transposed: bool, flip_y: bool, flip_x: bool) -> Image:
    """The image transposed, then its rows reversed, then its columns reversed, as asked."""
    if not (transposed or flip_y or flip_x):
        return array
    if not array.size or not _suits_opencv(array):
        turned = array.swapaxes(0, 1) if transposed else array
        return np.ascontiguousarray(turned[:: -1 if flip_y else 1, :: -1 if flip_x else 1])
    if not transposed:
        turned = cv2.flip(array, -1 if flip_y and flip_x else 0 if flip_y else 1)
    elif flip_y != flip_x:
        turned = cv2.rotate(array, cv2.ROTATE_90_COUNTERCLOCKWISE if flip_y else cv2.ROTATE_90_CLOCKWISE)
    else:
        turned = cv2.transpose(array)
        if flip_y:
            turned = cv2.flip(turned, -1)
    if turned.ndim != array.ndim:  # OpenCV drops the axis of a single channel
        return turned.reshape(*turned.shape[:2], 1)
    return turned


def _suits_opencv(array: Image) -> bool:
    """Whether OpenCV can turn images of this dtype and number of channels."""
    pixel_bytes = array.itemsize * (array.shape[2] if array.ndim == 3 else 1)
    return pixel_bytes in _CV_TRANSPOSE_BYTES and array.dtype.char in _CV_DTYPE_CHARS
