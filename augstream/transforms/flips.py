"""Flips and right-angle turns: the eight symmetries of the square, kept as views until pixels are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Array, Params
from .canvas import Canvas
from .geometric import GeometricTransform
from .geometry import Symmetry, orient_bboxes, orient_keypoints

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import View

_QUARTER_TURNS: tuple[Symmetry, ...] = (
    (False, False, False), (True, True, False), (False, True, True), (True, False, True),
)  # fmt: skip
_ELEMENTS: dict[str, Symmetry] = {
    "e": (False, False, False),
    "r90": (True, True, False),
    "r180": (False, True, True),
    "r270": (True, False, True),
    "v": (False, True, False),
    "hvt": (True, True, True),
    "h": (False, False, True),
    "t": (True, False, False),
}
_NAMES = tuple(_ELEMENTS)


class _SquareTransform(GeometricTransform):
    """A transform that turns the image by one of the eight symmetries of the square."""

    plan_kind = "view"

    def draw(self, rng: Draws, view: View) -> Params:
        """Nothing to draw."""
        return {}

    def symmetry(self, params: Params) -> Symmetry:
        """The symmetry that `params` mean."""
        raise NotImplementedError

    def perform(self, canvas: Canvas, params: Params) -> None:
        """Turn the canvas."""
        transposed, flip_y, flip_x = self.symmetry(params)
        if transposed:
            canvas.transpose()
        if flip_y:
            canvas.vflip()
        if flip_x:
            canvas.hflip()

    def fuse(self, canvas: Canvas, params: Params) -> None:
        """Turn the canvas."""
        self.perform(canvas, params)

    def apply_to_mask(self, mask: Array, **params: Any) -> Array:
        """The turned mask: as the image, also by the `apply` of a subclass."""
        return self.apply(mask, **params)

    def apply_to_bboxes(self, bboxes: Array, **params: Any) -> Array:
        """The turned boxes."""
        return orient_bboxes(bboxes, self.symmetry(params))

    def apply_to_keypoints(self, keypoints: Array, **params: Any) -> Array:
        """The turned keypoints."""
        return orient_keypoints(keypoints, self.symmetry(params), params["shape"])


class HorizontalFlip(_SquareTransform):
    """Reverse the columns: left becomes right.

    >>> import numpy as np
    >>> HorizontalFlip(p=1)(image=np.arange(6, dtype=np.uint8).reshape(2, 3))["image"].tolist()
    [[2, 1, 0], [5, 4, 3]]
    """

    def perform(self, canvas: Canvas, params: Params) -> None:
        """Turn the canvas."""
        canvas.hflip()

    def symmetry(self, params: Params) -> Symmetry:
        """Reversed columns."""
        return False, False, True


class VerticalFlip(_SquareTransform):
    """Reverse the rows: top becomes bottom."""

    def perform(self, canvas: Canvas, params: Params) -> None:
        """Turn the canvas."""
        canvas.vflip()

    def symmetry(self, params: Params) -> Symmetry:
        """Reversed rows."""
        return False, True, False


class Transpose(_SquareTransform):
    """Swap rows and columns.

    A keypoint's angle a becomes pi/2 - a (2.0.8 adds half a turn where a > pi: twice is then no identity).
    """

    def perform(self, canvas: Canvas, params: Params) -> None:
        """Turn the canvas."""
        canvas.transpose()

    def symmetry(self, params: Params) -> Symmetry:
        """Swapped axes."""
        return True, False, False


class RandomRotate90(_SquareTransform):
    """Turn by 0, 1, 2 or 3 right angles counter-clockwise, as `numpy.rot90` does, all equally likely."""

    def __init__(self, p: float = 1.0) -> None:
        super().__init__(p)

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the number of right angles."""
        return {"factor": rng.getrandbits(2)}

    def symmetry(self, params: Params) -> Symmetry:
        """So many quarter turns."""
        return _QUARTER_TURNS[params["factor"] % 4]


class D4(_SquareTransform):
    """Turn by one of the eight symmetries of the square, all equally likely.

    The drawn `group_element` is "e" (nothing), "r90", "r180", "r270" (counter-clockwise turns), "v" (reversed
    rows), "h" (reversed columns), "t" (swapped axes) or "hvt" (swapped axes, both reversed).
    """

    def __init__(self, p: float = 1.0) -> None:
        super().__init__(p)

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the symmetry."""
        return {"group_element": _NAMES[rng.getrandbits(3)]}

    def symmetry(self, params: Params) -> Symmetry:
        """The element of that name."""
        return _ELEMENTS[params["group_element"]]
