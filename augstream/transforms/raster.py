"""Pixels through OpenCV: resize, pad, warp and remap arrays of any number of channels and any dtype.

OpenCV takes few dtypes and, in places, at most four channels; it drops a single channel's axis, and fills
only the first channel where it is given one number. Here (H, W) and (H, W, C) come back with as many axes;
more than four channels are done in turns; label maps of any dtype (bool, int64, …) are moved bit by bit by
nearest neighbours; a fill of one number fills all channels. Arrays may be crops of larger ones. Nothing is
modified.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import RecipeError
from .arguments import Fill
from .lookup import MAX_CV_CHANNELS, UINT8

Image = npt.NDArray[Any]
Size = tuple[int, int]  # height, width
Borders = tuple[int, int, int, int]  # top, bottom, left, right
Work = Callable[..., Image]  # an array that OpenCV knows, its fill (and, if a warp, room) -> the result

_BLENDED = frozenset(map(np.dtype, ("u1", "u2", "i2", "f4", "f8")))
_MOVED = _BLENDED | {np.dtype("i4")}
_CARRIERS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.int32, 8: np.float64}
NEAREST = frozenset({cv2.INTER_NEAREST, cv2.INTER_NEAREST_EXACT})
_LINEAR = frozenset({cv2.INTER_LINEAR, cv2.INTER_AREA})  # one and the same in a warp
_WORTHWHILE = 2**13  # values of an image, from which on four channels are quicker than three


class Sampling(NamedTuple):
    """How values between and beyond pixels are found: two OpenCV codes, and a constant border's fill."""

    interpolation: int = cv2.INTER_NEAREST
    border_mode: int = cv2.BORDER_CONSTANT
    fill: Fill = 0


def resize(image: Image, size: Size, interpolation: int) -> Image:
    """`image` resampled to `size`; itself if it has that size."""
    if image.shape[:2] == size:
        return image
    dsize = (size[1], size[0])
    if image.dtype in _BLENDED and image.ndim == 3 and 1 < image.shape[2] <= MAX_CV_CHANNELS:
        return cv2.resize(image, dsize, None, 0, 0, interpolation)  # as below, the short way

    def work(part: Image, _: Any) -> Image:
        return cv2.resize(part, dsize, None, 0, 0, interpolation)

    return _done(image, size, interpolation, 0, work)


def pad(image: Image, borders: Borders, border_mode: int, fill: Fill) -> Image:
    """`image` with borders added, made as `border_mode` says, of `fill` if it is BORDER_CONSTANT."""
    top, bottom, left, right = borders

    def work(part: Image, value: Any) -> Image:
        return cv2.copyMakeBorder(part, top, bottom, left, right, border_mode, None, value)

    size = (image.shape[0] + top + bottom, image.shape[1] + left + right)
    return _done(image, size, cv2.INTER_NEAREST, fill, work)


def warp_affine(image: Image, matrix: Image, size: Size, sampling: Sampling) -> Image:
    """`image` drawn on a canvas of `size` through the (2, 3) `matrix`, which maps (x, y, 1) to there."""
    interpolation, border_mode, _ = sampling
    dsize = (size[1], size[0])

    def work(part: Image, value: Any, out: Image | None = None) -> Image:
        return cv2.warpAffine(part, matrix, dsize, out, interpolation, border_mode, value)

    return _warped(image, size, sampling, work)


def warp_perspective(image: Image, matrix: Image, size: Size, sampling: Sampling) -> Image:
    """`image` drawn on a canvas of `size` through the (3, 3) `matrix`, which maps (x, y, 1) to there."""
    interpolation, border_mode, _ = sampling
    dsize = (size[1], size[0])

    def work(part: Image, value: Any, out: Image | None = None) -> Image:
        return cv2.warpPerspective(part, matrix, dsize, out, interpolation, border_mode, value)

    return _warped(image, size, sampling, work)


def remap(image: Image, map_x: Image, map_y: Image, sampling: Sampling) -> Image:
    """The image whose pixel (y, x) is that at (map_y[y, x], map_x[y, x]) of `image`; float32 maps (H, W)."""
    interpolation, border_mode, _ = sampling

    def work(part: Image, value: Any, out: Image | None = None) -> Image:
        return cv2.remap(part, map_x, map_y, interpolation, out, border_mode, value)

    return _warped(image, map_x.shape, sampling, work)


def _warped(image: Image, size: Size, sampling: Sampling, work: Work) -> Image:
    """`work`, a warp, on `image`: bytes of three channels as four, which OpenCV blends alike in half the time.

    What four channels need is one block of memory: the allocator keeps it for the next call, and did not keep two.
    """
    interpolation, _, fill = sampling
    if not (
        interpolation in _LINEAR
        and image.dtype == UINT8
        and image.shape[2:] == (3,)
        and image.size >= _WORTHWHILE
    ):
        return _done(image, size, interpolation, fill, work)
    height, width = image.shape[:2]
    middle = 4 * height * width
    room = np.empty(middle + 4 * size[0] * size[1], UINT8)
    wide = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA, room[:middle].reshape(height, width, 4))
    found = work(wide, _values(fill, 3), room[middle:].reshape(*size, 4))
    return cv2.cvtColor(found, cv2.COLOR_RGBA2RGB)


def _done(image: Image, size: Size, interpolation: int, fill: Fill, work: Work) -> Image:
    """`work` on `image`, whose result has `size`, by way of what OpenCV takes."""
    dtype = image.dtype
    if dtype not in _BLENDED and not (dtype in _MOVED and interpolation in NEAREST):
        return _carried(image, size, interpolation, fill, work)
    num_channels = image.shape[2] if image.ndim == 3 else 1
    values = _values(fill, num_channels)
    if num_channels <= MAX_CV_CHANNELS and image.size:
        found = work(image, values)
        return found if found.ndim == image.ndim else found.reshape(*size, 1)
    result = np.zeros((*size, *image.shape[2:]), dtype)
    for first, last in _turns(num_channels if image.size else 0):
        found = work(image[:, :, first:last], values[first:last])
        result[:, :, first:last] = found.reshape(*size, last - first)
    return result


def _carried(image: Image, size: Size, interpolation: int, fill: Fill, work: Work) -> Image:
    """`work` on an image of a dtype unknown to OpenCV: its bits travel as a dtype of as many bytes."""
    dtype = image.dtype
    if interpolation not in NEAREST or dtype.itemsize not in _CARRIERS:
        msg = (
            f"an array of dtype {dtype} cannot be blended; give it as uint8, uint16, float32 or float64, "
            "or choose nearest neighbours: interpolation=0, mask_interpolation=0"
        )
        raise RecipeError(msg)
    carrier = _CARRIERS[dtype.itemsize]
    carried = np.array(fill).astype(dtype).view(carrier).tolist()
    if isinstance(fill, tuple):
        carried = tuple(carried)
    return _done(image.view(carrier), size, interpolation, carried, work).view(dtype)


def _values(fill: Fill, num_channels: int) -> tuple[float, ...]:
    """One number for each channel, and for OpenCV four at least where they are all the same."""
    if not isinstance(fill, tuple):
        return (fill,) * (num_channels if num_channels > MAX_CV_CHANNELS else MAX_CV_CHANNELS)
    if len(fill) != num_channels:
        msg = (
            f"a fill of {len(fill)} numbers, {fill!r}, was given for an image of {num_channels} channels; "
            "give one number for each, or one for all"
        )
        raise RecipeError(msg)
    return fill


def _turns(num_channels: int) -> list[tuple[int, int]]:
    """The channels in fours; two that remain go one by one, for OpenCV rounds a pair differently."""
    starts = range(0, num_channels, MAX_CV_CHANNELS)
    turns = [(first, min(first + MAX_CV_CHANNELS, num_channels)) for first in starts]
    if turns and turns[-1][1] - turns[-1][0] == 2:
        first, last = turns.pop()
        turns += [(first, first + 1), (first + 1, last)]
    return turns
