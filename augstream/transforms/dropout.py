"""Dropout of regions: rectangles of the image are hidden."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..seeding import generator
from .arguments import Fill, fill_value, integer_range, number_range, one_of, refuse
from .base import Array, Params
from .canvas import Canvas
from .geometric import GeometricTransform
from .holes import (
    NAMED_FILLS,
    Hole,
    NamedFill,
    filled,
    filled_at_random,
    inpainted,
    visible_bboxes,
    visible_keypoints,
)

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import Call, View

Range = tuple[float, float]

_LEGACY = {"fill_value": "fill", "mask_fill_value": "fill_mask", "value": "fill"}


class _HoleTransform(GeometricTransform):
    """A transform that fills the `holes` of its parameters; masks only if `fill_mask` is given."""

    def __init__(self, fill: Fill | NamedFill | None, fill_mask: Fill | None, p: float) -> None:
        super().__init__(p)
        self.fill: Fill | NamedFill
        if isinstance(fill, str):
            self.fill = one_of(self, "fill", fill, NAMED_FILLS)
        else:
            self.fill = fill_value(self, "fill", fill)
        self.fill_mask = None if fill_mask is None else fill_value(self, "fill_mask", fill_mask)

    def draw_holes(self, rng: Draws, height: int, width: int) -> list[Hole]:
        """Draw the holes in an image of that size."""
        raise NotImplementedError

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the holes, and the key of what fills them if that is random."""
        height, width = view.shape[:2]
        params: Params = {"holes": self.draw_holes(rng, height, width)}
        if self.fill in {"random", "random_uniform"}:
            params["key"] = rng.subkey().hex()
        return params

    def perform(self, canvas: Canvas, params: Params) -> None:
        """Fill the holes."""
        holes = params["holes"]
        fill = self.fill_mask if canvas.is_mask else self.fill
        if fill is None or not len(holes):
            return
        if isinstance(fill, (tuple, float, int)):
            canvas.set(filled(canvas.readable(), holes, fill))
        elif fill.startswith("inpaint"):
            canvas.set(inpainted(canvas.pixels(), holes, fill))
        else:
            rng = generator(bytes.fromhex(params["key"]))
            canvas.set(filled_at_random(canvas.readable(), holes, rng, uniform=fill == "random_uniform"))

    def apply_params(self, call: Call, params: Params) -> None:
        """Tell what hides boxes and keypoints how much of them must be seen."""
        limits: Params = {}
        for processor in call.processors.values():
            rules = getattr(processor, "params", None)
            for name in ("min_area", "min_visibility", "remove_invisible"):
                if hasattr(rules, name):
                    limits[name] = getattr(rules, name)
        call.apply(self, {**params, **limits})

    def apply_to_bboxes(
        self, bboxes: Array, *, min_area: float = 0.0, min_visibility: float = 0.0, **params: Any
    ) -> Array:
        """The boxes, cut to what is visible of them."""
        return visible_bboxes(bboxes, params["holes"], params["shape"], min_area, min_visibility)

    def apply_to_keypoints(self, keypoints: Array, *, remove_invisible: bool = True, **params: Any) -> Array:
        """The keypoints that are visible, or all if invisible ones are kept."""
        return visible_keypoints(keypoints, params["holes"]) if remove_invisible else keypoints


class CoarseDropout(_HoleTransform):
    """Hide a number of rectangles, anywhere.

    `hole_height_range` and `hole_width_range` are shares of the image's sides if their upper end is below 1, else
    pixels. `fill` is a number, one for each channel, "random" (every pixel), "random_uniform" (one colour a hole),
    "inpaint_telea" or "inpaint_ns" (from the surroundings, gray and RGB images). Boxes are cut to what is
    visible of them, keypoints in holes are dropped.

    The older arguments `max_holes`, `max_height`, `max_width` (8 each) and `min_holes`, `min_height`, `min_width` (as
    much, unless given) are taken too.

    Source: DeVries and Taylor, "Improved regularization of convolutional neural networks with Cutout", 2017.
    """

    _legacy: ClassVar[Mapping[str, str]] = _LEGACY

    def __init__(
        self,
        num_holes_range: tuple[int, int] = (1, 2),
        hole_height_range: Range = (0.1, 0.2),
        hole_width_range: Range = (0.1, 0.2),
        fill: Fill | NamedFill | None = 0,
        fill_mask: Fill | None = None,
        p: float = 0.5,
        *,
        max_holes: int | None = None,
        max_height: float | None = None,
        max_width: float | None = None,
        min_holes: int | None = None,
        min_height: float | None = None,
        min_width: float | None = None,
    ) -> None:
        super().__init__(fill, fill_mask, p)
        if any(
            value is not None
            for value in (max_holes, max_height, max_width, min_holes, min_height, min_width)
        ):
            num_holes_range = _older(max_holes, min_holes)
            hole_height_range = _older(max_height, min_height)
            hole_width_range = _older(max_width, min_width)
        self.num_holes_range = integer_range(self, "num_holes_range", num_holes_range, 1)
        self.hole_height_range = number_range(self, "hole_height_range", hole_height_range, 0, scalar="fixed")
        self.hole_width_range = number_range(self, "hole_width_range", hole_width_range, 0, scalar="fixed")

    def draw_holes(self, rng: Draws, height: int, width: int) -> list[Hole]:
        """Draw their number, then size and place of each."""
        holes: list[Hole] = []
        for _ in range(rng.randint(*self.num_holes_range)):
            hole_height = _side(rng, self.hole_height_range, height)
            hole_width = _side(rng, self.hole_width_range, width)
            y, x = rng.randint(0, height - hole_height), rng.randint(0, width - hole_width)
            holes.append((x, y, x + hole_width, y + hole_height))
        return holes


class Erasing(_HoleTransform):
    """Hide one rectangle of a random area and aspect ratio, anywhere.

    The area is uniform in `scale` times the image's, width over height in `ratio`, both as far as they fit. `fill`,
    boxes and keypoints are as in `CoarseDropout`.

    Source: Zhong et al., "Random erasing data augmentation", AAAI 2020.
    """

    _legacy: ClassVar[Mapping[str, str]] = {**_LEGACY, "scale_range": "scale", "ratio_range": "ratio"}

    def __init__(
        self,
        scale: Range = (0.02, 0.33),
        ratio: Range = (0.3, 3.3),
        fill: Fill | NamedFill | None = 0,
        fill_mask: Fill | None = None,
        p: float = 0.5,
    ) -> None:
        super().__init__(fill, fill_mask, p)
        self.scale = number_range(self, "scale", scale, 0, scalar="refused")
        self.ratio = number_range(self, "ratio", ratio, 0, scalar="refused")
        if not self.ratio[0] > 0:
            refuse(self, "ratio", ratio, "a pair of numbers above 0")

    def draw_holes(self, rng: Draws, height: int, width: int) -> list[Hole]:
        """Draw area, ratio and place; none if no allowed rectangle fits."""
        low, high = self.ratio
        smallest, largest = (share * height * width for share in self.scale)
        largest = min(largest, low * height * height, width * width / high)
        if largest < smallest:
            return []
        area = rng.uniform(smallest, largest)
        if area <= 0:
            return []
        low, high = max(low, area / (height * height)), min(high, width * width / area)
        if low > high:
            return []
        ratio = rng.uniform(low, high)
        hole_height, hole_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        y, x = rng.randint(0, height - hole_height), rng.randint(0, width - hole_width)
        return [(x, y, x + hole_width, y + hole_height)]


class RandomErasing(Erasing):
    """`Erasing` under torchvision's name; `value` is taken for `fill`."""


def _side(rng: Draws, limits: Range, size: int) -> int:
    """A side of a hole: a share of `size`, or pixels, `size` at most."""
    if limits[1] < 1:
        return int(size * rng.uniform(*limits))
    return rng.randint(min(int(limits[0]), size), min(int(limits[1]), size))


def _older(largest: Any, smallest: Any) -> tuple[Any, Any]:
    largest = 8 if largest is None else largest
    return (largest if smallest is None else smallest, largest)
