"""Drawn parameters, and noise, have the distributions of albumentations 2.0.8 (MIT), and those that are promised.

Both sides are seeded, so that a test that passes always passes.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from typing import Any

import albumentations as oracle
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from noises import whole_noise
from scipy.stats import chisquare, ks_2samp, kstest, norm, poisson

import augstream as A
from augstream.seeding import Draws
from augstream.transforms.alias import alias_of, truncated_normal_sizes
from augstream.transforms.grains import discrete, normals, poisson_steps, truncated_normal_steps

NUM_DRAWS = 10_000
SMALLEST_P = 1e-4  # over some hundred tests with fixed seeds

CASES: list[tuple[str, dict[str, Any]]] = [
    ("RandomBrightnessContrast", {}),
    ("RandomBrightnessContrast", {"brightness_limit": (-0.1, 0.4), "contrast_limit": 0.3}),
    ("RandomBrightnessContrast", {"brightness_by_max": False}),
    ("RandomBrightnessContrast", {"brightness_limit": 0.9, "ensure_safe_range": True}),
    ("RandomGamma", {}),
    ("RandomGamma", {"gamma_limit": 150}),
    ("RGBShift", {}),
    ("RGBShift", {"r_shift_limit": (-50, 10), "g_shift_limit": 0.2, "b_shift_limit": (1, 2)}),
    ("Solarize", {"threshold_range": (0.1, 0.9)}),
    ("Posterize", {"num_bits": (2, 6)}),
    ("Posterize", {"num_bits": [(1, 3), (4, 4), (5, 7)]}),
    ("ChannelShuffle", {}),
    ("ColorJitter", {}),
    ("ColorJitter", {"brightness": 0.4, "contrast": (0.5, 3), "saturation": 2, "hue": 0.1}),
    ("HueSaturationValue", {}),
    ("HueSaturationValue", {"hue_shift_limit": 50, "sat_shift_limit": (5, 9), "val_shift_limit": (-100, 0)}),
    ("CLAHE", {}),
    ("CLAHE", {"clip_limit": (2, 9)}),
    ("GaussianBlur", {}),
    ("GaussianBlur", {"blur_limit": (3, 8), "sigma_limit": 2}),
    ("GaussianBlur", {"blur_limit": 6, "sigma_limit": (1, 2)}),
    ("Blur", {}),
    ("Blur", {"blur_limit": 13}),
    ("MedianBlur", {"blur_limit": (3, 9)}),
    ("MotionBlur", {}),
    ("MotionBlur", {"blur_limit": (5, 9), "allow_shifted": False, "direction_range": (0, 1)}),
    ("Sharpen", {}),
    ("GaussNoise", {}),
    ("GaussNoise", {"std_range": (0.05, 0.3), "mean_range": (-0.1, 0.2), "per_channel": False}),
    ("ISONoise", {}),
    ("ImageCompression", {"quality_range": (30, 60)}),
    ("Downscale", {"scale_range": (0.2, 0.8)}),
]
IDS = [f"{number}-{name}" for number, (name, _) in enumerate(CASES)]
IMAGE = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


class Seen:
    shape = IMAGE.shape
    dtype = IMAGE.dtype

    def __contains__(self, name: object) -> bool:
        return name == "image"

    def __getitem__(self, name: str) -> np.ndarray:
        return IMAGE


def our_draws(transform: Any, num: int = NUM_DRAWS) -> list[dict[str, Any]]:
    draws, found = Draws(), []
    for number in range(num):
        draws.move(b"k" * 16, number.to_bytes(4, "little"))
        found.append(transform.draw(draws, Seen()))
    return found


def their_draws(name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transform = getattr(oracle, name)(**arguments)
    transform.set_random_seed(7)
    found = []
    for _ in range(NUM_DRAWS):
        params = transform.update_transform_params(transform.get_params(), {"image": IMAGE})
        found.append({**params, **transform.get_params_dependent_on_data(params, {"image": IMAGE})})
    return found


def described(name: str, transform: Any, params: dict[str, Any]) -> list[float]:
    """The same few numbers of our parameters and of theirs."""
    if (
        "noise_map" in params and name == "GaussNoise"
    ):  # its first numbers are no good: OpenCV's generator warms up
        return np.ravel(params["noise_map"])[-2:].tolist()
    if name == "GaussNoise":
        size = IMAGE.size if transform.per_channel else IMAGE[..., 0].size
        noise = normals(bytes.fromhex(params["key"]), size) * params["sigma"] + params["mean"]
        return (noise * 255)[-2:].tolist() if transform.per_channel else [noise[-1] * 255] * 2
    names = {
        "RGBShift": ["noise_map", "shifts"], "ISONoise": ["color_shift", "intensity"],
        "GaussianBlur": ["kernel"], "MotionBlur": ["kernel"], "Sharpen": ["alpha", "sharpening_matrix"],
    }.get(name, sorted(set(params) - {"shape", "image_type"}))  # fmt: skip
    if name in {"GaussianBlur", "MotionBlur", "Sharpen"} and not set(names) <= params.keys():
        params = {**params, **in_kernels(name, params)}
    numbers = np.concatenate([np.ravel(params[name]).astype(float) for name in names if name in params])
    if name in {"GaussianBlur", "MotionBlur"}:  # of a kernel its size, its middle, its first
        return [len(numbers), float(numbers[len(numbers) // 2]), float(numbers[0])]
    return numbers.tolist()


def in_kernels(name: str, params: dict[str, Any]) -> dict[str, Any]:
    from augstream.transforms.kernels import gaussian_kernel, motion_kernel, sharpening_kernel

    if name == "GaussianBlur":
        return {"kernel": gaussian_kernel(params["sigma"], params["size"])}
    if name == "MotionBlur":
        return {
            "kernel": motion_kernel(params["size"], params["angle"], params["direction"], *params["shift"])
        }
    return {"sharpening_matrix": sharpening_kernel(params["alpha"], params["lightness"])}


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=IDS)
def test_distributions_agree(name, arguments):
    transform = getattr(A, name)(**arguments, p=1)
    ours = np.array([described(name, transform, params) for params in our_draws(transform)])
    theirs = np.array(
        [described(name, transform, params) for params in their_draws(name, {**arguments, "p": 1})]
    )
    assert ours.shape == theirs.shape
    for found, expected in zip(np.round(ours, 5).T, np.round(theirs, 5).T, strict=True):
        assert ks_2samp(found, expected, method="asymp").pvalue > SMALLEST_P


def test_orders_are_equally_likely():
    counts = Counter(tuple(params["order"]) for params in our_draws(A.ColorJitter()))
    assert len(counts) == 24
    assert chisquare(list(counts.values())).pvalue > SMALLEST_P


def test_variances_of_1x_are_uniform():
    draws = our_draws(A.GaussNoise(var_limit=(10, 50), mean=5))
    variances = [(255 * params["sigma"]) ** 2 for params in draws]
    assert kstest(variances, "uniform", (10, 40)).pvalue > SMALLEST_P
    assert {params["mean"] for params in draws} == {5 / 255}


# Noise


@pytest.mark.parametrize(
    ("mean", "sigma"),
    [(0, 77.3), (0, 1.0), (0, 0.3), (0, 112.2), (-30.7, 20.2), (12.5, 51), (250, 40), (0.4, 5)],
)
def test_whole_noise_is_the_truncated_normal(mean, sigma):
    size = 400_000
    drawn = whole_noise(b"chi-square" + b"\0" * 6, size, mean, sigma)
    values = np.arange(-255, 256)
    ends = np.concatenate([[-np.inf], np.arange(-255, 0), np.arange(1, 256), [np.inf]])
    expected = np.diff(norm.cdf(ends, mean, sigma)) * size
    counts = np.bincount(drawn + 255, minlength=len(values))
    often = expected > 10
    observed = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum())
    if wanted[-1] < 10:  # join what is rare to its neighbour
        observed, wanted = (np.append(a[:-2], a[-2:].sum()) for a in (observed, wanted))
    assert chisquare(observed, wanted).pvalue > SMALLEST_P


@pytest.mark.parametrize("rate", [0.003, 0.11, 1.7, 40.0])
def test_poisson_numbers(rate):
    size = 400_000
    counts = np.bincount(discrete(b"p" * 16, size, poisson_steps(rate)))
    expected = poisson.pmf(np.arange(len(counts)), rate) * size
    often = expected > 10
    observed, wanted = counts[often], expected[often]
    observed = np.append(observed, size - observed.sum())
    wanted = np.append(wanted, size - wanted.sum())
    if wanted[-1] < 10:
        observed, wanted = (np.append(a[:-2], a[-2:].sum()) for a in (observed, wanted))
    assert chisquare(observed, wanted).pvalue > SMALLEST_P


@pytest.mark.parametrize(
    ("mean", "sigma"), [(0, 77.3), (0, 1.0), (-30.7, 20.2), (250, 40), (0, 1e-3), (400, 3)]
)
def test_the_table_deals_out_every_share(mean, sigma):
    """The cells of the table, and the rest behind them, are the chances: to 2**-48 and the rounding of erf."""
    table, num_whole, values, shares = truncated_normal_steps(mean, sigma)
    whole = np.bincount(table[:num_whole].astype(int) + 255, minlength=511) / 65536
    dealt = np.zeros(511)
    dealt[values.astype(int) + 255] = np.diff(shares.astype(float), prepend=0) / 2.0**64
    ends = np.concatenate([[-np.inf], np.arange(-255, 0), np.arange(1, 256), [np.inf]])
    expected = np.diff([0.5 + 0.5 * math.erf((end - mean) / (sigma * math.sqrt(2))) for end in ends])
    np.testing.assert_allclose(whole + dealt, expected, rtol=0, atol=1e-14)
    assert shares[-1] == (65536 - num_whole) << 48 or num_whole == 65536


@pytest.mark.parametrize("sigma", [1e-3, 0.3, 1.0, 20.2, 51.0, 77.3, 112.2, 255.0])
def test_the_columns_hold_every_share(sigma):
    """Exactly what is asked of them, which is the chances to the rounding of erf."""
    alias = truncated_normal_sizes(sigma)
    shares = [0] * 256
    for column in range(256):
        own = ((int(alias.heights[column]) >> 1) << 49) + int(alias.rests[column])
        shares[column] += own
        shares[column ^ int(alias.swaps[column])] += 2**56 - own
    assert min(shares) >= 0
    assert sum(shares) == 2**64
    expected = np.diff([math.erf(end / (sigma * math.sqrt(2))) for end in range(256)] + [1])
    np.testing.assert_allclose(np.array(shares) / 2.0**64, expected, rtol=0, atol=1e-14)


@given(st.lists(st.integers(0, 20), min_size=256, max_size=256).filter(any))
@example([0] * 255 + [1])
@example([1] + [0] * 255)
def test_columns_of_any_distribution(weights):
    borders = np.cumsum(weights)[:-1] / sum(weights)
    alias = alias_of(borders)
    shares = np.zeros(256)
    for column in range(256):
        own = ((int(alias.heights[column]) >> 1) / 128 + int(alias.rests[column]) / 2.0**56) / 256
        shares[column] += own
        shares[column ^ int(alias.swaps[column])] += 1 / 256 - own
    np.testing.assert_allclose(shares, np.array(weights) / sum(weights), rtol=0, atol=1e-14)


def test_whole_noise_beyond_the_reach():
    assert set(discrete(b"k" * 16, 100, truncated_normal_steps(400, 3)).tolist()) == {255}
    assert set(discrete(b"k" * 16, 100, truncated_normal_steps(-400, 3)).tolist()) == {-255}


@pytest.mark.parametrize(("mean", "whole"), [(0, 0), (3.9, 3), (-3.9, -3), (300, 255), (-300.5, -255)])
def test_noise_without_spread(mean, whole):
    assert set(whole_noise(b"k" * 16, 100, mean, 0).tolist()) == {whole}


def test_floats_are_normal():
    drawn = normals(b"n" * 16, 400_000)
    assert drawn.dtype == np.float32
    assert kstest(drawn, "norm").pvalue > SMALLEST_P
    pairs = drawn.reshape(-1, 2)
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.01
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.01


def test_noise_is_of_full_precision():
    """No noise map comes twice, and hardly any float does (2.0.8 has 65,536 maps)."""
    maps = {whole_noise(params["key"].encode(), 24, 0, 50).tobytes()
            for params in our_draws(A.GaussNoise())}  # fmt: skip
    assert len(maps) == NUM_DRAWS
    drawn = normals(b"n" * 16, 65536)
    assert len(np.unique(drawn)) > 0.99 * len(drawn)


@pytest.mark.parametrize("mean", [0, 1])
def test_noise_of_neighbours_is_independent(mean):
    noise = whole_noise(b"k" * 16, 400_000, mean, 60).astype(float)
    for lag in (1, 2, 3, 4, 7, 8, 672, 196608):
        assert abs(np.corrcoef(noise[:-lag], noise[lag:])[0, 1]) < 0.01


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 32767, 32768, 32769, 196607, 196608, 196609, 300_001])
def test_any_number_of_numbers(size):
    floats = normals(b"k" * 16, size)
    assert floats.shape == (size,)
    assert np.isfinite(floats).all()
    for mean in (0, 3):
        whole = whole_noise(b"k" * 16, size, mean, 60)
        assert whole.shape == (size,)
        np.testing.assert_array_equal(whole, whole_noise(b"k" * 16, size, mean, 60))


def test_moments_are_theirs():
    image = np.full((300, 300, 3), 128, np.uint8)
    for arguments in ({"std_range": (0.1, 0.1)}, {"std_range": (0.3, 0.3), "mean_range": (0.1, 0.1)}):
        mine, other = (library.GaussNoise(**arguments, p=1) for library in (A, oracle))
        mine.set_random_seed(5)
        other.set_random_seed(5)
        ours, theirs = mine(image=image)["image"], other(image=image)["image"]
        assert ours.mean() == pytest.approx(theirs.mean(), abs=0.6)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.01)


@pytest.mark.parametrize("intensity", [0.1, 0.5, 1.5])
def test_sensor_noise_is_theirs(intensity):
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal(120, 40, (600, 600, 3)), 0, 255).astype(np.uint8)
    changes = []
    for library in (A, oracle):
        transform = library.ISONoise(color_shift=(0.3, 0.3), intensity=(intensity, intensity), p=1)
        transform.set_random_seed(3)
        changes.append(np.moveaxis(transform(image=image)["image"].astype(int) - image, 2, 0))
    for ours, theirs in zip(*changes, strict=True):
        assert ours.mean() == pytest.approx(theirs.mean(), rel=0.04, abs=0.02)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.04)
