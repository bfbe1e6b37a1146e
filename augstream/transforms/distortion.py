"""Distortions: every pixel moves by a way of its own, smooth and small."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import cv2
import numpy as np

from ..seeding import generator
from .arguments import Fill, integer, number, number_range, one_of, refuse
from .base import Array, Params
from .canvas import Canvas
from .raster import remap
from .remapping import remap_bboxes, remap_keypoints_by_mask, remap_keypoints_directly
from .warping import WarpTransform

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import Call, View

KeypointMethod = Literal["direct", "mask"]
Maps = tuple[Array, Array]

_LEGACY = {"value": "fill", "mask_value": "fill_mask"}


class _Distortion(WarpTransform):
    """A transform that takes every pixel from where two maps say, which are made anew from few parameters."""

    def __init__(
        self,
        *,
        keypoint_remapping_method: KeypointMethod,
        interpolation: int,
        mask_interpolation: int,
        border_mode: int,
        fill: Fill | None,
        fill_mask: Fill | None,
        p: float,
    ) -> None:
        super().__init__(
            interpolation=interpolation, mask_interpolation=mask_interpolation, border_mode=border_mode,
            fill=fill, fill_mask=fill_mask, p=p,
        )  # fmt: skip
        self.keypoint_remapping_method = one_of(
            self, "keypoint_remapping_method", keypoint_remapping_method, ("direct", "mask")
        )

    def maps(self, params: Params, shape: tuple[int, ...]) -> Maps:
        """The maps (map_x, map_y), float32 (H, W), that the drawn `params` mean for an image of `shape`."""
        raise NotImplementedError

    def apply_params(self, call: Call, params: Params) -> None:
        """Make the maps once, for all targets; they are not recorded."""
        map_x, map_y = self.maps(params, call.shape)
        call.apply(self, {**params, "map_x": map_x, "map_y": map_y})

    def _maps_of(self, params: Params, shape: tuple[int, ...]) -> Maps:
        return (params["map_x"], params["map_y"]) if "map_x" in params else self.maps(params, shape)

    def perform(self, canvas: Canvas, params: Params) -> None:
        """Resample."""
        map_x, map_y = self._maps_of(params, canvas.shape)
        canvas.set(remap(canvas.readable(), map_x, map_y, self.sampling(canvas)))

    def apply_to_bboxes(self, bboxes: Array, **params: Any) -> Array:
        """The boxes around the moved pixels of the boxes."""
        return remap_bboxes(bboxes, *self._maps_of(params, params["shape"]))

    def apply_to_keypoints(self, keypoints: Array, **params: Any) -> Array:
        """The moved keypoints; with "mask", those of which no pixel is left are dropped."""
        method = (
            remap_keypoints_by_mask if self.keypoint_remapping_method == "mask" else remap_keypoints_directly
        )
        return method(keypoints, *self._maps_of(params, params["shape"]))


class ElasticTransform(_Distortion):
    """Move pixels by two fields of smoothed noise: of deviation `sigma` pixels, times `alpha`.

    The noise is "gaussian", divided by its largest absolute value, or "uniform" in (-1, 1). With `same_dxdy` one field
    serves both axes. With `approximate` the smoothing sees 17 x 17 pixels only, and is faster for a large sigma.

    Source: Simard, Steinkraus and Platt, "Best practices for convolutional neural networks", ICDAR 2003.
    """

    _legacy: ClassVar[Mapping[str, str]] = _LEGACY

    def __init__(
        self,
        alpha: float = 1,
        sigma: float = 50,
        interpolation: int = cv2.INTER_LINEAR,
        approximate: bool = False,
        same_dxdy: bool = False,
        mask_interpolation: int = cv2.INTER_NEAREST,
        noise_distribution: Literal["gaussian", "uniform"] = "gaussian",
        keypoint_remapping_method: KeypointMethod = "mask",
        border_mode: int = cv2.BORDER_CONSTANT,
        fill: Fill | None = 0,
        fill_mask: Fill | None = 0,
        p: float = 0.5,
    ) -> None:
        super().__init__(
            keypoint_remapping_method=keypoint_remapping_method, interpolation=interpolation,
            mask_interpolation=mask_interpolation, border_mode=border_mode, fill=fill, fill_mask=fill_mask, p=p,
        )  # fmt: skip
        self.alpha = number(self, "alpha", alpha, 0)
        self.sigma = number(self, "sigma", sigma, 1)
        self.approximate = approximate
        self.same_dxdy = same_dxdy
        self.noise_distribution = one_of(
            self, "noise_distribution", noise_distribution, ("gaussian", "uniform")
        )

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the key of the noise."""
        return {"key": rng.subkey().hex()}

    def maps(self, params: Params, shape: tuple[int, ...]) -> Maps:
        """Each pixel's place, plus smoothed noise."""
        height, width = shape[:2]
        fields = self.displacements(generator(bytes.fromhex(params["key"])), height, width)
        map_x = fields[0] + np.arange(width, dtype=np.float32)
        map_y = fields[-1] + np.arange(height, dtype=np.float32)[:, None]
        return map_x, map_y

    def displacements(self, rng: np.random.Generator, height: int, width: int) -> list[Array]:
        """One or two fields (H, W) of smoothed noise from `rng`."""
        shape = (1 if self.same_dxdy else 2, height, width)
        if self.noise_distribution == "gaussian":
            noise = rng.standard_normal(shape, dtype=np.float32)
            largest = max(float(noise.max()), -float(noise.min()))
            factor = self.alpha / largest if largest > 1e-6 else self.alpha
        else:
            noise = rng.random(shape, dtype=np.float32)
            noise *= 2
            noise -= 1
            factor = self.alpha
        noise *= np.float32(factor)
        kernel = (17, 17) if self.approximate else (0, 0)
        return [
            cv2.GaussianBlur(field, kernel, self.sigma, borderType=cv2.BORDER_REPLICATE) for field in noise
        ]


class OpticalDistortion(_Distortion):
    """Bend the image as a lens does, by a coefficient drawn from `distort_limit`; a number v means (-v, v).

    `mode` is "camera" (OpenCV's model, the coefficient for both radial terms) or "fisheye" (r times 1 + k r², with r
    1 at the farthest corner).
    """

    _legacy: ClassVar[Mapping[str, str]] = {**_LEGACY, "distort_range": "distort_limit"}

    def __init__(
        self,
        distort_limit: float | tuple[float, float] = (-0.05, 0.05),
        interpolation: int = cv2.INTER_LINEAR,
        mask_interpolation: int = cv2.INTER_NEAREST,
        mode: Literal["camera", "fisheye"] = "camera",
        keypoint_remapping_method: KeypointMethod = "mask",
        p: float = 0.5,
        border_mode: int = cv2.BORDER_CONSTANT,
        fill: Fill | None = 0,
        fill_mask: Fill | None = 0,
    ) -> None:
        super().__init__(
            keypoint_remapping_method=keypoint_remapping_method, interpolation=interpolation,
            mask_interpolation=mask_interpolation, border_mode=border_mode, fill=fill, fill_mask=fill_mask, p=p,
        )  # fmt: skip
        self.distort_limit = number_range(self, "distort_limit", distort_limit)
        self.mode = one_of(self, "mode", mode, ("camera", "fisheye"))

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the coefficient."""
        return {"k": rng.uniform(*self.distort_limit)}

    def maps(self, params: Params, shape: tuple[int, ...]) -> Maps:
        """The lens's maps."""
        height, width = shape[:2]
        k = params["k"]
        if self.mode == "camera":
            camera = np.array([[width, 0, width / 2], [0, height, height / 2], [0, 0, 1]], np.float32)
            lens = np.array([k, k, 0, 0, 0], np.float32)
            target = (
                camera.copy()
            )  # OpenCV's default: the same, with the optical axis through the middle pixel
            target[:2, 2] = (width - 1) / 2, (height - 1) / 2
            size = (width, height)
            map_x, map_y = cv2.initUndistortRectifyMap(camera, lens, None, target, size, cv2.CV_32FC1)
            return np.asarray(map_x), np.asarray(map_y)
        x = np.arange(width, dtype=np.float32) - np.float32(width / 2)
        y = (np.arange(height, dtype=np.float32) - np.float32(height / 2))[:, None]
        stretch = (x * x + y * y) * np.float32(k / ((width / 2) ** 2 + (height / 2) ** 2)) + 1
        return x * stretch + np.float32(width / 2), y * stretch + np.float32(height / 2)


class GridDistortion(_Distortion):
    """Stretch the columns and rows of a grid by random factors.

    The image is cut into `num_steps` columns and rows, and what remains. Each is stretched by 1 plus a number drawn
    from `distort_limit` (a number v means (-v, v)). With `normalized` the whole keeps its size, else it may end
    outside of the image.
    """

    _legacy: ClassVar[Mapping[str, str]] = {**_LEGACY, "distort_range": "distort_limit"}

    def __init__(
        self,
        num_steps: int = 5,
        distort_limit: float | tuple[float, float] = (-0.3, 0.3),
        interpolation: int = cv2.INTER_LINEAR,
        normalized: bool = True,
        mask_interpolation: int = cv2.INTER_NEAREST,
        keypoint_remapping_method: KeypointMethod = "mask",
        p: float = 0.5,
        border_mode: int = cv2.BORDER_CONSTANT,
        fill: Fill | None = 0,
        fill_mask: Fill | None = 0,
    ) -> None:
        super().__init__(
            keypoint_remapping_method=keypoint_remapping_method, interpolation=interpolation,
            mask_interpolation=mask_interpolation, border_mode=border_mode, fill=fill, fill_mask=fill_mask, p=p,
        )  # fmt: skip
        self.num_steps = integer(self, "num_steps", num_steps, 1)
        self.distort_limit = number_range(self, "distort_limit", distort_limit, -1, 1)
        self.normalized = normalized

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the factors of columns and rows."""
        height, width = view.shape[:2]
        if min(height, width) < self.num_steps:
            refuse(
                self, "num_steps", self.num_steps, f"at most the image's smallest side, {min(height, width)}"
            )
        return {"steps_x": self._steps(rng, width), "steps_y": self._steps(rng, height)}

    def _steps(self, rng: Draws, size: int) -> list[float]:
        steps = [1 + rng.uniform(*self.distort_limit) for _ in range(self.num_steps + 1)]
        if not self.normalized:
            return steps
        step = size // self.num_steps
        steps[-1] *= (min(size, (self.num_steps + 1) * step) - self.num_steps * step) / step
        factor = size / step / math.fsum(steps)
        return [factor * value for value in steps]

    def maps(self, params: Params, shape: tuple[int, ...]) -> Maps:
        """Columns and rows from where the stretched grid has them."""
        height, width = shape[:2]
        xs = self._sources(params["steps_x"], width)
        ys = self._sources(params["steps_y"], height)
        map_x, map_y = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
        map_x[:] = xs
        map_y[:] = ys[:, None]
        return map_x, map_y

    def _sources(self, steps: list[float], size: int) -> Array:
        """Where each of `size` columns comes from."""
        step = size // self.num_steps
        places: list[int] = []
        values: list[float] = []
        value = 0.0
        for start, factor in zip(range(0, size, step), steps, strict=False):
            last = min(start + step, size) - 1
            places.append(start)
            values.append(value)
            value += step * factor
            if last > start:
                places.append(last)
                values.append(value)
        return np.interp(np.arange(size), places, values)
