"""Drawn parameters have the distributions of albumentations 2.0.8 (MIT): two-sample Kolmogorov–Smirnov tests.

Both sides are seeded, so that a test that passes always passes.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import albumentations as oracle
import numpy as np
import pytest
from scipy.stats import chisquare, ks_2samp

import augstream as A
from augstream.seeding import Draws
from augstream.transforms.base import BasicTransform

NUM_DRAWS = 10_000
SMALLEST_P = 1e-4  # over some hundred tests with fixed seeds

CASES: list[tuple[str, dict[str, Any], tuple[int, int]]] = [
    ("RandomRotate90", {}, (50, 40)),
    ("D4", {}, (50, 40)),
    ("RandomCrop", {"height": 20, "width": 30}, (50, 40)),
    ("RandomCrop", {"height": 70, "width": 60, "pad_if_needed": True, "pad_position": "random"}, (50, 40)),
    ("RandomResizedCrop", {"size": (20, 20)}, (50, 40)),
    ("RandomResizedCrop", {"size": (20, 20), "scale": (0.3, 1)}, (30, 90)),
    ("RandomSizedCrop", {"min_max_height": (10, 60), "size": (20, 20), "w2h_ratio": 0.8}, (50, 40)),
    ("RandomScale", {"scale_limit": 0.3}, (50, 40)),
    ("LongestMaxSize", {"max_size": [20, 30, 45]}, (50, 40)),
    ("PadIfNeeded", {"min_height": 64, "min_width": 90, "position": "random"}, (50, 40)),
    (
        "Affine",
        {"scale": (0.7, 1.4), "rotate": (-40, 40), "shear": (-10, 10), "translate_percent": (-0.2, 0.3)},
        (50, 40),
    ),
    ("Affine", {"scale": {"x": (0.8, 1.2)}, "translate_px": {"x": (-6, 6), "y": 3}, "rotate": 20}, (50, 40)),
    ("Affine", {"scale": (0.5, 2), "balanced_scale": True, "keep_ratio": True}, (50, 40)),
    ("ShiftScaleRotate", {}, (50, 40)),
    ("ShiftScaleRotate", {"shift_limit": 0.3, "shift_limit_y": (0, 0.1), "scale_limit": 0.2}, (50, 40)),
    ("Rotate", {"limit": 45, "crop_border": True}, (50, 40)),
    ("SafeRotate", {}, (50, 40)),
    ("Perspective", {}, (50, 40)),
    ("Perspective", {"scale": (0.1, 0.2), "fit_output": True}, (50, 40)),
    ("OpticalDistortion", {"distort_limit": 0.4}, (5, 4)),
    ("OpticalDistortion", {"distort_limit": (0.1, 0.4), "mode": "fisheye"}, (5, 4)),
    ("GridDistortion", {"num_steps": 2}, (9, 8)),
    ("GridDistortion", {"num_steps": 2, "normalized": False, "distort_limit": 0.5}, (9, 8)),
    ("ElasticTransform", {"alpha": 10, "sigma": 2, "same_dxdy": True}, (6, 5)),
    (
        "ElasticTransform",
        {"alpha": 10, "sigma": 2, "same_dxdy": True, "noise_distribution": "uniform"},
        (6, 5),
    ),
    ("CoarseDropout", {}, (50, 40)),
    (
        "CoarseDropout",
        {"num_holes_range": (2, 5), "hole_height_range": (3, 9), "hole_width_range": (4, 90)},
        (50, 40),
    ),
    ("Erasing", {}, (50, 40)),
    ("Erasing", {"scale": (0.1, 0.4), "ratio": (0.5, 1.5)}, (20, 90)),
]
IDS = [f"{number}-{name}" for number, (name, _, _) in enumerate(CASES)]


class Seen:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.uint8)

    def __contains__(self, name: object) -> bool:
        return False


def our_draws(transform: BasicTransform, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    draws, seen, found = Draws(), Seen(shape), []
    for number in range(NUM_DRAWS):
        draws.move(b"k" * 16, number.to_bytes(4, "little"))
        params = transform.draw(draws, seen)
        if hasattr(transform, "maps"):
            params["map_x"], params["map_y"] = transform.maps(params, shape)
        found.append(described(params))
    return found


def their_draws(name: str, arguments: dict[str, Any], shape: tuple[int, ...]) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transform = getattr(oracle, name)(**arguments)
    transform.set_random_seed(7)
    image, found = np.zeros(shape, np.uint8), []
    for _ in range(NUM_DRAWS):
        params = transform.update_transform_params(transform.get_params(), {"image": image})
        found.append(
            in_our_words({**params, **transform.get_params_dependent_on_data(params, {"image": image})})
        )
    return found


def in_our_words(params: dict[str, Any]) -> dict[str, Any]:
    """2.0.8's parameters under the names that ours have; of holes, how many and the first."""
    if "y_max" in params:
        params["crop_coords"] = [params[side] for side in ("x_min", "y_min", "x_max", "y_max")]
    return described(params)


def described(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters as the same few numbers in every draw: of holes their number and the first; of maps a few."""
    if "map_x" in params:
        return {name: params[name][::4, ::3] for name in ("map_x", "map_y")}
    if "holes" in params:
        holes = np.reshape(params["holes"], (-1, 4)).tolist()
        return {"num_holes": len(holes), "first": holes[0] if holes else [-1] * 4}
    return params


def numbers_of(params: dict[str, Any]) -> dict[str, float]:
    """Every drawn number by a name of its own."""
    found: dict[str, float] = {}

    def collect(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                collect(f"{name}.{key}", item)
        elif isinstance(value, str):
            found[name] = ["e", "r90", "r180", "r270", "v", "hvt", "h", "t"].index(value)
        elif value is not None:
            for position, number in enumerate(np.ravel(value).tolist()):
                found[f"{name}.{position}"] = number

    collect("", params)
    return found


@pytest.mark.parametrize(("name", "arguments", "shape"), CASES, ids=IDS)
def test_distributions_agree(name, arguments, shape):
    ours = [numbers_of(params) for params in our_draws(getattr(A, name)(**arguments, p=1), shape)]
    theirs = [numbers_of(params) for params in their_draws(name, {**arguments, "p": 1}, shape)]
    names = ours[0].keys() & theirs[0].keys()
    assert names
    for number in sorted(names):
        found = np.round([row[number] for row in ours], 5)
        expected = np.round([row[number] for row in theirs], 5)
        assert ks_2samp(found, expected).pvalue > SMALLEST_P, number


def test_a_position_is_uniform_over_all_places():
    rows = Counter(params["crop_coords"][1] for params in our_draws(A.RandomCrop(3, 3), (10, 3)))
    assert set(rows) == set(range(8))
    assert chisquare(list(rows.values())).pvalue > SMALLEST_P


@pytest.mark.parametrize(
    ("make", "key", "num"), [(A.D4, "group_element", 8), (A.RandomRotate90, "factor", 4)]
)
def test_symmetries_are_equally_likely(make, key, num):
    counts = Counter(params[key] for params in our_draws(make(p=1), (9, 9)))
    assert len(counts) == num
    assert chisquare(list(counts.values())).pvalue > SMALLEST_P
