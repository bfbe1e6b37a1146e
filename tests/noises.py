"""Whole noise as `GaussNoise` adds it to uint8 images, as signed numbers."""

from __future__ import annotations

import numpy as np

from augstream.transforms.alias import signed_blocks, truncated_normal_sizes
from augstream.transforms.grains import discrete, truncated_normal_steps


def whole_noise(key: bytes, size: int, mean: float, sigma: float) -> np.ndarray:
    """(size,) int16."""
    if mean or not sigma:
        return discrete(key, size, truncated_normal_steps(mean, sigma))
    blocks = [
        np.where(signs, -sizes.astype(np.int16), sizes)
        for _, sizes, signs in signed_blocks(key, size, truncated_normal_sizes(sigma))
    ]
    return np.concatenate([np.zeros(0, np.int16), *blocks])
