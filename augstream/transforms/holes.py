"""Rectangular holes: what fills them, and what is left of boxes and keypoints behind them.

Holes are (x_min, y_min, x_max, y_max) in pixels, half-open, inside the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import RecipeError
from .arguments import Fill

Array = npt.NDArray[Any]
Hole = Sequence[int]
NamedFill = Literal["random", "random_uniform", "inpaint_telea", "inpaint_ns"]
NAMED_FILLS: tuple[NamedFill, ...] = ("random", "random_uniform", "inpaint_telea", "inpaint_ns")
_INPAINTERS = {"inpaint_telea": cv2.INPAINT_TELEA, "inpaint_ns": cv2.INPAINT_NS}
_INPAINT_RADIUS = 3
_LIMITS = {  # by numpy's code of the dtype, whatever its byte order
    code: (int(np.iinfo(code).min), int(np.iinfo(code).max)) for code in np.typecodes["AllInteger"]
}
_ANY = (-math.inf, math.inf)
_WHOLE = 1e-6  # pixels; so that 7 / 50 of 50 pixels are 7, however that is rounded


def filled(image: Array, holes: Iterable[Hole], fill: Fill) -> Array:
    """`image` with `holes` filled by one number, or by one for each channel."""
    numbers = fill if isinstance(fill, tuple) else (fill,)
    num_channels = image.shape[2] if image.ndim == 3 else 1
    if len(numbers) not in {1, num_channels}:
        msg = (
            f"a fill of {len(numbers)} numbers, {fill!r}, was given for an image of {num_channels} channels; "
            "give one number for each, or one for all"
        )
        raise RecipeError(msg)
    low, high = _LIMITS.get(image.dtype.char, _ANY)
    if min(numbers) < low or max(numbers) > high:
        msg = (
            f"a fill of {fill!r} was given for an image of dtype {image.dtype}, which cannot hold it; "
            f"give one from {low} to {high}"
        )
        raise RecipeError(msg)
    result = image.copy()
    for x_min, y_min, x_max, y_max in holes:
        result[y_min:y_max, x_min:x_max] = fill
    return result


def filled_at_random(
    image: Array, holes: Iterable[Hole], rng: np.random.Generator, *, uniform: bool
) -> Array:
    """`image` with `holes` filled by random values: one a hole and channel if `uniform`, else one a pixel."""
    result = image.copy()
    for x_min, y_min, x_max, y_max in holes:
        size = (1, 1) if uniform else (y_max - y_min, x_max - x_min)
        shape = (*size, *image.shape[2:])
        values: Array
        if image.dtype.kind in "iu":
            values = rng.integers(0, np.iinfo(image.dtype).max, shape, image.dtype, endpoint=True)
        else:
            values = rng.random(shape, np.float32)
        result[y_min:y_max, x_min:x_max] = values
    return result


def inpainted(image: Array, holes: Iterable[Hole], method: str) -> Array:
    """`image`, gray or RGB, with `holes` filled from their surroundings; float images pass through uint8.

    Sources: Telea, "An image inpainting technique based on the fast marching method", 2004; Bertalmio, Bertozzi and
    Sapiro, "Navier-Stokes, fluid dynamics, and image and video inpainting", CVPR 2001.
    """
    if image.ndim == 3 and image.shape[2] not in {1, 3}:
        msg = f"inpainting takes gray or RGB images, and got {image.shape[2]} channels; give a number as fill"
        raise RecipeError(msg)
    if image.dtype != np.uint8 and image.dtype.kind != "f":
        msg = (
            f"inpainting takes uint8 images and floats of 0 to 1, got {image.dtype}; put ToFloat() before it, or give "
            "a number as fill"
        )
        raise RecipeError(msg)
    mask = hole_mask(holes, image.shape)
    pixels = image if image.dtype == np.uint8 else np.rint(image * 255.0).clip(0, 255).astype(np.uint8)
    result = cv2.inpaint(pixels, mask, _INPAINT_RADIUS, _INPAINTERS[method]).reshape(image.shape)
    return result if image.dtype == np.uint8 else (result / np.float32(255)).astype(image.dtype)


def hole_mask(holes: Iterable[Hole], shape: tuple[int, ...]) -> Array:
    """A uint8 mask (H, W), 1 in holes."""
    mask = np.zeros(shape[:2], np.uint8)
    for x_min, y_min, x_max, y_max in holes:
        mask[y_min:y_max, x_min:x_max] = 1
    return mask


def visible_bboxes(
    bboxes: Array, holes: Iterable[Hole], shape: tuple[int, ...], min_area: float, min_visibility: float
) -> Array:
    """Boxes, as shares of an image of `shape`, cut to what `holes` leave visible of them.

    A box is dropped if nothing of it is visible, or less than `min_area` square pixels, or less than the share
    `min_visibility`. Boxes are counted in whole pixels; one that no hole touches stays as it is.
    """
    height, width = shape[:2]
    mask = hole_mask(holes, shape)
    kept = bboxes.copy()
    keep = np.ones(len(bboxes), bool)
    corners = np.floor(bboxes[:, :4] * (width, height, width, height) + _WHOLE).astype(np.intp)
    for row, (x_min, y_min, x_max, y_max) in enumerate(corners.tolist()):
        region = mask[y_min:y_max, x_min:x_max]
        num_hidden = int(np.count_nonzero(region))
        if not num_hidden:
            continue
        num_visible = region.size - num_hidden
        keep[row] = (
            num_visible > 0 and num_visible >= min_area and num_visible / region.size >= min_visibility
        )
        if keep[row]:
            columns, rows = np.flatnonzero(~region.all(axis=0)), np.flatnonzero(~region.all(axis=1))
            kept[row, 0], kept[row, 2] = (x_min + columns[0]) / width, (x_min + columns[-1] + 1) / width
            kept[row, 1], kept[row, 3] = (y_min + rows[0]) / height, (y_min + rows[-1] + 1) / height
    visible: Array = kept[keep]
    return visible


def visible_keypoints(keypoints: Array, holes: Iterable[Hole]) -> Array:
    """The keypoints that lie in none of `holes`."""
    x, y = keypoints[:, 0], keypoints[:, 1]
    keep = np.ones(len(keypoints), bool)
    for x_min, y_min, x_max, y_max in holes:
        keep &= (x < x_min) | (x >= x_max) | (y < y_min) | (y >= y_max)
    visible: Array = keypoints[keep]
    return visible
