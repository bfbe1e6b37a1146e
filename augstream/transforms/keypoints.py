"""Keypoints: the formats people write them in, and which of them survive a transform.

Inside a pipeline keypoints are (x, y, z, angle, scale): pixels, and radians from 0 to below 2 pi; what the
format lacks is 0. Names, defaults and rules follow albumentations 2.0.8, with these corrections: float64
throughout, and label fields come back with their own types.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import InitVar, dataclass

import numpy as np

from ..errors import RecipeError
from .annotations import AnnotationProcessor, Array, KnownArguments, checked_fields, checked_format

_X, _Y, _Z, _ANGLE, _SCALE = range(5)
_COLUMNS = {
    "xy": (_X, _Y),
    "yx": (_Y, _X),
    "xya": (_X, _Y, _ANGLE),
    "xys": (_X, _Y, _SCALE),
    "xyas": (_X, _Y, _ANGLE, _SCALE),
    "xysa": (_X, _Y, _SCALE, _ANGLE),
    "xyz": (_X, _Y, _Z),
}
_FEW = 16  # up to so many keypoints, asking one after the other is quicker than array operations
_TURN = 2 * math.pi


@dataclass(frozen=True, slots=True)
class KeypointParams(metaclass=KnownArguments):
    """How keypoints are written, which fields label them, and whether those outside of the image are dropped.

    `format` (or `coord_format`) spells the columns: "xy", "yx", "xya", "xys", "xyas", "xysa" or "xyz", with
    x, y, z in pixels, a an angle (in degrees, or in radians with `angle_in_degrees=False`), s a scale.
    `label_fields` names the fields that hold one label for each keypoint. With `remove_invisible` keypoints
    that leave the image are dropped after each transform (after the last one with
    `check_each_transform=False`), and a given one outside is an error.

    >>> KeypointParams("xya").remove_invisible
    True
    """

    format: str | None = None
    label_fields: Sequence[str] | None = None
    remove_invisible: bool = True
    angle_in_degrees: bool = True
    check_each_transform: bool = True
    coord_format: InitVar[str | None] = None

    def __post_init__(self, coord_format: str | None) -> None:
        """Check."""
        name = type(self).__name__
        object.__setattr__(self, "format", checked_format(name, self.format, coord_format, tuple(_COLUMNS)))
        object.__setattr__(self, "label_fields", checked_fields(name, self.label_fields))


class KeypointProcessor(AnnotationProcessor):
    """Prepares, filters and finishes the keypoints of one target name; keeps nothing of a call."""

    kind = "keypoints"
    num_inner = 5

    def __init__(self, params: KeypointParams, name: str = "keypoints") -> None:
        super().__init__(name, tuple(params.label_fields or ()))
        self.params = params
        self.check_each_transform = params.check_each_transform
        self._columns = list(_COLUMNS[params.format or ""])
        self._has_angle = _ANGLE in self._columns
        is_prefix = self._columns == list(range(len(self._columns)))
        self._inner = slice(len(self._columns)) if is_prefix else self._columns  # a slice is quicker
        self.num_outer = len(self._columns)

    def inward(self, array: Array, inner: Array, shape: tuple[int, ...]) -> Array:
        """Write the keypoints of `array` into `inner` as x, y, z, angle, scale; check them."""
        num_outer, num_columns = self.num_outer, array.shape[1]
        inner[:, :5] = 0.0
        inner[:, self._inner] = array[:, :num_outer]
        inner[:, 5 : 5 + num_columns - num_outer] = array[:, num_outer:]
        if self._has_angle:
            angles = inner[:, _ANGLE]
            inner[:, _ANGLE] = _wrapped(np.radians(angles) if self.params.angle_in_degrees else angles)
        if self.params.remove_invisible:
            self._check(array, inner, shape)
        return inner

    def outward(self, inner: Array, num_columns: int, shape: tuple[int, ...]) -> Array:
        """The keypoints of `inner` in the user's format, with the user's further columns."""
        num_outer = self.num_outer
        if num_columns == num_outer:
            array = inner[:, self._inner].copy()
        else:
            array = inner[:, [*self._columns, *range(5, 5 + num_columns - num_outer)]]
        if self._has_angle:
            column = self._columns.index(_ANGLE)
            angles = _wrapped(array[:, column])
            array[:, column] = np.degrees(angles) if self.params.angle_in_degrees else angles
        return array

    def filter(self, array: Array, shape: tuple[int, ...]) -> Array:
        """The keypoints that are still inside an image of `shape`, or all of them; never changes `array`."""
        if not self.params.remove_invisible or _all_visible(array, shape):
            return array
        return array[_visible(array, shape)]

    def _check(self, array: Array, inner: Array, shape: tuple[int, ...]) -> None:
        """Raise for the first row of `inner` that lies outside of the image; quote it from `array`."""
        if _all_visible(inner, shape):
            return
        row = int(np.flatnonzero(~_visible(inner, shape))[0])
        numbers = ", ".join(f"{number:g}" for number in array[row, : self.num_outer].tolist())
        msg = (
            f"{self.name}: ({numbers}) in format {self.params.format!r} lies outside of the "
            f"{shape[0]} x {shape[1]} image (0 <= x < width, 0 <= y < height); "
            "KeypointParams(remove_invisible=False) keeps such keypoints"
        )
        raise RecipeError(msg)


def _all_visible(inner: Array, shape: tuple[int, ...]) -> bool:
    if len(inner) > _FEW:
        return bool(_visible(inner, shape).all())
    height, width = shape[:2]
    return all(0 <= x < width and 0 <= y < height for x, y in inner[:, :2].tolist())


def _visible(inner: Array, shape: tuple[int, ...]) -> Array:
    points = inner[:, :2]
    inside = (points >= 0) & (points < shape[1::-1])
    return inside[:, 0] & inside[:, 1]


def _wrapped(angles: Array) -> Array:
    """The angles from 0 to below 2 pi; numpy's remainder of a tiny negative one is 2 pi itself."""
    wrapped = np.mod(angles, _TURN)
    wrapped[wrapped >= _TURN] = 0.0
    return wrapped
