"""Recipes of classification training: RandAugment, TrivialAugmentWide, AutoAugment and AugMix.

The first three are compositions: masks, boxes and keypoints follow the geometric operations, choices are drawn at
the slots of their nodes, and records name the operations that were applied. Ranges are those of the papers as
torchvision reads them; shears and turns are about the middle of the image, and signs are even odds. Images have one or
three channels. Operations in Pillow's spirit on uint8; float32 images of 0…1 work alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import RecipeError
from ..seeding import Draws
from .arguments import INTERPOLATIONS, Fill, fill_value, integer, number, one_of, refuse
from .base import Array, ImageOnlyTransform, NoOp, Params
from .composition import OneOf, Sequential
from .node import BaseCompose
from .operations import ENHANCEMENTS, UNGRADED, Resampling, one_operation, operation
from .tables import check_dtype

if TYPE_CHECKING:
    from .call import View

_SHIFT = 150 / 331  # AutoAugment's largest shift, in pixels of its images
_RANDOM = (
    "Identity", "AutoContrast", "Equalize", "Rotate", "Solarize", "Color", "Posterize", "Contrast", "Brightness",
    "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY",
)  # fmt: skip


def _sampling(
    owner: object, interpolation: int, mask_interpolation: int, fill: Fill, fill_mask: Fill
) -> Resampling:
    return Resampling(
        one_of(owner, "interpolation", interpolation, INTERPOLATIONS),
        one_of(owner, "mask_interpolation", mask_interpolation, INTERPOLATIONS),
        fill_value(owner, "fill", fill),
        fill_value(owner, "fill_mask", fill_mask),
    )


def _grades(name: str, num_bins: int, *, wide: bool = False) -> list[tuple[float, ...]]:
    """The strengths of an operation by magnitude, 0 first: one, or two of either sign, at each."""
    if name in UNGRADED:
        return [(0.0,)] * num_bins
    if name == "Solarize":
        return [(float(share),) for share in np.linspace(1, 0, num_bins)]
    if name == "Posterize":
        lost = np.round(np.arange(num_bins) / ((num_bins - 1) / (6 if wide else 4)))
        return [(8 - float(bits),) for bits in lost]
    if name in ENHANCEMENTS:
        return [(1 + float(x), 1 - float(x)) for x in np.linspace(0, 0.99 if wide else 0.9, num_bins)]
    largest = {
        "Rotate": 135.0 if wide else 30.0,
        "ShearX": 0.99 if wide else 0.3,
        "ShearY": 0.99 if wide else 0.3,
    }
    shift = 32.0 if wide else _SHIFT
    return [(float(x), -float(x)) for x in np.linspace(0, largest.get(name, shift), num_bins)]


class _Policy(BaseCompose):
    """A composition that shows its own arguments, not its many operations."""

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.init_arguments.items())
        return f"{type(self).__name__}({arguments})"

    def _with_transforms(self, transforms: Sequence[Any]) -> Any:
        msg = f"{type(self).__name__} is a fixed policy; put transforms beside it, in a Compose or Sequential"
        raise RecipeError(msg)


class RandAugment(_Policy):
    """Apply `num_ops` operations one after the other, each evenly chosen of 14, all at one `magnitude`.

    `magnitude` counts from 0 to `num_magnitude_bins` - 1, of equal steps. Source: Cubuk, Zoph, Shlens and Le,
    "RandAugment: practical automated data augmentation with a reduced search space", NeurIPS 2020, arXiv:1909.13719.
    """

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: int = 9,
        num_magnitude_bins: int = 31,
        interpolation: int = cv2.INTER_LINEAR,
        mask_interpolation: int = cv2.INTER_NEAREST,
        fill: Fill = 0,
        fill_mask: Fill = 0,
        p: float = 1.0,
    ) -> None:
        self.num_ops = integer(self, "num_ops", num_ops, 1)
        self.num_magnitude_bins = integer(self, "num_magnitude_bins", num_magnitude_bins, 2)
        self.magnitude = integer(self, "magnitude", magnitude, 0)
        if self.magnitude >= self.num_magnitude_bins:
            refuse(
                self, "magnitude", magnitude, f"from 0 to {num_magnitude_bins - 1}, one of num_magnitude_bins"
            )
        sampling = _sampling(self, interpolation, mask_interpolation, fill, fill_mask)
        graded = {name: _grades(name, num_magnitude_bins)[magnitude] for name in _RANDOM}
        super().__init__([one_operation(graded, sampling) for _ in range(num_ops)], p)


class TrivialAugmentWide(_Policy):
    """Apply one operation, evenly chosen of 14, at a magnitude evenly chosen of `num_magnitude_bins`.

    Without any parameter to tune. Source: Müller and Hutter, "TrivialAugment: tuning-free yet state-of-the-art data
    augmentation", ICCV 2021, arXiv:2103.10158, in the wide space.
    """

    def __init__(
        self,
        num_magnitude_bins: int = 31,
        interpolation: int = cv2.INTER_LINEAR,
        mask_interpolation: int = cv2.INTER_NEAREST,
        fill: Fill = 0,
        fill_mask: Fill = 0,
        p: float = 1.0,
    ) -> None:
        self.num_magnitude_bins = integer(self, "num_magnitude_bins", num_magnitude_bins, 2)
        sampling = _sampling(self, interpolation, mask_interpolation, fill, fill_mask)
        graded: dict[str, Sequence[float]] = {}
        for name in _RANDOM:
            strengths = [
                strength for grade in _grades(name, num_magnitude_bins, wide=True) for strength in grade
            ]
            graded[f"{name}Pixels" if name.startswith("Translate") else name] = strengths
        super().__init__([one_operation(graded, sampling)], p)


# The 25 sub-policies that were learned on ImageNet: table 9 of the paper's supplement. Name, probability, magnitude.
_IMAGENET: tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...] = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 0), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 0)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 0)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 0), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 0)),
    (("Equalize", 0.0, 0), ("Equalize", 0.8, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 0)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 0)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 0)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
)
_LEARNED_BINS = 10


class AutoAugment(_Policy):
    """Apply one of the 25 pairs of operations that were learned on ImageNet, each operation by its own probability.

    Source: Cubuk, Zoph, Mané, Vasudevan and Le, "AutoAugment: learning augmentation strategies from data", CVPR 2019,
    arXiv:1805.09501.
    """

    def __init__(
        self,
        policy: str = "imagenet",
        interpolation: int = cv2.INTER_LINEAR,
        mask_interpolation: int = cv2.INTER_NEAREST,
        fill: Fill = 0,
        fill_mask: Fill = 0,
        p: float = 1.0,
    ) -> None:
        self.policy = one_of(self, "policy", policy, ("imagenet",))
        sampling = _sampling(self, interpolation, mask_interpolation, fill, fill_mask)

        def learned(name: str, probability: float, magnitude: int) -> BaseCompose:
            return one_operation({name: _grades(name, _LEARNED_BINS)[magnitude]}, sampling, probability)

        pairs = [Sequential([learned(*first), learned(*second)], p=1) for first, second in _IMAGENET]
        super().__init__([OneOf(pairs, p=1)], p)


_MIXED = (
    "AutoContrast", "Equalize", "Posterize", "Rotate", "Solarize", "ShearX", "ShearY", "TranslateX", "TranslateY",
)  # fmt: skip


class AugMix(ImageOnlyTransform):
    """Mix the image with `mixture_width` chains of operations on it, at random weights.

    A chain has `chain_depth` operations, or one to three if that is -1, evenly chosen of nine (13 with `all_ops`), each
    at a level evenly drawn up to `severity` of 10. Weights of the chains are Dirichlet(`alpha`), the share of the
    mixture is Beta(`alpha`, `alpha`). Chains move the image against itself, so masks, boxes and keypoints stay. Source:
    Hendrycks et al., "AugMix: a simple data processing method to improve robustness and uncertainty", ICLR 2020,
    arXiv:1912.02781.
    """

    def __init__(
        self,
        severity: float = 3,
        mixture_width: int = 3,
        chain_depth: int = -1,
        alpha: float = 1.0,
        all_ops: bool = False,
        interpolation: int = cv2.INTER_LINEAR,
        fill: Fill = 0,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        self.severity = number(self, "severity", severity, 0.1, 10)
        self.mixture_width = integer(self, "mixture_width", mixture_width, 1)
        self.chain_depth = integer(self, "chain_depth", chain_depth, -1)
        if not self.chain_depth:
            refuse(self, "chain_depth", chain_depth, "1 or more, or -1 for one to three")
        self.alpha = number(self, "alpha", alpha, 0)
        if not self.alpha:
            refuse(self, "alpha", alpha, "greater than 0")
        self.all_ops = all_ops
        self._names = (*_MIXED, *ENHANCEMENTS) if all_ops else _MIXED
        self._sampling = _sampling(self, interpolation, cv2.INTER_NEAREST, fill, 0)

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw `chains` of [name, strength], their `weights`, and `share`, that of the mixture."""
        weights = [rng.gammavariate(self.alpha, 1) for _ in range(self.mixture_width)]
        share = rng.betavariate(self.alpha, self.alpha)
        total = sum(weights)
        depths = [rng.randint(1, 3) if self.chain_depth < 0 else self.chain_depth for _ in weights]
        chains = [[self._operation(rng) for _ in range(depth)] for depth in depths]
        return {"chains": chains, "weights": [weight / total for weight in weights], "share": share}

    def _operation(self, rng: Draws) -> list[Any]:
        name = self._names[int(rng.random() * len(self._names))]
        level = rng.uniform(0.1, self.severity) / 10
        sign = 1 if rng.random() < 0.5 else -1
        strengths: Mapping[str, float] = {
            "Posterize": max(1, 4 - int(level * 4)),
            "Solarize": min(256 - int(level * 256), 255) / 255,
            "Rotate": sign * int(level * 30),
            "ShearX": sign * level * 0.3,
            "ShearY": sign * level * 0.3,
            "TranslateX": sign * level / 3,
            "TranslateY": sign * level / 3,
        }
        return [name, strengths.get(name, level * 1.8 + 0.1 if name in ENHANCEMENTS else 0.0)]

    def apply(self, img: Array, **params: Any) -> Array:
        """The mixture; uint8 is rounded."""
        check_dtype(self, img)
        share = params["share"]
        mixed = img.astype(np.float32)
        mixed *= np.float32(1 - share)
        for chain, weight in zip(params["chains"], params["weights"], strict=True):
            end = img
            for name, strength in chain:
                end = _applied(operation(name, float(strength), self._sampling), end)
            mixed += np.float32(share * weight) * end
        if img.dtype == np.uint8:
            np.rint(mixed, out=mixed)
        return np.clip(mixed, 0, 255 if img.dtype == np.uint8 else 1, out=mixed).astype(img.dtype, copy=False)


class _Alone:
    """The view of an image by itself."""

    def __init__(self, image: Array) -> None:
        self.image = image
        self.shape = image.shape
        self.dtype = image.dtype

    def __contains__(self, name: object) -> bool:
        return name == "image"

    def __getitem__(self, name: str) -> Array:
        return self.image

    def data(self) -> dict[str, Any]:
        return {"image": self.image}


def _applied(transform: Any, image: Array) -> Array:
    """`image` after an operation, which leaves nothing to chance."""
    if isinstance(transform, NoOp):
        return image
    params = transform.draw(Draws(), _Alone(image))
    result: Array = transform.apply(image, **params, shape=image.shape)
    return result
