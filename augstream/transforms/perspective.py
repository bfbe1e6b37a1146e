"""A random change of the viewpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from .arguments import Fill, number_range
from .base import Array, Params
from .canvas import Canvas
from .matrices import Matrix
from .raster import Size, warp_perspective
from .warping import WarpTransform

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import View

_MAX_SHIFT = 0.32  # of a side; larger ones start again from 0, so that corners never cross


class Perspective(WarpTransform):
    """Move the four corners inwards by random amounts, and stretch what lies between them over the output.

    Each corner moves along each side by the absolute value of a normal number, whose deviation is drawn from `scale`, a
    share of that side (a number v means (0, v)). With `keep_size` the output has the input's size, else that of the
    longest sides between the corners; with `fit_output` all of the input stays visible.

    As in 2.0.8 the quadrilateral is stretched over the input's whole size, and then, with `keep_size`, once more by the
    ratio of sizes: its right and lower margins are cut.
    """

    _legacy: ClassVar[Mapping[str, str]] = {
        "pad_mode": "border_mode", "pad_val": "fill", "mask_pad_val": "fill_mask", "value": "fill",
        "mask_value": "fill_mask", "scale_range": "scale",
    }  # fmt: skip

    def __init__(
        self,
        scale: float | tuple[float, float] = (0.05, 0.1),
        keep_size: bool = True,
        fit_output: bool = False,
        interpolation: int = cv2.INTER_LINEAR,
        mask_interpolation: int = cv2.INTER_NEAREST,
        border_mode: int = cv2.BORDER_CONSTANT,
        fill: Fill | None = 0,
        fill_mask: Fill | None = 0,
        p: float = 0.5,
    ) -> None:
        super().__init__(
            interpolation=interpolation, mask_interpolation=mask_interpolation, border_mode=border_mode,
            fill=fill, fill_mask=fill_mask, p=p,
        )  # fmt: skip
        self.scale = number_range(self, "scale", scale, 0, scalar="from_zero")
        self.keep_size = keep_size
        self.fit_output = fit_output

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the corners, and find the matrix that spreads them out."""
        height, width = view.shape[:2]
        deviation = rng.uniform(*self.scale)
        shifts = [abs(rng.normalvariate(0.0, deviation)) % _MAX_SHIFT for _ in range(8)]
        left_top, right_top, right_bottom, left_bottom = (
            (shifts[0] * width, shifts[1] * height),
            ((1 - shifts[2]) * width, shifts[3] * height),
            ((1 - shifts[4]) * width, (1 - shifts[5]) * height),
            (shifts[6] * width, (1 - shifts[7]) * height),
        )
        corners = np.array([left_top, right_top, right_bottom, left_bottom], np.float32)
        whole = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
        matrix = cv2.getPerspectiveTransform(corners, whole)
        if self.fit_output:
            spread = cv2.perspectiveTransform(whole[None], matrix)[0]
            spread = np.around(spread - spread.min(axis=0))
            matrix = cv2.getPerspectiveTransform(whole, spread)
            max_width, max_height = (int(side) for side in spread.max(axis=0))
        else:
            max_width = int(max(2, math.dist(left_top, right_top), math.dist(left_bottom, right_bottom)))
            max_height = int(max(2, math.dist(left_top, left_bottom), math.dist(right_top, right_bottom)))
        return {"matrix": matrix.tolist(), "max_height": max_height, "max_width": max_width}

    def perform(self, canvas: Canvas, params: Params) -> None:
        """Resample."""
        matrix, size = self._output(params, canvas.shape)
        canvas.set(warp_perspective(canvas.readable(), np.array(matrix), size, self.sampling(canvas)))

    def _output(self, params: Params, shape: tuple[int, ...]) -> tuple[Matrix, Size]:
        """The matrix to the output, and the output's size."""
        first, second, third = params["matrix"]
        if not self.keep_size:
            return (first, second, third), (params["max_height"], params["max_width"])
        x, y = shape[1] / params["max_width"], shape[0] / params["max_height"]
        return ([x * value for value in first], [y * value for value in second], third), (shape[0], shape[1])

    def apply_to_bboxes(self, bboxes: Array, **params: Any) -> Array:
        """The boxes around the moved corners of the boxes."""
        height, width = params["shape"][:2]
        matrix, size = self._output(params, params["shape"])
        corners = bboxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2) * (width, height)
        points = _through(matrix, corners).reshape(-1, 4, 2) / (size[1], size[0])
        moved = bboxes.copy()
        moved[:, :2] = points.min(axis=1)
        moved[:, 2:4] = points.max(axis=1)
        return moved

    def apply_to_keypoints(self, keypoints: Array, **params: Any) -> Array:
        """The moved keypoints; angles and scales by the matrix's linear part, as in 2.0.8."""
        matrix, _ = self._output(params, params["shape"])
        (xx, xy, _), (yx, yy, _), _ = params["matrix"]
        moved = keypoints.copy()
        moved[:, :2] = _through(matrix, keypoints[:, :2])
        moved[:, 3] = np.remainder(keypoints[:, 3] + math.atan2(yx, xx), 2 * math.pi)
        moved[:, 4] *= max(math.copysign(math.hypot(xx, xy), xx), math.copysign(math.hypot(yx, yy), yy))
        if self.keep_size:
            height, width = params["shape"][:2]
            moved[:, 4] *= max(width / params["max_width"], height / params["max_height"])
        return moved


def _through(matrix: Matrix, points: Array) -> Array:
    """Points (N, 2) through a projective matrix."""
    projected = np.column_stack([points, np.ones(len(points))]) @ np.array(matrix).T
    moved: Array = projected[:, :2] / projected[:, 2:]
    return moved
