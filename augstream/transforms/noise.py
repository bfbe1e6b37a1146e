"""Noise that is addressed: `GaussNoise` and `ISONoise`.

Arguments, defaults and distributions are those of albumentations 2.0.8. Parameters hold a key, never a noise map; the
map follows from the key, at full precision, and touches no global generator.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from .alias import signed_blocks, truncated_normal_sizes
from .arguments import number, number_range, refuse
from .base import Array, ImageOnlyTransform, Params
from .channels import in_turns
from .grains import discrete, discrete_blocks, normals, poisson_steps, truncated_normal_steps
from .lookup import MAX_CV_CHANNELS, interleaved, planes
from .pointwise import as_bytes, as_floats, channels_of, clipped, max_value
from .tables import check_dtype

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import View

Range = tuple[float, float]


class GaussNoise(ImageOnlyTransform):
    """Add normal noise to each value.

    Its standard deviation and mean are drawn from `std_range` and `mean_range`, shares of the brightest value. On
    uint8 the noise is truncated towards zero, added and clipped, as in 2.0.8; its distribution is exact. Not
    `per_channel`: one number a pixel. `noise_scale_factor` below 1 makes the noise that much smaller than the image,
    and enlarges it: quicker, and coarser.

    `var_limit` and `mean`, of albumentations 1.x, are variance and mean in grey levels: GaussNoise(var_limit=(10, 50)).
    """

    def __init__(
        self,
        std_range: Range = (0.2, 0.44),
        mean_range: Range = (0.0, 0.0),
        per_channel: bool = True,
        noise_scale_factor: float = 1,
        p: float = 0.5,
        *,
        var_limit: Range | float | None = None,
        mean: float | None = None,
    ) -> None:
        super().__init__(p)
        self.var_limit: Range | None = None
        if var_limit is not None:
            self.var_limit = number_range(self, "var_limit", var_limit, 0, 255**2, scalar="from_zero")
            std_range = (math.sqrt(self.var_limit[0]) / 255, math.sqrt(self.var_limit[1]) / 255)
        if mean is not None:
            share = number(self, "mean", mean, -255, 255) / 255
            mean_range = (share, share)
        self.std_range = number_range(self, "std_range", std_range, 0, 1, scalar="fixed")
        self.mean_range = number_range(self, "mean_range", mean_range, -1, 1, scalar="fixed")
        self.per_channel = per_channel
        self.noise_scale_factor = number(self, "noise_scale_factor", noise_scale_factor, 0, 1)
        if not self.noise_scale_factor:
            refuse(self, "noise_scale_factor", noise_scale_factor, "greater than 0")

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw `sigma` and `mean`, shares of the brightest value, and the `key` of the noise."""
        if self.var_limit is None:
            sigma = rng.uniform(*self.std_range)
        else:
            sigma = math.sqrt(rng.uniform(*self.var_limit)) / 255
        return {"sigma": sigma, "mean": rng.uniform(*self.mean_range), "key": rng.subkey().hex()}

    def apply(self, img: Array, **params: Any) -> Array:
        """The noisy image."""
        check_dtype(self, img)
        top = max_value(img.dtype)
        mean, sigma, key = params["mean"] * top, params["sigma"] * top, bytes.fromhex(params["key"])
        num_shared = 1 if self.per_channel or img.ndim == 2 else img.shape[2]
        if img.dtype == np.uint8 and self.noise_scale_factor == 1:
            values = img.reshape(-1, num_shared)
            noisy = (
                _symmetric(values, key, sigma) if sigma and not mean else _shifted(values, key, mean, sigma)
            )
            return noisy.reshape(img.shape)
        shape = img.shape if self.per_channel else img.shape[:2]
        make = self._enlarged if self.noise_scale_factor < 1 else _floats
        noise = make(key, mean, sigma, shape)
        return _added(img, noise if noise.ndim == img.ndim else _repeated(noise, num_shared))

    def _enlarged(self, key: bytes, mean: float, sigma: float, shape: tuple[int, ...]) -> Array:
        height, width = (max(1, int(side * self.noise_scale_factor)) for side in shape[:2])
        small = _floats(key, mean, sigma, (height, width, *shape[2:]))
        return in_turns(
            small, lambda part: cv2.resize(part, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
        )


def _floats(key: bytes, mean: float, sigma: float, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    noise = normals(key, math.prod(shape)).reshape(shape)
    noise *= np.float32(sigma)
    if mean:
        noise += np.float32(mean)
    return noise


def _symmetric(values: Array, key: bytes, sigma: float) -> Array:
    """uint8 values (N, M) plus whole noise of mean 0, each number of it shared by M neighbours, clipped."""
    noisy = np.empty_like(values)
    for start, sizes, signs in signed_blocks(key, len(values), truncated_normal_sizes(sigma)):
        part = slice(start, start + len(sizes))
        np.bitwise_and(sizes, signs, out=signs)
        np.bitwise_xor(sizes, signs, out=sizes)
        more, less = (_shared(block, values.shape[1]) for block in (sizes, signs))
        cv2.add(values[part], more, more)
        cv2.subtract(more, less, noisy[part])
    return noisy


def _shifted(values: Array, key: bytes, mean: float, sigma: float) -> Array:
    """As `_symmetric`, around another mean."""
    noisy = np.empty_like(values)
    for start, block in discrete_blocks(key, len(values), truncated_normal_steps(mean, sigma)):
        part = slice(start, start + len(block))
        whole = _shared(block, values.shape[1])
        np.add(values[part], whole, out=whole)
        noisy[part] = np.clip(whole, 0, 255, out=whole)
    return noisy


def _shared(block: Array, num_shared: int) -> Array:
    """The numbers (N,) as (N, num_shared), each repeated."""
    return block[:, None] if num_shared == 1 else _repeated(block[:, None], num_shared)[:, 0]


def _repeated(noise: Array, num_channels: int) -> Array:
    """(H, W) noise for all channels alike."""
    if num_channels <= MAX_CV_CHANNELS:
        return interleaved([noise] * num_channels)
    return np.repeat(noise[:, :, None], num_channels, axis=2)


def _added(image: Array, noise: Array) -> Array:
    """`image` + float noise, which is ours to overwrite, clipped; on uint8 the noise is truncated first."""
    if image.dtype == np.uint8:
        np.trunc(noise, out=noise)
    noise += image
    if image.dtype != np.uint8:
        return clipped(noise)
    return np.clip(noise, 0, 255, out=noise).astype(np.uint8)


class ISONoise(ImageOnlyTransform):
    """Add a camera sensor's noise: Poisson noise of the lightness, and normal noise of the hue.

    `intensity` is a range of strengths, `color_shift` of hue noise, a share of the strength, in degrees. The Poisson
    mean is the strength times the standard deviation of the image's lightness (HLS). RGB images only.
    """

    _legacy: ClassVar = {"color_shift_range": "color_shift", "intensity_range": "intensity"}

    def __init__(
        self, color_shift: Range = (0.01, 0.05), intensity: Range = (0.1, 0.5), p: float = 0.5
    ) -> None:
        super().__init__(p)
        self.color_shift = number_range(self, "color_shift", color_shift, 0, 1, scalar="fixed")
        self.intensity = number_range(self, "intensity", intensity, 0, 10_000, scalar="fixed")

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the two strengths, and the keys of the two noises."""
        return {
            "color_shift": rng.uniform(*self.color_shift),
            "intensity": rng.uniform(*self.intensity),
            "lightness_key": rng.subkey().hex(),
            "hue_key": rng.subkey().hex(),
        }

    def apply(self, img: Array, **params: Any) -> Array:
        """The noisy image."""
        check_dtype(self, img)
        if channels_of(img.shape) != 3:
            msg = f"ISONoise takes RGB images, got shape {img.shape}"
            raise TypeError(msg)
        if img.dtype == np.uint8:
            return as_bytes(self.apply(as_floats(img), **params))
        intensity = params["intensity"]
        hue, lightness, saturation = planes(cv2.cvtColor(img, cv2.COLOR_RGB2HLS))
        steps = poisson_steps(float(cv2.meanStdDev(lightness)[1][0, 0]) * intensity)
        grains = discrete(bytes.fromhex(params["lightness_key"]), lightness.size, steps).reshape(
            lightness.shape
        )
        lightness += grains * np.float32(intensity) * (1 - lightness)
        np.clip(lightness, 0, 1, out=lightness)
        shift = normals(bytes.fromhex(params["hue_key"]), hue.size).reshape(hue.shape)
        hue += shift * np.float32(params["color_shift"] * intensity)
        return clipped(cv2.cvtColor(interleaved((hue, lightness, saturation)), cv2.COLOR_HLS2RGB))
