"""Resizing: to a size, by a factor, or until the longest or smallest side fits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import cv2

from .arguments import INTERPOLATIONS, integer, number_range, one_of, refuse
from .base import Array, Params
from .canvas import Canvas
from .geometric import GeometricTransform
from .geometry import scale_keypoints
from .raster import Size, resize

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import View

AreaForDownscale = Literal["image", "image_mask"] | None


class ResamplingTransform(GeometricTransform):
    """A transform that ends in a resize; `area_for_downscale` chooses INTER_AREA where pixels get fewer.

    It does so for the image ("image"), or for the image and masks ("image_mask"), or not at all (None).
    """

    plan_kind = "late"

    def __init__(
        self, interpolation: int, mask_interpolation: int, area_for_downscale: AreaForDownscale, p: float
    ) -> None:
        super().__init__(p)
        self.interpolation = one_of(self, "interpolation", interpolation, INTERPOLATIONS)
        self.mask_interpolation = one_of(self, "mask_interpolation", mask_interpolation, INTERPOLATIONS)
        self.area_for_downscale = one_of(
            self, "area_for_downscale", area_for_downscale, (None, "image", "image_mask")
        )

    def resize(self, canvas: Canvas, size: Size, *, shrinks: bool) -> None:
        """Resize what is on `canvas` to `size`."""
        if canvas.shape[:2] == size:
            return
        if canvas.is_mask:
            interpolation, by_area = self.mask_interpolation, self.area_for_downscale == "image_mask"
        else:
            interpolation, by_area = self.interpolation, self.area_for_downscale is not None
        if shrinks and by_area:
            interpolation = cv2.INTER_AREA
        canvas.later(size, lambda image: resize(image, size, interpolation), resizes=True)

    def apply_to_bboxes(self, bboxes: Array, **params: Any) -> Array:
        """The boxes as they are: shares of the image do not change with its size."""
        return bboxes


class Resize(ResamplingTransform):
    """Resize to `height` x `width` pixels."""

    def __init__(
        self,
        height: int,
        width: int,
        interpolation: int = cv2.INTER_LINEAR,
        mask_interpolation: int = cv2.INTER_NEAREST,
        area_for_downscale: AreaForDownscale = None,
        p: float = 1.0,
    ) -> None:
        super().__init__(interpolation, mask_interpolation, area_for_downscale, p)
        self.height = integer(self, "height", height, 1)
        self.width = integer(self, "width", width, 1)

    def draw(self, rng: Draws, view: View) -> Params:
        """Nothing to draw."""
        return {}

    def perform(self, canvas: Canvas, params: Params) -> None:
        """Resize."""
        height, width = canvas.shape[:2]
        self.resize(canvas, (self.height, self.width), shrinks=self.height < height or self.width < width)

    def apply_to_keypoints(self, keypoints: Array, **params: Any) -> Array:
        """The keypoints, moved with the pixels."""
        height, width = params["shape"][:2]
        return scale_keypoints(keypoints, self.width / width, self.height / height)


class _ScaleTransform(ResamplingTransform):
    """A transform that scales both sides by `params["scale"]`."""

    def size_of(self, shape: tuple[int, ...], scale: float) -> Size:
        """The new size: rounded, at least a pixel."""
        return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))

    def perform(self, canvas: Canvas, params: Params) -> None:
        """Resize."""
        scale = params["scale"]
        self.resize(canvas, self.size_of(canvas.shape, scale), shrinks=scale < 1)

    def apply_to_keypoints(self, keypoints: Array, **params: Any) -> Array:
        """The keypoints, moved with the pixels."""
        scale = params["scale"]
        return scale_keypoints(keypoints, scale, scale)


class RandomScale(_ScaleTransform):
    """Scale both sides by 1 + s, with s uniform in `scale_limit`; the size is cut to whole pixels.

    A number v means (-v, v).
    """

    _legacy: ClassVar[Mapping[str, str]] = {"scale_range": "scale_limit"}

    def __init__(
        self,
        scale_limit: float | tuple[float, float] = (-0.1, 0.1),
        interpolation: int = cv2.INTER_LINEAR,
        mask_interpolation: int = cv2.INTER_NEAREST,
        area_for_downscale: AreaForDownscale = None,
        p: float = 0.5,
    ) -> None:
        super().__init__(interpolation, mask_interpolation, area_for_downscale, p)
        self.scale_limit = number_range(self, "scale_limit", scale_limit, -1)

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the factor."""
        return {"scale": rng.uniform(*self.scale_limit) + 1.0}

    def size_of(self, shape: tuple[int, ...], scale: float) -> Size:
        """The new size: cut to whole pixels, as in 2.0.8."""
        return max(1, int(shape[0] * scale)), max(1, int(shape[1] * scale))


class _MaxSizeTransform(_ScaleTransform):
    """A transform whose factor follows from the image's size and a size to fit."""

    def __init__(
        self,
        max_size: int | Sequence[int] | None = None,
        max_size_hw: tuple[int | None, int | None] | None = None,
        interpolation: int = cv2.INTER_LINEAR,
        mask_interpolation: int = cv2.INTER_NEAREST,
        area_for_downscale: AreaForDownscale = None,
        p: float = 1.0,
    ) -> None:
        super().__init__(interpolation, mask_interpolation, area_for_downscale, p)
        self.max_size: int | tuple[int, ...] | None = None
        self.max_size_hw: tuple[int | None, int | None] | None = None
        if (max_size is None) == (max_size_hw is None):
            refuse(self, "max_size", max_size, "given, or max_size_hw=(height, width) instead, and not both")
        if max_size_hw is not None:
            is_pair = isinstance(max_size_hw, Collection) and len(max_size_hw) == 2
            if not is_pair or all(side is None for side in max_size_hw):
                refuse(self, "max_size_hw", max_size_hw, "a pair (height, width), of which one may be None")
            height, width = (
                None if side is None else integer(self, "max_size_hw", side, 1) for side in max_size_hw
            )
            self.max_size_hw = (height, width)
        elif isinstance(max_size, (list, tuple)):
            self.max_size = tuple(integer(self, "max_size", size, 1) for size in max_size)
            if not self.max_size:
                refuse(self, "max_size", max_size, "a size, or a list of sizes to choose from")
        else:
            self.max_size = integer(self, "max_size", max_size, 1)

    def scale_to(self, max_size: float, sides: tuple[int, int]) -> float:
        """The factor that makes the side that counts `max_size` long."""
        raise NotImplementedError

    def scale_within(self, scales: tuple[float, float]) -> float:
        """The factor that counts, of those that fit the height and the width."""
        raise NotImplementedError

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the size, if there are several, and find the factor."""
        height, width = view.shape[:2]
        if self.max_size_hw is None:
            max_size = rng.choice(self.max_size) if isinstance(self.max_size, tuple) else self.max_size
            return {"scale": self.scale_to(max_size or 0, (height, width))}
        max_height, max_width = self.max_size_hw
        if max_height is None:
            return {"scale": (max_width or 0) / width}
        if max_width is None:
            return {"scale": max_height / height}
        return {"scale": self.scale_within((max_height / height, max_width / width))}


class LongestMaxSize(_MaxSizeTransform):
    """Scale the image so that its longest side has `max_size` pixels, or one of several.

    With `max_size_hw=(height, width)` instead: as large as fits that; None for a side that may be any.
    """

    def scale_to(self, max_size: float, sides: tuple[int, int]) -> float:
        """By the longest side."""
        return max_size / max(sides)

    def scale_within(self, scales: tuple[float, float]) -> float:
        """The smaller one: all fits in."""
        return min(scales)


class SmallestMaxSize(_MaxSizeTransform):
    """Scale the image so that its smallest side has `max_size` pixels, or one of several.

    With `max_size_hw=(height, width)` instead: as small as covers that; None for a side that may be any.
    """

    def scale_to(self, max_size: float, sides: tuple[int, int]) -> float:
        """By the smallest side."""
        return max_size / min(sides)

    def scale_within(self, scales: tuple[float, float]) -> float:
        """The larger one: all is covered."""
        return max(scales)
