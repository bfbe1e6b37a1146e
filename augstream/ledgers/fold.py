"""An array's bytes as one small number at the pace of memory: what a ledger can afford to take of every sample."""

from __future__ import annotations

import sys
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FOLD_BYTES = 8
_WORD = np.dtype("<u8")
# A prime, so that no row, channel or tile of an image lies a whole number of blocks from another.
_COLUMNS = 509
BLOCK_BYTES = 8 * _COLUMNS


def fold(array: Array) -> bytes:
    """8 bytes over the bytes of an array of any size, whatever its shape and dtype: equal bytes, equal folds.

    Up to 4,072 bytes it is their BLAKE2b. Of more, the 8-byte words are first added up, modulo 2**64, in 509 columns:
    word i in column i mod 509; the sums, and what does not fill a word, are then hashed. That runs as fast as memory is
    read, about 20 us for 224 x 224 x 3 floats that are in the processor's cache, where BLAKE2b needs 600.

    Any change of a single word is seen, and a change of several as surely as the hash, unless the words lie a multiple
    of 4,072 bytes apart and their changes cancel in a sum: two words that change places at such a distance, or the
    highest bit of an even number of words of one column. No shift, flip, exchange of rows, channels or samples, or
    other noise is of that kind, but somebody who wants to can make one: it guards against faults, not against malice.

    >>> fold(np.zeros(999)) == fold(np.zeros((2, 999), np.float32)) != fold(np.zeros(1000))
    True
    """
    if not array.flags.c_contiguous or not array.dtype.isnative or sys.byteorder != "little":
        array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    size = array.nbytes
    if size <= BLOCK_BYTES:
        return blake2b(array.tobytes(), digest_size=FOLD_BYTES, person=b"augstream/fold").digest()
    num_blocks, num_rest = size // BLOCK_BYTES, size % BLOCK_BYTES // 8
    num_words = num_blocks * _COLUMNS
    sums = np.add.reduce(np.frombuffer(array, _WORD, num_words).reshape(num_blocks, _COLUMNS), axis=0)
    if num_rest:
        sums[:num_rest] += np.frombuffer(array, _WORD, num_rest, num_words * 8)
    state = blake2b(sums.data, digest_size=FOLD_BYTES, person=b"augstream/sums")
    tail = size % 8
    odd = np.frombuffer(array, np.uint8, tail, size - tail).tobytes() if tail else b""
    state.update(odd + size.to_bytes(8, "little"))
    return state.digest()
