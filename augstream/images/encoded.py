"""An image that is still encoded: its size is known, and its pixels come when they are wanted, and as far as.

A pipeline that begins with a crop then decodes only what the crop needs, since parameters are drawn from addresses and
sizes, not from pixels.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import RecipeError, SampleError
from .headers import ImageHeader
from .pixels import MAX_PIXELS, checked_header, decode_checked, opencv_does, with_opencv
from .regions import FACTORS, Plain

Array = npt.NDArray[Any]
Box = tuple[int, int, int, int]  # y0, x0, y1, x1: half-open
Size = tuple[int, int]  # height, width

DecodeMode = Literal["full", "region", "scaled"]
"""How much of an image is decoded: all, what is wanted (the same pixels), or that at a reduced scale (others)."""

_MIN_PIXELS = 40_000  # of an image, and
_MAX_SHARE = 0.9  # of it: else decoding all is as fast as decoding a part
_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


class EncodedImage:
    """The RGB pixels of a JPEG, decoded when they are asked for: a `Source` for pipelines.

    shape: (height, width, 3), as the header says. dtype: uint8. spent_ns: the time that decoding took so far.
    failed: whether it failed.

    mode "full" decodes all, "region" no more than the box that is asked for, where that can be done exactly, and
    "scaled" besides at 1/2, 1/4 or 1/8 where the pixels are then still as many as are wanted.
    """

    __slots__ = ("_data", "_header", "_max_pixels", "_plain", "dtype", "failed", "mode", "shape", "spent_ns")

    def __init__(self, data: bytes, header: ImageHeader, mode: DecodeMode, max_pixels: int) -> None:
        self._data, self._header, self._max_pixels = data, header, max_pixels
        self._plain = None if mode == "full" else Plain.of(data, header)
        self.mode = mode
        self.shape: tuple[int, ...] = (header.height, header.width, 3)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.spent_ns = 0
        self.failed = False

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return len(self._data)

    @classmethod
    def of(cls, data: bytes, mode: DecodeMode, max_pixels: int = MAX_PIXELS) -> EncodedImage | Array:
        """The encoded image, or its pixels where nothing is gained by waiting: of all that is not a plain JPEG.

        Raises `SampleError` as `pixels.decode_image` does, as far as the header and the file's end tell.
        """
        header = checked_header(data, max_pixels)
        if header is not None and header.format == "jpeg" and header.bits == 8 and opencv_does(header):
            return cls(data, header, mode, max_pixels)
        return decode_checked(data, header, max_pixels)

    def decode(self, box: Box | None = None, at_least: Size | None = None) -> Array:
        """The pixels of `box`, of all if it is None: (height, width, 3) uint8, a new array or part of one.

        With mode "scaled" and `at_least`, the size that they will be resized to: fewer pixels of the same box,
        but no fewer than that.
        """
        started = perf_counter_ns()
        try:
            return self._decode(box, at_least)
        except SampleError:
            self.failed = True
            raise
        finally:
            self.spent_ns += perf_counter_ns() - started

    def _decode(self, box: Box | None, at_least: Size | None) -> Array:
        height, width = self.shape[:2]
        y0, x0, y1, x1 = box or (0, 0, height, width)
        if self.mode == "scaled" and at_least is not None:
            factor = min((y1 - y0) // at_least[0], (x1 - x0) // at_least[1])
            if factor > 1:
                return self._decode_scaled((y0, x0, y1, x1), 8 if factor >= 8 else 4 if factor >= 4 else 2)
        if self._plain is not None and self._is_small((y1 - y0) * (x1 - x0)):
            part = self._plain.decode(self._data, (y0, x0, y1, x1))
            if part is not None:
                return part
        whole = decode_checked(self._data, self._header, self._max_pixels)
        return whole if box is None else whole[y0:y1, x0:x1]

    def _is_small(self, num_pixels: int) -> bool:
        """Whether a part of so many pixels is decoded sooner than the whole image."""
        whole = self.shape[0] * self.shape[1]
        return whole >= _MIN_PIXELS and num_pixels < _MAX_SHARE * whole

    def _decode_scaled(self, box: Box, factor: int) -> Array:
        """The pixels of `box` at 1/factor, its edges moved to the nearest whole pixels."""
        y0, x0, y1, x1 = [(edge + factor // 2) // factor for edge in box]
        part = None if self._plain is None else self._plain.decode(self._data, (y0, x0, y1, x1), factor)
        if part is not None:
            return part
        return with_opencv(self._data, self._header, FACTORS[factor] | _FLAGS, factor)[y0:y1, x0:x1]


def check_mode(mode: str) -> None:
    """Raise `RecipeError` unless `mode` is a `DecodeMode`."""
    if mode not in get_args(DecodeMode):
        msg = f"decode must be one of {', '.join(map(repr, get_args(DecodeMode)))}, got {mode!r}"
        raise RecipeError(msg)
