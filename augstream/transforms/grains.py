"""Random numbers by the hundred thousand, from a key: exact discrete ones, and normal floats.

The ground are raw words of SFC64, which come three times as fast as those of Philox (keys make counters unnecessary
here: a noise map is always made whole), and are stable between numpy releases, as raw words are. Its state is set from
the key by BLAKE2b, as numpy's `ISeedSequence` interface provides.

`discrete` samples a distribution over few values exactly, by integer arithmetic. Sixteen random bits choose one of
65,536 cells. Each value owns as many whole cells as its chance fills, and a table names the owner; what chances leave
over, in 48 more bits, is dealt out in the last few cells, where about one number in two hundred falls. For bytes, and
bytes with a sign, `alias` is quicker.

Sources: Doty-Humphrey, PractRand (SFC64); Box and Muller, Annals of Mathematical Statistics 29, 1958; the table
method of Marsaglia, Tsang and Wang, Journal of Statistical Software 11(3), 2004.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random.bit_generator import ISeedSequence

Words = npt.NDArray[np.uint64]
Steps = npt.NDArray[np.int16]

_PERSON = b"augstream grains"
_CELLS = 65536
_BLOCK = 3 << 16  # of integers: an image of 224 x 224 x 3 is done in one
_FLOATS_BLOCK = 1 << 15
_FINE_BITS = np.uint64(48)
_FINE_MASK = np.uint64(2**48 - 1)
_LARGEST = 2.0**64 - 2048  # the largest float64 below 2**64
_LUT_TAKES_WORDS = int(cv2.__version__.split(".")[0]) >= 5  # OpenCV 4 looks up bytes only


class _KeySequence(ISeedSequence):
    """The seed of a bit generator: its words are the hash of a key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: npt.DTypeLike = np.uint32) -> npt.NDArray[Any]:
        wanted = np.dtype(dtype).newbyteorder("<")
        return np.frombuffer(
            blake2b(self._key, digest_size=n_words * wanted.itemsize, person=_PERSON).digest(), wanted
        )


def words(key: bytes) -> np.random.SFC64:
    """The source of raw uint64 words of `key`: words(key).random_raw(n)."""
    seed: Any = _KeySequence(key)  # numpy's stubs know SeedSequence only
    return np.random.SFC64(seed)


class Distribution(NamedTuple):
    """Integers and how they are distributed, as tables to draw from."""

    table: Steps  # (65536,) the owner of each whole cell, then anything
    num_whole: int  # how many cells are whole
    values: Steps
    shares: Words  # the cells that are not whole, cumulated over the values, in units of 2**-48 cells


def distribution(values: npt.ArrayLike, cumulative: npt.ArrayLike) -> Distribution:
    """The distribution of ascending `values`, given the chance of each or a smaller one, but for the last."""
    owners = np.asarray(values, dtype=np.int16)
    chances = np.maximum.accumulate(np.asarray(cumulative, dtype=np.float64))
    if not len(chances) or chances[-1] == 0:
        return Distribution(np.full(_CELLS, owners[-1]), _CELLS, owners[-1:], np.zeros(1, np.uint64))
    borders = np.zeros(len(chances) + 2, np.uint64)
    borders[1:-1] = np.minimum(chances * 2.0**64, _LARGEST)  # the last is 2**64, which is 0 to uint64
    masses = borders[1:] - borders[:-1]
    counts = (masses >> _FINE_BITS).astype(np.int64)
    num_whole = int(counts.sum())
    counts[-1] += _CELLS - num_whole
    return Distribution(np.repeat(owners, counts), num_whole, owners, np.cumsum(masses & _FINE_MASK))


def truncated_normal_steps(mean: float, sigma: float, reach: int = 255) -> Distribution:
    """A normal number truncated towards zero to an integer; beyond -`reach`…`reach` it counts as these.

    Promised: chances correct to 2**-52. The standard library's erf is the only function used that is not exact.
    """
    if sigma == 0:
        return distribution([min(max(math.trunc(mean), -reach), reach)], [])
    scale = 1 / (sigma * math.sqrt(2))
    ends = np.arange(1, reach + 1)
    above = np.array([*map(math.erf, ((ends - mean) * scale).tolist())])
    below = -above[::-1] if mean == 0 else np.array([*map(math.erf, ((-ends[::-1] - mean) * scale).tolist())])
    return distribution(np.arange(-reach, reach + 1), 0.5 + 0.5 * np.concatenate((below, above)))


def poisson_steps(rate: float) -> Distribution:
    """Poisson numbers of mean `rate`, which is 0 or more, and below 10,000."""
    last = int(rate + 12 * math.sqrt(rate) + 20)
    chances = [
        math.exp(k * math.log(rate) - rate - math.lgamma(k + 1)) if rate else float(k == 0)
        for k in range(last)
    ]
    return distribution(np.arange(last + 1), np.cumsum(chances))


def discrete_blocks(key: bytes, size: int, steps: Distribution) -> Iterator[tuple[int, Steps]]:
    """`size` independent numbers of a distribution that follow from `key`, in blocks: (where it starts, its numbers).

    Exact, as the module says. Blocks stay in the processor's cache; their length is part of what the numbers are.
    """
    table, num_whole, values, shares = steps
    source = words(key)
    for start in range(0, size, _BLOCK):
        num = min(_BLOCK, size - start)
        cells = source.random_raw(-(-num // 4)).view(np.uint16)[:num]
        drawn: Any = cv2.LUT(cells, table).reshape(num) if _LUT_TAKES_WORDS else table[cells]
        rest = np.flatnonzero(cells >= num_whole)
        if len(rest):
            places = (cells[rest].astype(np.uint64) - np.uint64(num_whole)) << _FINE_BITS
            places |= source.random_raw(len(rest)) & _FINE_MASK
            drawn[rest] = values[np.searchsorted(shares, places, side="right")]
        yield start, drawn


def discrete(key: bytes, size: int, steps: Distribution) -> Steps:
    """The numbers of `discrete_blocks` as one array."""
    drawn = np.empty(size, np.int16)
    for start, block in discrete_blocks(key, size, steps):
        drawn[start : start + len(block)] = block
    return drawn


def normals(key: bytes, size: int) -> npt.NDArray[np.float32]:
    """`size` independent standard normal float32 numbers that follow from `key`, by Box and Muller's transform.

    From 32 random bits each; the largest is 6.7. Not promised: equal last bits on machines of other instruction sets.
    """
    source = words(key)
    drawn = np.empty(size, np.float32)
    for start in range(0, size, _FLOATS_BLOCK):
        num = min(_FLOATS_BLOCK, size - start)
        bits = source.random_raw(-(-num // 2)).view(np.uint32).reshape(2, -1).astype(np.float32)
        bits += np.float32(0.5)
        radius = cv2.log(bits[0] * np.float32(2.0**-32))
        radius *= -2
        np.sqrt(radius, out=radius)
        bits[1] *= np.float32(2 * math.pi * 2.0**-32)
        across, along = cv2.polarToCart(radius, bits[1])
        drawn[start : start + num] = np.concatenate((across, along), axis=None)[:num]
    return drawn
