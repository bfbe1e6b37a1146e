"""Affine maps of the plane as 3 x 3 matrices, and where they take boxes and keypoints.

A matrix takes (x, y, 1) of the input to the output, in pixels. It is a tuple of three rows of Python floats: made
without numpy, since it is small, and exact in JSON. Turns are counter-clockwise on the screen for positive angles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .geometry import is_mirroring, mirror_bboxes, mirror_keypoints, overlapping, tiles_of
from .raster import Borders, Size

Array = npt.NDArray[Any]
Pair = tuple[float, float]  # x, y
Shape = tuple[int, ...]  # height, width, …
Matrix = Sequence[Sequence[float]]

_FULL_TURN = 2 * math.pi


def affine_matrices(
    shape: Shape, *, translate: Pair = (0, 0), shear: Pair = (0, 0), scale: Pair = (1, 1), rotate: float = 0
) -> tuple[Matrix, Matrix]:
    """Scale, then turn, then shear about the middle of an image of `shape`, then translate; angles in degrees.

    The first matrix is for pixels, whose middles are at whole numbers, the second for boxes, where edges of pixels are.
    """
    angle = math.radians(rotate % 360)
    cos, sin = math.cos(angle), math.sin(angle)
    tan_x, tan_y = math.tan(math.radians(shear[0])), math.tan(math.radians(shear[1]))
    xx = (cos - tan_x * sin) * scale[0]
    xy = (sin + tan_x * cos) * scale[1]
    yx = (tan_y * cos - sin) * scale[0]
    yy = (tan_y * sin + cos) * scale[1]
    x_shift, y_shift = translate
    for_pixels, for_boxes = [
        (
            (xx, xy, x + x_shift - xx * x - xy * y),
            (yx, yy, y + y_shift - yx * x - yy * y),
            (0.0, 0.0, 1.0),
        )
        for x, y in _middles(shape)
    ]
    return for_pixels, for_boxes


def whole_rotations(shape: Shape, angle: float) -> tuple[Matrix, Matrix, Pair]:
    """Turn an image of `shape` by `angle` degrees about its middle, shrunk along each axis so that all stays inside.

    The matrix for pixels and that for boxes, as `affine_matrices`; and the shrinking.
    """
    height, width = shape[:2]
    radians = math.radians(angle)
    cos, sin = math.cos(radians), math.sin(radians)
    new_width = int(height * abs(sin) + width * abs(cos))
    new_height = int(height * abs(cos) + width * abs(sin))
    scale_x, scale_y = width / max(1, new_width), height / max(1, new_height)
    xx, xy, yx, yy = scale_x * cos, scale_x * sin, -scale_y * sin, scale_y * cos
    for_pixels, for_boxes = [
        (
            (xx, xy, scale_x * (new_width / 2 - cos * x - sin * y)),
            (yx, yy, scale_y * (new_height / 2 + sin * x - cos * y)),
            (0.0, 0.0, 1.0),
        )
        for x, y in _middles(shape)
    ]
    return for_pixels, for_boxes, (scale_x, scale_y)


def _middles(shape: Shape) -> tuple[Pair, Pair]:
    """The middle of an image of `shape`, for pixels and for boxes."""
    x, y = shape[1] / 2, shape[0] / 2
    return (x - 0.5, y - 0.5), (x, y)


def fitted(matrix: Matrix, shape: Shape) -> tuple[Matrix, Size]:
    """`matrix` moved so that an image of `shape` lies wholly in the output, and the output's size."""
    xs, ys = _corners_through(matrix, (0, 0, shape[1], shape[0]))
    left, top = math.floor(min(xs)), math.floor(min(ys))
    size = (math.ceil(max(ys)) - top + 1, math.ceil(max(xs)) - left + 1)
    (xx, xy, x), (yx, yy, y), last = matrix
    return ((xx, xy, x - left), (yx, yy, y - top), last), size


def is_identity(matrix: Matrix) -> bool:
    """Whether `matrix` moves nothing, up to rounding (numpy.allclose's tolerances, as in 2.0.8)."""
    if abs(matrix[0][0] - 1) > 1.001e-5:  # of most, this says it
        return False
    return all(
        abs(value - (row == column)) <= (1.001e-5 if row == column else 1e-8)
        for row, values in enumerate(matrix)
        for column, value in enumerate(values)
    )


def largest_inside(height: int, width: int, angle: float) -> tuple[int, int, int, int]:
    """The box (x_min, y_min, x_max, y_max) of the largest upright rectangle in an image turned by `angle` degrees.

    Source: https://stackoverflow.com/a/16778797, as in 2.0.8.
    """
    sin, cos = abs(math.sin(math.radians(angle))), abs(math.cos(math.radians(angle)))
    longer, shorter = max(height, width), min(height, width)
    if shorter <= 2 * sin * cos * longer or abs(sin - cos) < 1e-10:
        along, across = 0.5 * shorter / sin, 0.5 * shorter / cos
        new_width, new_height = (along, across) if width >= height else (across, along)
    else:
        cos_twice = cos * cos - sin * sin
        new_width = (width * cos - height * sin) / cos_twice
        new_height = (height * cos - width * sin) / cos_twice
    return (
        max(0, int(width / 2 - new_width / 2)),
        max(0, int(height / 2 - new_height / 2)),
        min(width, int(width / 2 + new_width / 2)),
        min(height, int(height / 2 + new_height / 2)),
    )


def affine_bboxes(
    bboxes: Array, matrix: Matrix, shape: Shape, size: Size, *, ellipse: bool, border_mode: int
) -> Array:
    """Boxes, as shares of an image of `shape`, through `matrix`, as shares of an output of `size`.

    A box becomes the box around its turned corners, or around its turned inscribed ellipse. Mirrored borders show
    boxes again. Boxes that end up outside are dropped.
    """
    if is_identity(matrix):
        return bboxes.copy()
    height, width = shape[:2]
    boxes = bboxes.copy()
    boxes[:, :4] *= (width, height, width, height)
    if is_mirroring(border_mode):
        boxes = mirror_bboxes(boxes, tiles_of(_reach(matrix, shape), shape), shape)
    affine = np.array(matrix)
    linear = affine[:2, :2].T
    low, high = boxes[:, :2], boxes[:, 2:4]
    centers = (low + high) / 2 @ linear + affine[:2, 2]
    halves = (high - low) / 2
    reach = np.sqrt(halves**2 @ linear**2) if ellipse else halves @ np.abs(linear)
    boxes[:, :2] = centers - reach
    boxes[:, 2:4] = centers + reach
    boxes = overlapping(boxes, *size)
    boxes[:, :4] /= (size[1], size[0], size[1], size[0])
    return boxes


def affine_keypoints(keypoints: Array, matrix: Matrix, shape: Shape, scale: float, border_mode: int) -> Array:
    """Keypoints of an image of `shape` through `matrix`; their scale times `scale`.

    Angles grow by a counter-clockwise turn, as in 2.0.8's affine transforms: there they are meant with y upwards.
    """
    if is_identity(matrix):
        return keypoints.copy()
    points = keypoints
    if is_mirroring(border_mode):
        points = mirror_keypoints(keypoints, tiles_of(_reach(matrix, shape), shape), shape)
    (xx, xy, x), (yx, yy, y), _ = matrix
    moved = points.copy()
    moved[:, 0] = xx * points[:, 0] + xy * points[:, 1] + x
    moved[:, 1] = yx * points[:, 0] + yy * points[:, 1] + y
    moved[:, 3] = np.remainder(points[:, 3] + math.atan2(-yx, xx), _FULL_TURN)
    moved[:, 4] *= scale
    return moved


def _reach(matrix: Matrix, shape: Shape) -> Borders:
    """How far beyond an image of `shape` lies what its surroundings show through `matrix`."""
    height, width = shape[:2]
    xs, ys = _corners_through(matrix, (0, 0, width, height))
    seen = (min(0, *xs), min(0, *ys), max(width, *xs), max(height, *ys))
    xs, ys = _corners_through(np.linalg.inv(np.array(matrix)).tolist(), seen)
    return (
        max(0, math.ceil(-min(ys))),
        max(0, math.ceil(max(ys) - height)),
        max(0, math.ceil(-min(xs))),
        max(0, math.ceil(max(xs) - width)),
    )


def _corners_through(matrix: Matrix, box: Sequence[float]) -> tuple[list[float], list[float]]:
    """The x and the y of the corners of `box` (x_min, y_min, x_max, y_max) through an affine `matrix`."""
    (xx, xy, x), (yx, yy, y) = matrix[:2]
    corners = [(box[0], box[1]), (box[2], box[1]), (box[2], box[3]), (box[0], box[3])]
    return [xx * a + xy * b + x for a, b in corners], [yx * a + yy * b + y for a, b in corners]
