"""Colour as hue, saturation and brightness: `ColorJitter` and `HueSaturationValue`.

Arguments, defaults and results are those of albumentations 2.0.8, whose ColorJitter follows torchvision's. On
uint8 both step through OpenCV's 8-bit HSV (hue in steps of two degrees), because 2.0.8 does;
results are equal to the bit, since each operation is the same OpenCV call, or the same table.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from .arguments import is_number, number_range, refuse
from .base import Array, ImageOnlyTransform, Params
from .canvas import Canvas
from .lookup import look_up
from .pointwise import (
    LEVELS,
    Table,
    affine,
    affine_table,
    as_bytes,
    as_floats,
    is_grey,
    shift_table,
    truncated,
)
from .tables import check_dtype, check_grey_or_rgb

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import View

Range = tuple[float, float]

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

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
        order = [BRIGHTNESS, CONTRAST, SATURATION, HUE]
        rng.shuffle(order)
        params["order"] = order
        return params

    def apply(self, img: Array, **params: Any) -> Array:
        """The image in other colours."""
        check_dtype(self, img)
        check_grey_or_rgb(self, img.shape)
        factors = (params["brightness"], params["contrast"], params["saturation"], params["hue"])
        jitter = _jitter_bytes if img.dtype == np.uint8 else _jitter_floats
        return jitter(img, factors, params["order"])


def _jitter_bytes(image: Array, factors: tuple[float, ...], order: list[int]) -> Array:
    """The four operations on a uint8 image; neighbouring tables are joined before pixels are touched."""
    waiting: Table | None = None
    result = image
    for step in order:
        factor = factors[step]
        if step in {BRIGHTNESS, CONTRAST}:
            if factor == 1:
                continue
            if step == CONTRAST and waiting is not None:
                result, waiting = look_up(result, waiting), None
            table = affine_table(factor, 0) if step == BRIGHTNESS else _contrast_table(result, factor)
            waiting = table if waiting is None else table[waiting]
        elif not is_grey(image.shape):
            if waiting is not None:
                result, waiting = look_up(result, waiting), None
            result = saturated(result, factor) if step == SATURATION else turned(result, factor)
    if waiting is not None:
        return look_up(result, waiting)
    return image.copy() if result is image else result


def _contrast_table(image: Array, factor: float) -> Table:
    """The table that changes contrast around the mean grey of a uint8 image."""
    mean = _mean_grey(image)
    if factor == 0:
        return np.full(256, int(mean + 0.5), np.uint8)
    return affine_table(factor, mean * (1 - factor))


def _mean_grey(image: Array) -> float:
    grey = image if is_grey(image.shape) else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return float(cv2.mean(grey)[0])


def saturated(image: Array, factor: float) -> Array:
    """An RGB image blended with (or driven away from, above 1) its grey: uint8, or float32 clipped to 0…1."""
    if factor == 1:
        return image
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if factor == 0:
        return grey
    blend = cv2.addWeighted(image, factor, grey, 1 - factor, 0, grey)
    return blend if image.dtype == np.uint8 else np.clip(blend, 0, 1, out=blend)


def turned(image: Array, turns: float) -> Array:
    """An RGB image with its hue turned: uint8 by whole steps of two degrees, float32 exactly."""
    if turns == 0:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    if image.dtype == np.uint8:
        hue = look_up(cv2.extractChannel(hsv, 0), hue_table(180 * turns))
    else:
        hue = np.mod(cv2.extractChannel(hsv, 0) + np.float32(360 * turns), np.float32(360))
    cv2.insertChannel(hue, hsv, 0)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


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
        elif step == SATURATION and not is_grey(image.shape):
            result = saturated(result, factor)
        elif step == HUE and not is_grey(image.shape):
            result = turned(result, factor)
    return image.copy() if result is image else result


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

    def fuse(self, canvas: Canvas, params: Params) -> bool:
        """A grey uint8 image needs only a table."""
        if canvas.dtype != np.uint8 or not is_grey(canvas.shape):
            return False
        canvas.table(shift_table([params["val_shift"]])[:, 0])
        return True

    def apply(self, img: Array, **params: Any) -> Array:
        """The image in other colours."""
        check_dtype(self, img)
        check_grey_or_rgb(self, img.shape)
        if img.dtype != np.uint8:
            return as_floats(self.apply(as_bytes(img), **params))
        if is_grey(img.shape):
            return look_up(img, shift_table([params["val_shift"]])[:, 0])
        shifts = (params["hue_shift"], params["sat_shift"], params["val_shift"])
        return img.copy() if shifts == (0, 0, 0) else shifted_hsv(img, *shifts)


def shifted_hsv(image: Array, hue_shift: float, sat_shift: float, val_shift: float) -> Array:
    """A uint8 RGB image after shifts of its 8-bit hue, saturation and value."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    whole = np.trunc([sat_shift, val_shift]).astype(np.float32)
    saturation = truncated(LEVELS + whole[0])
    saturation[0] = 0
    tables = np.stack([hue_table(hue_shift), saturation, truncated(LEVELS + whole[1])], axis=1)
    hsv = look_up(hsv, tables)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
