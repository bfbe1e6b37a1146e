"""What geometric transforms share: each says once, for a canvas, what it does; images and masks follow."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Array, DualTransform, Params
from .canvas import Canvas


class GeometricTransform(DualTransform):
    """A transform that is said by `perform`, for images and masks: as views where that is exact.

    `canvas.is_mask` tells masks, which have their own interpolation and fill.
    """

    def perform(self, canvas: Canvas, params: Params) -> None:
        """Do the work on `canvas`."""
        raise NotImplementedError

    def fuse(self, canvas: Canvas, params: Params) -> None:
        """Do the work on `canvas`."""
        self.perform(canvas, params)

    def apply(self, img: Array, **params: Any) -> Array:
        """The transformed image, an array of its own."""
        return self._on(Canvas(img), img, params)

    def apply_to_mask(self, mask: Array, **params: Any) -> Array:
        """The transformed mask, an array of its own."""
        return self._on(Canvas(mask, is_mask=True), mask, params)

    def _on(self, canvas: Canvas, given: Array, params: Params) -> Array:
        self.perform(canvas, params)
        pixels = canvas.pixels()
        return pixels.copy() if np.may_share_memory(pixels, given) else pixels
