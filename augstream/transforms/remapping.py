"""Where boxes and keypoints go when every pixel of the output is taken from a place of its own in the input.

Maps are float32 (H, W): pixel (y, x) of the output is that at (map_y[y, x], map_x[y, x]) of the input. Outputs have the
input's size.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def remap_bboxes(bboxes: Array, map_x: Array, map_y: Array) -> Array:
    """The boxes around all pixels that come from the boxes; a box of which no pixel is left stays as it is.

    Boxes are shares of the image, and are rounded to whole pixels, as in 2.0.8.
    """
    height, width = map_x.shape
    source_x, source_y = _nearest_sources(map_x, map_y)
    moved = bboxes.copy()
    corners = bboxes[:, :4] * (width, height, width, height)
    low, high = np.zeros(4), np.array([width - 1, height - 1] * 2)
    rounded = np.clip(np.rint(corners), low, high)
    for row, (x_min, y_min, x_max, y_max) in enumerate(rounded):
        inside = (source_x >= x_min) & (source_x <= x_max) & (source_y >= y_min) & (source_y <= y_max)
        columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
        if len(columns):
            moved[row, 0], moved[row, 2] = columns[0] / width, columns[-1] / width
            moved[row, 1], moved[row, 3] = rows[0] / height, rows[-1] / height
    return moved


def remap_keypoints_by_mask(keypoints: Array, map_x: Array, map_y: Array) -> Array:
    """Each keypoint at the first pixel, row by row, that comes from its pixel or one beside, above or below it.

    Keypoints of which no such pixel is left are dropped.
    """
    height, width = map_x.shape
    source_x, source_y = _nearest_sources(map_x, map_y)
    places = np.flatnonzero(source_x.ravel() >= 0)[::-1]
    first = np.full((height + 2, width + 2), height * width)  # with a border of nothing
    # Of several pixels from one place numpy keeps the last that is written: here the first of the image.
    first[source_y.ravel()[places].astype(np.intp) + 1, source_x.ravel()[places].astype(np.intp) + 1] = places
    x, y = np.rint(keypoints[:, 0]).astype(np.intp), np.rint(keypoints[:, 1]).astype(np.intp)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    kept, x, y = keypoints[inside].copy(), x[inside] + 1, y[inside] + 1
    found = np.minimum.reduce(
        [first[y, x], first[y, x - 1], first[y, x + 1], first[y - 1, x], first[y + 1, x]]
    )
    left = found < height * width
    moved: Array = kept[left]
    moved[:, 1], moved[:, 0] = np.divmod(found[left], width)
    return moved


def remap_keypoints_directly(keypoints: Array, map_x: Array, map_y: Array) -> Array:
    """Each keypoint at the pixel that comes from nearest to it, and as far beside it as it lay beside that place."""
    height, width = map_x.shape
    moved = keypoints.copy()
    for row, (x, y) in enumerate(np.clip(keypoints[:, :2], 0, (width - 1, height - 1)).tolist()):
        place_y, place_x = divmod(int(np.argmin((map_x - x) ** 2 + (map_y - y) ** 2)), width)
        new_x = place_x + x - float(map_x[place_y, place_x])
        new_y = place_y + y - float(map_y[place_y, place_x])
        moved[row, 0], moved[row, 1] = min(max(new_x, 0), width - 1), min(max(new_y, 0), height - 1)
    return moved


def _nearest_sources(map_x: Array, map_y: Array) -> tuple[Array, Array]:
    """The column and the row of the input's pixel that OpenCV takes as nearest, for each pixel; -1 for none."""
    height, width = map_x.shape
    columns = np.tile(np.arange(width, dtype=np.float32), (height, 1))
    rows = np.repeat(np.arange(height, dtype=np.float32), width).reshape(height, width)
    source_x, source_y = (
        cv2.remap(ramp, map_x, map_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=-1)
        for ramp in (columns, rows)
    )
    return source_x, source_y
