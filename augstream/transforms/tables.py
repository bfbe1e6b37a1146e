"""The base of transforms that are point operations: a uint8 table a call, or the same on float32 pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import RecipeError
from .base import Array, BasicTransform, ImageOnlyTransform, Params
from .canvas import Canvas
from .lookup import UINT8, look_up
from .pointwise import Table, as_bytes, as_floats

_DTYPES = frozenset({UINT8, np.dtype(np.float32)})


class TableTransform(ImageOnlyTransform):
    """An operation on single values: subclasses say `table` for uint8, and `on_floats` for float32."""

    plan_kind = "table"

    def table(self, params: Params, shape: tuple[int, ...]) -> Table:
        """What takes each value's place in an image of `shape`: (256,), or (256, C)."""
        raise NotImplementedError

    def on_floats(self, img: Array, params: Params) -> Array:
        """The operation on a float32 image of 0…1; a new array."""
        raise NotImplementedError

    def fuse(self, canvas: Canvas, params: Params) -> None:
        """Hand the table to the canvas, if it is of uint8."""
        if canvas.dtype == UINT8:
            canvas.table(self.table(params, canvas.shape))
        else:
            super().fuse(canvas, params)

    def apply(self, img: Array, **params: Any) -> Array:
        """The image after the operation."""
        check_dtype(self, img)
        if img.dtype == UINT8:
            return look_up(img, self.table(params, img.shape))
        return self.on_floats(img, params)


def check_dtype(owner: object, img: Array) -> None:
    """Raise `RecipeError` unless `img` is uint8, or float32 of 0…1."""
    if img.dtype not in _DTYPES:
        msg = (
            f"{type(owner).__name__} takes uint8 and float32 images, got {img.dtype}; "
            "put ToFloat() before it, or convert the image"
        )
        raise RecipeError(msg)


def through_bytes(owner: BasicTransform, img: Array, params: Params) -> Array:
    """What `owner`, which works on uint8, makes of a float32 image of 0…1, there and back; `RecipeError` for others."""
    check_dtype(owner, img)
    return as_floats(owner.apply(as_bytes(img), **params))


def check_grey_or_rgb(owner: object, shape: tuple[int, ...]) -> bool:
    """Whether an image of `shape` is grey; `TypeError` unless it has one or three channels."""
    num_channels = shape[2] if len(shape) == 3 else 1
    if num_channels not in {1, 3}:
        msg = f"{type(owner).__name__} takes images of 1 or 3 channels, got shape {shape}"
        raise TypeError(msg)
    return num_channels == 1
