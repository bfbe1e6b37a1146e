"""Given the same parameters, pixels are those of albumentations 2.0.8 (MIT).

Parameters are drawn by us and handed to both. `EXCEPTIONS` lists what is meant to differ, and why; the rest must agree:
uint8 exactly, float32 within 1e-6.
"""

from __future__ import annotations

import warnings
from typing import Any

import albumentations as oracle
import cv2
import numpy as np
import pytest
from albumentations.augmentations.blur.functional import create_gaussian_kernel_1d, create_motion_kernel
from catalogue_pixels import CASES as ALL_CASES
from catalogue_pixels import RGB_CASES
from noises import whole_noise

import augstream as A
from augstream.seeding import Draws
from augstream.transforms.grains import normals

EXCEPTIONS: dict[str, str] = {
    "GaussNoise, ISONoise: the numbers themselves": (
        "2.0.8 seeds OpenCV's global generator with 16 bits, so that there are 65,536 noise maps; here numbers are "
        "addressed, and of full precision; how they are added agrees, and their distribution is tested"
    ),
    "Sharpen(method='gaussian') on uint8": (
        "2.0.8 subtracts the blurred image modulo 256, so that what gets darker turns bright, and fails on (H, W, 1); "
        "here differences have a sign"
    ),
    "AutoContrast(ignore=0, 1 or 2)": (
        "2.0.8 also skips the channel of that number; here ignore is a value of pixels only"
    ),
    "ToGray(method='pca')": (
        "in 2.0.8 it is chance whether the component points to bright or to dark; here always to bright"
    ),
    "ToGray(num_output_channels=1)": "2.0.8 drops the channel axis of (H, W, 3); here it is kept: (H, W, 1)",
    "Normalize: images of more channels than constants": (
        "2.0.8 silently takes the first constant for all channels; here the image is refused"
    ),
    "Normalize(normalization='image', ...) on uint8: dtype": "2.0.8 gives float64; here float32",
    "Normalize(normalization='image', ...), AutoContrast on `images`": (
        "2.0.8 pools the statistics of all images of a call; here each image is treated by its own"
    ),
    "Equalize, AutoContrast on (H, W) images": "2.0.8 also changes the image that it was given, in places",
    "Blur, MedianBlur, MotionBlur, Sharpen: even or too small kernels": (
        "2.0.8 warns and takes the next odd size; here the argument is refused, with the size to write"
    ),
    "RandomBrightnessContrast, RandomGamma, Solarize, ...: dtypes besides uint8 and float32": (
        "some transforms of 2.0.8 take uint16 and float64; here ToFloat comes first"
    ),
    "ToGray of grey images, HueSaturationValue of grey images": "2.0.8 warns; here the docstring says what happens",
    "ColorJitter on float32": (
        "four operations one after the other, each of which may stretch what the one before it rounded: within 1e-5"
    ),
    "RandomGamma on float32 below 0": (
        "2.0.8 gives NaN where cubic interpolation overshot; here they count as 0"
    ),
    "RandomBrightnessContrast, RGBShift: a second image of another dtype": (
        "2.0.8 adds levels of the first one's dtype to it, which blackens floats; here shares of its own range"
    ),
    "Downscale by INTER_AREA, CUBIC or LINEAR of more than four channels": (
        "OpenCV, and so 2.0.8, fails; here channels are done in turns"
    ),
    "ToTensorV2": "2.0.8's tensors are transposed views of the image; here they are contiguous, and not shared with it",
}
"""What differs from 2.0.8 on purpose: where, and the reason. The docs print this table."""

NO_ORACLE = {"AugMix", "ISONoise", "ToTensorV2"}  # EXCEPTIONS, and what 2.0.8 has not
ONLY_OURS = {
    "threshold",
    "var_limit",
    "quality_lower",
    "scale_min",
    "brightness_range",
}  # spellings of 1.x, or of X
CASES = [
    case for case in ALL_CASES + RGB_CASES
    if case[0] not in NO_ORACLE and ONLY_OURS.isdisjoint(case[1]) and case[1].get("method") != "pca"
]  # fmt: skip
IDS = [f"{number}-{name}" for number, (name, _) in enumerate(CASES)]
SHAPES = [(61, 47, 3), (48, 64), (53, 50, 1), (40, 45, 5)]
SEEDS = range(5)


class Seen:
    """What a transform may look at while it draws."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.shape = image.shape
        self.dtype = image.dtype

    def __contains__(self, name: object) -> bool:
        return name == "image"

    def __getitem__(self, name: str) -> np.ndarray:
        return self.image


class Replayed:
    """A `random.Random` whose next numbers are known."""

    def __init__(self, numbers: list[float]) -> None:
        self.numbers = list(numbers)

    def uniform(self, low: float, high: float) -> float:
        return self.numbers.pop(0)


def theirs(name: str, arguments: dict[str, Any]) -> Any:
    if isinstance(arguments.get("num_bits"), list):
        pairs = [bits if isinstance(bits, tuple) else (bits, bits) for bits in arguments["num_bits"]]
        arguments = {**arguments, "num_bits": pairs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(oracle, name)(**arguments)


def drawn(transform: Any, image: np.ndarray, seed: int) -> dict[str, Any]:
    draws = Draws()
    draws.move(seed.to_bytes(16, "little"), b"slot")
    return transform.draw(draws, Seen(image))


def in_their_words(other: Any, params: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
    """Our parameters as the oracle takes them."""
    name = type(other).__name__
    given = dict(params)
    if name == "GaussianBlur":
        given["kernel"] = create_gaussian_kernel_1d(params["sigma"], params["size"])
    elif name == "MotionBlur":
        numbers = Replayed(params["shift"])
        kernel = create_motion_kernel(
            params["size"], params["angle"], params["direction"], other.allow_shifted, numbers
        )
        given["kernel"] = kernel.astype(np.float32) / np.sum(kernel)
    elif name == "Sharpen":
        matrix = other._Sharpen__generate_sharpening_matrix
        given["sharpening_matrix"] = (
            None if other.method == "gaussian" else matrix(params["alpha"], params["lightness"])
        )
    elif name == "RGBShift":
        given["noise_map"] = np.array(params["shifts"])
    elif name == "GaussNoise":
        given["noise_map"] = noise_map(other, params, image)
    elif name == "ImageCompression":
        given["image_type"] = {"jpeg": ".jpg", "webp": ".webp"}[other.compression_type]
    elif name == "Equalize":
        given["mask"] = None
    return given


def noise_map(other: Any, params: dict[str, Any], image: np.ndarray) -> np.ndarray:
    """Our noise as the oracle would make it."""
    top = 255 if image.dtype == np.uint8 else 1
    key, sigma, mean = bytes.fromhex(params["key"]), params["sigma"] * top, params["mean"] * top
    shape = image.shape if other.per_channel else image.shape[:2]
    scale = other.noise_scale_factor
    if scale == 1 and image.dtype == np.uint8:
        noise = whole_noise(key, int(np.prod(shape)), mean, sigma).astype(np.float32)
    elif scale == 1:
        noise = normals(key, int(np.prod(shape))) * np.float32(sigma) + np.float32(mean)
    else:
        small = (int(shape[0] * scale), int(shape[1] * scale), *shape[2:])
        noise = (normals(key, int(np.prod(small))) * np.float32(sigma) + np.float32(mean)).reshape(small)
        noise = cv2.resize(noise, shape[1::-1], interpolation=cv2.INTER_LINEAR)
    noise = noise.reshape(shape)
    if noise.ndim < image.ndim:
        noise = np.broadcast_to(noise[..., None], image.shape)
    return noise


def some_image(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Smooth with some noise; some values are cut off at 0 and 255."""
    rng = np.random.default_rng(len(shape))
    coarse = rng.integers(-20, 276, (8, 8, *shape[2:])).astype(np.float32)
    image = cv2.resize(coarse, shape[1::-1], interpolation=cv2.INTER_CUBIC).reshape(shape)
    noisy = np.clip(image + rng.integers(-20, 20, shape), 0, 255).astype(np.uint8)
    return noisy if dtype is np.uint8 else (noisy / 255).astype(dtype)


def fits(name: str, arguments: dict[str, Any], shape: tuple[int, ...]) -> bool:
    """Whether both take an image of `shape`, and mean the same."""
    num_channels = shape[2] if len(shape) == 3 else 1
    if "ignore" in arguments and int(cv2.__version__.split(".")[0]) < 5:
        return False  # 2.0.8 itself fails there
    if name == "Normalize" and num_channels == 5:
        constants = arguments.get("mean", (1, 2, 3))
        return "normalization" in arguments or not isinstance(constants, tuple) or len(constants) == 1
    if num_channels == 3 or name == "Normalize":
        return True
    if arguments.get("method") == "gaussian" or "interpolation_pair" in arguments:
        return len(shape) == 2  # EXCEPTIONS
    if isinstance(arguments.get("num_bits"), list):
        return False
    if (name, arguments) in RGB_CASES and num_channels != 1:
        return False
    return name != "ToGray" or num_channels != 1  # EXCEPTIONS


def compared(
    name: str, arguments: dict[str, Any], image: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Our result and theirs; ours is computed first, from an image that must not change."""
    mine, other = getattr(A, name)(**arguments), theirs(name, arguments)
    params = drawn(mine, image, seed)
    before = image.copy()
    found = mine.apply(image, **params, shape=image.shape)
    np.testing.assert_array_equal(image, before)
    assert not np.shares_memory(found, image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = other.apply(before, **in_their_words(other, params, image))
    return found, np.ascontiguousarray(expected)


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=IDS)
def test_bytes(name, arguments):
    if arguments.get("method") == "gaussian":
        pytest.skip("EXCEPTIONS: Sharpen(method='gaussian') on uint8")
    for shape in filter(lambda shape: fits(name, arguments, shape), SHAPES):
        for seed in SEEDS:
            found, expected = compared(name, arguments, some_image(shape, np.uint8), seed)
            if expected.dtype == np.uint8:
                np.testing.assert_array_equal(found, expected.reshape(found.shape))
            else:
                assert found.dtype == np.float32
                np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=IDS)
def test_floats(name, arguments):
    for shape in filter(lambda shape: fits(name, arguments, shape), SHAPES):
        for seed in SEEDS:
            found, expected = compared(name, arguments, some_image(shape, np.float32), seed)
            assert found.dtype == expected.dtype == np.float32
            # Four operations one after the other, each of which may stretch what the one before it rounded.
            tolerance = 1e-5 if name == "ColorJitter" else 1e-6
            np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-6, atol=tolerance)


def test_sharpening_by_a_gaussian_is_what_was_meant():
    image = some_image((40, 50, 3), np.uint8)
    transform = A.Sharpen(method="gaussian", p=1)
    found = transform.apply(image, alpha=0.4, lightness=None)
    blurred = cv2.GaussianBlur(image, (5, 5), 1).astype(float)
    np.testing.assert_allclose(found, np.clip(image + 0.4 * (image - blurred), 0, 255), atol=0.51)


def test_the_principal_component_is_theirs_but_for_its_direction():
    image = some_image((40, 50, 3), np.uint8)
    found = A.ToGray(method="pca", p=1).apply(image)
    expected = oracle.ToGray(method="pca", p=1).apply(image)
    turned = 255 - expected
    nearest = min((expected, turned), key=lambda grey: np.abs(found.astype(int) - grey).max())
    assert np.abs(found.astype(int) - nearest).max() <= 1


@pytest.mark.parametrize("mode", ["cv", "pil"])
@pytest.mark.parametrize("by_channels", [True, False])
@pytest.mark.parametrize("shape", [(40, 50, 3), (40, 50)])
def test_equalizing_behind_a_mask(mode, by_channels, shape):
    image = some_image(shape, np.uint8)
    masks = [np.zeros(shape[:2], np.uint8), np.eye(40, 50, dtype=bool), some_image(shape[:2], np.uint8) > 90]
    if len(shape) == 3 and by_channels:
        masks.append(some_image(shape, np.uint8) > 90)
    for mask in masks[1:]:
        found = A.Equalize(mode, by_channels, mask=mask, p=1).apply(image)
        expected = oracle.Equalize(mode, by_channels, p=1).apply(image.copy(), mask=mask)
        np.testing.assert_array_equal(found, expected)


def test_a_saved_pipeline_of_theirs_has_our_pixels():
    """All tables and normalisation in one pipeline, through Compose on both sides, with nothing left to chance."""
    mine, other = (
        library.Compose(
            [
                library.RandomBrightnessContrast((0.1, 0.1), (-0.2, -0.2), p=1),
                library.RandomGamma((90, 90), p=1),
                library.Solarize((0.7, 0.7), p=1),
                library.Posterize(5, p=1),
                library.InvertImg(p=1),
                library.Normalize(),
            ]
        )
        for library in (A, oracle)
    )
    image = some_image((60, 70, 3), np.uint8)
    np.testing.assert_allclose(mine(image=image)["image"], other(image=image)["image"], rtol=0, atol=1e-6)


def test_exceptions_say_why():
    assert all(len(reason) > 20 for reason in EXCEPTIONS.values())
