"""What storing does to images: `ImageCompression` (JPEG, WebP) and `Downscale`.

Arguments, defaults and results are those of albumentations 2.0.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import cv2
import numpy as np

from ..errors import RecipeError
from .arguments import INTERPOLATIONS, integer_range, number_range, one_of, refuse
from .base import Array, ImageOnlyTransform, Params
from .channels import in_turns
from .lookup import UINT8
from .pointwise import channels_of
from .raster import NEAREST
from .tables import through_bytes

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import View

Range = tuple[float, float]

_SUFFIXES: Mapping[str, tuple[str, int]] = {
    "jpeg": (".jpg", cv2.IMWRITE_JPEG_QUALITY),
    "webp": (".webp", cv2.IMWRITE_WEBP_QUALITY),
}


class ImageCompression(ImageOnlyTransform):
    """Compress and decompress, at a random quality from 1 to 100.

    As in 2.0.8 the codec takes the first channel for blue. Two channels are compressed with a third of zeros; of more
    than three, the others are compressed as grey images. A float32 image goes through uint8 and back.
    `quality_lower` and `quality_upper` are the spellings of albumentations 1.x.
    """

    _legacy: ClassVar = {"quality_limit": "quality_range"}

    def __init__(
        self,
        compression_type: Literal["jpeg", "webp"] = "jpeg",
        quality_range: tuple[int, int] = (99, 100),
        p: float = 0.5,
        *,
        quality_lower: int | None = None,
        quality_upper: int | None = None,
    ) -> None:
        super().__init__(p)
        self.compression_type = one_of(self, "compression_type", compression_type, _SUFFIXES)
        if quality_lower is not None or quality_upper is not None:
            quality_range = (
                99 if quality_lower is None else quality_lower,
                100 if quality_upper is None else quality_upper,
            )
        self.quality_range = integer_range(self, "quality_range", quality_range, 1, scalar="fixed")
        if self.quality_range[1] > 100:
            refuse(self, "quality_range", quality_range, "from 1 to 100")

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw `quality`."""
        return {"quality": rng.randint(*self.quality_range)}

    def apply(self, img: Array, **params: Any) -> Array:
        """The image as it comes back."""
        if img.dtype != UINT8:
            return through_bytes(self, img, params)
        suffix, flag = _SUFFIXES[self.compression_type]
        options = (flag, params["quality"])
        num_channels = channels_of(img.shape)
        if num_channels == 3:
            return _stored(img, suffix, options, cv2.IMREAD_UNCHANGED)  # looks for no orientation
        if num_channels == 1:
            return _stored(img, suffix, options, cv2.IMREAD_GRAYSCALE).reshape(img.shape)
        if num_channels == 2:
            third = np.zeros((*img.shape[:2], 1), np.uint8)
            colours = _stored(np.dstack((img, third)), suffix, options, cv2.IMREAD_COLOR)
            return np.ascontiguousarray(colours[:, :, :2])
        colours = _stored(img[:, :, :3], suffix, options, cv2.IMREAD_COLOR)
        others = [
            _stored(img[:, :, c], suffix, options, cv2.IMREAD_GRAYSCALE) for c in range(3, num_channels)
        ]
        return np.dstack((colours, *others))


def _stored(image: Array, suffix: str, options: tuple[int, int], mode: int) -> Array:
    done, data = cv2.imencode(suffix, image, options)
    back = cv2.imdecode(data, mode) if done else None
    if back is None:
        msg = f"OpenCV could not store an image of shape {image.shape} as {suffix}"
        raise RecipeError(msg)
    return back


class Downscale(ImageOnlyTransform):
    """Shrink by a random factor, and enlarge to the old size: fewer details, same shape.

    A float32 image goes through uint8 and back.
    `interpolation_pair` says how: {"downscale": code, "upscale": code}, OpenCV's codes (0 nearest). `scale_min`,
    `scale_max` and `interpolation` (one code for both, or the pair) are the spellings of albumentations 1.x.
    """

    def __init__(
        self,
        scale_range: Range = (0.25, 0.25),
        interpolation_pair: Mapping[str, int] = {  # never changed
            "upscale": cv2.INTER_NEAREST,
            "downscale": cv2.INTER_NEAREST,
        },
        p: float = 0.5,
        *,
        scale_min: float | None = None,
        scale_max: float | None = None,
        interpolation: int | Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(p)
        if scale_min is not None or scale_max is not None:
            scale_range = (0.25 if scale_min is None else scale_min, 0.25 if scale_max is None else scale_max)
        self.scale_range = number_range(self, "scale_range", scale_range, 0, 1, scalar="fixed")
        if not self.scale_range[0]:
            refuse(self, "scale_range", scale_range, "greater than 0, and at most 1")
        pair: Any = interpolation_pair if interpolation is None else interpolation
        if isinstance(pair, int):
            pair = {"upscale": pair, "downscale": pair}
        if not isinstance(pair, Mapping) or set(pair) != {"upscale", "downscale"}:
            refuse(self, "interpolation_pair", pair, "a dict of 'upscale' and 'downscale'")
        self.interpolation_pair = {
            name: one_of(self, name, code, INTERPOLATIONS) for name, code in pair.items()
        }

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw `scale`."""
        return {"scale": rng.uniform(*self.scale_range)}

    def apply(self, img: Array, **params: Any) -> Array:
        """The image with fewer details."""
        if img.dtype != UINT8:
            return through_bytes(self, img, params)
        return in_turns(img, lambda part: self._downscaled(part, params["scale"]))

    def _downscaled(self, img: Array, scale: float) -> Array:
        """An image of at most four channels with fewer details."""
        height, width = img.shape[:2]
        down = self.interpolation_pair["downscale"]
        if min(height, width) * scale > 0.5:
            small = cv2.resize(img, None, fx=scale, fy=scale, interpolation=down)
        else:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            small = cv2.resize(img, size, interpolation=down)
        return _enlarged(small, height, width, self.interpolation_pair["upscale"])


def _enlarged(image: Array, height: int, width: int, interpolation: int) -> Array:
    """An image of at most four channels, enlarged; nearest neighbours row by row, for rows are copied fast."""
    if interpolation not in NEAREST:
        return cv2.resize(image, (width, height), interpolation=interpolation)
    rows: Array = np.arange(len(image), dtype=np.int32)[:, None]
    nearest: Array = cv2.resize(rows, (1, height), interpolation=interpolation)[:, 0]
    return cv2.resize(image, (width, len(image)), interpolation=interpolation).take(nearest, axis=0)
