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
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_digest

from ..collate import NAMES
from ..digest import digest
from ..errors import RecipeError
from .content import CONTENT_BYTES, Array, content, row_contents

DIGEST_BYTES = 16
SHORT_BYTES = 3
_NUM_CHECKED = 512


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
    """A field of a batch: `form` says what it is, `content` holds all of it or digests of it.

    rows: (N, W) uint8 for the N samples, where the field has something for each.
    """

    form: str
    content: bytes
    rows: npt.NDArray[np.uint8] | None = None


def marks_of(
    batch: Any,
    names: Sequence[tuple[str, str]],
    num_samples: int,
    ready: Mapping[str, Sequence[bytes]] | None = None,
) -> Marks:
    """The marks of a batch that was made of the samples `names`: (shard, key) of each.

    ready: what some fields' rows are told by, `content` of them or of what stands for them. The first 512 numbers of
    the first row count themselves, too, so that arithmetic that does not give what was told is seen in each batch.
    Raises `RecipeError` for a field of a kind that has no digest.
    """
    found: dict[str, _Field] = {}
    _walk(batch, num_samples, "", ready or {}, found)
    told = [_encoded(name) for name in names]
    state = blake2b(num_samples.to_bytes(8, "little"), digest_size=DIGEST_BYTES, person=b"augstream/marks")
    state.update(struct.pack(f"<{len(told)}I", *map(len, told)) + b"".join(told))
    fields, columns = [], []
    for path in sorted(found):
        field = found[path]
        own = blake2b(field.form.encode(), digest_size=DIGEST_BYTES, person=b"augstream/field")
        own.update(field.content)
        state.update(f"{path}\0".encode("utf-8", "surrogateescape") + own.digest())
        fields.append((path, own.digest()[:SHORT_BYTES]))
        if field.rows is not None:
            columns.append(field.rows)
    samples = _shorts(told, columns) if len(told) == num_samples else b""
    return Marks(state.digest(), samples, tuple(fields))


def _shorts(names: list[bytes], columns: list[npt.NDArray[np.uint8]]) -> bytes:
    """For each sample, the short digests of its name and of its fields."""
    rows = np.concatenate(columns, axis=1) if columns else np.empty((len(names), 0), np.uint8)
    size, whole = rows.shape[1], rows.tobytes()
    parts = [whole[at * size : (at + 1) * size] for at in range(len(names))]
    return b"".join([_short(one) for pair in zip(names, parts, strict=True) for one in pair])


def short_of_name(name: tuple[str, str]) -> bytes:
    """What the marks of a batch have of the name (shard, key) of a sample."""
    return _short(_encoded(name))


def _encoded(name: tuple[str, str]) -> bytes:
    return f"{name[0]}\0{name[1]}".encode("utf-8", "surrogateescape")


def _short(data: bytes) -> bytes:
    return xxh3_64_digest(data)[:SHORT_BYTES]


def _walk(
    value: Any, count: int, path: str, ready: Mapping[str, Sequence[bytes]], found: dict[str, _Field]
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
        found[path] = _of_rows("list", [_digest(item, path) for item in value])
    else:
        found[path] = _Field("value", _digest(value, path))


def _of_array(array: Array, count: int, ready: Sequence[bytes] | None) -> _Field:
    """An array, with its rows if they are the samples: all their bytes if those are few, else their digests."""
    if array.ndim == 0 or len(array) != count:
        return _Field(f"whole {array.dtype.str}{array.shape}", content(array))
    form, size = f"{array.dtype.str}{array.shape[1:]}", array.nbytes // count
    if ready is None and size <= CONTENT_BYTES:
        whole = array.tobytes()
        return _Field(form, whole, np.frombuffer(whole, np.uint8).reshape(count, size))
    told = row_contents(array) if ready is None else ready
    return _of_rows(form, told, array[0].reshape(-1)[:_NUM_CHECKED].tobytes())


def _of_rows(form: str, digests: Sequence[bytes], more: bytes = b"") -> _Field:
    """A field of which each sample has a digest."""
    whole = b"".join(digests)
    return _Field(form, whole + more, np.frombuffer(whole, np.uint8).reshape(len(digests), -1))


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
