"""Brightness, contrast and the other operations on single values and whole channels.

All but `ChannelShuffle` and `ToGray` are tables on uint8 images: they join their neighbours, and normalisation.
Arguments, defaults and results are those of albumentations 2.0.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ..errors import RecipeError
from .arguments import integer, number_range, one_of, refuse
from .base import Array, ImageOnlyTransform, Params
from .call import first_image
from .channels import GREY_METHODS, shuffled, to_grey
from .lookup import look_up
from .pointwise import (
    INVERTED,
    Table,
    affine,
    affine_table,
    as_bytes,
    as_floats,
    channels_of,
    gamma_table,
    is_grey,
    max_value,
    posterize_table,
    shift_tables,
    shifted,
    solarize_table,
)
from .tables import TableTransform

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import View

Range = tuple[float, float]
GreyMethod = Literal["weighted_average", "from_lab", "desaturation", "average", "max", "pca"]


class RandomBrightnessContrast(TableTransform):
    """Multiply by a random contrast and add a random brightness.

    `contrast_limit` (lo, hi): v * (1 + U(lo, hi)). `brightness_limit` (lo, hi): + U(lo, hi) * 255 (1 for
    float32), or times the image's mean if not `brightness_by_max`. A number v is (-v, v). `ensure_safe_range`
    tames both so that nothing is clipped.

    >>> image = np.full((2, 2), 100, np.uint8)
    >>> RandomBrightnessContrast((0.1, 0.1), (0, 0), p=1)(image=image)["image"].tolist()
    [[125, 125], [125, 125]]
    """

    _legacy: ClassVar = {"brightness_range": "brightness_limit", "contrast_range": "contrast_limit"}

    def __init__(
        self,
        brightness_limit: Range | float = (-0.2, 0.2),
        contrast_limit: Range | float = (-0.2, 0.2),
        brightness_by_max: bool = True,
        ensure_safe_range: bool = False,
        p: float = 0.5,
    ) -> None:
        super().__init__(p)
        self.brightness_limit = number_range(self, "brightness_limit", brightness_limit)
        self.contrast_limit = number_range(self, "contrast_limit", contrast_limit)
        self.brightness_by_max = brightness_by_max
        self.ensure_safe_range = ensure_safe_range

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw `alpha` and `beta` of alpha * v + beta."""
        alpha = 1.0 + rng.uniform(*self.contrast_limit)
        beta = rng.uniform(*self.brightness_limit)
        top = max_value(view.dtype)
        beta *= top if self.brightness_by_max else float(np.mean(first_image(view)))
        if self.ensure_safe_range:
            alpha, beta = _safe(alpha, beta, top)
        return {"alpha": alpha, "beta": beta, **_unit(top)}

    def table(self, params: Params, shape: tuple[int, ...]) -> Table:
        """alpha * v + beta."""
        beta = params["beta"]
        return affine_table(params["alpha"], beta * 255 / params["top"] if "top" in params else beta)

    def on_floats(self, img: Array, params: Params) -> Array:
        """alpha * v + beta."""
        return affine(img, params["alpha"], params["beta"] / params.get("top", 255.0))


def _unit(top: float) -> Params:
    """The brightest value of the image for which parameters were drawn, unless it is 255: targets may have others."""
    return {} if top == 255.0 else {"top": top}


def _safe(alpha: float, beta: float, top: float) -> tuple[float, float]:
    """alpha and beta, brought nearer to 1 and 0 until no value leaves 0…`top`."""
    if alpha > 0:
        beta = min(max(beta, 0.0), top)
        return min(alpha, (top - beta) / top), beta
    beta = min(beta, top)
    return max(alpha, -beta / top), beta


class RandomGamma(TableTransform):
    """Raise values, as shares of the brightest, to a random power: `gamma_limit`, in percent.

    A number v is (1, v).
    """

    _legacy: ClassVar = {"gamma_range": "gamma_limit"}

    def __init__(self, gamma_limit: Range | float = (80, 120), p: float = 0.5) -> None:
        super().__init__(p)
        self.gamma_limit = number_range(self, "gamma_limit", gamma_limit, 1, scalar="from_one")

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw `gamma`, the power."""
        return {"gamma": rng.uniform(*self.gamma_limit) / 100.0}

    def table(self, params: Params, shape: tuple[int, ...]) -> Table:
        """255 * (v / 255) ** gamma."""
        return gamma_table(params["gamma"])

    def on_floats(self, img: Array, params: Params) -> Array:
        """v ** gamma, and of what cubic interpolation left below 0 no NaN, but 0."""
        return np.power(np.maximum(img, 0), np.float32(params["gamma"]))


class RGBShift(TableTransform):
    """Add a random number to each channel: grey levels of uint8, or shares of the brightest if within -1…1.

    A number v is (-v, v). A grey image is shifted by red's number; more than three channels are refused.
    """

    _legacy: ClassVar = {
        "r_shift_range": "r_shift_limit", "g_shift_range": "g_shift_limit", "b_shift_range": "b_shift_limit",
    }  # fmt: skip

    def __init__(
        self,
        r_shift_limit: Range | float = (-20, 20),
        g_shift_limit: Range | float = (-20, 20),
        b_shift_limit: Range | float = (-20, 20),
        p: float = 0.5,
    ) -> None:
        super().__init__(p)
        self.r_shift_limit = number_range(self, "r_shift_limit", r_shift_limit)
        self.g_shift_limit = number_range(self, "g_shift_limit", g_shift_limit)
        self.b_shift_limit = number_range(self, "b_shift_limit", b_shift_limit)
        self._shares = [_as_shares(r) for r in (self.r_shift_limit, self.g_shift_limit, self.b_shift_limit)]

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw one shift for each channel, in units of the image's values."""
        num_channels = channels_of(view.shape)
        if num_channels > len(self._shares):
            msg = f"RGBShift takes images of at most 3 channels, got shape {view.shape}"
            raise RecipeError(msg)
        top = max_value(view.dtype)
        shifts = [rng.uniform(*share) * top for share in self._shares[:num_channels]]
        return {"shifts": shifts, **_unit(top)}

    def table(self, params: Params, shape: tuple[int, ...]) -> Table:
        """v + shift, truncated towards zero."""
        shifts = _shifts_of(params, shape)
        return shift_tables([shift * 255 / params["top"] for shift in shifts] if "top" in params else shifts)

    def on_floats(self, img: Array, params: Params) -> Array:
        """v + shift."""
        top = params.get("top", 255.0)
        return shifted(img, [shift / top for shift in _shifts_of(params, img.shape)])


def _shifts_of(params: Params, shape: tuple[int, ...]) -> list[float]:
    """The shifts of an image of `shape`; they were drawn for the image of the call, and other targets may be grey."""
    shifts: list[float] = params["shifts"]
    return shifts[:1] if is_grey(shape) else shifts


def _as_shares(limits: Range) -> Range:
    low, high = limits
    return (low / 255.0, high / 255.0) if max(abs(low), abs(high)) > 1 else limits


class InvertImg(TableTransform):
    """Turn bright into dark: 255 - v, 1 - v for float32.

    >>> InvertImg(p=1)(image=np.array([[0, 55]], np.uint8))["image"].tolist()
    [[255, 200]]
    """

    def draw(self, rng: Draws, view: View) -> Params:
        """Nothing to draw."""
        return {}

    def table(self, params: Params, shape: tuple[int, ...]) -> Table:
        """255 - v."""
        return INVERTED

    def on_floats(self, img: Array, params: Params) -> Array:
        """1 - v."""
        return np.float32(1) - img


class Solarize(TableTransform):
    """Invert what is at least as bright as a random threshold, a share of the brightest.

    `threshold`, of albumentations 1.x, is in grey levels: a number v is (v, v), a pair a range.
    """

    def __init__(
        self,
        threshold_range: Range = (0.5, 0.5),
        p: float = 0.5,
        *,
        threshold: Range | float | None = None,
    ) -> None:
        super().__init__(p)
        if threshold is not None:
            low, high = number_range(self, "threshold", threshold, 0, 255, scalar="fixed")
            threshold_range = (low / 255, high / 255)
        self.threshold_range = number_range(self, "threshold_range", threshold_range, 0, 1, scalar="fixed")

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw `threshold`, a share."""
        return {"threshold": rng.uniform(*self.threshold_range)}

    def table(self, params: Params, shape: tuple[int, ...]) -> Table:
        """255 - v from the threshold up."""
        return solarize_table(params["threshold"])

    def on_floats(self, img: Array, params: Params) -> Array:
        """1 - v from the threshold up."""
        return np.clip(np.where(img >= params["threshold"], np.float32(1) - img, img), 0, 1)


class Posterize(TableTransform):
    """Keep the highest bits of each value.

    `num_bits` is a number from 1 to 7, a range of them, or a list of such for the channels one by one.
    A float32 image goes through uint8 and back.
    """

    def __init__(
        self, num_bits: int | tuple[int, int] | Sequence[int | tuple[int, int]] = 4, p: float = 0.5
    ) -> None:
        super().__init__(p)
        self.num_bits = self._parsed(num_bits)

    def _parsed(self, num_bits: Any) -> tuple[int, int] | list[tuple[int, int]]:
        if isinstance(num_bits, (list, tuple)) and (
            len(num_bits) > 2 or isinstance(next(iter(num_bits), None), (list, tuple))
        ):
            return [self._bits(bits) for bits in num_bits]
        return self._bits(num_bits)

    def _bits(self, bits: Any) -> tuple[int, int]:
        low, high = number_range(self, "num_bits", bits, 1, 7, scalar="fixed")
        if low != int(low) or high != int(high):
            refuse(self, "num_bits", bits, "a whole number from 1 to 7, or a pair of them")
        return int(low), int(high)

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw `num_bits`, one for all channels or one for each."""
        if isinstance(self.num_bits, list):
            return {"num_bits": [rng.randint(*bits) for bits in self.num_bits]}
        return {"num_bits": rng.randint(*self.num_bits)}

    def table(self, params: Params, shape: tuple[int, ...]) -> Table:
        """v without its lowest bits."""
        return posterize_table(params["num_bits"])

    def on_floats(self, img: Array, params: Params) -> Array:
        """v without the lowest of its 8 bits."""
        return as_floats(look_up(as_bytes(img), self.table(params, img.shape)))


class ChannelShuffle(ImageOnlyTransform):
    """Put the channels in a random order; a grey image stays as it is."""

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the order: channel c of the result is channel order[c] of the image."""
        if is_grey(view.shape):
            return {"channels_shuffled": None}
        order = list(range(view.shape[2]))
        rng.shuffle(order)
        return {"channels_shuffled": order}

    def apply(self, img: Array, **params: Any) -> Array:
        """The image with its channels in that order."""
        order = params["channels_shuffled"]
        if order is None or is_grey(img.shape):
            return img.copy()
        if len(order) != img.shape[2]:
            msg = f"ChannelShuffle drew an order of {len(order)} channels, and a target has {img.shape[2]}"
            raise RecipeError(msg)
        return shuffled(img, order)


class ToGray(ImageOnlyTransform):
    """Take the colour away: `num_output_channels` equal channels, by one of six methods.

    weighted_average (0.299 R + 0.587 G + 0.114 B) and from_lab (lightness) take RGB images; desaturation (mean
    of brightest and darkest channel), average, max and pca (the first principal component, brighter where the
    channels are) take any number of channels. A grey image stays as it is. With one output channel the result
    keeps the channel axis: (H, W, 1).
    """

    def __init__(
        self, num_output_channels: int = 3, method: GreyMethod = "weighted_average", p: float = 0.5
    ) -> None:
        super().__init__(p)
        self.num_output_channels = integer(self, "num_output_channels", num_output_channels, 1)
        self.method = one_of(self, "method", method, GREY_METHODS)

    def draw(self, rng: Draws, view: View) -> Params:
        """Nothing to draw."""
        return {}

    def apply(self, img: Array, **params: Any) -> Array:
        """The image without colour."""
        if is_grey(img.shape):
            return img.copy()
        return to_grey(img, self.method, self.num_output_channels)
