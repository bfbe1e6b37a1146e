"""What a batch holds, as one number: equal digests mean equal bytes, names, types and shapes."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np

from .errors import RecipeError

DIGEST_BYTES = 32


def digest(value: Any, previous: str = "") -> str:
    """64 hex digits over a batch, or any value made of arrays, tensors, numbers, texts, lists and dicts.

    Dtype, shape and bytes of every array count, and the types of plain values; the order of a dict's names
    does not. A tensor has the digest of the array that it equals. `previous` chains a digest to the one
    before. Raises `RecipeError` for a value of any other kind, whose equality nobody could promise.

    >>> import numpy as np
    >>> digest({"a": 1, "b": np.zeros(2)}) == digest({"b": np.zeros(2), "a": 1})
    True
    >>> digest({"a": 1}) == digest({"a": 1.0}) or digest([1]) == digest([[1]])
    False
    """
    state = blake2b(bytes.fromhex(previous), digest_size=DIGEST_BYTES, person=b"augstream/batch")
    _feed(state.update, value)
    return state.hexdigest()


def _feed(update: Callable[[Any], None], value: Any) -> None:  # noqa: C901, PLR0912  # one line a type
    if isinstance(value, np.ndarray):
        _feed_array(update, value)
    elif isinstance(value, str):
        _feed_text(update, b"s", value.encode("utf-8", "surrogateescape"))
    elif isinstance(value, (bytes, bytearray, memoryview)):
        _feed_text(update, b"b", bytes(value))
    elif value is None:
        update(b"n")
    elif isinstance(value, bool):
        update(b"t" if value else b"f")
    elif isinstance(value, int):
        _feed_text(update, b"i", str(value).encode())
    elif isinstance(value, float):
        update(b"d" + struct.pack("<d", value))
    elif isinstance(value, np.generic):
        _feed_array(update, np.asarray(value))
    elif isinstance(value, Mapping):
        update(b"{" + len(value).to_bytes(8, "little"))
        for name in sorted(value, key=lambda name: (type(name).__name__, name)):
            _feed(update, name)
            _feed(update, value[name])
    elif isinstance(value, (list, tuple)):
        update(b"[" + len(value).to_bytes(8, "little"))
        for item in value:
            _feed(update, item)
    elif (torch := sys.modules.get("torch")) is not None and isinstance(value, torch.Tensor):
        _feed_tensor(update, torch, value)
    else:
        msg = (
            f"a value of type {type(value).__name__} has no digest; digests are made of arrays, tensors, numbers, "
            "texts, lists, tuples and dicts"
        )
        raise RecipeError(msg)


def _feed_text(update: Callable[[Any], None], tag: bytes, text: bytes) -> None:
    update(tag + len(text).to_bytes(8, "little") + text)


def _feed_array(update: Callable[[Any], None], array: np.ndarray[Any, Any]) -> None:
    if array.dtype.hasobject:
        _feed(update, array.tolist())
        return
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).reshape(array.shape)
    _feed_text(update, b"a", f"{array.dtype.str}{array.shape}".encode())
    update(array.reshape(-1).view(np.uint8) if array.size else b"")


def _feed_tensor(update: Callable[[Any], None], torch: Any, tensor: Any) -> None:
    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:  # numpy has no such type
        _feed_text(update, b"a", b"bfloat16")
        tensor = tensor.view(torch.int16)
    _feed_array(update, tensor.resolve_conj().resolve_neg().numpy())
