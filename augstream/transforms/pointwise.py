"""Point operations as tables: the uint8 value that takes the place of each uint8 value.

A point operation on uint8 is its table, so that neighbouring ones join into one look-up. Values are computed
in float, clipped to 0…255 and truncated, as albumentations 2.0.8 does (100 + 1.989 is 101), not rounded. For
float32 images, whose range is 0 to 1, the same operations work on the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[Any]
Table = npt.NDArray[np.uint8]
FloatTable = npt.NDArray[np.float32]


def _constant(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`array`, read-only from here on."""
    array.setflags(write=False)
    return array


LEVELS: npt.NDArray[np.float32] = _constant(np.arange(256, dtype=np.float32))
_LOWEST: npt.NDArray[np.float32] = _constant(np.zeros(256, np.float32))
_HIGHEST: npt.NDArray[np.float32] = _constant(np.full(256, 255, np.float32))
_BYTES: Table = _constant(np.arange(256, dtype=np.uint8))
INVERTED: Table = _constant(_BYTES[::-1].copy())
"""v -> 255 - v."""
_POSTERIZED: Table = _constant(np.array([_BYTES >> bits << bits for bits in range(8, -1, -1)]))
_SHARES: npt.NDArray[Any] = _constant(np.arange(256) * (1.0 / 255))
_RAMP: Table = _constant(np.clip(np.arange(-256, 512), 0, 255).astype(np.uint8))


def max_value(dtype: np.dtype[Any]) -> float:
    """The brightest value of an image of `dtype`: 255 for uint8, 65535 for uint16, 1 for floats."""
    return float((1 << 8 * dtype.itemsize - (dtype.kind == "i")) - 1) if dtype.kind in "iu" else 1.0


def channels_of(shape: tuple[int, ...]) -> int:
    """The number of channels of an image of `shape`."""
    return shape[2] if len(shape) == 3 else 1


def is_grey(shape: tuple[int, ...]) -> bool:
    """Whether an image of `shape` has one channel only."""
    return len(shape) == 2 or shape[2] == 1


# Tables


def truncated(values: npt.NDArray[np.floating[Any]]) -> Table:
    """`values` (256,), ours to overwrite, clipped to 0…255 and truncated, as uint8."""
    np.maximum(values, _LOWEST, out=values)  # on tables a fifth of clip's time
    np.minimum(values, _HIGHEST, out=values)
    return values.astype(np.uint8)


def affine_table(alpha: float, beta: float) -> Table:
    """v -> alpha * v + beta."""
    values: npt.NDArray[np.float32] = LEVELS * np.float32(alpha)
    values += np.float32(beta)
    return truncated(values)


def gamma_table(gamma: float) -> Table:
    """v -> 255 * (v / 255) ** gamma."""
    values: npt.NDArray[Any] = _SHARES**gamma * 255
    return values.astype(np.uint8)


def solarize_table(threshold: float) -> Table:
    """v -> 255 - v from `threshold` (a share of 255) up, v below."""
    return np.where(threshold * 255.0 <= _BYTES, 255 - _BYTES, _BYTES)


def posterize_table(num_bits: int | list[int]) -> Table:
    """v with only its `num_bits` highest bits kept; (256,), or (256, C) for a number for each channel."""
    return _POSTERIZED[num_bits].squeeze().T


def shift_table(shift: float) -> Table:
    """v -> v + shift, truncated towards zero first; read-only."""
    start = 256 + min(max(math.trunc(shift), -256), 256)
    return _RAMP[start : start + 256]


def shift_tables(shifts: Sequence[float]) -> Table:
    """The same as (256, C), with one column for each of the shifts."""
    return np.array([shift_table(shift) for shift in shifts]).T


# The same on float32 images


def clipped(image: Image) -> Image:
    """`image`, a float array of our own, clipped to 0…1 in place."""
    return np.clip(image, 0, 1, out=image)


def affine(image: Image, alpha: float, beta: float) -> Image:
    """alpha * v + beta of a float32 image, clipped to 0…1."""
    out = image * np.float32(alpha)
    out += np.float32(beta)
    return clipped(out)


def shifted(image: Image, shifts: Sequence[float]) -> Image:
    """v + shift of a float32 image, one shift for each channel, clipped to 0…1."""
    return clipped(image + np.array(shifts, dtype=np.float32))


def as_bytes(image: Image) -> npt.NDArray[np.uint8]:
    """A float image of 0…1 as uint8, rounded: how operations that exist on uint8 only see it."""
    levels = image * np.float32(255)
    np.rint(levels, out=levels)
    return np.clip(levels, 0, 255, out=levels).astype(np.uint8)


def as_floats(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """A uint8 image as float32 of 0…1."""
    return image * np.float32(1 / 255)
