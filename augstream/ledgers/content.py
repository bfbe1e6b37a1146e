"""An array's bytes as one small number at the pace of memory: what a ledger can afford to take of every sample."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from hashlib import shake_128
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Words = npt.NDArray[np.uint64]

FOLD_BYTES = 8
_WORD = np.dtype("<u8")
# A prime, so that no row, channel or tile of an image lies a whole number of blocks from another.
COLUMNS = 509
BLOCK_BYTES = 8 * COLUMNS
# Odd, so that no product loses a bit.
_FACTORS = np.frombuffer(shake_128(b"augstream/fold").digest(BLOCK_BYTES), _WORD) | np.uint64(1)
_HALF = np.uint64(32)


def fold(array: Array) -> bytes:
    """8 bytes over the bytes of an array of any size, whatever its shape and dtype: equal bytes, equal folds.

    The 8-byte words, the last one filled up with zeros, are added up, modulo 2**64, in 509 columns: word i in column
    i mod 509 (`sums`). The columns are then mixed, each by a factor of its own, and with the size (`mixed`). That runs
    as fast as memory is read.

    Any change of a single word is seen, and a change of several but for one in 2**64, unless the words lie a multiple
    of 4,072 bytes apart and their changes cancel in a sum: two words that change places at such a distance, or the
    highest bit of an even number of words of one column. No shift, flip, exchange of channels or samples, or other
    noise is of that kind, nor is an exchange of two rows, unless 509 others lie between; but somebody who wants to can
    make one: it guards against faults, not against malice.

    >>> fold(np.zeros(999)) == fold(np.zeros((2, 999), np.float32)) != fold(np.zeros(1000))
    True
    """
    return mixed(sums(array)[None], [array.nbytes]).tobytes()


def sums(array: Array) -> Words:
    """The sums of an array's columns, (509,) uint64."""
    if not array.flags.c_contiguous or not array.dtype.isnative or sys.byteorder != "little":
        array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    num_words, num_odd = divmod(array.nbytes, 8)
    num_rest = num_words % COLUMNS
    words = np.frombuffer(array, _WORD, num_words)
    row: Words = np.add.reduce(words[: num_words - num_rest].reshape(-1, COLUMNS), 0)
    if num_rest:
        row[:num_rest] += words[num_words - num_rest :]
    if num_odd:
        odd = np.frombuffer(array, np.uint8, num_odd, 8 * num_words).tobytes()
        row[num_rest] += np.uint64(int.from_bytes(odd, "little"))
    return row


def mixed(rows: Words, salts: Sequence[int] = (0,)) -> Words:
    """8 bytes each, (N,) uint64, over N rows of at most 509 words, and a number for each or for all."""
    mixing = rows >> _HALF  # the high bits count below, too, where a product does not push them out
    mixing ^= rows
    found: Words = mixing @ _FACTORS[: rows.shape[1]]
    found += np.array(salts, _WORD)
    return found
