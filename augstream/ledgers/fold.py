"""An array's bytes as one small number at the pace of memory: what a ledger can afford to take of every sample."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FOLD_BYTES = 8
_COLUMNS = (
    509  # a prime, so that no row, channel or tile of an image lies a whole number of blocks from another
)
BLOCK_BYTES = 8 * _COLUMNS


def fold(array: Array) -> bytes:
    """8 bytes over the bytes of an array of any size, whatever its shape and dtype: equal bytes, equal folds.

    Up to 4,072 bytes it is their BLAKE2b. Of more, the 8-byte words are first added up, modulo 2**64, in 509 columns:
    word i in column i mod 509; the sums, and what does not fill a word, are then hashed. That runs as fast as memory is
    read, about 17 us for 224 x 224 x 3 floats that are in the processor's cache, where BLAKE2b needs 600.

    Any change of a single word is seen, and a change of several as surely as the hash, unless the words lie a multiple
    of 4,072 bytes apart and their changes cancel in a sum: two words that change places at such a distance, or the
    highest bit of an even number of words of one column. No shift, flip, exchange of rows, channels or samples, or
    other noise is of that kind, but somebody who wants to can make one: it guards against faults, not against malice.

    >>> fold(np.zeros(999)) == fold(np.zeros((2, 999), np.float32)) != fold(np.zeros(1000))
    True
    """
    raw = _bytes_of(array)
    size = raw.size
    if size <= BLOCK_BYTES:
        return blake2b(raw.data, digest_size=FOLD_BYTES, person=b"augstream/fold").digest()
    words = raw[: size // 8 * 8].view("<u8")
    num_whole = len(words) // _COLUMNS * _COLUMNS
    sums = np.add.reduce(words[:num_whole].reshape(-1, _COLUMNS), axis=0)
    sums[: len(words) - num_whole] += words[num_whole:]
    state = blake2b(sums.data, digest_size=FOLD_BYTES, person=b"augstream/sums")
    state.update(raw[size // 8 * 8 :].tobytes() + size.to_bytes(8, "little"))
    return state.digest()


def _bytes_of(array: Array) -> npt.NDArray[np.uint8]:
    """The bytes of an array in memory order, little-endian."""
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    return array.reshape(-1).view(np.uint8) if array.size else np.empty(0, np.uint8)
