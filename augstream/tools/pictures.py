"""Pictures of samples: any image, mask, box or keypoint of a sample as uint8 RGB to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]  # (H, W, 3) RGB

_COLOURS = ((255, 80, 80), (80, 200, 120), (90, 140, 255), (255, 200, 60), (220, 110, 240), (80, 220, 220))
_CHANNELS = {1, 3, 4}
_DARK = 24
_MARGIN = 2
_LINE_PIXELS = 16


def looks_like_a_picture(image: Any) -> bool:
    """Whether `image` is an array or tensor of numbers with two or three axes, none of them empty."""
    dtype, shape = getattr(image, "dtype", None), tuple(getattr(image, "shape", ()))
    return (
        dtype is not None
        and len(shape) in {2, 3}
        and min(shape) > 0
        and np.asarray(image).dtype.kind in "buif"
    )


def picture_of(image: Any) -> Picture:
    """An image of whatever layout and dtype as uint8 RGB; a dark square for what is no image.

    (C, H, W) with 1, 3 or 4 channels is taken for planar where the last axis is none of these. Of more than three
    channels the first three are shown, of two the first. Floats outside of [0, 1], as after normalisation, are
    stretched from their minimum to their maximum: the picture shows structure, not colours. NaN is as dark as the
    darkest.
    """
    if not looks_like_a_picture(image):
        return np.full((1, 1, 3), _DARK, np.uint8)
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] in _CHANNELS and array.shape[2] not in _CHANNELS:
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.dtype != np.uint8:
        array = _stretched(array.astype(np.float64))
    array = array[:, :, :3] if array.shape[2] > 2 else array[:, :, :1]
    return np.broadcast_to(array, (*array.shape[:2], 3)).copy()


def size_of(sample: Mapping[str, Any]) -> str:
    """The size of a sample's image in words, 200 x 160 say."""
    image = sample.get("image")
    if not looks_like_a_picture(image):
        return "no image"
    height, width = picture_of(image).shape[:2]
    return f"{width} x {height}"


def _stretched(array: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    finite = array[np.isfinite(array)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    array = np.nan_to_num(array, nan=low, posinf=high, neginf=low)
    if low < 0 or high > 1:
        array = (array - low) / max(high - low, 1e-12)
    return np.rint(array * 255).astype(np.uint8)


def annotated(
    sample: Mapping[str, Any],
    bbox_format: str | None = None,
    keypoint_format: str | None = None,
    *,
    least: int = 0,
) -> Picture:
    """The sample's image with its mask, boxes and keypoints drawn on it, boxes and keypoints in the format given.

    least: a smaller image is enlarged a whole number of times, to as many pixels at least, before it is drawn on.
    """
    picture = picture_of(sample.get("image"))
    if not looks_like_a_picture(sample.get("image")):
        return picture
    mask = sample.get("mask")
    if mask is not None and np.asarray(mask).shape[:2] == picture.shape[:2]:
        picture = _with_mask(picture, np.asarray(mask))
    height, width = picture.shape[:2]
    times = max(1, -(-least // max(height, width)))
    picture = np.ascontiguousarray(picture.repeat(times, axis=0).repeat(times, axis=1))
    if bbox_format is not None:
        for number, box in enumerate(sample.get("bboxes", ())):
            corners = [times * value for value in _corners(box, bbox_format, height, width)]
            _draw_box(picture, corners, _COLOURS[number % len(_COLOURS)])
    if keypoint_format is not None:
        for number, point in enumerate(sample.get("keypoints", ())):
            x, y = (point[1], point[0]) if keypoint_format == "yx" else (point[0], point[1])
            centre = (round(times * float(x)), round(times * float(y)))
            cv2.circle(picture, centre, 3, _COLOURS[number % len(_COLOURS)], -1)
    return picture


def _with_mask(picture: Picture, mask: npt.NDArray[Any]) -> Picture:
    labels = mask if mask.ndim == 2 else mask[:, :, 0]
    palette = np.array([(0, 0, 0), *_COLOURS])
    numbers = np.where(labels == 0, 0, labels.astype(np.int64) % len(_COLOURS) + 1)
    tint = palette[numbers]
    blended = np.where(numbers[:, :, None] == 0, picture, (2 * picture.astype(np.int64) + tint) // 3)
    return np.ascontiguousarray(blended.astype(np.uint8))


def _corners(
    box: Sequence[float], bbox_format: str, height: int, width: int
) -> tuple[float, float, float, float]:
    """The box as (x0, y0, x1, y1) in pixels."""
    a, b, c, d = (float(value) for value in box[:4])
    if bbox_format in {"yolo", "albumentations"}:
        a, b, c, d = a * width, b * height, c * width, d * height
    if bbox_format == "coco":
        c, d = a + c, b + d
    elif bbox_format == "yolo":
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return a, b, c, d


def _draw_box(picture: Picture, corners: Sequence[float], colour: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = map(round, corners)
    cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), colour, 2)


def thumbnail(picture: Picture, size: int) -> Picture:
    """The picture scaled to fit, and centred, in a dark square of `size` pixels."""
    height, width = picture.shape[:2]
    scale = size / max(height, width)
    new = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(picture, new, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    square = np.full((size, size, 3), _DARK, np.uint8)
    y0, x0 = (size - new[1]) // 2, (size - new[0]) // 2
    square[y0 : y0 + new[1], x0 : x0 + new[0]] = small
    return square


def labelled(picture: Picture, *lines: str) -> Picture:
    """The picture with lines of small text below it."""
    strip = np.full((_LINE_PIXELS * len(lines) + 2, picture.shape[1], 3), _DARK, np.uint8)
    for number, text in enumerate(lines):
        place = (3, _LINE_PIXELS * number + 13)
        shade = (230, 230, 230) if number == 0 else (160, 164, 172)
        cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, shade, 1, cv2.LINE_AA)
    return np.vstack([picture, strip])


def sheet(rows: Sequence[Sequence[Picture]]) -> Picture:
    """A contact sheet: the pictures, all of one size, in rows."""
    pad = ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0))
    width = max((len(row) for row in rows), default=0)
    lines = []
    for row in rows:
        blank = [np.zeros_like(row[0])] * (width - len(row))
        lines.append(np.hstack([np.pad(picture, pad) for picture in [*row, *blank]]))
    return np.vstack(lines).astype(np.uint8)


def encoded(picture: Picture, extension: str = ".png", quality: int = 80) -> bytes:
    """The picture as a PNG or JPEG file."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if extension == ".jpg" else []
    return bytes(cv2.imencode(extension, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes())
