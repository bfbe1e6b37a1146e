"""Colour as hue, saturation and brightness: `ColorJitter` and `HueSaturationValue`.

Arguments, defaults and results are those of albumentations 2.0.8, whose ColorJitter follows torchvision's. On
uint8 both step through OpenCV's 8-bit HSV (hue in steps of two degrees), because 2.0.8 does;
results are equal to the bit, since each operation is the same OpenCV call, or the same table.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from .arguments import is_number, number_range, refuse
from .base import Array, ImageOnlyTransform, Params
from .canvas import Canvas
from .lookup import UINT8, empty_image, look_up, look_up_in_place, planes
from .pointwise import (
    Table,
    affine,
    affine_table,
    clipped,
    is_grey,
    shift_table,
)
from .tables import check_dtype, check_grey_or_rgb, through_bytes

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import View

Range = tuple[float, float]

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_ORDERS = tuple(itertools.permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE)))

_HUES: Table = (np.arange(180 + 256) % 180).astype(np.uint8)
_HUES.setflags(write=False)


class ColorJitter(ImageOnlyTransform):
    """Change brightness, contrast, saturation and hue by random factors, in a random order.

    `brightness`, `contrast` and `saturation` are ranges of factors, from 0 up; a number v is
    (max(0, 1 - v), 1 + v). `hue` is a range of turns within -0.5…0.5; a number v is (-v, v). Contrast is around
    the mean grey of the image as it then is. A grey image keeps saturation and hue. One or three channels.
    """

    _legacy: ClassVar = {
        "brightness_range": "brightness", "contrast_range": "contrast", "saturation_range": "saturation",
        "hue_range": "hue",
    }  # fmt: skip

    def __init__(
        self,
        brightness: Range | float = (0.8, 1.2),
        contrast: Range | float = (0.8, 1.2),
        saturation: Range | float = (0.8, 1.2),
        hue: Range | float = (-0.5, 0.5),
        p: float = 0.5,
    ) -> None:
        super().__init__(p)
        self.brightness = self._factors("brightness", brightness)
        self.contrast = self._factors("contrast", contrast)
        self.saturation = self._factors("saturation", saturation)
        self.hue = number_range(self, "hue", hue, -0.5, 0.5)

    def _factors(self, name: str, value: Range | float) -> Range:
        if is_number(value):
            if value < 0:  # type: ignore[operator]  # it is a number
                refuse(self, name, value, "0 or more, or a range of factors")
            return max(0.0, 1.0 - value), 1.0 + value  # type: ignore[operator]  # it is a number
        return number_range(self, name, value, 0)

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the four factors, and `order`, in which they are applied (0 brightness … 3 hue)."""
        params: Params = {
            "brightness": rng.uniform(*self.brightness),
            "contrast": rng.uniform(*self.contrast),
            "saturation": rng.uniform(*self.saturation),
            "hue": rng.uniform(*self.hue),
        }
        params["order"] = list(_ORDERS[int(len(_ORDERS) * rng.random())])
        return params

    def fuse(self, canvas: Canvas, params: Params) -> None:
        """Do the work on pixels; the table that comes last on uint8 joins what follows."""
        if canvas.dtype != UINT8:
            super().fuse(canvas, params)
            return
        check_grey_or_rgb(self, canvas.shape)
        sheet = _jitter_bytes(canvas.pixels(), _factors(params), params["order"])
        canvas.set(sheet.pixels)
        if sheet.table is not None:
            canvas.table(sheet.table)

    def apply(self, img: Array, **params: Any) -> Array:
        """The image in other colours."""
        check_dtype(self, img)
        check_grey_or_rgb(self, img.shape)
        if img.dtype != UINT8:
            return _jitter_floats(img, _factors(params), params["order"])
        result = _jitter_bytes(img, _factors(params), params["order"]).current()
        return img.copy() if result is img else result


def _factors(params: Params) -> tuple[float, ...]:
    return params["brightness"], params["contrast"], params["saturation"], params["hue"]


class _Sheet:
    """A uint8 image under several colour operations: tables wait for each other, and memory is used again.

    `pixels` are the caller's until the first operation that needs them; from then on they are ours.
    """

    __slots__ = ("_out", "_spare", "is_grey", "pixels", "table")

    def __init__(self, image: Array) -> None:
        self.pixels = image
        self.is_grey = is_grey(image.shape)
        self.table: Table | None = None
        self._out: Array | None = None
        self._spare: Array | None = None

    def look_up(self, table: Table) -> None:
        """Let `table` wait for the next operation that is none."""
        self.table = table if self.table is None else table[self.table]

    def current(self) -> Array:
        """The pixels, after the table that waits."""
        table, self.table = self.table, None
        if table is not None and self.pixels is self._out:
            look_up_in_place(self.pixels, table)
        elif table is not None:
            self.pixels = self._out = look_up(self.pixels, table)
        return self.pixels

    def blend_with_grey(self, factor: float) -> None:
        """Blend an RGB image with (or drive it away from, above 1) its grey."""
        image, spare = self.current(), self._memory()
        cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB, spare)
        self.pixels = self._out = cv2.addWeighted(image, factor, spare, 1 - factor, 0, self._out)

    def turn_hue(self, table: Table) -> None:
        """Look the hue of an RGB image up."""
        self.pixels = self._out = _through_hsv(self.current(), [table], self._memory(), self._out)

    def _memory(self) -> Array:
        """An image to work in."""
        if self._spare is None:
            self._spare = empty_image(self.pixels.shape, self.pixels.dtype)
        return self._spare


def _jitter_bytes(image: Array, factors: tuple[float, ...], order: list[int]) -> _Sheet:
    """The four operations on a uint8 image; the last table may still wait."""
    sheet = _Sheet(image)
    for step in order:
        factor = factors[step]
        if step == BRIGHTNESS and factor != 1:
            sheet.look_up(affine_table(factor, 0))
        elif step == CONTRAST and factor != 1:
            sheet.look_up(_contrast_table(sheet.current(), factor))
        elif step == SATURATION and factor != 1 and not sheet.is_grey:
            sheet.blend_with_grey(factor)
        elif step == HUE and factor != 0 and not sheet.is_grey:
            sheet.turn_hue(hue_table(180 * factor))
    return sheet


def _contrast_table(image: Array, factor: float) -> Table:
    """The table that changes contrast around the mean grey of a uint8 image."""
    mean = _mean_grey(image)
    if factor == 0:
        return np.full(256, int(mean + 0.5), np.uint8)
    return affine_table(factor, mean * (1 - factor))


def _mean_grey(image: Array) -> float:
    grey = image if is_grey(image.shape) else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return float(cv2.mean(grey)[0])


def hue_table(shift: float) -> Table:
    """h -> (h + shift) mod 180, truncated: OpenCV's 8-bit hue, in steps of two degrees."""
    first = math.floor(shift) % 180
    return _HUES[first : first + 256]


def _jitter_floats(image: Array, factors: tuple[float, ...], order: list[int]) -> Array:
    """The four operations on a float32 image."""
    result = image
    for step in order:
        factor = factors[step]
        if step == BRIGHTNESS and factor != 1:
            result = affine(result, factor, 0)
        elif step == CONTRAST and factor != 1:
            result = affine(result, factor, _mean_grey(result) * (1 - factor))
        elif step == SATURATION and factor != 1 and not is_grey(image.shape):
            result = _saturated(result, factor)
        elif step == HUE and factor != 0 and not is_grey(image.shape):
            result = _turned(result, factor)
    return image.copy() if result is image else result


def _saturated(image: Array, factor: float) -> Array:
    """A float32 RGB image blended with its grey."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return clipped(cv2.addWeighted(image, factor, grey, 1 - factor, 0, grey))


def _turned(image: Array, turns: float) -> Array:
    """A float32 RGB image with its hue turned."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hue = np.mod(cv2.extractChannel(hsv, 0) + np.float32(360 * turns), np.float32(360))
    cv2.insertChannel(hue, hsv, 0)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


class HueSaturationValue(ImageOnlyTransform):
    """Add random numbers to hue (in steps of two degrees), saturation and value (in grey levels).

    A number v is (-v, v). Hue goes round, saturation and value stop at 0 and 255, and grey pixels stay grey. A
    grey image changes in value only. A float32 image goes through uint8 and back. One or three channels.
    """

    _legacy: ClassVar = {
        "hue_shift_range": "hue_shift_limit", "sat_shift_range": "sat_shift_limit",
        "val_shift_range": "val_shift_limit",
    }  # fmt: skip

    def __init__(
        self,
        hue_shift_limit: Range | float = (-20, 20),
        sat_shift_limit: Range | float = (-30, 30),
        val_shift_limit: Range | float = (-20, 20),
        p: float = 0.5,
    ) -> None:
        super().__init__(p)
        self.hue_shift_limit = number_range(self, "hue_shift_limit", hue_shift_limit)
        self.sat_shift_limit = number_range(self, "sat_shift_limit", sat_shift_limit)
        self.val_shift_limit = number_range(self, "val_shift_limit", val_shift_limit)

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the three shifts."""
        return {
            "hue_shift": rng.uniform(*self.hue_shift_limit),
            "sat_shift": rng.uniform(*self.sat_shift_limit),
            "val_shift": rng.uniform(*self.val_shift_limit),
        }

    def fuse(self, canvas: Canvas, params: Params) -> None:
        """Do the work on pixels; a grey uint8 image needs only a table."""
        if canvas.dtype == UINT8 and is_grey(canvas.shape):
            canvas.table(shift_table(params["val_shift"]))
        else:
            super().fuse(canvas, params)

    def apply(self, img: Array, **params: Any) -> Array:
        """The image in other colours."""
        if img.dtype != UINT8:
            return through_bytes(self, img, params)
        if check_grey_or_rgb(self, img.shape):
            return look_up(img, shift_table(params["val_shift"]))
        shifts = (params["hue_shift"], params["sat_shift"], params["val_shift"])
        return img.copy() if shifts == (0, 0, 0) else shifted_hsv(img, *shifts)


def shifted_hsv(image: Array, hue_shift: float, sat_shift: float, val_shift: float) -> Array:
    """A uint8 RGB image after shifts of its 8-bit hue, saturation and value."""
    saturations = shift_table(sat_shift).copy()
    saturations[0] = 0
    return _through_hsv(image, [hue_table(hue_shift), saturations, shift_table(val_shift)])


def _through_hsv(
    image: Array, tables: list[Table], hsv: Array | None = None, out: Array | None = None
) -> Array:
    """A uint8 RGB image with its 8-bit hue, saturation and value looked up, or the first of them only; new, or `out`.

    `hsv` is memory of the image's shape to work in.
    """
    if hsv is None:
        hsv = empty_image(image.shape, image.dtype)
    found = planes(cv2.cvtColor(image, cv2.COLOR_RGB2HSV, hsv))
    for plane, table in zip(found, tables, strict=False):
        look_up_in_place(plane, table)
    return cv2.cvtColor(cv2.merge(list(found), hsv), cv2.COLOR_HSV2RGB, out)
