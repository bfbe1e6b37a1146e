"""A part of a JPEG for less than the time of the whole, equal to that part of the full decode, to the bit.

The work is libjpeg-turbo's: it skips rows and columns of blocks that nobody asked for. The library is the one
that Pillow brings along, called through its C interface; where Pillow is built otherwise, there is no region
decoding, and nothing else changes.

That interface ends the process when a header makes no sense. So a file is only given to it after every segment
was checked here, and only if it is of the plainest kind, which nearly all are: baseline, 8 bits, grey or
three channels, one scan. Inside the scan the library can only warn, and a file that made it warn is left to the
full decode, as is every other kind.

Source: ITU-T T.81, annexes B and C; libjpeg.txt of libjpeg-turbo ("Partial image decompression").
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .errors import RecipeError

Image = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]  # y0, x0, y1, x1: half-open

_MARGIN = 4
"""Pixels decoded around the box: smooth upsampling looks one chroma sample, or four pixels, beyond it."""
_SAMPLINGS = frozenset(
    [
        ((1, 1),),
        ((1, 1), (1, 1), (1, 1)),
        ((2, 1), (1, 1), (1, 1)),
        ((1, 2), (1, 1), (1, 1)),
        ((2, 2), (1, 1), (1, 1)),
        ((4, 1), (1, 1), (1, 1)),
    ]
)
_ABI = 62  # the interface that Pillow's wheels and most systems have: struct layouts below
_RGB = 6  # JCS_EXT_RGB
_SOF, _DHT, _SOI, _EOI, _SOS, _DQT, _DRI, _COM = 0xC0, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xFE
_APP0, _APP14, _APP15 = 0xE0, 0xEE, 0xEF


def decode_region(data: bytes, box: Box) -> Image | None:
    """The pixels of `box` (y0, x0, y1, x1), which lies in the image: RGB uint8, a view of a larger array.

    Equal to ``full[y0:y1, x0:x1]`` of the full decode by OpenCV. None for what is not done here: other files
    than plain JPEGs, damaged ones, and where Pillow has no libjpeg-turbo.
    """
    library = _library()
    if library is None:
        return None
    size = plain_size(data)
    if size is None:
        return None
    y0, x0, y1, x1 = box
    if not (0 <= y0 < y1 <= size[0] and 0 <= x0 < x1 <= size[1]):
        msg = f"rows {y0}:{y1}, columns {x0}:{x1} do not lie inside the {size[0]} x {size[1]} image"
        raise RecipeError(msg)
    return library.decode(data, size, box)


def has_regions() -> bool:
    """Whether regions can be decoded here; `decode_region` does nothing otherwise."""
    return _library() is not None


# What may be given to the library


@dataclass(slots=True)
class _Tables:
    """The tables that a JPEG's header has brought so far."""

    quantisation: set[int]
    huffman: set[int]
    frame: tuple[int, int, tuple[tuple[int, int], ...]] | None = (
        None  # height, width, (id, quantisation table)
    )
    restarts: bool = False


def plain_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG that the library decodes without an error, whatever its scan holds; else None."""
    if not data.startswith(b"\xff\xd8"):
        return None
    tables = _Tables(set(), set())
    at = 2
    try:
        while True:
            marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
            body = data[at + 4 : at + 2 + length]
            if data[at] != 0xFF or length < 2 or len(body) != length - 2:
                return None
            at += 2 + length
            if marker == _SOS:
                plain = tables.frame is not None and _is_plain_scan(body, tables)
                return (
                    tables.frame[:2]
                    if plain and _ends_well(data, at, tables.restarts) and tables.frame
                    else None
                )
            if not _take(marker, body, tables):
                return None
    except IndexError:
        return None


def _take(marker: int, body: bytes, tables: _Tables) -> bool:
    """Note what a segment brings; whether it is well formed, and of a kind that is known here."""
    if marker == _DQT:
        return _take_quantisation(body, tables.quantisation)
    if marker == _DHT:
        found = _huffman_tables(body)
        tables.huffman.update(found or ())
        return found is not None
    if marker == _SOF:
        if tables.frame is not None or not _is_plain_frame(body):
            return False
        components = tuple((body[at], body[at + 2]) for at in range(6, len(body), 3))
        tables.frame = (body[1] << 8 | body[2], body[3] << 8 | body[4], components)
        return True
    if marker == _DRI:
        tables.restarts = body != b"\0\0"
        return len(body) == 2
    if marker == _APP0:
        return not body.startswith(b"JFIF\0") or body[5:6] == b"\1"
    if marker == _APP14:
        return not body.startswith(b"Adobe") or (len(body) >= 12 and body[11] in {0, 1})
    return marker == _COM or _APP0 < marker <= _APP15


def _take_quantisation(body: bytes, known: set[int]) -> bool:
    at = 0
    while at < len(body):
        precision, number = body[at] >> 4, body[at] & 15
        at += 1 + 64 * (1 + precision)
        if precision > 1 or number > 3:
            return False
        known.add(number)
    return at == len(body)


@lru_cache(maxsize=256)
def _huffman_tables(body: bytes) -> frozenset[int] | None:
    """Class and number (as in the file) of each table that a segment defines; None if one makes no sense."""
    numbers = set()
    at = 0
    while at < len(body):
        counts = body[at + 1 : at + 17]
        total = sum(counts)
        symbols = body[at + 17 : at + 17 + total]
        is_dc = body[at] < 16
        if body[at] & 15 > 3 or body[at] > 0x1F or len(counts) < 16 or total > 256 or len(symbols) < total:
            return None
        if is_dc and max(symbols, default=0) > 15:
            return None
        code = 0
        for bits, count in enumerate(counts, start=1):
            code += count
            if count and code >= 1 << bits:
                return None
            code <<= 1
        numbers.add(body[at])
        at += 17 + total
    return frozenset(numbers)


def _is_plain_frame(body: bytes) -> bool:
    """Whether a baseline frame has 8 bits, a size, and components as nearly all files have them."""
    num_components = body[5]
    if (
        len(body) != 6 + 3 * num_components
        or body[0] != 8
        or not (body[1] or body[2])
        or not (body[3] or body[4])
    ):
        return False
    if max(body[1], body[3]) >= 0xFF:  # 65,280 and more: the library ends somewhere above
        return False
    ids = body[6::3]
    return tuple((b >> 4, b & 15) for b in body[7::3]) in _SAMPLINGS and len(set(ids)) == num_components


def _is_plain_scan(body: bytes, tables: _Tables) -> bool:
    """Whether the scan holds all components in their order, with tables that are there."""
    components = tables.frame[2] if tables.frame is not None else ()
    if len(body) != 4 + 2 * len(components) or body[0] != len(components) or body[-3:] != b"\x00\x3f\x00":
        return False
    for number, (identity, quantisation) in enumerate(components):
        wanted, huffman = body[1 + 2 * number], body[2 + 2 * number]
        if wanted != identity or quantisation not in tables.quantisation:
            return False
        if huffman >> 4 not in tables.huffman or 0x10 | huffman & 15 not in tables.huffman:
            return False
    return True


def _ends_well(data: bytes, start: int, restarts: bool) -> bool:
    """Whether the first mark in the scan's data is the end of the image, restart marks aside."""
    codes = np.frombuffer(data, np.uint8, -1, start)
    after = codes[1:]
    marks = (codes[:-1] == 0xFF) & (after != 0)
    if restarts:
        marks &= (after & 0xF8) != 0xD0
    first = int(marks.argmax()) if marks.size else 0
    return bool(marks.size and marks[first]) and int(after[first]) == _EOI


# The library

_POINTER = ctypes.c_void_p
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "jpeg_std_error": (_POINTER, [_POINTER]),
    "jpeg_CreateDecompress": (None, [_POINTER, ctypes.c_int, ctypes.c_size_t]),
    "jpeg_mem_src": (None, [_POINTER, ctypes.c_char_p, ctypes.c_ulong]),
    "jpeg_read_header": (ctypes.c_int, [_POINTER, ctypes.c_int]),
    "jpeg_start_decompress": (ctypes.c_int, [_POINTER]),
    "jpeg_crop_scanline": (None, [_POINTER, _POINTER, _POINTER]),
    "jpeg_skip_scanlines": (ctypes.c_uint, [_POINTER, ctypes.c_uint]),
    "jpeg_read_scanlines": (ctypes.c_uint, [_POINTER, _POINTER, ctypes.c_uint]),
    "jpeg_abort_decompress": (None, [_POINTER]),
}


class _Errors(ctypes.Structure):
    """`jpeg_error_mgr` of interface 62."""

    _fields_ = (
        ("handlers", _POINTER * 5), ("code", ctypes.c_int), ("parameters", ctypes.c_byte * 80),
        ("trace_level", ctypes.c_int), ("num_warnings", ctypes.c_long), ("messages", _POINTER),
        ("last_message", ctypes.c_int), ("more_messages", _POINTER), ("first", ctypes.c_int), ("last", ctypes.c_int),
    )  # fmt: skip


class _Decoder(ctypes.Structure):
    """`jpeg_decompress_struct` of interface 62, as far as it is read here, and room for the rest."""

    _fields_ = (
        ("errors", _POINTER), ("memory", _POINTER), ("progress", _POINTER), ("client_data", _POINTER),
        ("is_decompressor", ctypes.c_int), ("global_state", ctypes.c_int), ("source", _POINTER),
        ("image_width", ctypes.c_uint), ("image_height", ctypes.c_uint), ("num_components", ctypes.c_int),
        ("jpeg_colour", ctypes.c_int), ("out_colour", ctypes.c_int), ("scale", ctypes.c_uint * 2),
        ("gamma", ctypes.c_double), ("options", ctypes.c_int * 12), ("output_width", ctypes.c_uint),
        ("output_height", ctypes.c_uint), ("rest", ctypes.c_byte * 488),
    )  # fmt: skip


class _Instance:
    """One decompressor of the library, used for one image after the other: making one asks the processor who it is,
    which takes as long as decoding a stamp."""

    __slots__ = ("decoder", "errors")

    def __init__(self, library: Any) -> None:
        self.errors, self.decoder = _Errors(), _Decoder()
        self.decoder.errors = library.std_error(ctypes.addressof(self.errors))
        library.CreateDecompress(ctypes.addressof(self.decoder), _ABI, ctypes.sizeof(_Decoder))


class _Library:
    """The functions of libjpeg-turbo that Pillow is linked with. Any number of threads may use one instance."""

    def __init__(self, path: str) -> None:
        # A symbol is looked up in the library and in all that it is linked with.
        library = ctypes.CDLL(path)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name.removeprefix("jpeg_"), function)
        self._idle: list[_Instance] = []

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def decode(self, data: bytes, size: tuple[int, int], box: Box) -> Image | None:
        """The pixels of `box` of a plain JPEG of `size`, or None if its scan is damaged as far as it was read."""
        try:
            instance = self._idle.pop()
        except IndexError:
            instance = _Instance(self)
        errors, decoder = instance.errors, instance.decoder
        at = ctypes.addressof(decoder)
        try:
            self.mem_src(at, data, len(data))
            self.read_header(at, 1)
            errors.num_warnings = 1  # the library prints the first one only
            decoder.out_colour = _RGB
            self.start_decompress(at)
            if (decoder.output_height, decoder.output_width) != size:
                return None
            part = self._rows(at, size, box)
            return part if errors.num_warnings == 1 else None
        finally:
            self.abort_decompress(at)
            self._idle.append(instance)

    def _rows(self, decoder: int, size: tuple[int, int], box: Box) -> Image | None:
        y0, x0, y1, x1 = box
        top, bottom = max(0, y0 - _MARGIN), min(size[0], y1 + _MARGIN)
        left = ctypes.c_uint(max(0, x0 - _MARGIN))
        width = ctypes.c_uint(min(size[1], x1 + _MARGIN) - left.value)
        self.crop_scanline(
            decoder, ctypes.addressof(left), ctypes.addressof(width)
        )  # moves left to a block's edge
        if top:
            self.skip_scanlines(decoder, top)
        part = np.empty((bottom - top, width.value, 3), np.uint8)
        first, row_bytes = part.ctypes.data, part.strides[0]
        rows = np.arange(first, first + part.nbytes, row_bytes, dtype=np.uintp)
        row, left_over, read = rows.ctypes.data, len(part), self.read_scanlines
        while left_over:
            num_read = read(decoder, row, left_over)
            if num_read == 0:
                return None
            row += num_read * rows.itemsize
            left_over -= num_read
        return part[y0 - top : y1 - top, x0 - left.value : x1 - left.value]


@cache
def _library() -> _Library | None:
    """The library, if it is of the interface known here, and decodes a small picture as OpenCV does."""
    from PIL import _imaging, features  # Pillow is needed for nothing else here

    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_long) != 8 or ctypes.sizeof(_POINTER) != 8:
        return None
    if not features.check_feature("libjpeg_turbo") or features.version_codec("jpg") != "6.2":
        return None
    try:
        library = _Library(_imaging.__file__)
    except (OSError, AttributeError):
        return None
    return library if all(_agrees(library, sampling) for sampling in _OPENCV_SAMPLINGS) else None


_OPENCV_SAMPLINGS = (
    None,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
)


def _agrees(library: _Library, sampling: int | None) -> bool:
    """Whether the library decodes a part of a picture of this sampling (None: grey) as OpenCV decodes the whole."""
    channels = () if sampling is None else (3,)
    picture = np.resize(np.arange(0, 251, 3, dtype=np.uint8), (37, 75, *channels))
    options = [cv2.IMWRITE_JPEG_QUALITY, 90]
    if sampling is not None:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    encoded = cv2.imencode(".jpg", picture, options)[1]
    data = encoded.tobytes()
    whole: Any = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
    size = plain_size(data)
    part = None if size is None else library.decode(data, size, (18, 33, 31, 58))
    return part is not None and np.array_equal(part, whole[18:31, 33:58])
