"""Affine transforms: scale, turn, shear and shift, in one resampling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import cv2
import numpy as np

from .arguments import Fill, number_range, one_of, refuse
from .base import Array, Params
from .canvas import Canvas
from .geometry import crop_bboxes, shift_keypoints
from .matrices import (
    affine_bboxes,
    affine_keypoints,
    affine_matrices,
    fitted,
    is_identity,
    largest_inside,
    whole_rotations,
)
from .raster import warp_affine
from .warping import WarpTransform

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import View

RotateMethod = Literal["largest_box", "ellipse"]
Range = float | tuple[float, float]
Ranges = Range | Mapping[str, Range]  # for both axes, or {"x": …, "y": …}
AxisRanges = dict[str, tuple[float, float]]
Choice = Sequence[tuple[float, float]]  # a range, or two of which one is drawn

_ONE: Choice = ((1.0, 1.0),)
_SHARED_LEGACY = {"value": "fill", "mask_value": "fill_mask"}


def draw_each(rng: Draws, choices: Iterable[Choice]) -> list[float]:
    """A number from one of each choice's ranges; nothing is drawn where there is nothing to choose."""
    values: list[float] = []
    for ranges in choices:
        low, high = ranges[0] if len(ranges) == 1 else rng.choice(ranges)
        values.append(low if low == high else rng.uniform(low, high))
    return values


class _AffineTransform(WarpTransform):
    """A transform that draws a `matrix` for pixels, a `bbox_matrix` for boxes, a `scale` and an `output_shape`."""

    def __init__(
        self,
        *,
        rotate_method: RotateMethod,
        interpolation: int,
        mask_interpolation: int,
        border_mode: int,
        fill: Fill | None,
        fill_mask: Fill | None,
        p: float,
    ) -> None:
        super().__init__(
            interpolation=interpolation, mask_interpolation=mask_interpolation, border_mode=border_mode,
            fill=fill, fill_mask=fill_mask, p=p,
        )  # fmt: skip
        self.rotate_method = one_of(self, "rotate_method", rotate_method, ("largest_box", "ellipse"))

    def perform(self, canvas: Canvas, params: Params) -> None:
        """Resample."""
        matrix = params["matrix"]
        if not is_identity(matrix):
            height, width = params["output_shape"]
            pixels = warp_affine(
                canvas.readable(), np.array(matrix[:2]), (height, width), self.sampling(canvas)
            )
            canvas.set(pixels)

    def apply_to_bboxes(self, bboxes: Array, **params: Any) -> Array:
        """The boxes around the moved boxes, or around the moved ellipses in them."""
        height, width = params["output_shape"]
        return affine_bboxes(
            bboxes, params["bbox_matrix"], params["shape"], (height, width),
            ellipse=self.rotate_method == "ellipse", border_mode=self.border_mode,
        )  # fmt: skip

    def apply_to_keypoints(self, keypoints: Array, **params: Any) -> Array:
        """The moved keypoints."""
        scale = max(params["scale"]["x"], params["scale"]["y"])
        return affine_keypoints(keypoints, params["matrix"], params["shape"], scale, self.border_mode)


class Affine(_AffineTransform):
    """Scale, turn, shear and shift the image about its middle, all drawn at random.

    `scale` and `shear` (degrees) are a number, a pair to draw from for each axis, or a dict {"x": …, "y": …} of
    such; `translate_percent` (shares of width and height) and `translate_px` likewise, and only one of them may be
    given. `rotate` (degrees, counter-clockwise) is a number or a pair. With `keep_ratio` both axes scale alike; with
    `balanced_scale` shrinking and enlarging are equally likely. With `fit_output` the output's size is that of the
    transformed image, else the input's. `rotate_method` says whether a box becomes the box around its moved corners
    ("largest_box"), or around the moved ellipse in it ("ellipse").
    """

    _legacy: ClassVar[Mapping[str, str]] = {
        **_SHARED_LEGACY, "mode": "border_mode", "cval": "fill", "cval_mask": "fill_mask",
        "scale_range": "scale", "rotate_range": "rotate", "shear_range": "shear",
    }  # fmt: skip

    def __init__(
        self,
        scale: Ranges = (1.0, 1.0),
        translate_percent: Ranges | None = None,
        translate_px: Ranges | None = None,
        rotate: Range = 0.0,
        shear: Ranges = (0.0, 0.0),
        interpolation: int = cv2.INTER_LINEAR,
        mask_interpolation: int = cv2.INTER_NEAREST,
        fit_output: bool = False,
        keep_ratio: bool = False,
        rotate_method: RotateMethod = "largest_box",
        balanced_scale: bool = False,
        border_mode: int = cv2.BORDER_CONSTANT,
        fill: Fill | None = 0,
        fill_mask: Fill | None = 0,
        p: float = 0.5,
    ) -> None:
        super().__init__(
            rotate_method=rotate_method, interpolation=interpolation, mask_interpolation=mask_interpolation,
            border_mode=border_mode, fill=fill, fill_mask=fill_mask, p=p,
        )  # fmt: skip
        if translate_percent is not None and translate_px is not None:
            refuse(self, "translate_px", translate_px, "left out where translate_percent is given")
        self.scale = self._axes("scale", scale, 1.0)
        self.shear = self._axes("shear", shear, 0.0)
        self.translate_percent: AxisRanges | None = None
        self.translate_px: AxisRanges | None = None
        if translate_percent is not None:
            self.translate_percent = self._axes("translate_percent", translate_percent, 0.0)
        elif translate_px is not None:
            self.translate_px = self._axes("translate_px", translate_px, 0)
        self.rotate = number_range(self, "rotate", rotate, scalar="fixed")
        self.fit_output = fit_output
        self.keep_ratio = keep_ratio
        self.balanced_scale = balanced_scale
        if keep_ratio and self.scale["x"] != self.scale["y"]:
            refuse(self, "scale", scale, "the same for x and y where keep_ratio=True")
        shares = self.translate_percent or {"x": (0.0, 0.0), "y": (0.0, 0.0)}
        scales = [_balanced(limits) if balanced_scale else (limits,) for limits in self.scale.values()]
        if keep_ratio:
            scales[1] = _ONE  # y is x
        self._choices: list[Choice] = [
            *[(limits,) for limits in (*shares.values(), *self.shear.values())], *scales, (self.rotate,),
        ]  # fmt: skip

    def _axes(self, name: str, value: Ranges, default: float) -> AxisRanges:
        if not isinstance(value, Mapping):
            both = number_range(self, name, value, scalar="fixed")
            return {"x": both, "y": both}
        if not value or not value.keys() <= {"x", "y"}:
            refuse(self, name, value, "a number, a pair of numbers, or a dict of these for 'x' and 'y'")
        return {
            axis: number_range(self, f"{name}[{axis!r}]", value.get(axis, default), scalar="fixed")
            for axis in ("x", "y")
        }

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw shift, shear, scale and angle."""
        shape = view.shape[:2]
        x_shift = y_shift = 0
        if self.translate_px is not None:
            x_shift, y_shift = [rng.randint(int(low), int(high)) for low, high in self.translate_px.values()]
        x_share, y_share, x_shear, y_shear, x, y, rotate = draw_each(rng, self._choices)
        if self.keep_ratio:
            y = x
        matrix, bbox_matrix = affine_matrices(
            shape, translate=(x_shift + int(x_share * shape[1]), y_shift + int(y_share * shape[0])),
            shear=(-x_shear, -y_shear), scale=(x, y), rotate=rotate,
        )  # fmt: skip
        size = shape
        if self.fit_output:
            matrix, size = fitted(matrix, shape)
            bbox_matrix, _ = fitted(bbox_matrix, shape)
        return {
            "rotate": rotate, "scale": {"x": x, "y": y}, "matrix": matrix, "bbox_matrix": bbox_matrix,
            "output_shape": size,
        }  # fmt: skip


def _balanced(limits: tuple[float, float]) -> Choice:
    """The parts of `limits` that shrink and that enlarge."""
    parts = [(limits[0], 1.0)] if limits[0] < 1 else []
    if limits[1] > 1:
        parts.append((1.0, limits[1]))
    return parts or _ONE


class ShiftScaleRotate(Affine):
    """Shift, scale and turn the image about its middle: `Affine` under its older, much used name.

    `shift_limit` is a share of width and height (`shift_limit_x` and `shift_limit_y` go before it), `scale_limit` is
    added to 1, `rotate_limit` is in degrees, counter-clockwise; a number v means (-v, v). As in 2.0.8 the two axes are
    scaled independently.
    """

    _legacy: ClassVar[Mapping[str, str]] = {
        **_SHARED_LEGACY, "shift_range": "shift_limit", "scale_range": "scale_limit",
        "rotate_range": "rotate_limit", "angle_range": "rotate_limit",
        "shift_range_x": "shift_limit_x", "shift_range_y": "shift_limit_y",
    }  # fmt: skip

    def __init__(
        self,
        shift_limit: Range = (-0.0625, 0.0625),
        scale_limit: Range = (-0.1, 0.1),
        rotate_limit: Range = (-45, 45),
        interpolation: int = cv2.INTER_LINEAR,
        border_mode: int = cv2.BORDER_CONSTANT,
        shift_limit_x: Range | None = None,
        shift_limit_y: Range | None = None,
        rotate_method: RotateMethod = "largest_box",
        mask_interpolation: int = cv2.INTER_NEAREST,
        fill: Fill | None = 0,
        fill_mask: Fill | None = 0,
        p: float = 0.5,
    ) -> None:
        self.shift_limit_x = number_range(
            self, "shift_limit_x", shift_limit if shift_limit_x is None else shift_limit_x, -1, 1
        )
        self.shift_limit_y = number_range(
            self, "shift_limit_y", shift_limit if shift_limit_y is None else shift_limit_y, -1, 1
        )
        self.scale_limit = number_range(self, "scale_limit", scale_limit, 0, bias=1.0)
        self.rotate_limit = number_range(self, "rotate_limit", rotate_limit)
        super().__init__(
            scale=self.scale_limit,
            translate_percent={"x": self.shift_limit_x, "y": self.shift_limit_y},
            rotate=self.rotate_limit,
            interpolation=interpolation, mask_interpolation=mask_interpolation, rotate_method=rotate_method,
            border_mode=border_mode, fill=fill, fill_mask=fill_mask, p=p,
        )  # fmt: skip


class Rotate(_AffineTransform):
    """Turn the image about its middle by an angle drawn from `limit`, in degrees, counter-clockwise.

    A number v means (-v, v). The size stays, corners are lost; or, with `crop_border`, the largest upright rectangle
    without border is cut out.
    """

    _legacy: ClassVar[Mapping[str, str]] = {**_SHARED_LEGACY, "limit_range": "limit", "angle_range": "limit"}

    def __init__(
        self,
        limit: Range = (-90, 90),
        interpolation: int = cv2.INTER_LINEAR,
        border_mode: int = cv2.BORDER_CONSTANT,
        rotate_method: RotateMethod = "largest_box",
        crop_border: bool = False,
        mask_interpolation: int = cv2.INTER_NEAREST,
        fill: Fill | None = 0,
        fill_mask: Fill | None = 0,
        p: float = 0.5,
    ) -> None:
        super().__init__(
            rotate_method=rotate_method, interpolation=interpolation, mask_interpolation=mask_interpolation,
            border_mode=border_mode, fill=fill, fill_mask=fill_mask, p=p,
        )  # fmt: skip
        self.limit = number_range(self, "limit", limit)
        self.crop_border = crop_border

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the angle; find the rectangle to cut out, if there is to be one."""
        shape = view.shape[:2]
        (angle,) = draw_each(rng, ((self.limit,),))
        matrix, bbox_matrix = affine_matrices(shape, rotate=angle)
        params: Params = {
            "rotate": angle, "scale": {"x": 1.0, "y": 1.0}, "matrix": matrix, "bbox_matrix": bbox_matrix,
            "output_shape": shape,
        }  # fmt: skip
        if self.crop_border:
            params["crop_coords"] = largest_inside(shape[0], shape[1], angle)
        return params

    def perform(self, canvas: Canvas, params: Params) -> None:
        """Resample, and cut out."""
        super().perform(canvas, params)
        if self.crop_border:
            x_min, y_min, x_max, y_max = params["crop_coords"]
            canvas.crop(y_min, x_min, y_max, x_max)

    def apply_to_bboxes(self, bboxes: Array, **params: Any) -> Array:
        """The boxes around the moved boxes, or around the moved ellipses in them."""
        boxes = super().apply_to_bboxes(bboxes, **params)
        return crop_bboxes(boxes, params["crop_coords"], params["shape"]) if self.crop_border else boxes

    def apply_to_keypoints(self, keypoints: Array, **params: Any) -> Array:
        """The moved keypoints."""
        points = super().apply_to_keypoints(keypoints, **params)
        if self.crop_border:
            x_min, y_min = params["crop_coords"][:2]
            points = shift_keypoints(points, -x_min, -y_min)
        return points


class SafeRotate(_AffineTransform):
    """Turn the image about its middle, shrunk so that nothing is lost; the size stays, and so not the aspect ratio.

    The angle is drawn from `limit`, in degrees, counter-clockwise; a number v means (-v, v).
    """

    _legacy: ClassVar[Mapping[str, str]] = {**_SHARED_LEGACY, "limit_range": "limit", "angle_range": "limit"}

    def __init__(
        self,
        limit: Range = (-90, 90),
        interpolation: int = cv2.INTER_LINEAR,
        border_mode: int = cv2.BORDER_CONSTANT,
        rotate_method: RotateMethod = "largest_box",
        mask_interpolation: int = cv2.INTER_NEAREST,
        fill: Fill | None = 0,
        fill_mask: Fill | None = 0,
        p: float = 0.5,
    ) -> None:
        super().__init__(
            rotate_method=rotate_method, interpolation=interpolation, mask_interpolation=mask_interpolation,
            border_mode=border_mode, fill=fill, fill_mask=fill_mask, p=p,
        )  # fmt: skip
        self.limit = number_range(self, "limit", limit)

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the angle."""
        shape = view.shape[:2]
        (angle,) = draw_each(rng, ((self.limit,),))
        matrix, bbox_matrix, (x, y) = whole_rotations(shape, angle)
        return {
            "rotate": angle, "scale": {"x": x, "y": y}, "matrix": matrix, "bbox_matrix": bbox_matrix,
            "output_shape": shape,
        }  # fmt: skip
