"""Bounding boxes: the formats people write them in, and which of them survive a transform.

Inside a pipeline boxes are (x_min, y_min, x_max, y_max) as shares of the image's width and height. Names,
defaults and rules follow albumentations 2.0.8, with these corrections:

* boxes are computed in float64, and label fields come back with their own types (there: float32, and floats);
* a box that a transform moved out of the image is dropped (there: an error if `check_each_transform=False`);
* a box exactly at `min_visibility` stays, so that `min_visibility=1` keeps what is whole (there: drops
  everything);
* `filter_invalid_bboxes` drops boxes wholly outside of the image too (there: an error).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from functools import lru_cache

import numpy as np

from ..errors import RecipeError
from .annotations import AnnotationProcessor, Array, KnownArguments, checked_fields, checked_format

_FORMATS = ("coco", "pascal_voc", "yolo", "albumentations")
_FEW = 16  # up to so many boxes, asking one after the other is quicker than array operations
_EPSILON = 1e-7  # pixels; the slack of 2.0.8's thresholds
_LOWEST = -1e-8  # what 2.0.8 accepts as 0 and 1: numpy.isclose's defaults
_HIGHEST = 1 + 1e-5 + 1e-8


@dataclass(frozen=True, slots=True)
class BboxParams(metaclass=KnownArguments):
    """How boxes are written, which fields label them, and which boxes to drop.

    `format` (or `coord_format`) is "coco" (x_min, y_min, width, height in pixels), "pascal_voc" (x_min,
    y_min, x_max, y_max in pixels), "yolo" (x_center, y_center, width, height as shares of the image) or
    "albumentations" (pascal_voc as shares). `label_fields` names the fields that hold one label for each box.
    Boxes are cut at the image's border after each transform, and dropped if what is left has less than
    `min_area` square pixels, is narrower than `min_width` or lower than `min_height` pixels, is less than the
    share `min_visibility` of what it was before the cut, or is longer than `max_accept_ratio` times its other
    side. With `check_each_transform=False` this happens at the end only. `clip` cuts the given boxes at the
    image's border; `filter_invalid_bboxes` cuts them and drops those that are none. Without these, a given
    box that is no box inside the image is an error.

    >>> BboxParams("coco", label_fields=["labels"], min_area=16).label_fields
    ('labels',)
    """

    format: str | None = None
    label_fields: Sequence[str] | None = None
    min_area: float = 0.0
    min_visibility: float = 0.0
    min_width: float = 0.0
    min_height: float = 0.0
    check_each_transform: bool = True
    clip: bool = False
    filter_invalid_bboxes: bool = False
    max_accept_ratio: float | None = None
    coord_format: InitVar[str | None] = None

    def __post_init__(self, coord_format: str | None) -> None:
        """Check."""
        name = type(self).__name__
        object.__setattr__(self, "format", checked_format(name, self.format, coord_format, _FORMATS))
        object.__setattr__(self, "label_fields", checked_fields(name, self.label_fields))
        for argument in ("min_area", "min_width", "min_height"):
            if not getattr(self, argument) >= 0:
                msg = f"{name}: {argument} must be 0 or more pixels, got {getattr(self, argument)!r}"
                raise RecipeError(msg)
        if not 0 <= self.min_visibility <= 1:
            msg = f"{name}: min_visibility is a share from 0 to 1, got {self.min_visibility!r}"
            raise RecipeError(msg)
        if self.max_accept_ratio is not None and not self.max_accept_ratio >= 1:
            msg = (
                f"{name}: max_accept_ratio is the longer side over the shorter, 1 or more, "
                f"got {self.max_accept_ratio!r}"
            )
            raise RecipeError(msg)


class BboxProcessor(AnnotationProcessor):
    """Prepares, filters and finishes the boxes of one target name; keeps nothing of a call."""

    kind = "bboxes"
    num_inner = 4
    num_outer = 4

    def __init__(self, params: BboxParams, name: str = "bboxes") -> None:
        super().__init__(name, tuple(params.label_fields or ()))
        self.params = params
        self.check_each_transform = params.check_each_transform
        self._in_pixels = params.format in {"coco", "pascal_voc"}
        self._min_area = max(params.min_area - _EPSILON, _EPSILON)
        self._min_width = max(params.min_width - _EPSILON, 0.0)
        self._min_height = max(params.min_height - _EPSILON, 0.0)

    def inward(self, array: Array, inner: Array, shape: tuple[int, ...]) -> Array:
        """Write the boxes of `array` into `inner` as corners in shares of the image; check them."""
        params = self.params
        num_columns = array.shape[1]
        inner[:, :num_columns] = array
        corners = inner[:, :4]
        if params.format in {"coco", "yolo"}:
            low, high = corners[:, :2], corners[:, 2:]
            if params.format == "yolo":
                low -= high * 0.5
            high += low
        if self._in_pixels:
            corners /= _scale(*shape[:2])
        if params.clip:
            np.clip(corners, 0.0, 1.0, out=corners)
        if params.filter_invalid_bboxes:
            cut, widths, heights = _cut(inner, shape)
            return cut[(widths > 0.0) & (heights > 0.0) & (widths * heights >= _EPSILON)]
        self._check(array, corners, shape)
        return inner

    def outward(self, inner: Array, num_columns: int, shape: tuple[int, ...]) -> Array:
        """The boxes of `inner` in the user's format, with the user's further columns."""
        format_ = self.params.format
        corners = inner[:, :4] * _scale(*shape[:2]) if self._in_pixels else inner[:, :4].copy()
        if format_ in {"coco", "yolo"}:
            low, high = corners[:, :2], corners[:, 2:]
            high -= low
            if format_ == "yolo":
                low += high * 0.5
        return corners if num_columns == 4 else np.concatenate([corners, inner[:, 4:num_columns]], axis=1)

    def filter(self, array: Array, shape: tuple[int, ...]) -> Array:
        """The boxes still to be kept on an image of `shape`, cut at its border; never changes `array`."""
        if len(array) <= _FEW and self._all_fit(array, shape):
            return array
        return self._kept(array, shape)

    def _all_fit(self, array: Array, shape: tuple[int, ...]) -> bool:
        """Whether `_kept` would return `array` as it is; quick to say for a few boxes, which mostly fit."""
        min_area, min_width, min_height = self._min_area, self._min_width, self._min_height
        max_ratio = self.params.max_accept_ratio
        for x_min, y_min, x_max, y_max in array[:, :4].tolist():
            width = (x_max - x_min) * shape[1]
            height = (y_max - y_min) * shape[0]
            inside = min(x_min, y_min) >= 0.0 and max(x_max, y_max) <= 1.0
            large = width >= min_width and height >= min_height and width * height >= min_area
            if not (inside and large):
                return False
            if max_ratio is not None and max(width, height) > max_ratio * (min(width, height) + _EPSILON):
                return False
        return True

    def _kept(self, array: Array, shape: tuple[int, ...]) -> Array:
        """The boxes that pass the thresholds, cut at the image's border; a new array."""
        cut, widths, heights = _cut(array, shape)
        areas = widths * heights
        keep = (areas >= self._min_area) & (widths >= self._min_width)
        if self._min_height:
            keep &= heights >= self._min_height
        if self.params.min_visibility:
            whole = (array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1]) * (shape[0] * shape[1])
            keep &= areas + _EPSILON >= self.params.min_visibility * whole
        max_ratio = self.params.max_accept_ratio
        if max_ratio is not None:
            longer, shorter = np.maximum(widths, heights), np.minimum(widths, heights)
            keep &= longer <= max_ratio * (shorter + _EPSILON)
        return cut if keep.all() else cut[keep]

    def _check(self, array: Array, corners: Array, shape: tuple[int, ...]) -> None:
        """Raise for the first row of `corners` that is no box inside the image; quote it from `array`."""
        if len(corners) > _FEW:
            low, high = corners[:, :2], corners[:, 2:]
            if ((low >= _LOWEST) & (low < high) & (high <= _HIGHEST)).all():
                return
        for row, (x_min, y_min, x_max, y_max) in enumerate(corners.tolist()):
            if not (_LOWEST <= x_min < x_max <= _HIGHEST and _LOWEST <= y_min < y_max <= _HIGHEST):
                numbers = ", ".join(f"{number:g}" for number in array[row, :4].tolist())
                msg = (
                    f"{self.name}: ({numbers}) is no {self.params.format} box inside a "
                    f"{shape[0]} x {shape[1]} image (0 <= x_min < x_max <= width, and so for y); "
                    "BboxParams(clip=True) cuts boxes at the border, filter_invalid_bboxes=True drops the bad"
                )
                raise RecipeError(msg)


def _cut(array: Array, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """The boxes cut at the image's border, a new array, and their widths and heights in pixels."""
    cut = array.copy()
    corners = cut[:, :4]
    np.maximum(corners, 0.0, out=corners)
    np.minimum(corners, 1.0, out=corners)
    sizes = corners[:, 2:] - corners[:, :2]
    sizes *= shape[1::-1]
    return cut, sizes[:, 0], sizes[:, 1]


@lru_cache(maxsize=256)
def _scale(height: int, width: int) -> Array:
    """What turns shares into pixels; kept, since to make an array takes as long as to multiply by it."""
    scale = np.array([width, height, width, height], np.float64)
    scale.setflags(write=False)
    return scale
