"""From a sample's bytes to its values: images to RGB arrays, label maps unchanged, numbers, texts, JSON.

Images decode with OpenCV; what OpenCV can't do, or does otherwise than webdataset, decodes with Pillow.
EXIF orientation is ignored, as webdataset and torchvision do. A file that is cut short is an error, never a
picture with a grey end; a picture of too many pixels is refused by its header, before memory is taken for
it.

Nothing here runs code from data: pickles (``.pyd``, ``.pkl``, ``.pth``) stay bytes, ``.npy`` is read
without objects.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from .errors import RecipeError, SampleError
from .headers import ImageHeader, is_complete, num_scans, read_header

MAX_PIXELS = 89_478_485
"""Largest image decoded unless asked for more: a quarter of a GiB as RGB; Pillow begins to warn here."""

IMAGE_SUFFIXES = frozenset(
    ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"]
)
_PILLOW_FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]
_OPENCV_FORMATS = frozenset(["jpeg", "png", "webp"])
_MAX_SCANS = 500  # of a progressive JPEG; an encoder makes ten
_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

Kind = Literal["image", "mask", "int", "float", "text", "json", "npy", "bytes"]
Array = npt.NDArray[Any]


def decode_image(data: bytes, *, mode: Literal["rgb", "mask"] = "rgb", max_pixels: int = MAX_PIXELS) -> Array:
    """Decode an image file to a new, writable, C-contiguous array.

    mode ``"rgb"``: (height, width, 3) uint8 RGB of any input. Grey becomes three equal channels, a palette
        is looked up, alpha is dropped, 16 bits become the upper 8, CMYK is converted: as Pillow's
        ``convert("RGB")``, save that 16-bit grey is scaled and not clipped. mode ``"mask"``: the numbers as
        stored: (height, width) for grey and palette images (palette indices, not colours), uint8 or uint16;
        (height, width, 3 or 4) RGB or RGBA otherwise.

    Raises `SampleError` for bytes that are no image, are cut short or damaged, and for more than
    `max_pixels`. Not found without checksums: damage inside the data of a JPEG or WebP that still decodes
    to something.
    """
    if mode not in {"rgb", "mask"}:
        msg = f"mode must be 'rgb' or 'mask', got {mode!r}"
        raise RecipeError(msg)
    header = read_header(data)
    if header is not None:
        _check_size(header.height, header.width, max_pixels)
        if not is_complete(data, header):
            msg = f"the {header.format} file is truncated: it ends after {len(data)} bytes, without its end"
            raise SampleError(msg)
        if num_scans(data, header) > _MAX_SCANS:
            msg = f"a progressive jpeg of more than {_MAX_SCANS} scans is refused"
            raise SampleError(msg)
    elif data.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF")):
        msg = f"the image's header is broken or incomplete ({len(data)} bytes in all)"
        raise SampleError(msg)
    if mode == "mask":
        return _decode_mask(data, header, max_pixels)
    return _decode_rgb(data, header, max_pixels)


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        msg = (
            f"the image claims {width} x {height} = {height * width} pixels, over the limit of {max_pixels}; "
            "pass a larger max_pixels if it is meant"
        )
        raise SampleError(msg)


def _decode_rgb(data: bytes, header: ImageHeader | None, max_pixels: int) -> Array:
    if header is None or not _opencv_does(header):
        return _with_pillow(data, max_pixels, "RGB")
    if header.bits == 16:
        return (_with_opencv(data, header, _RGB | cv2.IMREAD_ANYDEPTH) >> 8).astype(np.uint8)
    return _with_opencv(data, header, _RGB)


def _opencv_does(header: ImageHeader) -> bool:
    """Whether OpenCV decodes it to the same pixels as Pillow: not CMYK, not the frames of an animation."""
    cmyk = header.format == "jpeg" and header.channels not in {1, 3}
    return header.format in _OPENCV_FORMATS and not cmyk and not header.animated


def _with_opencv(data: bytes, header: ImageHeader, flags: int) -> Array:
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:
        msg = f"the {header.format} image does not decode: {error.err}"
        raise SampleError(msg) from None
    if image is None:
        msg = f"the {header.format} image is damaged and does not decode ({len(data)} bytes)"
        raise SampleError(msg)
    if image.shape[:2] != (header.height, header.width):
        msg = f"the image decodes to {image.shape[:2]}, its header says {(header.height, header.width)}"
        raise SampleError(msg)
    return np.ascontiguousarray(image)


def _with_pillow(data: bytes, max_pixels: int, mode: str | None) -> Array:
    """Decode with Pillow, to `mode`, or unchanged."""
    try:
        with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as image:
            _check_size(image.height, image.width, max_pixels)
            if mode == "RGB" and image.mode in {"I;16", "I;16B", "I;16L", "I"}:
                grey = (np.asarray(image).astype(np.uint32) >> 8).clip(max=255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            return np.array(image if mode is None or image.mode == mode else image.convert(mode))
    except SampleError:
        raise
    except Exception as error:  # noqa: BLE001  (Pillow's decoders raise whatever their parsers raise)
        msg = f"the image does not decode: {type(error).__name__}: {error}"
        raise SampleError(msg) from None


def _decode_mask(data: bytes, header: ImageHeader | None, max_pixels: int) -> Array:
    plain = header is not None and not header.palette and header.channels != 2 and _opencv_does(header)
    if header is None or not plain:
        stored = _with_pillow(data, max_pixels, None)
        return stored.astype(np.uint8) if stored.dtype == np.bool_ else stored
    stored = _with_opencv(data, header, cv2.IMREAD_UNCHANGED)
    channels = 1 if stored.ndim == 2 else stored.shape[2]
    if channels != header.channels:  # a transparent colour was made into alpha
        return _with_pillow(data, max_pixels, None)
    if channels >= 3:
        return cv2.cvtColor(stored, cv2.COLOR_BGR2RGB if channels == 3 else cv2.COLOR_BGRA2RGBA)
    if header.bits < 8:  # the decoder has stretched 0 … 2**bits - 1 over 0 … 255
        return stored // np.uint8(255 // (2**header.bits - 1))
    return stored


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
        if not self.suffixes or self.kind not in _DECODERS or (self.path and self.kind != "json"):
            msg = (
                f"a field needs suffixes and a kind out of {', '.join(_DECODERS)}, and a path only for json; "
                f"got {self.suffixes!r}, {self.kind!r}, {self.path!r}"
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
    max_pixels: larger images are refused.

    >>> fields = Fields({"label": "cls", "boxes": "json:boxes"})
    >>> fields.decode({"__key__": "0", "cls": b"7", "json": b'{"boxes": [[0, 0, 1, 1]]}'}, shard="a.tar")
    {'label': 7, 'boxes': [[0, 0, 1, 1]], '__key__': '0', '__shard__': 'a.tar'}
    """

    def __init__(
        self, spec: Mapping[str, str | Field] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> None:
        if max_pixels < 1:
            msg = f"max_pixels must be 1 or more, got {max_pixels}"
            raise RecipeError(msg)
        if spec is not None and not spec:
            msg = (
                "fields must name at least one field, as in {'image': 'jpg;png', 'label': 'cls'}, or be None"
            )
            raise RecipeError(msg)
        self.max_pixels = max_pixels
        self.spec: dict[str, Field] | None = None
        if spec is not None:
            self.spec = {
                name: field if isinstance(field, Field) else Field.parse(name, field)
                for name, field in spec.items()
            }

    def decode(self, raw: Mapping[str, Any], *, shard: str | None = None) -> dict[str, Any]:
        """The values of one sample, with ``__key__`` and, if given, ``__shard__``.

        Raises `SampleError`, which names the field and the member, where one is missing or doesn't decode.
        """
        key = raw["__key__"]
        sample: dict[str, Any] = {}
        for name, suffix, field in self._assigned(raw, shard):
            try:
                limit = {"max_pixels": self.max_pixels} if field.kind in {"image", "mask"} else {}
                value = _DECODERS[field.kind](raw[suffix], **limit)
                sample[name] = follow(value, field.path) if field.path else value
            except (SampleError, ValueError, RecursionError) as error:
                msg = f"field {name!r}: member {suffix!r} of sample {key!r}: {error}"
                raise SampleError(msg, shard=shard, key=key) from error
        sample["__key__"] = key
        if shard is not None:
            sample["__shard__"] = shard
        return sample

    def _assigned(self, raw: Mapping[str, Any], shard: str | None) -> list[tuple[str, str, Field]]:
        """(field name, suffix, how) of what is to be decoded."""
        present = [suffix for suffix in raw if not suffix.startswith("__")]
        if self.spec is None:
            return _by_default(present)
        assigned = []
        for name, field in self.spec.items():
            suffix = next((suffix for suffix in field.suffixes if suffix in raw), None)
            if suffix is None:
                msg = (
                    f"field {name!r}: sample {raw['__key__']!r} has no member {' or '.join(field.suffixes)}, "
                    f"only {', '.join(present)}; augstream info counts which members are missing where"
                )
                raise SampleError(msg, shard=shard, key=raw["__key__"])
            assigned.append((name, suffix, field))
        return assigned


def _by_default(present: list[str]) -> list[tuple[str, str, Field]]:
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
        msg = f"a whole number in ASCII was expected, got {data[:40]!r}"
        raise SampleError(msg) from None


def _decode_float(data: bytes) -> float:
    try:
        return float(data)
    except ValueError:
        msg = f"a number in ASCII was expected, got {data[:40]!r}"
        raise SampleError(msg) from None


def _decode_npy(data: bytes) -> Array:
    """An array of plain numbers; its header is checked against the data before memory is taken."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        msg = f"an .npy of version {version} is not supported"
        raise SampleError(msg)
    shape, fortran, dtype = read_header[version](file)
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
    "text": lambda data: data.decode("utf-8"),
    "json": json.loads,
    "npy": _decode_npy,
    "bytes": lambda data: data,
}
