"""What a ledger keeps of a batch: one digest of all that is delivered, and short ones to find what differs.

They are computed where the batch is made, each image's right after it was written, while the processor has it at hand.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from zlib import crc32

import numpy as np

from ..collate import NAMES
from ..digest import digest
from ..errors import RecipeError
from .fold import BLOCK_BYTES, Array, fold

DIGEST_BYTES = 16
SHORT_BYTES = 3
SHORT = 0xFFFFFF


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


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a batch as bytes: one piece a sample, or one for all; `form` says what the pieces are."""

    form: str
    pieces: list[bytes]
    by_sample: bool


def piece(array: Array) -> bytes:
    """What stands for one sample's array: its bytes if they are few, else their fold."""
    return array.tobytes() if array.nbytes <= BLOCK_BYTES else fold(array)


def marks_of(
    batch: Any,
    names: Sequence[tuple[str, str]],
    num_samples: int,
    ready: Mapping[str, list[bytes]] | None = None,
) -> Marks:
    """The marks of a batch that was made of the samples `names`: (shard, key) of each.

    ready: pieces of some fields' rows that are known already. Raises `RecipeError` for a field of a kind that has no
    digest.
    """
    found: dict[str, _Field] = {}
    _walk(batch, num_samples, "", ready or {}, found)
    state = blake2b(num_samples.to_bytes(8, "little"), digest_size=DIGEST_BYTES, person=b"augstream/marks")
    told = [f"{shard}\0{key}".encode("utf-8", "surrogateescape") for shard, key in names]
    state.update(b"".join([len(name).to_bytes(4, "little") + name for name in told]))
    fields = []
    for path in sorted(found):
        field = found[path]
        own = blake2b(field.form.encode(), digest_size=DIGEST_BYTES, person=b"augstream/field")
        own.update(b"".join(field.pieces))
        state.update(f"{path}\0".encode("utf-8", "surrogateescape") + own.digest())
        fields.append((path, own.digest()[:SHORT_BYTES]))
    columns = [found[path].pieces for path in sorted(found) if found[path].by_sample]
    samples = _shorts(told, columns) if len(told) == num_samples else b""
    return Marks(state.digest(), samples, tuple(fields))


def _shorts(names: list[bytes], columns: list[list[bytes]]) -> bytes:
    parts = []
    for place, name in enumerate(names):
        check = 0
        for pieces in columns:
            check = crc32(pieces[place], check)
        parts.append((crc32(name) & SHORT).to_bytes(SHORT_BYTES, "little"))
        parts.append((check & SHORT).to_bytes(SHORT_BYTES, "little"))
    return b"".join(parts)


def _walk(
    value: Any, count: int, path: str, ready: Mapping[str, list[bytes]], found: dict[str, _Field]
) -> None:
    """Add the fields of `value` to `found`, each under its path."""
    array = _array(value)
    if array is not None:
        pieces = ready.get(path)
        found[path] = _of_array(array, count) if pieces is None else _Field(_form(array), pieces, True)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if path or name not in NAMES:
                _walk(item, count, f"{path}.{name}" if path else str(name), ready, found)
    elif isinstance(value, (list, tuple)) and value and all(_is_column(item, count) for item in value):
        for number, item in enumerate(value):
            _walk(item, count, f"{path}.{number}" if path else str(number), ready, found)
    elif isinstance(value, (list, tuple)) and len(value) == count:
        found[path] = _Field("list", [_digest(item, path) for item in value], True)
    else:
        found[path] = _Field("value", [_digest(value, path)], False)


def _of_array(array: Array, count: int) -> _Field:
    if array.ndim == 0 or len(array) != count:
        return _Field(f"whole {array.dtype.str}{array.shape}", [piece(array)], False)
    size = array.nbytes // count
    if size > BLOCK_BYTES:
        return _Field(_form(array), [fold(row) for row in array], True)
    raw = array.tobytes()
    return _Field(
        _form(array), [raw[start : start + size] for start in range(0, size * count, size or 1)], True
    )


def _form(array: Array) -> str:
    return f"{array.dtype.str}{array.shape[1:]}"


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
