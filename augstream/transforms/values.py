"""Arguments and drawn parameters as JSON, and exactly back.

Numbers, strings, booleans, None, lists and dicts are themselves. What JSON lacks is written as a dict with
one tag: ``{"$tuple": [...]}``, ``{"$array": [...], "dtype": "float32", "shape": [2, 2]}``,
``{"$number": [...], "dtype": "float32", "shape": []}`` for numpy's own numbers, ``{"$bytes":
"00ff"}``, ``{"$float": "inf"}``, ``{"$dict": [[key, value], ...]}``. Nothing else is written, and nothing
else is read: decoding makes values of these types only, whatever the text says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import RecipeError

Encoder = Callable[[Any, str], Any]
Decoder = Callable[[Mapping[str, Any], str], Any]

_DTYPE_KINDS = "biufc"


def encode(value: Any, where: str, *, plain: bool = False, other: Encoder | None = None) -> Any:
    """`value` as data that `json.dumps` takes; `RecipeError` naming `where` if it is none that `decode`
    could return.

    With `plain`, tuples are written as lists and numpy's numbers as Python's, for readers who don't mind.
    `other` is asked for what is not known here.
    """
    if value is None or type(value) in {bool, int, str}:
        return value
    if isinstance(value, float) and type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, (list, tuple)):
        items = [
            encode(item, f"{where}[{position}]", plain=plain, other=other)
            for position, item in enumerate(value)
        ]
        return items if plain or isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        return _encode_mapping(value, where, plain=plain, other=other)
    if isinstance(value, np.generic) and plain and value.dtype.kind in "biuf":
        return encode(value.item(), where)
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in _DTYPE_KINDS:
        return _encode_array(value)
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": bytes(value).hex()}
    if other is not None:
        return other(value, where)
    msg = (
        f"{where} is a {type(value).__name__}, which can't be written as data: {shortened(value)}; "
        "numbers, strings, lists, tuples, dicts, bytes and numpy arrays can"
    )
    raise RecipeError(msg)


def decode(value: Any, where: str, *, other: Decoder | None = None) -> Any:
    """The value that `encode` wrote; `other` is asked for dicts with tags that are not known here."""
    if isinstance(value, list):
        return [decode(item, f"{where}[{position}]", other=other) for position, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    tags = [name for name in value if isinstance(name, str) and name.startswith("$")]
    if not tags:
        return {name: decode(item, f"{where}.{name}", other=other) for name, item in value.items()}
    if other is not None and tags[0] not in _TAGS:
        return other(value, where)
    try:
        return _decode_tagged(tags[0], value, where, other)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        msg = f"{where} is not what augstream writes: {shortened(value)} ({error})"
        raise RecipeError(msg) from error


_TAGS = frozenset({"$tuple", "$array", "$number", "$bytes", "$float", "$dict"})


def _encode_mapping(
    value: Mapping[Any, Any], where: str, *, plain: bool, other: Encoder | None
) -> dict[str, Any]:
    if all(isinstance(name, str) and not name.startswith("$") for name in value):
        return {
            name: encode(item, f"{where}.{name}", plain=plain, other=other) for name, item in value.items()
        }
    pairs = [
        [encode(name, where), encode(item, f"{where}[{name!r}]", plain=plain, other=other)]
        for name, item in value.items()
    ]
    return {"$dict": pairs}


def _encode_array(value: Any) -> dict[str, Any]:
    array = np.asarray(value)
    tag = "$array" if isinstance(value, np.ndarray) else "$number"
    described = {"dtype": str(array.dtype), "shape": list(array.shape)}
    exact = array.dtype.kind != "c" and array.dtype.itemsize <= 8
    if exact and (array.dtype.kind != "f" or bool(np.isfinite(array).all())):
        return {tag: array.ravel().tolist(), **described}
    little = array.astype(array.dtype.newbyteorder("<"))
    return {tag: little.tobytes().hex(), **described}


def _decode_tagged(tag: str, value: Mapping[str, Any], where: str, other: Decoder | None) -> Any:
    content = value[tag]
    if tag == "$tuple":
        return tuple(decode(item, where, other=other) for item in content)
    if tag == "$array":
        return _decode_array(content, value["dtype"], value["shape"])
    if tag == "$number":
        return _decode_array(content, value["dtype"], [])[()]
    if tag == "$bytes":
        return bytes.fromhex(content)
    if tag == "$float":
        return float({"inf": "inf", "-inf": "-inf", "nan": "nan"}[content])
    if tag == "$dict":
        return {decode(name, where): decode(item, where, other=other) for name, item in content}
    msg = f"unknown tag {tag!r}"
    raise ValueError(msg)


def _decode_array(content: Any, dtype: Any, shape: Any) -> Any:
    found = np.dtype(str(dtype))
    if found.kind not in _DTYPE_KINDS:
        msg = f"dtype {dtype!r} is none of numbers"
        raise ValueError(msg)
    if isinstance(content, str):
        array = np.frombuffer(bytes.fromhex(content), found.newbyteorder("<")).astype(found)
    else:
        array = np.array(content, dtype=found)
    return array.reshape([int(length) for length in shape])


def shortened(value: Any) -> str:
    """A value as messages quote it."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
