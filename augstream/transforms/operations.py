"""The operations that learned and random policies are made of, each at a given strength.

They are those of AutoAugment (Cubuk et al., CVPR 2019, arXiv:1805.09501), as transforms of ours with nothing left to
chance. Strengths are in the units of Pillow's operations: enhancement factors around 1, bits, shares of the brightest
value, degrees, shears as tangents, shifts as shares of the side or in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from .affine import Affine
from .arguments import Fill, number_range
from .base import Array, BasicTransform, ImageOnlyTransform, NoOp, Params
from .blur import Range
from .brightness import InvertImg, Posterize, RandomBrightnessContrast, Solarize
from .call import Call
from .colour import ColorJitter
from .histogram import AutoContrast, Equalize
from .node import BaseCompose, child_slot
from .tables import check_dtype

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import View


class Resampling(NamedTuple):
    """How the geometric operations resample, and what they fill with."""

    interpolation: int = cv2.INTER_LINEAR
    mask_interpolation: int = cv2.INTER_NEAREST
    fill: Fill = 0
    fill_mask: Fill = 0


class Sharpness(ImageOnlyTransform):
    """Blend the image with its smoothed self by a random factor: 0 is smooth, 1 the image, above 1 sharper.

    The smoothing is Pillow's SMOOTH, of 3 x 3 pixels, five times the weight in the middle, and leaves the border as it
    is. Any number of channels.
    """

    def __init__(self, factor_range: Range = (0.1, 1.9), p: float = 0.5) -> None:
        super().__init__(p)
        self.factor_range = number_range(self, "factor_range", factor_range, 0, scalar="fixed")

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw `factor`."""
        return {"factor": rng.uniform(*self.factor_range)}

    def apply(self, img: Array, **params: Any) -> Array:
        """The blend."""
        check_dtype(self, img)
        factor = params["factor"]
        kernel = np.full((3, 3), 1 / 13, np.float32)
        kernel[1, 1] = 5 / 13
        smooth = cv2.filter2D(img, -1, kernel).reshape(img.shape)
        for edge in (np.s_[:1], np.s_[-1:], np.s_[:, :1], np.s_[:, -1:]):
            smooth[edge] = img[edge]
        blend = cv2.addWeighted(img, factor, smooth, 1 - factor, 0).reshape(img.shape)
        return blend if img.dtype == np.uint8 else np.clip(blend, 0, 1, out=blend)


def _jitter(**factors: float) -> BasicTransform:
    still: dict[str, Any] = {
        "brightness": (1, 1),
        "contrast": (1, 1),
        "saturation": (1, 1),
        "hue": (0, 0),
        "p": 1,
    }
    return ColorJitter(**{**still, **{name: (factor, factor) for name, factor in factors.items()}})


def _moved(sampling: Resampling, **arguments: Any) -> BasicTransform:
    return Affine(**arguments, **sampling._asdict(), p=1)


def _sheared(sampling: Resampling, x: float, y: float) -> BasicTransform:
    x, y = math.degrees(math.atan(x)), math.degrees(math.atan(y))
    return _moved(sampling, shear={"x": (x, x), "y": (y, y)})


def _shifted(sampling: Resampling, unit: str, x: float, y: float) -> BasicTransform:
    return _moved(sampling, **{unit: {"x": (x, x), "y": (y, y)}})


def _posterized(bits: float) -> BasicTransform:
    return NoOp(p=1) if bits >= 8 else Posterize(int(bits), p=1)


_MAKERS: Mapping[str, Callable[[float, Resampling], BasicTransform]] = {
    "Identity": lambda _, __: NoOp(p=1),
    "AutoContrast": lambda _, __: AutoContrast(method="pil", p=1),
    "Equalize": lambda _, __: Equalize(mode="pil", p=1),
    "Invert": lambda _, __: InvertImg(p=1),
    "Brightness": lambda factor, _: RandomBrightnessContrast((0, 0), (factor - 1, factor - 1), p=1),
    "Contrast": lambda factor, _: _jitter(contrast=factor),
    "Color": lambda factor, _: _jitter(saturation=factor),
    "Sharpness": lambda factor, _: Sharpness((factor, factor), p=1),
    "Posterize": lambda bits, _: _posterized(bits),
    "Solarize": lambda threshold, _: Solarize((threshold, threshold), p=1),
    "Rotate": lambda degrees, sampling: _moved(sampling, rotate=(degrees, degrees)),
    "ShearX": lambda tangent, sampling: _sheared(sampling, tangent, 0),
    "ShearY": lambda tangent, sampling: _sheared(sampling, 0, tangent),
    "TranslateX": lambda share, sampling: _shifted(sampling, "translate_percent", share, 0),
    "TranslateY": lambda share, sampling: _shifted(sampling, "translate_percent", 0, share),
    "TranslateXPixels": lambda pixels, sampling: _shifted(sampling, "translate_px", int(pixels), 0),
    "TranslateYPixels": lambda pixels, sampling: _shifted(sampling, "translate_px", 0, int(pixels)),
}
ENHANCEMENTS = ("Brightness", "Color", "Contrast", "Sharpness")
UNGRADED = ("Identity", "AutoContrast", "Equalize", "Invert")


def operation(name: str, strength: float, sampling: Resampling) -> BasicTransform:
    """The operation `name` at `strength`, as a transform with p=1."""
    return _MAKERS[name](strength, sampling)


_kept_operation = lru_cache(maxsize=4096)(
    operation
)  # transforms are immutable, and policies use few strengths


Choice = tuple[str, float]  # a name, and a strength


class Operations(Sequence[BasicTransform]):
    """Operations to choose from, made when they are first looked at."""

    def __init__(self, choices: Sequence[Choice], sampling: Resampling) -> None:
        self.choices = tuple(choices)
        self.sampling = sampling

    def __len__(self) -> int:
        return len(self.choices)

    def __getitem__(self, position: Any) -> Any:
        return _kept_operation(*self.choices[position], self.sampling)

    def __iter__(self) -> Iterator[BasicTransform]:
        return (_kept_operation(*choice, self.sampling) for choice in self.choices)


class _OneOperation(BaseCompose):
    """With probability `p`, one of several operations, evenly chosen, at one of its strengths, evenly chosen."""

    def __init__(self, graded: Mapping[str, Sequence[float]], sampling: Resampling, p: float = 1.0) -> None:
        super().__init__((), p)
        self._groups: list[range] = []
        choices: list[Choice] = []
        for name, strengths in graded.items():
            self._groups.append(range(len(choices), len(choices) + len(strengths)))
            choices += [(name, float(strength)) for strength in strengths]
        self._transforms = self._operations = Operations(choices, sampling)

    def __repr__(self) -> str:
        return f"one of {sorted({name for name, _ in self._operations.choices})}"

    def run(self, call: Call, slot: bytes, *, force: bool = False) -> None:
        """Choose an operation and run it, if this node's gate at `slot` lets it."""
        if not self.is_open(call, slot, force=force):
            return
        draws = call.draws
        draws.move(call.key, slot)
        group = self._groups[int(draws.random() * len(self._groups))]
        ordinal = group[int(draws.random() * len(group))]
        self._operations[ordinal].run(call, child_slot(slot, ordinal), force=True)


def one_operation(graded: Mapping[str, Sequence[float]], sampling: Resampling, p: float = 1.0) -> BaseCompose:
    """A node that runs one of the operations: names, each with the strengths that it may come at."""
    return _OneOperation(graded, sampling, p)
