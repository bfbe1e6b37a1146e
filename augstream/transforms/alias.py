"""Random bytes of any distribution, and with a sign, by the alias method done on bytes: as fast as images are added.

256 values share 256 columns of equal weight. Each column is one value's up to some height, and above it another's, its
alias; so two random bytes give a number: one names the column, seven bits of the other a height, and its last bit a
sign. Heights are compared exactly: the one in 128 that seven bits leave open is settled by 49 more.

All of it is byte arithmetic on whole arrays. `grains.discrete`, whose cells hold 16 bits, takes any integers.

Sources: Walker, ACM Transactions on Mathematical Software 3(3), 1977; the columns are filled by prefix sums, as in
Huebschle-Schneider and Sanders, Parallel Weighted Random Sampling, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from .grains import Words, words
from .lookup import look_up, look_up_in_place

Bytes = npt.NDArray[np.uint8]

_NUM_COLUMNS = 256
_COLUMN = np.uint64(2**56)  # of the 2**64 of all chances
_FINE_BITS = np.uint64(49)
_FINE_MASK = np.uint64(2**49 - 1)
_FINE_SHIFT = np.uint64(64 - 49)
_LARGEST = 2.0**64 - 2048  # the largest float64 below 2**64
_BLOCK = 3 << 16  # of numbers: an image of 224 x 224 x 3 is done in one
_SIGNS: Bytes = (np.arange(256) % 2 * 255).astype(np.uint8)
_SIGNS.setflags(write=False)


class Alias(NamedTuple):
    """A distribution of the values 0 to 255, as columns to draw from."""

    swaps: Bytes  # the column's value ^ its alias
    heights: Bytes  # seven bits of where the alias begins, then a 1: a byte above it means the alias
    rests: Words  # the other 49 bits


def alias_of(chances: npt.NDArray[np.float64]) -> Alias:
    """The distribution of 0 to 255, given the chance of each or a smaller value, (255,), ascending to at most 1."""
    borders = np.zeros(_NUM_COLUMNS + 1, np.uint64)
    borders[1:-1] = np.minimum(chances * 2.0**64, _LARGEST)  # the last is 2**64, which is 0 to uint64
    borders[-2] = borders[-2] or 1  # so that no single value's mass is 2**64, either
    masses = borders[1:] - borders[:-1]
    is_heavy = masses >= _COLUMN
    heavy, light = np.flatnonzero(is_heavy), np.flatnonzero(~is_heavy)
    excess = np.cumsum(masses[heavy] - _COLUMN)
    missing = np.zeros(len(light) + 1, np.uint64)
    np.cumsum(_COLUMN - masses[light], out=missing[1:])
    # Light columns are filled up one after the other from the heavy values, each of which, once no more than a column
    # of it is left, is filled up from the next.
    others = np.arange(_NUM_COLUMNS)
    others[light] = heavy[np.searchsorted(excess, missing[:-1], side="right")]
    others[heavy[:-1]] = heavy[1:]
    masses[heavy] = _COLUMN + excess - missing[np.searchsorted(missing, excess)]
    is_full = masses == _COLUMN
    others[is_full] = np.flatnonzero(is_full)
    heights = np.minimum(masses >> _FINE_BITS, 127).astype(np.uint8) * 2 + 1
    return Alias(
        np.arange(_NUM_COLUMNS, dtype=np.uint8) ^ others.astype(np.uint8), heights, masses & _FINE_MASK
    )


def truncated_normal_sizes(sigma: float) -> Alias:
    """The size of a normal number of mean 0, truncated to an integer; above 255 it counts as 255.

    Promised: chances correct to 2**-52. The standard library's erf is the only function used that is not exact.
    """
    scale = 1 / (sigma * math.sqrt(2))
    return alias_of(np.fromiter(map(math.erf, (np.arange(1, _NUM_COLUMNS) * scale).tolist()), np.float64))


def signed_blocks(key: bytes, size: int, alias: Alias) -> Iterator[tuple[int, Bytes, Bytes]]:
    """`size` independent values with signs that follow from `key`, in blocks: (where it starts, values, 0 or 255).

    Exact, as the module says. The length of the blocks is part of what the numbers are.
    """
    swaps, heights, rests = alias
    source = words(key)
    for start in range(0, size, _BLOCK):
        num = min(_BLOCK, size - start)
        drawn = source.random_raw(-(-num // 4)).view(np.uint8)
        values, seconds = drawn[:num], drawn[num : 2 * num]
        borders = look_up(values, heights)
        chosen = look_up(values, swaps)
        chosen &= cv2.compare(seconds[None], borders[None], cv2.CMP_GT)[0]
        chosen ^= values
        borders ^= seconds
        open_ = np.flatnonzero(np.less(borders, 2, out=borders.view(np.bool_)))
        if len(open_):
            columns = values[open_]
            is_other = (source.random_raw(len(open_)) >> _FINE_SHIFT) >= rests[columns]
            chosen[open_] = columns ^ swaps[columns] * is_other
        look_up_in_place(seconds, _SIGNS)
        yield start, chosen, seconds
