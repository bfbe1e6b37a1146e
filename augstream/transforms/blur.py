"""Blurs, and their opposite: `GaussianBlur`, `Blur`, `MotionBlur`, `MedianBlur`, `Sharpen`.

Arguments, defaults and results are those of albumentations 2.0.8. Kernels have odd sides; an even or too small one
is refused, where 2.0.8 warns and takes another. Any number of channels; borders are mirrored without the edge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import cv2
import numpy as np

from .arguments import integer, integer_range, number, number_range, one_of, refuse
from .base import Array, ImageOnlyTransform, Params
from .kernels import (
    box_blurred,
    convolved,
    convolved_both_ways,
    gaussian_kernel,
    median_blurred,
    motion_kernel,
    sharpening_kernel,
)
from .lookup import UINT8
from .tables import check_dtype, through_bytes

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import View

Range = tuple[float, float]
IntRange = tuple[int, int]


def odd_range(owner: object, name: str, value: IntRange | int) -> IntRange:
    """`value` as a pair of odd sides from 3 up; a number v is (3, v)."""
    low, high = integer_range(owner, name, (3, value) if isinstance(value, int) else value, 3)
    if low % 2 == 0 or high % 2 == 0:
        refuse(owner, name, value, f"odd, say {low | 1} or {(low | 1, high | 1)}")
    return low, high


def draw_odd(rng: Draws, sides: IntRange) -> int:
    """One of the odd numbers from sides[0] to sides[1]."""
    low, high = sides
    return low if low == high else low + 2 * rng.randint(0, (high - low) // 2)


class GaussianBlur(ImageOnlyTransform):
    """Blur by a Gaussian of a random standard deviation, `sigma_limit` in pixels.

    `blur_limit` is the kernel's side: a range, drawn from and made odd, or a number v for (0, v). A side of 0 follows
    from sigma: out to 3.5 sigma. For `sigma_limit` a number v is (0, v).
    """

    _legacy: ClassVar = {"blur_range": "blur_limit", "sigma_range": "sigma_limit"}

    def __init__(
        self, blur_limit: IntRange | int = 0, sigma_limit: Range | float = (0.5, 3.0), p: float = 0.5
    ) -> None:
        super().__init__(p)
        self.blur_limit = integer_range(self, "blur_limit", blur_limit, 0, scalar="from_zero")
        self.sigma_limit = number_range(self, "sigma_limit", sigma_limit, 0, scalar="from_zero")

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw `sigma`, and `size`, 0 if it is to follow from sigma."""
        return {"sigma": rng.uniform(*self.sigma_limit), "size": rng.randint(*self.blur_limit)}

    def apply(self, img: Array, **params: Any) -> Array:
        """The blurred image."""
        check_dtype(self, img)
        return convolved_both_ways(img, gaussian_kernel(params["sigma"], params["size"]))


class _SquareBlur(ImageOnlyTransform):
    """A blur that sees a square around each pixel, of a random odd side."""

    _legacy: ClassVar = {"blur_range": "blur_limit"}

    def __init__(self, blur_limit: IntRange | int = (3, 7), p: float = 0.5) -> None:
        super().__init__(p)
        self.blur_limit = odd_range(self, "blur_limit", blur_limit)

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw `kernel`, the side."""
        return {"kernel": draw_odd(rng, self.blur_limit)}


class Blur(_SquareBlur):
    """Replace each pixel by the mean of a square around it, of a random odd side; a number v is (3, v)."""

    def apply(self, img: Array, **params: Any) -> Array:
        """The blurred image."""
        check_dtype(self, img)
        return box_blurred(img, params["kernel"])


class MedianBlur(_SquareBlur):
    """Replace each pixel by the median of a square around it, of a random odd side; a number v is (3, v).

    A float32 image goes through uint8 and back.
    """

    def apply(self, img: Array, **params: Any) -> Array:
        """The blurred image."""
        if img.dtype != UINT8:
            return through_bytes(self, img, params)
        return median_blurred(img, params["kernel"])


class MotionBlur(ImageOnlyTransform):
    """Blur along a line, as a moving camera does.

    The line lies in a square of a random odd side (`blur_limit`; a number v is (3, v)), at an angle from
    `angle_range` degrees. `direction_range`, within -1…1, is how much of it lies behind (-1) or before (1) the
    pixel. With `allow_shifted` it need not go through the pixel.
    """

    _legacy: ClassVar = {"blur_range": "blur_limit"}

    def __init__(
        self,
        blur_limit: IntRange | int = (3, 7),
        allow_shifted: bool = True,
        angle_range: Range = (0, 360),
        direction_range: Range = (-1.0, 1.0),
        p: float = 0.5,
    ) -> None:
        super().__init__(p)
        self.blur_limit = odd_range(self, "blur_limit", blur_limit)
        self.allow_shifted = allow_shifted
        self.angle_range = number_range(self, "angle_range", angle_range, 0, 360, scalar="fixed")
        self.direction_range = number_range(self, "direction_range", direction_range, -1, 1, scalar="fixed")

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the line: `size`, `angle`, `direction` and `shift` (x, y)."""
        params = {
            "size": draw_odd(rng, self.blur_limit),
            "angle": rng.uniform(*self.angle_range),
            "direction": rng.uniform(*self.direction_range),
        }
        shift = [rng.uniform(-1, 1), rng.uniform(-1, 1)] if self.allow_shifted else [0.0, 0.0]
        return {**params, "shift": shift}

    def apply(self, img: Array, **params: Any) -> Array:
        """The blurred image."""
        check_dtype(self, img)
        kernel = motion_kernel(params["size"], params["angle"], params["direction"], *params["shift"])
        return convolved(img, kernel)


class Sharpen(ImageOnlyTransform):
    """Blend the image with its sharpened self.

    `alpha` is a range of shares of the sharpened one. `method` "kernel" sharpens by a 3 x 3 kernel, `lightness` (a
    range) brightening it; "gaussian" adds what a Gaussian of `kernel_size` and `sigma` takes away.
    """

    _legacy: ClassVar = {"alpha_range": "alpha", "lightness_range": "lightness"}

    def __init__(
        self,
        alpha: Range = (0.2, 0.5),
        lightness: Range = (0.5, 1.0),
        method: Literal["kernel", "gaussian"] = "kernel",
        kernel_size: int = 5,
        sigma: float = 1.0,
        p: float = 0.5,
    ) -> None:
        super().__init__(p)
        self.alpha = number_range(self, "alpha", alpha, 0, 1, scalar="fixed")
        self.lightness = number_range(self, "lightness", lightness, 0, scalar="fixed")
        self.method = one_of(self, "method", method, ("kernel", "gaussian"))
        self.kernel_size = integer(self, "kernel_size", kernel_size, 3)
        if self.kernel_size % 2 == 0:
            refuse(self, "kernel_size", kernel_size, f"odd, say {kernel_size + 1}")
        self.sigma = number(self, "sigma", sigma, 0)
        if not self.sigma:
            refuse(self, "sigma", sigma, "greater than 0")

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw `alpha`, and `lightness` for the kernel."""
        alpha = rng.uniform(*self.alpha)
        return {
            "alpha": alpha,
            "lightness": rng.uniform(*self.lightness) if self.method == "kernel" else None,
        }

    def apply(self, img: Array, **params: Any) -> Array:
        """The sharpened image."""
        check_dtype(self, img)
        alpha = params["alpha"]
        if self.method == "kernel":
            return convolved(img, sharpening_kernel(alpha, params["lightness"]))
        side = (self.kernel_size, self.kernel_size)
        blurred = cv2.GaussianBlur(img, side, self.sigma, sigmaY=self.sigma).reshape(img.shape)
        sharp = cv2.addWeighted(img, 1 + alpha, blurred, -alpha, 0).reshape(img.shape)
        return sharp if img.dtype == UINT8 else np.clip(sharp, 0, 1, out=sharp)
