"""What is done with whole channels: their order, and one grey channel made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import RecipeError
from .lookup import MAX_CV_CHANNELS, interleaved, planes
from .pointwise import as_bytes, as_floats, max_value

Image = npt.NDArray[Any]

_RGB_ONLY = frozenset({"weighted_average", "from_lab"})
_CV_DTYPES: frozenset[np.dtype[Any]] = frozenset({np.dtype(np.uint8), np.dtype(np.float32)})
_GREY_DTYPES: Mapping[str, frozenset[np.dtype[Any]]] = {  # of the methods that are OpenCV's
    "weighted_average": _CV_DTYPES.union([np.dtype(np.uint16)]),
    "from_lab": _CV_DTYPES,
}


def shuffled(image: Image, order: Sequence[int]) -> Image:
    """The image whose channel c is channel order[c] of `image`."""
    if len(order) > MAX_CV_CHANNELS or image.dtype not in _CV_DTYPES:
        return np.ascontiguousarray(image[:, :, order])
    found = planes(image)
    return interleaved([found[channel] for channel in order])


def in_turns(image: Image, work: Callable[[Image], Image], most: int = MAX_CV_CHANNELS) -> Image:
    """`work` on the whole image, or on at most `most` channels after the other where there are more."""
    num_channels = image.shape[2] if image.ndim == 3 else 1
    if num_channels <= most:
        done = work(image)
        return done if done.ndim == image.ndim else done.reshape(*done.shape[:2], 1)
    turns = [
        np.ascontiguousarray(image[:, :, first : first + most]) for first in range(0, num_channels, most)
    ]
    return np.dstack([work(turn) for turn in turns])


def to_grey(image: Image, method: str, num_channels: int) -> Image:
    """(H, W, num_channels): the grey of an image (H, W, C) by `method`, repeated."""
    if method in _RGB_ONLY and image.shape[2] != 3:
        msg = (
            f"ToGray(method={method!r}) takes images of 3 channels, got shape {image.shape}; "
            "method='average' takes any number"
        )
        raise TypeError(msg)
    if method in _GREY_DTYPES and image.dtype not in _GREY_DTYPES[method]:
        names = ", ".join(sorted(map(str, _GREY_DTYPES[method])))
        msg = (
            f"ToGray(method={method!r}) takes images of {names}, got {image.dtype}; put ToFloat() before it, or use "
            "method='average', which takes any numbers"
        )
        raise RecipeError(msg)
    grey = GREY_METHODS[method](image)
    if num_channels == 1:
        return grey[:, :, None]
    if num_channels == 3 and grey.dtype in _CV_DTYPES:
        return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    return np.repeat(grey[:, :, None], num_channels, axis=2)


def _weighted(image: Image) -> Image:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _lightness(image: Image) -> Image:
    if image.dtype == np.uint8:
        return cv2.extractChannel(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), 0)
    return as_floats(_lightness(as_bytes(image)))


def _desaturated(image: Image) -> Image:
    brightest: Image = image.max(axis=2)
    darkest: Image = image.min(axis=2)
    middle: Image = (
        (brightest + darkest) / 2 if image.dtype.kind == "f" else darkest + (brightest - darkest) // 2
    )
    return middle


def _averaged(image: Image) -> Image:
    means: Image = image.mean(axis=2)
    return means.astype(image.dtype)


def _brightest(image: Image) -> Image:
    brightest: Image = image.max(axis=2)
    return brightest


def _principal(image: Image) -> Image:
    """The projection on the first principal component of the colours, stretched to the whole range."""
    colours = image.reshape(-1, image.shape[2]).astype(np.float64)
    colours -= colours.mean(axis=0)
    _, vectors = np.linalg.eigh(colours.T @ colours)
    component = vectors[:, -1]
    projected = colours @ (component if component.sum() >= 0 else -component)
    low, high = projected.min(), projected.max()
    share: Image = ((projected - low) / (high - low + 1e-4)).reshape(image.shape[:2])
    if image.dtype.kind == "f":
        return share.astype(image.dtype)
    levels: Image = np.rint(share * max_value(image.dtype))
    return levels.astype(image.dtype)


GREY_METHODS: Mapping[str, Callable[[Image], Image]] = {
    "weighted_average": _weighted,
    "from_lab": _lightness,
    "desaturation": _desaturated,
    "average": _averaged,
    "max": _brightest,
    "pca": _principal,
}
