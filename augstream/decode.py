"""From a sample's bytes to its values: images to RGB arrays, label maps unchanged, numbers, texts, JSON.

How images are decoded is told in `images.pixels`, and how they are decoded late and in part in `images.encoded`.

Nothing here runs code from data: pickles (``.pyd``, ``.pkl``, ``.pth``) stay bytes, ``.npy`` is read
without objects.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .errors import RecipeError, SampleError
from .images.encoded import DecodeMode, EncodedImage, check_mode
from .images.pixels import MAX_PIXELS, decode_image

Kind = Literal["image", "mask", "int", "float", "text", "json", "npy", "bytes"]
Array = npt.NDArray[Any]

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "Field", "Fields", "Kind", "decode_image", "follow"]

IMAGE_SUFFIXES = frozenset(
    ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"]
)


@dataclass(frozen=True, slots=True)
class Field:
    """Which member becomes one field of a sample, and how.

    suffixes: the first of these that the sample has is taken. kind: what becomes of it. path: where in a
    JSON value the field lies, keys from the outside in; positions in lists are numbers written as text.
    """

    suffixes: tuple[str, ...]
    kind: Kind
    path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        is_list = bool(self.suffixes) and not isinstance(self.suffixes, str)
        if not is_list or self.kind not in _DECODERS or (self.path and self.kind != "json"):
            msg = (
                f"a field needs suffixes, as in ('jpg', 'png'), and a kind out of {', '.join(_DECODERS)}, and a path "
                f"only for json; got {self.suffixes!r}, {self.kind!r}, {self.path!r}"
            )
            raise RecipeError(msg)

    @classmethod
    def parse(cls, name: str, spec: str) -> Field:
        """The field that `spec` describes: ``"jpg;png"``, ``"seg.png"``, ``"cls"``, ``"json:boxes"``.

        The kind follows from the suffix. An image in a field whose name begins or ends with ``mask`` is a
        label map.

        >>> Field.parse("bboxes", "json:objects.boxes")
        Field(suffixes=('json',), kind='json', path=('objects', 'boxes'))
        """
        members, _, path = spec.partition(":")
        suffixes = tuple([suffix.strip().lower().removeprefix(".") for suffix in members.split(";")])
        kinds = {_kind(name, suffix) for suffix in suffixes}
        if not name or name.startswith("__") or not all(suffixes) or len(kinds) > 1:
            msg = (
                f"field {name!r}: {spec!r} must name members of one kind, separated by ';', then ':path' "
                "into JSON if wanted, as in 'jpg;png' or 'json:boxes'; names beginning with '__' are reserved"
            )
            raise RecipeError(msg)
        return cls(suffixes, kinds.pop(), tuple(path.split(".")) if path else ())


def _kind(field: str, suffix: str) -> Kind:
    last = suffix.rsplit(".", 1)[-1]
    if last in IMAGE_SUFFIXES:
        return "mask" if field.startswith("mask") or field.endswith("mask") else "image"
    kinds: dict[str, Kind] = {"cls": "int", "json": "json", "txt": "text", "npy": "npy"}
    return kinds.get(last, "bytes")


class Fields:
    """How a raw sample (``__key__`` and members as bytes) becomes values, by name.

    spec: None decodes the first image member to ``image``, ``cls`` to an int, ``json`` to its value,
        ``txt`` to a str, and leaves other members bytes under their suffix. A mapping from names to texts
        (see `Field.parse`) or `Field` objects decodes just these.
    max_pixels: larger images are refused. mode: how much of an image is decoded, where the pipeline takes
        encoded images; see `images.encoded.DecodeMode`.

    >>> fields = Fields({"label": "cls", "boxes": "json:boxes"})
    >>> fields.decode({"__key__": "0", "cls": b"7", "json": b'{"boxes": [[0, 0, 1, 1]]}'}, shard="a.tar")
    {'label': 7, 'boxes': [[0, 0, 1, 1]], '__key__': '0', '__shard__': 'a.tar'}
    """

    def __init__(
        self,
        spec: Mapping[str, str | Field] | None = None,
        *,
        max_pixels: int = MAX_PIXELS,
        mode: DecodeMode = "region",
    ) -> None:
        check_mode(mode)
        if max_pixels < 1:
            msg = f"max_pixels must be 1 or more, got {max_pixels}"
            raise RecipeError(msg)
        if spec is not None and not spec:
            msg = (
                "fields must name at least one field, as in {'image': 'jpg;png', 'label': 'cls'}, or be None"
            )
            raise RecipeError(msg)
        if spec is not None and not (isinstance(spec, Mapping) and all(map(_is_field, spec.items()))):
            msg = (
                "fields must be a dict of texts, as {'image': 'jpg;png', 'label': 'cls'}, or None; "
                f"got {spec!r:.200}"
            )
            raise RecipeError(msg)
        self.max_pixels = max_pixels
        self.mode: DecodeMode = mode
        self.spec: dict[str, Field] | None = None
        if spec is not None:
            self.spec = {
                name: field if isinstance(field, Field) else Field.parse(name, field)
                for name, field in spec.items()
            }

    def decode(
        self, raw: Mapping[str, Any], *, shard: str | None = None, encoded: Container[str] = ()
    ) -> dict[str, Any]:
        """The values of one sample, with ``__key__`` and, if given, ``__shard__``.

        encoded: fields whose images may stay `EncodedImage`, to be decoded by whoever needs their pixels.

        Raises `SampleError`, which names the field and the member, where one is missing or doesn't decode.
        """
        key = raw["__key__"]
        sample: dict[str, Any] = {}
        for name, suffix, field in self._assigned(raw, shard):
            try:
                value = self._value(raw[suffix], field, encoded=name in encoded)
                sample[name] = follow(value, field.path) if field.path else value
            except (SampleError, ValueError, RecursionError) as error:
                msg = f"field {name!r}: member {suffix!r} of sample {key!r}: {error}"
                raise SampleError(msg, shard=shard, key=key) from error
        sample["__key__"] = key
        if shard is not None:
            sample["__shard__"] = shard
        return sample

    def _value(self, data: bytes, field: Field, *, encoded: bool) -> Any:
        if field.kind == "image" and encoded:
            return EncodedImage.of(data, self.mode, self.max_pixels)
        if field.kind in {"image", "mask"}:
            return _DECODERS[field.kind](data, max_pixels=self.max_pixels)
        return _DECODERS[field.kind](data)

    def _assigned(self, raw: Mapping[str, Any], shard: str | None) -> Sequence[tuple[str, str, Field]]:
        """(field name, suffix, how) of what is to be decoded."""
        if self.spec is None:
            return _by_default(tuple(raw))
        assigned = []
        for name, field in self.spec.items():
            suffix = next((suffix for suffix in field.suffixes if suffix in raw), None)
            if suffix is None:
                present = [suffix for suffix in raw if not suffix.startswith("__")]
                msg = (
                    f"field {name!r}: sample {raw['__key__']!r} has no member {' or '.join(field.suffixes)}, "
                    f"only {', '.join(present)}; augstream info counts which members are missing where"
                )
                raise SampleError(msg, shard=shard, key=raw["__key__"])
            assigned.append((name, suffix, field))
        return assigned


def _is_field(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], (str, Field))


@lru_cache(maxsize=256)
def _by_default(names: tuple[str, ...]) -> Sequence[tuple[str, str, Field]]:
    present = [suffix for suffix in names if not suffix.startswith("__")]
    images = [suffix for suffix in present if suffix.rsplit(".", 1)[-1] in IMAGE_SUFFIXES]
    # A bare "jpg" goes before "mask.png", whichever comes first in the shard.
    image = next((suffix for suffix in images if suffix in IMAGE_SUFFIXES), images[0] if images else None)
    assigned = []
    for suffix in present:
        name = "image" if suffix == image else suffix
        kind: Kind = _DEFAULT_KINDS.get(suffix, "bytes") if suffix != image else "image"
        assigned.append((name, suffix, Field((suffix,), kind)))
    return assigned


_DEFAULT_KINDS: Mapping[str, Kind] = {"cls": "int", "json": "json", "txt": "text"}


def follow(value: Any, path: tuple[str, ...]) -> Any:
    """What lies at `path` in a JSON value; `SampleError` if nothing does."""
    for depth, step in enumerate(path):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            inside = (
                f"the keys {', '.join(map(str, value))}" if isinstance(value, dict) else type(value).__name__
            )
            msg = f"there is no {'.'.join(path[: depth + 1])!r} in the JSON value, where {inside} is found"
            raise SampleError(msg)
    return value


def _decode_int(data: bytes) -> int:
    try:
        return int(data)
    except ValueError:
        msg = (
            f"a whole number in ASCII was expected, got {data[:40]!r}; if it is meant to be a text, pass "
            'fields={"label": A.Field(suffixes=("cls",), kind="text"), ...}, or on the command line '
            """--fields '{"label": {"suffixes": ["cls"], "kind": "text"}, ...}'"""
        )
        raise SampleError(msg) from None


def _decode_float(data: bytes) -> float:
    try:
        return float(data)
    except ValueError:
        msg = f"a number in ASCII was expected, got {data[:40]!r}"
        raise SampleError(msg) from None


def _decode_text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        msg = f"text in UTF-8 was expected, got {data[:40]!r}: {error.reason} at byte {error.start}"
        raise SampleError(msg) from None


def _decode_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        msg = f"JSON was expected, got {data[:40]!r}: {error}"
        raise SampleError(msg) from None


def _decode_npy(data: bytes) -> Array:
    """An array of plain numbers; its header is checked against the data before memory is taken."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        msg = f"an .npy of version {version} is not supported"
        raise SampleError(msg)
    try:
        shape, fortran, dtype = read_header[version](file)
    except Exception as error:  # numpy's parsers raise whatever Python's raise
        msg = f"the header of the .npy is broken: {type(error).__name__}: {str(error)[:200]}"
        raise SampleError(msg) from error
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        left = len(data) - file.tell()
        msg = f"an .npy of shape {shape} and dtype {dtype} does not fit {left} bytes of numbers"
        raise SampleError(msg)
    values = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return values.reshape(shape, order="F" if fortran else "C").copy(order="C")


_DECODERS: Mapping[str, Callable[..., Any]] = {
    "image": decode_image,
    "mask": partial(decode_image, mode="mask"),
    "int": _decode_int,
    "float": _decode_float,
    "text": _decode_text,
    "json": _decode_json,
    "npy": _decode_npy,
    "bytes": lambda data: data,
}
