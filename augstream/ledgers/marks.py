"""What a ledger keeps of a batch: one digest of all that is delivered, and short ones to find what differs.

They are computed where the batch is made: what takes as long as memory does, of each image, while the processor has it
at hand; the rest of it at once for the whole batch.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from ..collate import NAMES
from ..digest import digest
from ..errors import RecipeError
from .fold import BLOCK_BYTES, COLUMNS, Array, Words, fold, mixed, sums

DIGEST_BYTES = 16
SHORT_BYTES = 3
SHORT = 0xFFFFFF
_WORD = np.dtype("<u8")
_FEW_BYTES = 64
_NUM_CHECKED = 512
_ABOVE = np.uint64(64 - 8 * SHORT_BYTES)


@dataclass(frozen=True, slots=True)
class Marks:
    """The digests of a batch.

    digest: 16 bytes over shard, key and every field of every sample. samples: for each sample 3 bytes of its shard and
    key, and 3 of its fields; empty where the batch's rows are not its samples. fields: for each field, its path and
    3 bytes. The short ones find a difference that `digest` has shown: each misses it once in 16 million.
    """

    digest: bytes
    samples: bytes
    fields: tuple[tuple[str, bytes], ...]


class Told(NamedTuple):
    """What a row of a batch is told by: sums of its bytes, and their number; or sums of a code, and the code's tag."""

    sums: Words
    salt: int


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a batch: `form` says what it is, `content` holds all of it or folds of it.

    words: (N, W) numbers for the N samples, where the field has something for each.
    """

    form: str
    content: bytes
    words: Words | None = None


def marks_of(
    batch: Any,
    names: Sequence[tuple[str, str]],
    num_samples: int,
    ready: Mapping[str, Sequence[Told]] | None = None,
) -> Marks:
    """The marks of a batch that was made of the samples `names`: (shard, key) of each.

    ready: what some fields' rows are told by. Where the first row's is a code, the row's first 512
    floats count themselves, too, so that arithmetic that does not give the code's floats is seen in each batch.
    Raises `RecipeError` for a field of a kind that has no digest.
    """
    found: dict[str, _Field] = {}
    _walk(batch, num_samples, "", ready or {}, found)
    told = [f"{shard}\0{key}".encode("utf-8", "surrogateescape") for shard, key in names]
    state = blake2b(num_samples.to_bytes(8, "little"), digest_size=DIGEST_BYTES, person=b"augstream/marks")
    state.update(struct.pack(f"<{len(told)}I", *map(len, told)) + b"".join(told))
    fields, columns = [], []
    for path in sorted(found):
        field = found[path]
        own = blake2b(field.form.encode(), digest_size=DIGEST_BYTES, person=b"augstream/field")
        own.update(field.content)
        state.update(f"{path}\0".encode("utf-8", "surrogateescape") + own.digest())
        fields.append((path, own.digest()[:SHORT_BYTES]))
        if field.words is not None:
            columns.append(field.words)
    samples = _shorts(told, columns) if len(told) == num_samples else b""
    return Marks(state.digest(), samples, tuple(fields))


def _shorts(names: list[bytes], columns: list[Words]) -> bytes:
    """For each sample, the short digests of its name and of its fields."""
    shorts = np.empty((len(names), 2), "<u4")
    shorts[:, 0] = list(map(crc32, names))
    shorts[:, 1] = 0
    if columns:
        folds = np.concatenate(columns, axis=1)
        while folds.shape[1] > COLUMNS:
            parts = range(0, folds.shape[1], COLUMNS)
            folds = np.stack([mixed(folds[:, at : at + COLUMNS]) for at in parts], axis=1)
        shorts[:, 1] = mixed(folds) >> _ABOVE
    # little-endian, so that the first bytes are the lowest
    return shorts.view(np.uint8).reshape(-1, 4)[:, :SHORT_BYTES].tobytes()


def _walk(
    value: Any, count: int, path: str, ready: Mapping[str, Sequence[Told]], found: dict[str, _Field]
) -> None:
    """Add the fields of `value` to `found`, each under its path."""
    array = _array(value)
    if array is not None:
        found[path] = _of_array(array, count, ready.get(path))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if path or name not in NAMES:
                _walk(item, count, f"{path}.{name}" if path else str(name), ready, found)
    elif isinstance(value, (list, tuple)) and value and all(_is_column(item, count) for item in value):
        for number, item in enumerate(value):
            _walk(item, count, f"{path}.{number}" if path else str(number), ready, found)
    elif isinstance(value, (list, tuple)) and len(value) == count:
        content = b"".join([_digest(item, path) for item in value])
        found[path] = _Field("list", content, np.frombuffer(content, _WORD).reshape(count, -1)[:, :1])
    else:
        found[path] = _Field("value", _digest(value, path))


def _of_array(array: Array, count: int, ready: Sequence[Told] | None) -> _Field:
    """An array, with its rows if they are the samples: all their bytes if those are few, else their folds."""
    if array.ndim == 0 or len(array) != count:
        return _Field(f"whole {array.dtype.str}{array.shape}", piece(array))
    form, size = f"{array.dtype.str}{array.shape[1:]}", array.nbytes // count
    if ready is None and size <= BLOCK_BYTES:
        words = _short_rows(array, count, size)
        return _Field(form, array.tobytes() if size <= _FEW_BYTES else words.tobytes(), words)
    told = [Told(sums(row), size) for row in array] if ready is None else ready
    rows = np.concatenate([row.sums for row in told]).reshape(count, COLUMNS)
    folds = mixed(rows, [row.salt for row in told])
    checked = array[0].reshape(-1)[:_NUM_CHECKED].tobytes() if told[0].salt != size else b""
    return _Field(form, folds.tobytes() + checked, folds[:, None])


def piece(array: Array) -> bytes:
    """What stands for an array: its bytes if they are few, else their fold."""
    return array.tobytes() if array.nbytes <= BLOCK_BYTES else fold(array)


def _short_rows(array: Array, count: int, size: int) -> Words:
    """Rows of so few bytes each as words (N, 1)."""
    padded = np.zeros((count, max(-(-size // 8), 1) * 8), np.uint8)
    padded[:, :size] = np.ascontiguousarray(array).reshape(count, -1).view(np.uint8)
    words = padded.view(_WORD)
    return words if words.shape[1] == 1 else mixed(words)[:, None]


def _is_column(value: Any, count: int) -> bool:
    """Whether `value` holds something for each of `count` samples."""
    array = _array(value)
    if array is not None:
        return array.ndim > 0 and len(array) == count
    return isinstance(value, (list, tuple)) and len(value) == count


def _array(value: Any) -> Array | None:
    """The numbers of an array or tensor, little-endian; None for anything else."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        bits = (
            tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor
        )  # numpy has no such type
        value = bits.resolve_conj().resolve_neg().numpy()
    if not isinstance(value, np.ndarray) or value.dtype.hasobject:
        return None
    return value.astype(value.dtype.newbyteorder("<"), copy=False)


def _digest(value: Any, path: str) -> bytes:
    try:
        return bytes.fromhex(digest(value))
    except RecipeError as error:
        msg = f"field {path!r} cannot be kept in a ledger: {error}"
        raise RecipeError(msg) from error
