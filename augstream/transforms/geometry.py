"""Where boxes and keypoints go when the image is turned, cropped, padded or scaled.

Boxes are (N, 4+): x_min, y_min, x_max, y_max as shares of the image's width and height. Keypoints are
(N, 5+): x, y, z, angle, scale, in pixels and radians. Further columns travel along. Every function returns
a new array of the dtype it was given, which is a float dtype, and takes empty ones.

Angles are those of 2.0.8's flips and right-angle turns: an angle's direction is (cos, sin) in (x, y) with y
downwards.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .raster import Borders

Array = npt.NDArray[Any]
Box = tuple[int, int, int, int]  # x_min, y_min, x_max, y_max, in pixels, half-open
Symmetry = tuple[bool, bool, bool]  # transpose, then reverse rows, then reverse columns

_TURN = 2 * math.pi
_MIRRORING = frozenset({cv2.BORDER_REFLECT, cv2.BORDER_REFLECT_101})


def orient_bboxes(bboxes: Array, symmetry: Symmetry) -> Array:
    """Boxes of an image that was turned by `symmetry`."""
    transposed, flip_y, flip_x = symmetry
    moved = bboxes.copy()
    if transposed:
        moved[:, :4] = bboxes[:, (1, 0, 3, 2)]
    if flip_x:  # what was the far side is the near one now
        np.subtract(1, bboxes[:, 3 if transposed else 2 :: -2], out=moved[:, 0:4:2])
    if flip_y:
        np.subtract(1, bboxes[:, 2 if transposed else 3 :: -2], out=moved[:, 1:4:2])
    return moved


def orient_keypoints(keypoints: Array, symmetry: Symmetry, shape: tuple[int, ...]) -> Array:
    """Keypoints of an image of `shape` that was turned by `symmetry`; angles come back in [0, 2 pi)."""
    transposed, flip_y, flip_x = symmetry
    moved = keypoints.copy()
    height, width = shape[:2]
    angles = moved[:, 3]
    if transposed:
        height, width = width, height
        moved[:, 0] = keypoints[:, 1]
        moved[:, 1] = keypoints[:, 0]
        np.subtract(math.pi / 2, angles, out=angles)
    if flip_y:
        np.subtract(height - 1, moved[:, 1], out=moved[:, 1])
        np.negative(angles, out=angles)
    if flip_x:
        np.subtract(width - 1, moved[:, 0], out=moved[:, 0])
        np.subtract(math.pi, angles, out=angles)
    np.remainder(angles, _TURN, out=angles)
    return moved


def crop_bboxes(bboxes: Array, box: Box, shape: tuple[int, ...]) -> Array:
    """Boxes of an image of `shape` that was cropped to `box`; what sticks out is left for the filter."""
    x_min, y_min, x_max, y_max = box
    height, width = shape[:2]
    crop_width, crop_height = x_max - x_min, y_max - y_min
    x, y, scale_x, scale_y = x_min / crop_width, y_min / crop_height, width / crop_width, height / crop_height
    moved = bboxes.copy()
    corners = moved[:, :4]
    corners *= (scale_x, scale_y, scale_x, scale_y)
    corners -= (x, y, x, y)
    return moved


def shift_keypoints(keypoints: Array, x: float, y: float) -> Array:
    """Keypoints moved by (x, y) pixels."""
    moved = keypoints.copy()
    moved[:, 0] += x
    moved[:, 1] += y
    return moved


def scale_keypoints(keypoints: Array, x: float, y: float) -> Array:
    """Keypoints of an image resized by the factors (x, y); their scale grows by the larger one."""
    moved = keypoints.copy()
    moved[:, 0] *= x
    moved[:, 1] *= y
    moved[:, 4] *= max(x, y)
    return moved


def pad_bboxes(bboxes: Array, borders: Borders, border_mode: int, shape: tuple[int, ...]) -> Array:
    """Boxes of an image of `shape` that got `borders`; mirrored borders show the boxes again.

    As in 2.0.8 the mirror images lie a whole image apart, for BORDER_REFLECT_101 too.
    """
    top, bottom, left, right = borders
    height, width = shape[:2]
    padded_height, padded_width = height + top + bottom, width + left + right
    moved = bboxes.copy()
    corners = moved[:, :4]
    corners *= (width, height, width, height)
    if border_mode in _MIRRORING:
        moved = mirror_bboxes(moved, tiles_of(borders, shape), shape)
        corners = moved[:, :4]
    corners += (left, top, left, top)
    if border_mode in _MIRRORING:
        moved = overlapping(moved, padded_height, padded_width)
        corners = moved[:, :4]
    corners /= (padded_width, padded_height, padded_width, padded_height)
    return moved


def pad_keypoints(keypoints: Array, borders: Borders, border_mode: int, shape: tuple[int, ...]) -> Array:
    """Keypoints of an image of `shape` that got `borders`; mirrored borders show them again."""
    top, bottom, left, right = borders
    if border_mode not in _MIRRORING:
        return shift_keypoints(keypoints, left, top)
    moved = shift_keypoints(mirror_keypoints(keypoints, tiles_of(borders, shape), shape), left, top)
    x, y = moved[:, 0], moved[:, 1]
    height, width = shape[0] + top + bottom, shape[1] + left + right
    inside: Array = moved[(x >= 0) & (x < width) & (y >= 0) & (y < height)]
    return inside


# Mirrored borders

Tiles = tuple[range, range]  # the rows and columns of the grid of mirror images; (0, 0) is the image itself


def is_mirroring(border_mode: int) -> bool:
    """Whether `border_mode` continues the image by its mirror images."""
    return border_mode in _MIRRORING


def tiles_of(borders: Borders, shape: tuple[int, ...]) -> Tiles:
    """The mirror images that `borders` around an image of `shape` reach."""
    top, bottom, left, right = borders
    height, width = shape[:2]
    rows = range(-math.ceil(top / height), math.ceil(bottom / height) + 1)
    return rows, range(-math.ceil(left / width), math.ceil(right / width) + 1)


def mirror_bboxes(bboxes: Array, tiles: Tiles, shape: tuple[int, ...]) -> Array:
    """Boxes in pixels, and their mirror images in all `tiles`, row by row of tiles."""
    height, width = shape[:2]
    copies = []
    for row in tiles[0]:
        for column in tiles[1]:
            copied = bboxes.copy()
            if column % 2:
                copied[:, 0] = width - bboxes[:, 2]
                copied[:, 2] = width - bboxes[:, 0]
            if row % 2:
                copied[:, 1] = height - bboxes[:, 3]
                copied[:, 3] = height - bboxes[:, 1]
            copied[:, :4] += (column * width, row * height, column * width, row * height)
            copies.append(copied)
    return np.concatenate(copies)


def mirror_keypoints(keypoints: Array, tiles: Tiles, shape: tuple[int, ...]) -> Array:
    """Keypoints, and their mirror images in all `tiles`, row by row of tiles."""
    height, width = shape[:2]
    copies = []
    for row in tiles[0]:
        for column in tiles[1]:
            copied = keypoints.copy()
            if column % 2:
                copied[:, 0] = width - keypoints[:, 0]
            if row % 2:
                copied[:, 1] = height - keypoints[:, 1]
            if (row + column) % 2:
                copied[:, 3] = -keypoints[:, 3]
            copied[:, 0] += column * width
            copied[:, 1] += row * height
            copies.append(copied)
    return np.concatenate(copies)


def overlapping(bboxes: Array, height: float, width: float) -> Array:
    """The boxes in pixels that lie at least partly inside an image of `height` x `width`."""
    inside = (bboxes[:, 2:4] > 0) & (bboxes[:, :2] < (width, height))
    kept: Array = bboxes[inside.all(axis=1)]
    return kept
