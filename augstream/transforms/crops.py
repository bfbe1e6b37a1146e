"""Crops: a part of the image as it is, padded first where it is too small."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import cv2

from ..errors import RecipeError
from .arguments import (
    BORDER_MODES,
    Fill,
    fill_value,
    image_size,
    integer,
    integer_range,
    number,
    number_range,
    one_of,
    refuse,
)  # fmt: skip
from .base import Array, Params
from .canvas import Canvas
from .geometric import GeometricTransform
from .geometry import Box, crop_bboxes, pad_bboxes, pad_keypoints, scale_keypoints, shift_keypoints
from .padding import POSITIONS, Position, border_params, borders_for, borders_of
from .raster import Borders, Size, pad
from .resizing import AreaForDownscale, ResamplingTransform

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import View


def random_box(size: tuple[int, ...], crop: Size, rng: Draws) -> Box:
    """The box of a crop of `crop` anywhere in an image of `size`, all places equally likely."""
    height, width = crop
    y = int((size[0] - height + 1) * rng.random())
    x = int((size[1] - width + 1) * rng.random())
    return x, y, x + width, y + height


def center_box(size: tuple[int, ...], crop: Size) -> Box:
    """The box of a crop of `crop` in the middle of an image of `size`."""
    y, x = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2
    return x, y, x + crop[1], y + crop[0]


class _PaddedCrop(GeometricTransform):
    """A crop by `crop_coords`, after padding by `pad_params` if that is not None."""

    plan_kind = "view"

    def __init__(
        self,
        *,
        pad_if_needed: bool,
        pad_position: Position,
        border_mode: int,
        fill: Fill | None,
        fill_mask: Fill | None,
        p: float,
    ) -> None:
        super().__init__(p)
        self.pad_if_needed = pad_if_needed
        self.pad_position = one_of(self, "pad_position", pad_position, POSITIONS)
        self.border_mode = one_of(self, "border_mode", border_mode, BORDER_MODES)
        self.fill = fill_value(self, "fill", fill)
        self.fill_mask = fill_value(self, "fill_mask", fill_mask)

    def perform(self, canvas: Canvas, params: Params) -> None:
        """Crop, as a view; pad first if it must be."""
        if params["pad_params"] is not None:
            fill = self.fill_mask if canvas.is_mask else self.fill
            canvas.set(pad(canvas.readable(), borders_of(params["pad_params"]), self.border_mode, fill))
        x_min, y_min, x_max, y_max = params["crop_coords"]
        canvas.crop(y_min, x_min, y_max, x_max)

    def apply_to_bboxes(self, bboxes: Array, **params: Any) -> Array:
        """The boxes on the crop."""
        shape = params["shape"]
        if params["pad_params"] is not None:
            borders = borders_of(params["pad_params"])
            bboxes = pad_bboxes(bboxes, borders, self.border_mode, shape)
            shape = _padded(shape, borders)
        return crop_bboxes(bboxes, params["crop_coords"], shape)

    def apply_to_keypoints(self, keypoints: Array, **params: Any) -> Array:
        """The keypoints on the crop."""
        if params["pad_params"] is not None:
            borders = borders_of(params["pad_params"])
            keypoints = pad_keypoints(keypoints, borders, self.border_mode, params["shape"])
        x_min, y_min = params["crop_coords"][:2]
        return shift_keypoints(keypoints, -x_min, -y_min)


class _SizedCrop(_PaddedCrop):
    """A crop of a fixed height and width."""

    def __init__(
        self,
        height: int,
        width: int,
        pad_if_needed: bool = False,
        pad_position: Position = "center",
        border_mode: int = cv2.BORDER_CONSTANT,
        fill: Fill | None = 0.0,
        fill_mask: Fill | None = 0.0,
        p: float = 1.0,
    ) -> None:
        super().__init__(
            pad_if_needed=pad_if_needed, pad_position=pad_position, border_mode=border_mode, fill=fill,
            fill_mask=fill_mask, p=p,
        )  # fmt: skip
        self.height = integer(self, "height", height, 1)
        self.width = integer(self, "width", width, 1)

    def box_in(self, size: tuple[int, ...], rng: Draws) -> Box:
        """The box to crop from an image of `size`, which is large enough."""
        raise NotImplementedError

    def draw(self, rng: Draws, view: View) -> Params:
        """Find the borders, if there must be some, and the box."""
        height, width = size = view.shape[:2]
        if self.height <= height and self.width <= width:
            return {"crop_coords": self.box_in(size, rng), "pad_params": None}
        if not self.pad_if_needed:
            msg = (
                f"{type(self).__name__}: a crop of {self.height} x {self.width} does not fit an image of "
                f"{height} x {width}; pass pad_if_needed=True, or resize first"
            )
            raise RecipeError(msg)
        rows, columns = max(0, self.height - height), max(0, self.width - width)
        borders = borders_for(rows, columns, self.pad_position, rng)
        box = self.box_in((height + rows, width + columns), rng)
        return {"crop_coords": box, "pad_params": border_params(borders)}


class RandomCrop(_SizedCrop):
    """Crop `height` x `width` pixels anywhere, all places equally likely.

    A smaller image is an error, or is padded first if `pad_if_needed`; `pad_position` is where it then lies.
    """

    def box_in(self, size: tuple[int, ...], rng: Draws) -> Box:
        """Anywhere."""
        return random_box(size, (self.height, self.width), rng)


class CenterCrop(_SizedCrop):
    """Crop `height` x `width` pixels in the middle.

    A smaller image is an error, or is padded first if `pad_if_needed`; `pad_position` is where it then lies.
    """

    def box_in(self, size: tuple[int, ...], rng: Draws) -> Box:
        """In the middle."""
        return center_box(size, (self.height, self.width))


class Crop(_PaddedCrop):
    """Crop the columns `x_min` to `x_max` and the rows `y_min` to `y_max` (half-open).

    A box that reaches beyond the image is an error, or the image is padded first if `pad_if_needed`.
    """

    def __init__(
        self,
        x_min: int = 0,
        y_min: int = 0,
        x_max: int = 1024,
        y_max: int = 1024,
        pad_if_needed: bool = False,
        pad_position: Position = "center",
        border_mode: int = cv2.BORDER_CONSTANT,
        fill: Fill | None = 0,
        fill_mask: Fill | None = 0,
        p: float = 1.0,
    ) -> None:
        super().__init__(
            pad_if_needed=pad_if_needed, pad_position=pad_position, border_mode=border_mode, fill=fill,
            fill_mask=fill_mask, p=p,
        )  # fmt: skip
        self.x_min = integer(self, "x_min", x_min, 0)
        self.y_min = integer(self, "y_min", y_min, 0)
        self.x_max = integer(self, "x_max", x_max, self.x_min + 1)
        self.y_max = integer(self, "y_max", y_max, self.y_min + 1)

    def draw(self, rng: Draws, view: View) -> Params:
        """Find the borders, if there must be some."""
        height, width = view.shape[:2]
        rows, columns = max(0, self.y_max - height), max(0, self.x_max - width)
        pads: Params | None = None
        if self.pad_if_needed and (rows or columns):
            # As 2.0.8: all that is missing below and right, and what `pad_position` puts above and left.
            top, bottom, left, right = borders_for(rows, columns, self.pad_position, rng)
            pads = border_params((top, max(bottom, rows), left, max(right, columns)))
        return {"crop_coords": (self.x_min, self.y_min, self.x_max, self.y_max), "pad_params": pads}


class _ResizedCrop(ResamplingTransform):
    """A crop by `crop_coords`, resized to `size`."""

    def __init__(
        self,
        size: tuple[int, int] | None,
        height: int | None,
        width: int | None,
        *,
        interpolation: int,
        mask_interpolation: int,
        area_for_downscale: AreaForDownscale,
        p: float,
    ) -> None:
        super().__init__(interpolation, mask_interpolation, area_for_downscale, p)
        self.size = image_size(self, size, height, width)

    def perform(self, canvas: Canvas, params: Params) -> None:
        """Crop, as a view, and resize from it."""
        x_min, y_min, x_max, y_max = params["crop_coords"]
        canvas.crop(y_min, x_min, y_max, x_max)
        height, width = self.size
        self.resize(canvas, self.size, shrinks=height < y_max - y_min or width < x_max - x_min)

    def apply_to_bboxes(self, bboxes: Array, **params: Any) -> Array:
        """The boxes on the crop."""
        return crop_bboxes(bboxes, params["crop_coords"], params["shape"])

    def apply_to_keypoints(self, keypoints: Array, **params: Any) -> Array:
        """The keypoints on the crop, moved with the pixels."""
        x_min, y_min, x_max, y_max = params["crop_coords"]
        height, width = self.size
        moved = shift_keypoints(keypoints, -x_min, -y_min)
        return scale_keypoints(moved, width / (x_max - x_min), height / (y_max - y_min))


class RandomSizedCrop(_ResizedCrop):
    """Crop a box whose height is drawn from `min_max_height`, anywhere, and resize it to `size`.

    The box is `w2h_ratio` times as wide as it is high, and cut where it is larger than the image. Give
    `size` as (height, width), or `height` and `width` by name.
    """

    def __init__(
        self,
        min_max_height: tuple[int, int],
        size: tuple[int, int] | None = None,
        w2h_ratio: float = 1.0,
        interpolation: int = cv2.INTER_LINEAR,
        mask_interpolation: int = cv2.INTER_NEAREST,
        area_for_downscale: AreaForDownscale = None,
        p: float = 1.0,
        *,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__(
            size, height, width, interpolation=interpolation, mask_interpolation=mask_interpolation,
            area_for_downscale=area_for_downscale, p=p,
        )  # fmt: skip
        self.min_max_height = integer_range(self, "min_max_height", min_max_height, 1)
        self.w2h_ratio = number(self, "w2h_ratio", w2h_ratio, 0)

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the box's height, then its place."""
        size = view.shape[:2]
        height = rng.randint(*self.min_max_height)
        width = max(1, int(height * self.w2h_ratio))
        return {"crop_coords": random_box(size, (min(height, size[0]), min(width, size[1])), rng)}


class RandomResizedCrop(_ResizedCrop):
    """Crop a box of a random area and aspect ratio, anywhere, and resize it to `size`.

    The area is uniform in `scale` times the image's, the logarithm of width over height in that of `ratio`.
    What does not fit is drawn again, ten times; then the largest box in the middle whose ratio is allowed is
    taken. Give `size` as (height, width), or `height` and `width` by name. There is no antialiasing unless
    `area_for_downscale` is "image" or "image_mask".

    Source: the crop of Szegedy et al., "Going deeper with convolutions", CVPR 2015, as in torchvision.
    """

    _legacy: ClassVar[Mapping[str, str]] = {"scale_range": "scale", "ratio_range": "ratio"}

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (0.75, 4 / 3),
        interpolation: int = cv2.INTER_LINEAR,
        mask_interpolation: int = cv2.INTER_NEAREST,
        area_for_downscale: AreaForDownscale = None,
        p: float = 1.0,
        *,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__(
            size, height, width, interpolation=interpolation, mask_interpolation=mask_interpolation,
            area_for_downscale=area_for_downscale, p=p,
        )  # fmt: skip
        self.scale = number_range(self, "scale", scale, 0, 1, scalar="refused")
        self.ratio = number_range(self, "ratio", ratio, 0, scalar="refused")
        if not self.ratio[0] > 0:
            refuse(self, "ratio", ratio, "a pair of numbers above 0")
        self._log_ratio = (math.log(self.ratio[0]), math.log(self.ratio[1]))

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw area, ratio and place of the box."""
        height, width = view.shape[:2]
        area = height * width
        for _ in range(10):
            box_area = area * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(*self._log_ratio))
            box_width, box_height = round(math.sqrt(box_area * ratio)), round(math.sqrt(box_area / ratio))
            if 0 < box_width <= width and 0 < box_height <= height:
                return {"crop_coords": random_box((height, width), (box_height, box_width), rng)}
        return {"crop_coords": center_box((height, width), self._fallback(height, width))}

    def _fallback(self, height: int, width: int) -> Size:
        ratio = width / height
        if ratio < self.ratio[0]:
            return max(1, round(width / self.ratio[0])), width
        if ratio > self.ratio[1]:
            return height, max(1, round(height * self.ratio[1]))
        return height, width


def _padded(shape: tuple[int, ...], borders: Borders) -> Size:
    top, bottom, left, right = borders
    return shape[0] + top + bottom, shape[1] + left + right
