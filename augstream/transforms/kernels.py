"""Convolution: the kernels of the blurs, and how they are applied to any number of channels."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .channels import in_turns
from .lookup import UINT8

Array = npt.NDArray[Any]

_MEDIAN_CHANNELS = frozenset({1, 3, 4})


def gaussian_kernel(sigma: float, size: int) -> Array:
    """A Gaussian of standard deviation `sigma` at `size` whole steps, an odd number; size 0: out to 3.5 sigma; (n, 1).

    A sigma of 0 is no blur at all. OpenCV computes it in floats of its own, with the same bits on every machine.
    """
    size = size or int(sigma * 3.5) * 2 + 1
    size += size % 2 == 0
    if sigma == 0:  # for which OpenCV chooses one
        return np.eye(size, 1, -(size // 2), np.float32)
    return cv2.getGaussianKernel(size, sigma, cv2.CV_32F)


def motion_kernel(
    size: int, angle: float, direction: float, shift_x: float, shift_y: float
) -> npt.NDArray[np.float32]:
    """A line of `size` points at `angle` degrees through a square of side `size`, normalised to sum 1.

    `direction` -1…1 shortens the line at one end; it is then moved by the shifts, given as shares of a quarter side.
    """
    half = size // 2
    start = -half * (1 - direction) if direction > 0 else -half
    end = half * (1 + direction) if direction < 0 else half
    steps = np.linspace(float(start), float(end), size)
    radians = math.radians(angle)
    columns = half + math.cos(radians) * steps + shift_x * half / 2
    rows = half + math.sin(radians) * steps + shift_y * half / 2
    kernel: Array = np.zeros((size, size), np.float32)
    kernel[_within(rows, size), _within(columns, size)] = 1
    kernel /= kernel.sum()
    return kernel


def _within(positions: Array, size: int) -> npt.NDArray[np.int64]:
    return np.clip(np.round(positions), 0, size - 1).astype(np.int64)


def sharpening_kernel(alpha: float, lightness: float) -> npt.NDArray[np.float32]:
    """The 3 x 3 kernel that blends the image with its sharpened self, by `alpha`."""
    middle = np.float32(1 - alpha) + np.float32(alpha) * np.float32(8 + lightness)
    side = (-alpha, -alpha, -alpha)
    return np.array((side, (-alpha, middle, -alpha), side), np.float32)


def convolved(image: Array, kernel: Array) -> Array:
    """`image` convolved with a kernel (h, w), at the borders mirrored without the edge; float32 clipped to 0…1."""
    return _finished(cv2.filter2D(image, -1, kernel), image)


def convolved_both_ways(image: Array, kernel: Array) -> Array:
    """`image` convolved with a kernel of n values along rows and along columns."""
    return _finished(cv2.sepFilter2D(image, -1, kernel, kernel), image)


def box_blurred(image: Array, size: int) -> Array:
    """The mean of each square of side `size`."""
    return cv2.blur(image, (size, size)).reshape(image.shape)


def median_blurred(image: Array, size: int) -> Array:
    """The median of each square of side `size`, of a uint8 image."""
    if image.ndim == 2 or image.shape[2] in _MEDIAN_CHANNELS:
        return cv2.medianBlur(image, size).reshape(image.shape)
    return in_turns(image, lambda plane: cv2.medianBlur(plane, size), 1)


def _finished(result: Array, image: Array) -> Array:
    if result.dtype != UINT8:
        np.clip(result, 0, 1, out=result)
    return result.reshape(image.shape)
