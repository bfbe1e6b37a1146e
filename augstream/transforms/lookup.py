"""Tables at work: the fastest exact way to look every value of a uint8 image up.

OpenCV's look-up is scalar. Where the small `stringzilla` package is installed (it comes with albumentations;
the extra `augstream[fast]` asks for it), uint8 tables are looked up by its vector instructions, with the same
result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import RecipeError
from .pointwise import INVERTED

try:
    from stringzilla import translate as _translate
except ImportError:
    _translate = None

Image = npt.NDArray[Any]
MAX_CV_CHANNELS = 4
"""How many channels many functions of OpenCV take at the most."""
UINT8 = np.dtype(np.uint8)
_LINE_BYTES = 64  # a line of the cache, and the widest vector
_OFFSET_BYTES = 16


def _takes_out() -> bool:
    """Whether stringzilla's look-up writes into memory that it is given, which older releases do not."""
    try:
        _translate(b"a", bytes(256), out=bytearray(1))
    except TypeError:
        return False
    return True


_TAKES_OUT = _translate is not None and _takes_out()


def look_up(array: Image, table: npt.NDArray[Any]) -> Image:
    """`table[v]` or `table[v, c]` for every value v of channel c of a uint8 image; a new contiguous array."""
    if table.ndim == 2 and table.shape[1] == 1:
        table = table[:, 0]
    if table.ndim == 1:
        return _one_table(array, table) if array.size else np.empty(array.shape, table.dtype)
    if not array.size:
        return np.empty(array.shape, table.dtype)
    num_channels = array.shape[2] if array.ndim == 3 else 1
    if table.shape[1] != num_channels:
        msg = f"the pipeline's constants are for {table.shape[1]} channels, and the image has {num_channels}"
        raise RecipeError(msg)
    if num_channels > MAX_CV_CHANNELS:
        return table[array, np.arange(num_channels)]
    if _translate is None or table.dtype != UINT8:
        return cv2.LUT(array, table.reshape(1, 256, num_channels)).reshape(array.shape)
    found = planes(array)
    for channel, plane in enumerate(found):
        look_up_in_place(plane, table[:, channel])
    return interleaved(found)


def look_up_in_place(array: Image, column: npt.NDArray[np.uint8]) -> None:
    """Replace every value v of a contiguous uint8 array of at most four channels by column[v], a uint8 too."""
    column = np.ascontiguousarray(column)
    if _translate is not None:
        _translate(array.data, column.data, inplace=True)
    else:
        cv2.LUT(array, column, array)


def composed(table: npt.NDArray[Any], first: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """The table that does `first`, then `table`; per channel if either is."""
    if first.ndim == 1 or table.ndim == 1:
        return table[first]
    if table.shape[1] == 1:
        return table[:, 0][first]
    return np.take_along_axis(table, first.astype(np.intp), axis=0)


def _one_table(array: Image, table: npt.NDArray[Any]) -> Image:
    if table is INVERTED:  # as fast as a copy
        return np.invert(array, order="C")
    if _translate is not None and table.dtype == UINT8:
        column = table if table.flags.c_contiguous else np.ascontiguousarray(table)
        if _TAKES_OUT and array.flags.c_contiguous:
            found: Image = np.empty(array.shape, UINT8)
            _translate(array.data, column.data, out=found.data)
            return found
        found = np.array(array, order="C")
        _translate(found.data, column.data, inplace=True)
        return found
    num_channels = array.shape[2] if array.ndim == 3 else 1
    flat = array if num_channels <= MAX_CV_CHANNELS else array.reshape(len(array), -1)
    return cv2.LUT(flat, table).reshape(array.shape)


def planes(array: Image, found: Image | None = None) -> Image:
    """The channels of an image (H, W, C) as an array (C, H, W) of planes, each contiguous; ours to change.

    They are new, or in `found`, if it is given.

    OpenCV splits and merges around the cache where its arrays are aligned alike, for planes too large to be of use
    soon. Ours are used at once: they are laid out unlike, which halves the time of what follows.
    """
    height, width, num_channels = array.shape
    if found is None:
        found = empty_planes((num_channels, height, width), array.dtype)
    if 1 < num_channels <= MAX_CV_CHANNELS:
        cv2.split(array, list(found))
    else:
        np.copyto(found, array.transpose(2, 0, 1))
    return found


def empty_planes(shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Image:
    """A new array (C, H, W) of planes, each contiguous, no two of them aligned alike."""
    num, height, width = shape
    itemsize = dtype.itemsize
    stride = plane_stride(height * width * itemsize)
    return np.ndarray(shape, dtype, np.empty(stride * num, np.uint8), 0, (stride, width * itemsize, itemsize))


def plane_stride(size_bytes: int) -> int:
    """How far apart planes of so many bytes are put: 16 bytes more than a whole number of the cache's lines."""
    return size_bytes + (_OFFSET_BYTES - size_bytes) % _LINE_BYTES


def interleaved(channels: Sequence[Image] | Image) -> Image:
    """The image (H, W, C) of at most four channels (H, W); a new contiguous array, in the cache."""
    first = channels[0]
    merged = empty_image((*first.shape, len(channels)), first.dtype)
    cv2.merge(list(channels), merged)
    return merged


def empty_image(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Image:
    """A new contiguous array that OpenCV merges into within the cache."""
    num_bytes = math.prod(shape) * dtype.itemsize
    block = np.empty(num_bytes + _LINE_BYTES, np.uint8)
    address: int = block.__array_interface__["data"][0]
    return np.ndarray(shape, dtype, block, (_OFFSET_BYTES - address) % _LINE_BYTES)
