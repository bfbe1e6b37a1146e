"""A part of a JPEG for less than the time of the whole, equal to that part of the full decode, to the bit.

The work is libjpeg-turbo's: it skips rows and columns of blocks that nobody asked for. The library is the one
that Pillow brings along, called through its C interface; where Pillow is built otherwise, there is no region
decoding, and nothing else changes.

That interface ends the process when a header makes no sense. So a file is only given to it after every segment
was checked here, and only if it is of the plainest kind, which nearly all are: baseline, 8 bits, grey or
three channels, one scan. Inside the scan the library can only warn, and a file that made it warn is left to the
full decode, as is every other kind. What is wrong below the region goes unseen, as it does in the full decode, which
paints something and does not complain.

Source: ITU-T T.81, annexes B and C; libjpeg.txt of libjpeg-turbo ("Partial image decompression").
"""

from __future__ import annotations

import ctypes
import sys
import threading
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import repeat
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import RecipeError
from ..headers import ImageHeader, read_header

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
_MAX_SIDE = 65_000  # the library ends somewhere above
_MAX_KNOWN_BYTES = 2048  # headers longer than that are looked at each time
_ABI = 62  # the interface that Pillow's wheels and most systems have: struct layouts below
_RGB = 6  # JCS_EXT_RGB
_SOF, _DHT, _SOI, _EOI, _SOS, _DQT, _DRI, _COM = 0xC0, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xFE
_APP0, _APP14, _APP15 = 0xE0, 0xEE, 0xEF


def decode_region(data: bytes, box: Box, header: ImageHeader | None = None) -> Image | None:
    """The pixels of `box` (y0, x0, y1, x1), which lies in the image: RGB uint8, a view of a larger array.

    Equal to ``full[y0:y1, x0:x1]`` of the full decode by OpenCV. None for what is not done here: other files
    than plain JPEGs, damaged ones, and where Pillow has no libjpeg-turbo. header: as in `plain_size`.
    """
    library = _library()
    header = read_header(data) if header is None else header
    size = None if library is None or header is None else plain_size(data, header)
    if library is None or header is None or size is None:
        return None
    y0, x0, y1, x1 = box
    if not (0 <= y0 < y1 <= size[0] and 0 <= x0 < x1 <= size[1]):
        msg = f"rows {y0}:{y1}, columns {x0}:{x1} do not lie inside the {size[0]} x {size[1]} image"
        raise RecipeError(msg)
    return library.decode(data, size, box, _rows_of_colour(data, header))


def has_regions() -> bool:
    """Whether regions can be decoded here; `decode_region` does nothing otherwise."""
    return _library() is not None


# What may be given to the library


@dataclass(slots=True)
class _Tables:
    """The tables that a JPEG's header has brought so far."""

    quantisation: set[int]
    huffman: set[int]
    components: tuple[tuple[int, int], ...] = ()  # of the frame: identity, quantisation table


def plain_size(data: bytes, header: ImageHeader | None = None) -> tuple[int, int] | None:
    """(height, width) of a JPEG that the library decodes without an error, whatever its scan holds; else None.

    header: what `read_header` says, if it was asked already.
    """
    header = read_header(data) if header is None else header
    if header is None or header.format != "jpeg" or max(header.height, header.width) > _MAX_SIDE:
        return None
    start = header.data_at + 2 + int.from_bytes(data[header.data_at + 2 : header.data_at + 4])
    if not start < data.rfind(b"\xff\xd9"):
        return None
    # Files of one source have one header but for their size, which was looked at, and is left out.
    head = data[: header.frame_at + 5] + data[header.frame_at + 9 : start]
    look = _is_plain if len(head) <= _MAX_KNOWN_BYTES else _is_plain.__wrapped__
    plain = look(head, header.frame_at)
    return (header.height, header.width) if plain else None


def _rows_of_colour(data: bytes, header: ImageHeader) -> int:
    """How many rows of pixels one sample of colour of a plain JPEG covers: the first component's vertical sampling."""
    return data[header.frame_at + 11] & 15


@lru_cache(maxsize=512)
def _is_plain(head: bytes, frame_at: int) -> bool:
    """Whether all segments up to a scan's data are well formed, and of kinds known here; the frame without its size."""
    tables = _Tables(set(), set())
    at = 2
    try:
        while True:
            marker, length = head[at + 1], head[at + 2] << 8 | head[at + 3]
            if head[at] != 0xFF or length < 2:
                return False
            if (marker == _SOF) != (at == frame_at):
                return False
            end = at + 2 + length - (4 if marker == _SOF else 0)
            body = head[at + 4 : end]
            if marker == _SOS:
                return end == len(head) and _is_plain_scan(body, tables)
            if end > len(head) or not _take(marker, body, tables):
                return False
            at = end
    except IndexError:
        return False


def _take(marker: int, body: bytes, tables: _Tables) -> bool:
    """Note what a segment brings; whether it is well formed, and of a kind that is known here."""
    if marker == _DQT:
        return _take_quantisation(body, tables.quantisation)
    if marker == _DHT:
        found = _huffman_tables(body)
        tables.huffman.update(found or ())
        return found is not None
    if marker == _SOF:
        if tables.components or not _is_plain_frame(body):
            return False
        tables.components = tuple((body[at], body[at + 2]) for at in range(2, len(body), 3))
        return True
    if marker == _DRI:
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
    """Whether a baseline frame, given without its size, has 8 bits and components as nearly all files have them."""
    num_components = body[1]
    if len(body) != 2 + 3 * num_components or body[0] != 8 or len(set(body[2::3])) != num_components:
        return False
    return tuple((sampling >> 4, sampling & 15) for sampling in body[3::3]) in _SAMPLINGS


def _is_plain_scan(body: bytes, tables: _Tables) -> bool:
    """Whether the scan holds all components in their order, with tables that are there."""
    components = tables.components
    if (
        not components
        or len(body) != 4 + 2 * len(components)
        or body[0] != len(components)
        or body[-3:] != b"\x00\x3f\x00"
    ):
        return False
    for number, (identity, quantisation) in enumerate(components):
        wanted, huffman = body[1 + 2 * number], body[2 + 2 * number]
        if wanted != identity or quantisation not in tables.quantisation:
            return False
        if huffman >> 4 not in tables.huffman or 0x10 | huffman & 15 not in tables.huffman:
            return False
    return True


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

    __slots__ = ("at", "decoder", "errors", "pointers", "references")

    def __init__(self, library: Any) -> None:
        self.errors, self.decoder = _Errors(), _Decoder()
        self.at = ctypes.byref(self.decoder)
        self.decoder.errors = library.std_error(ctypes.addressof(self.errors))
        library.CreateDecompress(self.at, _ABI, ctypes.sizeof(_Decoder))
        self._make_room(512)

    def _make_room(self, num_rows: int) -> None:
        array = (_POINTER * (num_rows + 1))()
        self.pointers: npt.NDArray[np.uintp] = np.frombuffer(array, dtype=np.uintp)  # type: ignore[call-overload]  # a ctypes array is a buffer
        self.references = [ctypes.byref(array, 8 * row) for row in range(num_rows)]

    def rows_of(self, part: Image, step: int) -> list[Any]:
        """For each turn of `step` rows of `part`, a reference to the pointers to them."""
        height = len(part)
        if height > len(self.references):
            self._make_room(2 * height)
        first, row_bytes = part.ctypes.data, part.strides[0]
        stop = first + height * row_bytes
        self.pointers[:height] = np.arange(first, stop, row_bytes, dtype=np.uintp)
        self.pointers[height] = (
            stop - row_bytes
        )  # the last turn may be a row short, and must not write elsewhere
        return self.references[:height:step]


def _function(library: ctypes.CDLL, name: str) -> Any:
    function = getattr(library, name)
    function.restype, function.argtypes = _FUNCTIONS[name]
    return function


class _Library:
    """The functions of libjpeg-turbo that Pillow is linked with. Any number of threads may use one instance."""

    def __init__(self, path: str) -> None:
        # A symbol is looked up in the library and in all that it is linked with.
        library, alone = ctypes.CDLL(path), ctypes.PyDLL(path)
        for name in _FUNCTIONS:
            setattr(self, name.removeprefix("jpeg_"), _function(library, name))
        # It gives two rows a call, so that what a call costs counts: letting go of the interpreter and taking it back
        # is needed only where other threads wait for it, and arguments that are what they should be need no check.
        self.read_scanlines_alone = _function(alone, "jpeg_read_scanlines")
        self.read_scanlines_alone.argtypes = self.read_scanlines.argtypes = None
        self._idle: list[_Instance] = []

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def decode(self, data: bytes, size: tuple[int, int], box: Box, step: int) -> Image | None:
        """The pixels of `box` of a plain JPEG of `size`, or None if its scan is damaged as far as it was read.

        step: how many rows of pixels its smallest piece of colour covers, as `_rows_of_colour` says.
        """
        try:
            instance = self._idle.pop()
        except IndexError:
            instance = _Instance(self)
        errors, decoder, at = instance.errors, instance.decoder, instance.at
        try:
            self.mem_src(at, data, len(data))
            self.read_header(at, 1)
            errors.num_warnings = 1  # the library prints the first one only
            decoder.out_colour = _RGB
            self.start_decompress(at)
            if (decoder.output_height, decoder.output_width) != size:
                return None
            part = self._rows(instance, size, box, step)
            return part if errors.num_warnings == 1 else None
        finally:
            self.abort_decompress(at)
            self._idle.append(instance)

    def _rows(self, instance: _Instance, size: tuple[int, int], box: Box, step: int) -> Image | None:
        y0, x0, y1, x1 = box
        # Every call gives `step` rows if the first one is a multiple of it; the last gives what is left of the image.
        top, bottom = max(0, y0 - _MARGIN) // step * step, min(size[0], -(-(y1 + _MARGIN) // step) * step)
        left = ctypes.c_uint(max(0, x0 - _MARGIN))
        width = ctypes.c_uint(min(size[1], x1 + _MARGIN) - left.value)
        at = instance.at
        self.crop_scanline(at, ctypes.byref(left), ctypes.byref(width))  # moves left to a block's edge
        if top:
            self.skip_scanlines(at, top)
        part = np.empty((bottom - top, width.value, 3), np.uint8)
        read = self.read_scanlines_alone if threading.active_count() == 1 else self.read_scanlines
        num_read = sum(map(read, repeat(at), instance.rows_of(part, step), repeat(step)))
        if num_read != len(part):
            return None
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
    header = read_header(data)
    size = plain_size(data, header)
    if header is None or size is None:
        return False
    part = library.decode(data, size, (18, 33, 31, 58), _rows_of_colour(data, header))
    return part is not None and np.array_equal(part, whole[18:31, 33:58])
