"""Tables from histograms: how often each of the 256 values occurs decides what takes its place.

The formulas are those of OpenCV's `equalizeHist`, of Pillow's `ImageOps.equalize` and `autocontrast`, and of
albumentations 2.0.8 where it departs from them.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .pointwise import LEVELS, Table, truncated

Array = npt.NDArray[Any]


def histogram(plane: Array, mask: Array | None = None, top: int = 256) -> Array:
    """How often each value below `top` occurs in a uint8 plane (H, W), where `mask` is not zero; (256,) float32."""
    counts = cv2.calcHist([plane], [0], mask, [256], (0, 256)).ravel()
    counts[top:] = 0
    return counts


def equalize_table_cv(counts: Array) -> Table:
    """OpenCV's equalization: the share of darker values, the darkest that occurs becoming 0."""
    found = np.flatnonzero(counts)
    first = found[0] if len(found) else 255
    others = np.sum(counts) - counts[first]
    if not others:
        return np.arange(256, dtype=np.uint8)
    cumulated = np.cumsum(counts)
    return truncated(np.rint((cumulated - cumulated[first]) * (255.0 / others)))


def equalize_table_pil(counts: Array) -> Table | None:
    """Pillow's equalization, but that a value counts among those below it, as in 2.0.8; None: it stays as it is."""
    found = counts[counts > 0]
    step = np.sum(found[:-1]) // 255 if len(found) > 1 else 0
    if not step:
        return None
    table: Table = np.minimum((np.cumsum(counts) + step // 2) // step, 255).astype(np.uint8)
    return table


def contrast_table(counts: Array, cutoff: float, method: str) -> Table | None:
    """The table that stretches the values between the cut-offs to 0…255; None where nothing can be stretched."""
    low, high = _bounds(counts, cutoff)
    if high <= low:
        return None
    if method == "pil":
        stretched = (LEVELS.astype(np.float64) - low) * (255.0 / (high - low))
    else:
        inside = counts[low : high + 1].cumsum()
        span = inside[-1] - inside[0]
        if inside[-1] == 0:
            return np.arange(256, dtype=np.uint8)
        stretched = np.zeros(256)
        stretched[low : high + 1] = (inside - inside[0]) * 255.0 / span if span else 0.0
    table = truncated(np.rint(stretched))
    table[:low] = 0
    table[high + 1 :] = 255
    return table


def _bounds(counts: Array, cutoff: float) -> tuple[int, int]:
    """The darkest and brightest value that are left when `cutoff` percent of the pixels are cut off at either end."""
    if not cutoff:
        found = np.flatnonzero(counts)
        return (int(found[0]), int(found[-1])) if len(found) else (0, 0)
    total = float(counts.sum())
    if total == 0:
        return 0, 0
    if (counts == counts[0]).all():
        low = int(256 * cutoff / 100)
        return low, 255 - low
    to_cut = total * cutoff / 100.0
    cumulated = np.cumsum(counts, dtype=np.float64)
    low = min(int(np.searchsorted(cumulated, to_cut)) + 1, 255)
    from_top = np.cumsum(counts[::-1], dtype=np.float64)
    high = 255 - int(np.searchsorted(from_top, to_cut))
    return (low, high) if low <= high else (127, 127)
