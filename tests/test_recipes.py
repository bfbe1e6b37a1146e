"""Recipes: the operations, strengths and odds of the papers; targets that follow; records that repeat."""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.stats import chisquare

import augstream as A
from augstream.errors import RecipeError
from augstream.transforms.operations import Resampling, Sharpness, operation
from augstream.transforms.recipes import _grades

NUM_CALLS = 3000
SMALLEST_P = 1e-4
SMALL = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
LARGE = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
POLICIES = [A.RandAugment(), A.TrivialAugmentWide(), A.AutoAugment()]
IDS = [type(policy).__name__ for policy in POLICIES]


def records(policy: Any, num: int = NUM_CALLS, image: np.ndarray = SMALL) -> list[list[dict[str, Any]]]:
    compose = A.Compose([policy], seed=3, save_applied_params=True)
    return [compose.at(number)(image=image)["applied_transforms"] for number in range(num)]


def kind(record: dict[str, Any]) -> str:
    """The operation that a record shows, in Pillow's words."""
    name, arguments = record["name"], record["arguments"]
    if name == "Affine":
        for argument, word in (
            ("shear", "Shear"),
            ("translate_percent", "Translate"),
            ("translate_px", "Translate"),
        ):
            if arguments[argument] not in (None, [0.0, 0.0]):
                return word
        return "Rotate"
    if name == "ColorJitter":
        return "Color" if arguments["contrast"] == [1, 1] else "Contrast"
    return name


@pytest.mark.sweep
def test_randaugment_chooses_evenly_of_fourteen():
    found = records(A.RandAugment(num_ops=2))
    assert {len(record) for record in found} == {2}
    counts = Counter(kind(step) for record in found for step in record)
    assert counts["Shear"] + counts["Translate"] == pytest.approx(4 / 14 * 2 * NUM_CALLS, rel=0.1)
    single = [counts[name] for name in sorted(counts) if name not in {"Shear", "Translate"}]
    assert len(single) == 10
    assert chisquare([*single, counts["Shear"] / 2, counts["Translate"] / 2]).pvalue > SMALLEST_P


@pytest.mark.sweep
def test_two_operations_of_one_call_are_independent():
    found = records(A.RandAugment(num_ops=2, magnitude=3))
    twice = sum(kind(first) == kind(second) for first, second in found)
    assert twice == pytest.approx(NUM_CALLS * (10 / 14**2 + 2 * (2 / 14) ** 2), rel=0.2)


def test_strengths_of_randaugment():
    """Magnitude 9 of 0…30: 30 percent of the largest."""
    at = {
        name: _grades(name, 31)[9]
        for name in ("Rotate", "ShearX", "TranslateX", "Posterize", "Solarize", "Color")
    }
    assert at["Rotate"] == pytest.approx((9, -9))
    assert at["ShearX"] == pytest.approx((0.09, -0.09))
    assert at["TranslateX"] == pytest.approx((0.3 * 150 / 331, -0.3 * 150 / 331))
    assert at["Posterize"] == (7,)
    assert at["Solarize"] == pytest.approx((0.7,))
    assert at["Color"] == pytest.approx((1.27, 0.73))


def test_strengths_of_the_wide_space():
    largest = {
        name: _grades(name, 31, wide=True)[30] for name in ("Rotate", "ShearY", "TranslateY", "Sharpness")
    }
    assert largest["Rotate"] == (135, -135)
    assert largest["ShearY"] == (0.99, -0.99)
    assert largest["TranslateY"] == (32, -32)
    assert largest["Sharpness"] == pytest.approx((1.99, 0.01))
    assert _grades("Posterize", 31, wide=True)[30] == (2,)
    assert _grades("Solarize", 31, wide=True)[30] == (0,)


@pytest.mark.sweep
def test_trivialaugment_draws_magnitudes_evenly():
    steps = [record[0] for record in records(A.TrivialAugmentWide())]
    assert len(steps) == NUM_CALLS
    turns = [step["arguments"]["rotate"][0] for step in steps if kind(step) == "Rotate"]
    assert len(turns) == pytest.approx(NUM_CALLS / 14, rel=0.2)
    assert {round(abs(turn) / 4.5, 6) for turn in turns} <= set(range(31))
    assert sum(turn > 0 for turn in turns) == pytest.approx(len(turns) / 2, rel=0.2)
    bits = Counter(
        step["arguments"]["num_bits"] if step["name"] == "Posterize" else 8
        for step in steps if step["name"] in {"Posterize"}
    )  # fmt: skip
    assert set(bits) == {2, 3, 4, 5, 6, 7}


@pytest.mark.sweep
def test_autoaugment_has_the_papers_odds():
    found = records(A.AutoAugment())
    seconds = Counter(tuple(kind(step) for step in record) for record in found)
    # Sub-policies 14 and 23: Invert at 0.6, then Equalize for sure.
    both = seconds["InvertImg", "Equalize"]
    assert both == pytest.approx(NUM_CALLS * 2 / 25 * 0.6, rel=0.25)
    # Sub-policies 15 and 24: Color at 0.6, then Contrast for sure.
    assert seconds["Color", "Contrast"] == pytest.approx(NUM_CALLS * 2 / 25 * 0.6, rel=0.25)
    assert seconds["Contrast",] == pytest.approx(NUM_CALLS * 2 / 25 * 0.4, rel=0.25)
    factors = {
        step["arguments"]["contrast"][0] for record in found for step in record if kind(step) == "Contrast"
    }
    assert sorted(factors) == pytest.approx([1 - 0.8, 1 + 0.8])


def test_shears_are_tangents():
    shear = operation("ShearX", 0.3, Resampling()).init_arguments["shear"]["x"]
    assert math.tan(math.radians(shear[0])) == pytest.approx(0.3)


@pytest.mark.parametrize("factor", [0.1, 0.73, 1.0, 1.27, 1.9])
def test_enhancements_are_pillows(factor):
    picture = Image.fromarray(LARGE)
    pairs = {
        "Brightness": ImageEnhance.Brightness, "Contrast": ImageEnhance.Contrast,
        "Color": ImageEnhance.Color, "Sharpness": ImageEnhance.Sharpness,
    }  # fmt: skip
    for name, enhancer in pairs.items():
        found = A.Compose([operation(name, factor, Resampling())], seed=0)(image=LARGE)["image"]
        expected = np.asarray(enhancer(picture).enhance(factor))
        assert np.abs(found.astype(int) - expected).max() <= 2, name


def test_sharpness_leaves_the_border():
    found = Sharpness((0, 0), p=1)(image=LARGE)["image"]
    inner = np.zeros(LARGE.shape[:2], bool)
    inner[1:-1, 1:-1] = True
    assert (found == LARGE)[~inner].all()
    assert (found != LARGE)[inner].mean() > 0.9


@pytest.mark.parametrize("policy", POLICIES, ids=IDS)
def test_boxes_and_masks_follow(policy):
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 30:50] = 1
    compose = A.Compose([policy], bbox_params=A.BboxParams("pascal_voc"), seed=5)
    num_moved = 0
    for number in range(60):
        result = compose.at(number)(image=LARGE, mask=mask, bboxes=[[30, 20, 50, 40]])
        assert result["image"].shape == LARGE.shape
        rows, columns = np.nonzero(result["mask"])
        if not len(rows):
            continue
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        num_moved += box != [30, 20, 50, 40]
        np.testing.assert_allclose(result["bboxes"][0], box, atol=2.5)
    assert num_moved > 3


@pytest.mark.parametrize("policy", POLICIES, ids=IDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(20, 24, 3), (20, 24), (20, 24, 1)])
def test_images_of_one_and_three_channels(policy, dtype, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = image if dtype == np.uint8 else (image / 255).astype(dtype)
    compose = A.Compose([policy], seed=1)
    for number in range(60):
        result = compose.at(number)(image=image)["image"]
        assert result.shape == shape
        assert result.dtype == dtype
        assert result.max() <= (255 if dtype == np.uint8 else 1)


@pytest.mark.parametrize("policy", POLICIES, ids=IDS)
def test_saved_pickled_and_replayed(policy):
    compose = A.Compose([A.HorizontalFlip(), policy], seed=9, save_applied_params=True)
    saved = A.from_dict(json.loads(json.dumps(A.to_dict(compose))))
    assert A.to_dict(saved) == A.to_dict(compose)
    assert len(json.dumps(A.to_dict(compose))) < 1200  # the recipe, not its operations
    pickled = pickle.loads(pickle.dumps(compose))  # noqa: S301  # our own
    for number in range(30):
        result = compose.at(number)(image=LARGE)
        for other in (saved, pickled):
            np.testing.assert_array_equal(other.at(number)(image=LARGE)["image"], result["image"])
        record = json.loads(json.dumps(result["applied_transforms"]))
        np.testing.assert_array_equal(A.replay(record, image=LARGE)["image"], result["image"])
        np.testing.assert_array_equal(A.replay(record, compose, image=LARGE)["image"], result["image"])


def test_p_and_shape():
    closed = A.Compose([A.RandAugment(p=0)], seed=1)
    assert (closed(image=LARGE)["image"] == LARGE).all()
    half = A.Compose([A.TrivialAugmentWide(p=0.5)], seed=1, save_applied_params=True)
    applied = sum(len(half(image=SMALL)["applied_transforms"]) for _ in range(400))
    assert applied == pytest.approx(200, rel=0.2)


def test_a_policy_shows_what_it_was_made_with():
    assert repr(A.RandAugment(3, 7)).startswith("RandAugment(num_ops=3, magnitude=7, num_magnitude_bins=31")
    with pytest.raises(RecipeError, match="fixed policy"):
        A.RandAugment() + A.HorizontalFlip()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: A.RandAugment(magnitude=31), "from 0 to 30"),
        (lambda: A.RandAugment(num_ops=0), "1 or more"),
        (lambda: A.TrivialAugmentWide(num_magnitude_bins=1), "2 or more"),
        (lambda: A.AutoAugment("cifar"), "one of 'imagenet'"),
        (lambda: A.AugMix(severity=11), "from 0.1 to 10"),
        (lambda: A.AugMix(chain_depth=0), "1 or more, or -1"),
        (lambda: A.AugMix(alpha=0), "greater than 0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


# AugMix


def mixtures(**arguments: Any) -> list[dict[str, Any]]:
    return [record[0]["params"] for record in records(A.AugMix(**arguments), 1500)]


@pytest.mark.sweep
def test_augmix_draws_what_the_paper_says():
    drawn = mixtures()
    assert {len(params["chains"]) for params in drawn} == {3}
    depths = Counter(len(chain) for params in drawn for chain in params["chains"])
    assert set(depths) == {1, 2, 3}
    assert chisquare(list(depths.values())).pvalue > SMALLEST_P
    names = Counter(name for params in drawn for chain in params["chains"] for name, _ in chain)
    assert len(names) == 9
    assert chisquare(list(names.values())).pvalue > SMALLEST_P
    weights = np.array([params["weights"] for params in drawn])
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights.mean(axis=0), 1 / 3, atol=0.02)
    assert np.mean([params["share"] for params in drawn]) == pytest.approx(0.5, abs=0.02)
    turns = [
        turn for params in drawn for chain in params["chains"] for name, turn in chain if name == "Rotate"
    ]
    assert max(map(abs, turns)) == 8  # 30 degrees * severity 3 / 10, cut to whole ones


def test_augmix_mixes():
    transform = A.AugMix(p=1)
    params = {"chains": [[["Invert", 0.0]], [["Identity", 0.0]]], "weights": [0.25, 0.75], "share": 0.4}
    found = transform.apply(LARGE, **params)
    exact = LARGE * (0.6 + 0.4 * 0.75) + (255.0 - LARGE) * 0.4 * 0.25
    assert np.abs(found - exact).max() <= 0.5001
    nothing = transform.apply(LARGE, **{**params, "share": 0.0})
    np.testing.assert_array_equal(nothing, LARGE)


def test_augmix_leaves_annotations():
    compose = A.Compose([A.AugMix(p=1)], bbox_params=A.BboxParams("pascal_voc"), seed=5)
    mask = np.eye(60, 80, dtype=np.uint8)
    result = compose(image=LARGE, mask=mask, bboxes=[[30, 20, 50, 40]])
    assert (result["mask"] == mask).all()
    np.testing.assert_allclose(result["bboxes"], [[30, 20, 50, 40]])
    assert (result["image"] != LARGE).any()
