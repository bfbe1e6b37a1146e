"""Contrast from the image's own histogram: `CLAHE`, `Equalize`, `AutoContrast`.

Arguments, defaults and results are those of albumentations 2.0.8. All work on uint8; float32 images go through
uint8 and back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import cv2
import numpy as np

from ..errors import RecipeError
from .arguments import number, number_range, one_of, refuse
from .base import Array, ImageOnlyTransform, Params
from .call import first_image
from .equalizing import contrast_table, equalize_table_cv, equalize_table_pil, histogram
from .lookup import UINT8, interleaved, look_up, planes
from .pointwise import channels_of, is_grey
from .tables import check_grey_or_rgb, through_bytes

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import View

Range = tuple[float, float]


class CLAHE(ImageOnlyTransform):
    """Equalize the lightness of each of `tile_grid_size` (rows, columns) tiles, its slope limited by `clip_limit`.

    `clip_limit` is a range, drawn from; a number v is (1, v). One or three channels; the lightness is L of CIE Lab.
    Source: Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV, 1994.
    """

    _legacy: ClassVar = {"clip_range": "clip_limit"}

    def __init__(
        self, clip_limit: Range | float = 4.0, tile_grid_size: tuple[int, int] = (8, 8), p: float = 0.5
    ) -> None:
        super().__init__(p)
        self.clip_limit = number_range(self, "clip_limit", clip_limit, 1, scalar="from_one")
        grid = tuple(tile_grid_size) if isinstance(tile_grid_size, (list, tuple)) else ()
        if len(grid) != 2 or not all(isinstance(side, int) and side >= 1 for side in grid):
            refuse(self, "tile_grid_size", tile_grid_size, "a pair of whole numbers from 1 up")
        self.tile_grid_size = grid

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw `clip_limit`."""
        return {"clip_limit": rng.uniform(*self.clip_limit)}

    def apply(self, img: Array, **params: Any) -> Array:
        """The image with its lightness equalized."""
        if img.dtype != UINT8:
            return through_bytes(self, img, params)
        clahe = cv2.createCLAHE(params["clip_limit"], self.tile_grid_size)
        if check_grey_or_rgb(self, img.shape):
            return clahe.apply(img).reshape(img.shape)
        return _with_first_channel(img, clahe.apply, cv2.COLOR_RGB2LAB, cv2.COLOR_LAB2RGB)


def _with_first_channel(image: Array, change: Callable[[Array], Array], there: int, back: int) -> Array:
    """An RGB image whose first channel in another colour space was changed by `change`."""
    other = cv2.cvtColor(image, there)
    cv2.insertChannel(change(planes(other)[0]), other, 0)  # all planes come sooner than one by itself
    return cv2.cvtColor(other, back)


class Equalize(ImageOnlyTransform):
    """Spread the values so that each range of them is as frequent as any other.

    `mode` is OpenCV's formula ("cv") or Pillow's ("pil"). `by_channels=False` equalizes the luma of YCrCb only.
    `mask`: only pixels where it is not zero are counted; an array (H, W[, 3]), or a function of the image and of the
    targets named in `mask_params` that returns one. One or three channels.
    """

    def __init__(
        self,
        mode: Literal["cv", "pil"] = "cv",
        by_channels: bool = True,
        mask: Array | Callable[..., Array] | None = None,
        mask_params: Sequence[str] = (),
        p: float = 0.5,
    ) -> None:
        super().__init__(p)
        self.mode = one_of(self, "mode", mode, _EQUALIZERS)
        self.by_channels = by_channels
        is_array = isinstance(mask, np.ndarray) and mask.dtype.kind in "biuf"
        if mask is not None and not callable(mask) and not is_array:
            refuse(self, "mask", mask, "an array of numbers or booleans, or a function that returns one")
        if isinstance(mask_params, str) or not isinstance(mask_params, Collection):
            refuse(self, "mask_params", mask_params, "a list of the names of targets")
        self.mask = mask
        self.mask_params = tuple(mask_params)

    @property
    def targets_as_params(self) -> list[str]:
        """The targets that the mask function takes."""
        return list(self.mask_params)

    def draw(self, rng: Draws, view: View) -> Params:
        """Compute the mask, if it is a function."""
        if not callable(self.mask):
            return {}
        missing = [name for name in self.mask_params if name not in view]
        if missing:
            msg = f"Equalize's mask function takes the targets {missing}, which were not given"
            raise RecipeError(msg)
        return {"mask": self.mask(image=first_image(view), **{name: view[name] for name in self.mask_params})}

    def apply(self, img: Array, **params: Any) -> Array:
        """The equalized image."""
        if img.dtype != UINT8:
            return through_bytes(self, img, params)
        grey = check_grey_or_rgb(self, img.shape)
        mask = params.get("mask") if callable(self.mask) else self.mask
        if mask is not None:
            mask = (np.asarray(mask) != 0).astype(np.uint8)
            self._check_mask(img.shape, mask.shape)
        if grey:
            plane = img.reshape(img.shape[:2])
            return self._plane(plane, _mask_of(mask, 0)).reshape(img.shape)
        if not self.by_channels:
            return _with_first_channel(
                img,
                lambda luma: self._plane(luma, _mask_of(mask, 0)),
                cv2.COLOR_RGB2YCrCb,
                cv2.COLOR_YCrCb2RGB,
            )
        return interleaved([self._plane(plane, _mask_of(mask, c)) for c, plane in enumerate(planes(img))])

    def _check_mask(self, shape: tuple[int, ...], mask_shape: tuple[int, ...]) -> None:
        allowed = {1, channels_of(shape)} if self.by_channels else {1}
        if mask_shape[:2] != shape[:2] or channels_of(mask_shape) not in allowed:
            msg = f"Equalize: a mask of shape {mask_shape} does not fit the image of shape {shape}"
            msg += "; with by_channels=False it has one channel" if not self.by_channels else ""
            raise RecipeError(msg)

    def _plane(self, plane: Array, mask: Array | None) -> Array:
        if self.mode == "cv" and mask is None:
            return cv2.equalizeHist(plane)
        table = _EQUALIZERS[self.mode](histogram(plane, mask))
        return plane.copy() if table is None else look_up(plane, table)


_EQUALIZERS: Mapping[str, Callable[[Array], Array | None]] = {
    "cv": equalize_table_cv, "pil": equalize_table_pil,
}  # fmt: skip


def _mask_of(mask: Array | None, channel: int) -> Array | None:
    """The mask of one channel, (H, W)."""
    if mask is None or mask.ndim == 2:
        return mask
    return np.ascontiguousarray(mask[:, :, channel if mask.shape[2] > 1 else 0])


class AutoContrast(ImageOnlyTransform):
    """Stretch each channel to the whole range.

    `cutoff` percent of the darkest and of the brightest pixels are cut off first. `ignore` is a value that is not
    counted and stays as it is. `method` "cdf" spreads values by how frequent they are, "pil" evenly, as Pillow does.
    Pixels of value 255 are not counted, as in albumentations 2.0.8. Any number of channels.
    """

    def __init__(
        self,
        cutoff: float = 0,
        ignore: int | None = None,
        method: Literal["cdf", "pil"] = "cdf",
        p: float = 0.5,
    ) -> None:
        super().__init__(p)
        self.cutoff = number(self, "cutoff", cutoff, 0, 100)
        self.ignore = None if ignore is None else int(number(self, "ignore", ignore, 0, 255))
        self.method = one_of(self, "method", method, ("cdf", "pil"))

    def draw(self, rng: Draws, view: View) -> Params:
        """Nothing to draw."""
        return {}

    def apply(self, img: Array, **params: Any) -> Array:
        """The stretched image."""
        if img.dtype != UINT8:
            return through_bytes(self, img, params)
        if is_grey(img.shape):
            return self._plane(img.reshape(img.shape[:2])).reshape(img.shape)
        stretched = [self._plane(plane) for plane in planes(img)]
        return interleaved(stretched) if len(stretched) <= 4 else np.dstack(stretched)

    def _plane(self, plane: Array) -> Array:
        mask = None if self.ignore is None else (plane != self.ignore).view(np.uint8)
        table = contrast_table(histogram(plane, mask, top=255), self.cutoff, self.method)
        if table is None:
            return plane
        if self.ignore is not None:
            table[self.ignore] = self.ignore
        return look_up(plane, table)
