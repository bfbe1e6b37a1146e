"""A part of a JPEG for less than the time of the whole, equal to that part of the full decode, to the bit.

The work is libjpeg-turbo's: it skips rows and columns of blocks that nobody asked for. The library is the one
that Pillow brings along, called through its C interface; where Pillow is built otherwise, there is no region
decoding, and nothing else changes.

Why Pillow's: it is installed anyway, its wheels bring the current libjpeg-turbo within weeks of its release, and no
other binding did better. PyTurboJPEG needs a system's library, of a version that most systems lack; simplejpeg and
imagecodecs give no part of an image; those that bring a TurboJPEG library are not kept. All of them run the same code,
at the same speed.

A file is only given to it if it is plain (see `images.plain`). A file that made it warn is left to the full decode, as
is every other kind. What is wrong below the region goes unseen, as it does in the full decode, which paints something
and does not complain.

Source: libjpeg.txt of libjpeg-turbo ("Partial image decompression", "Decompression parameter selection").
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections import deque
from functools import cache
from itertools import repeat
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import RecipeError
from .headers import ImageHeader, read_header
from .plain import plain_size, rows_of_colour

Image = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]  # y0, x0, y1, x1: half-open

_MARGIN = 4
"""Pixels decoded around the box: smooth upsampling looks one chroma sample, or four pixels, beyond it."""
FACTORS = {  # OpenCV's flags say how small; the colours are said beside them
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_ABI = 62  # the interface that Pillow's wheels and most systems have: struct layouts below
_RGB = 6  # JCS_EXT_RGB


class Plain(NamedTuple):
    """What has to be known of a plain JPEG to decode a part of it: its size, and how many rows of pixels one sample of
    colour covers, which the library gives together."""

    height: int
    width: int
    step: int

    @classmethod
    def of(cls, data: bytes, header: ImageHeader) -> Plain | None:
        """What has to be known of a file; None for what is no plain JPEG, and where Pillow has no libjpeg-turbo."""
        size = None if _library() is None else plain_size(data, header)
        return None if size is None else cls(*size, rows_of_colour(data, header))

    def decode(self, data: bytes, box: Box, factor: int = 1) -> Image | None:
        """The pixels of `box` (y0, x0, y1, x1), which lies in the image: RGB uint8, a view of a larger array.

        `data` is the file that this was found of. Equal to ``full[y0:y1, x0:x1]`` of the full decode by OpenCV. None
        for damaged files. factor: 2, 4 or 8 for a part of the image at 1/`factor` of its size, sides rounded up, as
        OpenCV reduces it; `box` is in its pixels.
        """
        library = _library()
        if library is None:
            return None
        size = -(-self.height // factor), -(-self.width // factor)
        y0, x0, y1, x1 = box
        if not (0 <= y0 < y1 <= size[0] and 0 <= x0 < x1 <= size[1]):
            msg = f"rows {y0}:{y1}, columns {x0}:{x1} do not lie inside the {size[0]} x {size[1]} image"
            raise RecipeError(msg)
        return library.decode(data, size, box, factor, self.step)


def has_regions() -> bool:
    """Whether regions can be decoded here; `Plain.of` knows nothing otherwise."""
    return _library() is not None


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
    "jpeg_read_scanlines": (None, [_POINTER, _POINTER, ctypes.c_uint]),
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
        ("output_height", ctypes.c_uint), ("output", ctypes.c_int * 4), ("colormap", _POINTER),
        ("output_scanline", ctypes.c_uint), ("rest", ctypes.c_byte * 460),
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
        first, row_bytes = part.__array_interface__["data"][0], part.strides[0]
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

    def decode(self, data: bytes, size: tuple[int, int], box: Box, factor: int, step: int) -> Image | None:
        """The pixels of `box` of a plain JPEG, reduced by `factor` to `size`; None if its scan is damaged as far as
        it was read. step: as `rows_of_colour` says."""
        try:
            instance = self._idle.pop()
        except IndexError:
            instance = _Instance(self)
        errors, decoder, at = instance.errors, instance.decoder, instance.at
        try:
            self.mem_src(at, data, len(data))
            self.read_header(at, 1)
            errors.num_warnings = 1  # the library prints the first one only
            decoder.out_colour, decoder.scale[1] = _RGB, factor  # scale[0] is 1
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
        deque(map(read, repeat(at), instance.rows_of(part, step), repeat(step)), maxlen=0)
        if instance.decoder.output_scanline != bottom:
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
    header = read_header(data)
    if header is None or plain_size(data, header) is None:
        return False
    for factor, flag in FACTORS.items():
        whole: Any = cv2.imdecode(encoded, flag | cv2.IMREAD_COLOR_RGB)
        y0, x0, y1, x1 = [-(-edge // factor) for edge in (18, 33, 31, 58)]
        part = library.decode(data, whole.shape[:2], (y0, x0, y1, x1), factor, rows_of_colour(data, header))
        if part is None or not np.array_equal(part, whole[y0:y1, x0:x1]):
            return False
    return True
