"""The way out of uint8: `Normalize` and `ToFloat`.

On uint8 images both are tables of floats: they join the point operations before them, and are written straight into
the planes that `ToTensorV2` asks for. Arguments, defaults and results are those of albumentations 2.0.8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from ..errors import RecipeError
from .arguments import is_number, number, one_of, refuse
from .base import Array, ImageOnlyTransform, Params
from .canvas import Canvas
from .levels import Levels, Quotient, as_levels, levels_of, normalized_levels
from .lookup import UINT8, planes
from .pointwise import LEVELS, channels_of, max_value
from .tables import check_dtype

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import View

Normalization = Literal["standard", "image", "image_per_channel", "min_max", "min_max_per_channel"]

_EPSILON = 1e-4
_REACH = 20.0


class FloatTableTransform(ImageOnlyTransform):
    """A transform that takes values to float32: subclasses say the table for uint8, and what to do on floats."""

    plan_kind = "floats"

    def levels(self, shape: tuple[int, ...], pixels: Callable[[], Array]) -> Levels:
        """What takes the values' place in an image of `shape`; `pixels()` is the image itself."""
        raise NotImplementedError

    def constants(self, num_channels: int) -> Levels | None:
        """The levels of every uint8 image of so many channels; None if they depend on the image."""
        return None

    def on_floats(self, img: Array) -> Array:
        """The same on an image of another dtype; a new float32 array."""
        raise NotImplementedError

    def draw(self, rng: Draws, view: View) -> Params:
        """Nothing to draw."""
        return {}

    def fuse(self, canvas: Canvas, params: Params) -> None:
        """Hand the table to the canvas, if it is of uint8."""
        if canvas.dtype == UINT8:
            canvas.levels(self.levels(canvas.shape, canvas.pixels))
        else:
            super().fuse(canvas, params)

    def apply(self, img: Array, **params: Any) -> Array:
        """The float32 image."""
        if img.dtype == UINT8:
            return as_levels(img, None, self.levels(img.shape, lambda: img))
        return self.on_floats(img)


class Normalize(FloatTableTransform):
    """Turn values into float32 around 0.

    "standard": (v - mean * max_pixel_value) / (std * max_pixel_value), constants for each channel or one for all; give
    max_pixel_value=1 for float images of 0…1. A grey image takes the first of several constants. "image" and
    "image_per_channel": minus the image's own mean, by its own standard deviation, at most ±20. "min_max" and
    "min_max_per_channel": its darkest value to 0, its brightest to 1.
    """

    def __init__(
        self,
        mean: Sequence[float] | float | None = (0.485, 0.456, 0.406),
        std: Sequence[float] | float | None = (0.229, 0.224, 0.225),
        max_pixel_value: float | None = 255.0,
        normalization: Normalization = "standard",
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        self.normalization = one_of(self, "normalization", normalization, ("standard", *_OWN_CONSTANTS))
        self.mean = mean
        self.std = std
        self.max_pixel_value = max_pixel_value
        if normalization == "standard":
            means, stds = self._constants("mean", mean), self._constants("std", std)
            num_channels = max(len(means), len(stds))
            if not {len(means), len(stds)} <= {1, num_channels}:
                refuse(self, "std", std, f"one number, or {len(means)} as there are means")
            if min(stds) <= 0:
                refuse(self, "std", std, "greater than 0")
            scale = number(self, "max_pixel_value", max_pixel_value, 0)
            if not scale:
                refuse(self, "max_pixel_value", max_pixel_value, "greater than 0")
            self._offset = np.array(means * (num_channels // len(means))) * scale
            self._divisor = np.array(stds * (num_channels // len(stds))) * scale
            self._levels = normalized_levels(self._offset, self._divisor)

    def _constants(self, name: str, value: Any) -> list[float]:
        if is_number(value):
            return [float(value)]
        if not isinstance(value, (Sequence, np.ndarray)) or not len(value) or not all(map(is_number, value)):
            refuse(self, name, value, "a number, or one number for each channel")
        return [float(item) for item in value]

    def levels(self, shape: tuple[int, ...], pixels: Callable[[], Array]) -> Levels:
        """The constants' table, or the image's own."""
        if self.normalization != "standard":
            return _own_levels(pixels(), self.normalization)
        levels = self._levels
        if len(shape) == 3 and shape[2] == levels.table.shape[1]:
            return levels
        return levels.first(self._num_constants(shape))

    def constants(self, num_channels: int) -> Levels | None:
        """The constants' table."""
        return None if self.normalization != "standard" else self.levels((1, 1, num_channels), lambda: LEVELS)

    def _num_constants(self, shape: tuple[int, ...]) -> int:
        """How many of the constants an image of `shape` takes."""
        num_channels, known = channels_of(shape), len(self._offset)
        if known < num_channels and known != 1:
            msg = (
                f"Normalize has constants for {known} channels, and the image has shape {shape}; "
                f"give {num_channels} of them, or one"
            )
            raise RecipeError(msg)
        return min(known, num_channels)

    def on_floats(self, img: Array) -> Array:
        """The same on an image of another dtype."""
        if self.normalization != "standard":
            check_dtype(self, img)
            return _own_floats(img, self.normalization)
        num = self._num_constants(img.shape)
        image = img.astype(np.float32)
        image -= self._offset[:num].astype(np.float32)
        image *= (1.0 / self._divisor[:num]).astype(np.float32)
        return image


Constants = tuple[Array, Array]  # what is taken away, and what it is divided by: (1,) or (C,) float64


def _mean_std(image: Array) -> Constants:
    means, stds = cv2.meanStdDev(image)
    return means[:, 0], stds[:, 0]


def _min_max(image: Array) -> Constants:
    ends = [
        cv2.minMaxLoc(plane)[:2] for plane in (planes(image) if channels_of(image.shape) > 1 else [image])
    ]
    low, high = np.array(ends).T
    return low, high - low


_OWN_CONSTANTS: Mapping[str, Callable[[Array], Constants]] = {
    "image": lambda image: _mean_std(image.reshape(image.shape[0], -1)),
    "image_per_channel": _mean_std,
    "min_max": lambda image: _min_max(image.reshape(image.shape[0], -1)),
    "min_max_per_channel": _min_max,
}
# Where 2.0.8 adds its epsilon on floats, by whether there are several channels; on uint8 it always does.
_EPSILON_ON_FLOATS = frozenset({
    ("image", False), ("image", True), ("image_per_channel", False), ("min_max_per_channel", True),
})  # fmt: skip


def _own_levels(image: Array, normalization: str) -> Levels:
    """The table that normalizes a uint8 image by its own constants."""
    offset, divisor = _OWN_CONSTANTS[normalization](image)
    values = (LEVELS[:, None] - offset) / (divisor + _EPSILON)
    return Levels(np.clip(values, -_REACH, _REACH).astype(np.float32))


def _own_floats(image: Array, normalization: str) -> Array:
    """A float32 image normalized by its own constants; what does not vary becomes 0."""
    offset, divisor = _OWN_CONSTANTS[normalization](image)
    if (normalization, channels_of(image.shape) > 1) in _EPSILON_ON_FLOATS:
        divisor = divisor + _EPSILON
    factor = np.divide(1.0, divisor, out=np.zeros_like(divisor), where=divisor > 0)
    result = image - offset.astype(np.float32)
    result *= factor.astype(np.float32)
    return np.clip(result, -_REACH, _REACH, out=result)


class ToFloat(FloatTableTransform):
    """Divide by `max_value` (None: the brightest value of the dtype) into float32; float images stay as they are."""

    def __init__(self, max_value: float | None = None, p: float = 1.0) -> None:
        super().__init__(p)
        if max_value is not None and not number(self, "max_value", max_value, 0):
            refuse(self, "max_value", max_value, "greater than 0")
        self.max_value = max_value
        self._levels = levels_of([Quotient(max_value or 255)])

    def levels(self, shape: tuple[int, ...], pixels: Callable[[], Array]) -> Levels:
        """v / max_value."""
        return self._levels

    def constants(self, num_channels: int) -> Levels | None:
        """v / max_value."""
        return self._levels

    def on_floats(self, img: Array) -> Array:
        """v / max_value, or v as it is if it is a float."""
        if img.dtype.kind == "f":
            return img.astype(np.float32)
        return (img / (self.max_value or max_value(img.dtype))).astype(np.float32)
