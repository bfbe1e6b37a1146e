"""What transforms share that resample an image: interpolations, and what lies beyond the border."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from .arguments import BORDER_MODES, WARP_INTERPOLATIONS, Fill, fill_value, one_of
from .canvas import Canvas
from .geometric import GeometricTransform
from .raster import Sampling


class WarpTransform(GeometricTransform):
    """A transform that resamples images and masks, each with its own interpolation and fill."""

    _legacy: ClassVar[Mapping[str, str]] = {"value": "fill", "mask_value": "fill_mask"}

    def __init__(
        self,
        *,
        interpolation: int,
        mask_interpolation: int,
        border_mode: int,
        fill: Fill | None,
        fill_mask: Fill | None,
        p: float,
    ) -> None:
        super().__init__(p)
        self.interpolation = one_of(self, "interpolation", interpolation, WARP_INTERPOLATIONS)
        self.mask_interpolation = one_of(self, "mask_interpolation", mask_interpolation, WARP_INTERPOLATIONS)
        self.border_mode = one_of(self, "border_mode", border_mode, BORDER_MODES)
        self.fill = fill_value(self, "fill", fill)
        self.fill_mask = fill_value(self, "fill_mask", fill_mask)

    def sampling(self, canvas: Canvas) -> Sampling:
        """How what is on `canvas` is sampled."""
        if canvas.is_mask:
            return Sampling(self.mask_interpolation, self.border_mode, self.fill_mask)
        return Sampling(self.interpolation, self.border_mode, self.fill)
