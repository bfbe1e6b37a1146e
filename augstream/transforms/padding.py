"""Padding: borders added to an image, by a fixed width or up to a size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import cv2

from .arguments import BORDER_MODES, Fill, fill_value, integer, one_of, refuse
from .base import Array, Params
from .canvas import Canvas
from .geometric import GeometricTransform
from .geometry import pad_bboxes, pad_keypoints
from .raster import Borders, pad

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import View

Position = Literal["center", "top_left", "top_right", "bottom_left", "bottom_right", "random"]
POSITIONS: tuple[Position, ...] = ("center", "top_left", "top_right", "bottom_left", "bottom_right", "random")


def missing_pixels(size: int, min_size: int | None, divisor: int | None) -> int:
    """How many pixels `size` lacks to be `min_size`, or else a multiple of `divisor`."""
    if min_size is not None:
        return max(0, min_size - size)
    return -size % divisor if divisor is not None else 0


def borders_for(rows: int, columns: int, position: Position, rng: Draws) -> Borders:
    """Borders that add `rows` and `columns` in all, so that the image lies at `position`."""
    top, left = rows // 2, columns // 2
    if position == "random":
        top, left = rng.randint(0, rows), rng.randint(0, columns)
    elif position != "center":
        top = rows if position.startswith("bottom") else 0
        left = columns if position.endswith("right") else 0
    return top, rows - top, left, columns - left


class _BorderTransform(GeometricTransform):
    """A transform that adds the borders that its parameters say."""

    def __init__(self, border_mode: int, fill: Fill | None, fill_mask: Fill | None, p: float) -> None:
        super().__init__(p)
        self.border_mode = one_of(self, "border_mode", border_mode, BORDER_MODES)
        self.fill = fill_value(self, "fill", fill)
        self.fill_mask = fill_value(self, "fill_mask", fill_mask)

    def perform(self, canvas: Canvas, params: Params) -> None:
        """Add the borders."""
        borders = borders_of(params)
        if any(borders):
            fill = self.fill_mask if canvas.is_mask else self.fill
            canvas.set(pad(canvas.readable(), borders, self.border_mode, fill))

    def apply_to_bboxes(self, bboxes: Array, **params: Any) -> Array:
        """The boxes on the larger image; mirrored borders show them again."""
        return pad_bboxes(bboxes, borders_of(params), self.border_mode, params["shape"])

    def apply_to_keypoints(self, keypoints: Array, **params: Any) -> Array:
        """The keypoints on the larger image; mirrored borders show them again."""
        return pad_keypoints(keypoints, borders_of(params), self.border_mode, params["shape"])


def border_params(borders: Borders) -> Params:
    """Borders as the parameters of a call."""
    top, bottom, left, right = borders
    return {"pad_top": top, "pad_bottom": bottom, "pad_left": left, "pad_right": right}


def borders_of(params: Params) -> Borders:
    """The borders that the parameters of a call say."""
    return params["pad_top"], params["pad_bottom"], params["pad_left"], params["pad_right"]


class Pad(_BorderTransform):
    """Add borders of `padding` pixels: a number, (x, y), or (left, top, right, bottom)."""

    _legacy: ClassVar[Mapping[str, str]] = {"value": "fill", "mask_value": "fill_mask"}

    def __init__(
        self,
        padding: int | tuple[int, int] | tuple[int, int, int, int] = 0,
        fill: Fill | None = 0,
        fill_mask: Fill | None = 0,
        border_mode: int = cv2.BORDER_CONSTANT,
        p: float = 1.0,
    ) -> None:
        super().__init__(border_mode, fill, fill_mask, p)
        sides = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,) * 4
        sides = tuple(integer(self, "padding", side, 0) for side in sides)
        if len(sides) == 2:
            sides *= 2
        if len(sides) != 4:
            refuse(
                self, "padding", padding, "a number, or 2 or 4 of them: (x, y), (left, top, right, bottom)"
            )
        left, top, right, bottom = sides
        self.padding = padding
        self._borders: Borders = (top, bottom, left, right)

    def draw(self, rng: Draws, view: View) -> Params:
        """Nothing to draw: the borders."""
        return border_params(self._borders)


class PadIfNeeded(_BorderTransform):
    """Add borders so that the image is at least `min_height` x `min_width`, or a multiple of the divisors.

    For each side give either the minimum or the divisor (`min_height=None, pad_height_divisor=32`, say).
    `position` is where the image lies on the padded one; with "random" it is drawn.
    """

    _legacy: ClassVar[Mapping[str, str]] = {"value": "fill", "mask_value": "fill_mask"}

    def __init__(
        self,
        min_height: int | None = 1024,
        min_width: int | None = 1024,
        pad_height_divisor: int | None = None,
        pad_width_divisor: int | None = None,
        position: Position = "center",
        border_mode: int = cv2.BORDER_CONSTANT,
        fill: Fill | None = 0,
        fill_mask: Fill | None = 0,
        p: float = 1.0,
    ) -> None:
        super().__init__(border_mode, fill, fill_mask, p)
        self.min_height = self._optional("min_height", min_height)
        self.min_width = self._optional("min_width", min_width)
        self.pad_height_divisor = self._optional("pad_height_divisor", pad_height_divisor)
        self.pad_width_divisor = self._optional("pad_width_divisor", pad_width_divisor)
        self.position = one_of(self, "position", position, POSITIONS)
        if (min_height is None) == (pad_height_divisor is None):
            refuse(self, "min_height", min_height, "given, or pad_height_divisor instead, and not both")
        if (min_width is None) == (pad_width_divisor is None):
            refuse(self, "min_width", min_width, "given, or pad_width_divisor instead, and not both")

    def _optional(self, name: str, value: int | None) -> int | None:
        return None if value is None else integer(self, name, value, 1)

    def draw(self, rng: Draws, view: View) -> Params:
        """Find the borders, and draw the image's place between them if that is random."""
        height, width = view.shape[:2]
        rows = missing_pixels(height, self.min_height, self.pad_height_divisor)
        columns = missing_pixels(width, self.min_width, self.pad_width_divisor)
        return border_params(borders_for(rows, columns, self.position, rng))
