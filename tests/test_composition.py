"""Compositions: what runs, how often, in what order, and that each transform draws at its own slot."""

from __future__ import annotations

import json
import pickle
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

import augstream as A
from augstream.errors import RecipeError
from augstream.transforms.base import Params

IMAGE = np.zeros((2, 3), np.float32)
NUM_CALLS = 3000
# All draws follow from seeds, so these tests never fail by chance; a wrong rate gives a p-value far below this.
LEAST = 1e-4


class Mark(A.ImageOnlyTransform):
    """Appends its digit to the number in the image."""

    def __init__(self, digit: int, p: float = 1.0) -> None:
        super().__init__(p)
        self.digit = digit

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        return img * 10 + self.digit


class Draw(A.ImageOnlyTransform):
    """Writes what it drew into the image, a number in [0, scale)."""

    def __init__(self, scale: float = 1.0, p: float = 1.0) -> None:
        super().__init__(p)
        self.scale = scale

    def get_params(self) -> Params:
        return {"drawn": self.py_random.random() * self.scale}

    def apply(self, img: np.ndarray, drawn: float = 0.0, **params: Any) -> np.ndarray:
        return np.full_like(img, drawn)


def outcome(compose: A.Compose, number: int, *, force: bool = False) -> int:
    image = compose.at(number)(image=IMAGE, force_apply=force)["image"]
    return int(image[0, 0])


def outcomes(*transforms: Any, p: float = 1.0) -> Counter[int]:
    compose = A.Compose(list(transforms), seed=137, p=p)
    return Counter(outcome(compose, number) for number in range(NUM_CALLS))


def check_rates(found: Counter[int], expected: dict[int, float]) -> None:
    assert abs(sum(expected.values()) - 1) < 1e-9
    assert set(found) <= {value for value, rate in expected.items() if rate > 0}
    values = [value for value, rate in expected.items() if rate > 0]
    if len(values) > 1:
        observed = [found[value] for value in values]
        assert chisquare(observed, [expected[value] * NUM_CALLS for value in values]).pvalue > LEAST


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_one_transform_runs_at_its_rate(p: float) -> None:
    check_rates(outcomes(Mark(1, p=p)), {0: 1 - p, 1: p})
    check_rates(outcomes(Mark(1), p=p), {0: 1 - p, 1: p})
    check_rates(outcomes(A.Sequential([Mark(1), Mark(2)], p=p)), {0: 1 - p, 12: p})
    check_rates(outcomes(A.Compose([Mark(1)], p=p)), {0: 1 - p, 1: p})


def test_two_transforms_are_independent() -> None:
    check_rates(outcomes(Mark(1, p=0.5), Mark(2, p=0.5)), {0: 0.25, 1: 0.25, 2: 0.25, 12: 0.25})


def test_one_of_takes_p_as_weights() -> None:
    check_rates(
        outcomes(A.OneOf([Mark(1, p=0.1), Mark(2, p=0.4), Mark(3, p=0.5), Mark(4, p=0)], p=0.6)),
        {0: 0.4, 1: 0.06, 2: 0.24, 3: 0.3, 4: 0},
    )
    check_rates(outcomes(A.OneOf([Mark(1, p=0.02)], p=1)), {1: 1})


def test_some_of_keeps_the_order_and_each_p() -> None:
    third = 1 / 3
    check_rates(outcomes(A.SomeOf([Mark(1), Mark(2), Mark(3)], n=2)), {12: third, 13: third, 23: third})
    check_rates(
        outcomes(A.SomeOf([Mark(1, p=0.5), Mark(2)], n=1, p=0.5)), {0: 0.5 + 0.125, 1: 0.125, 2: 0.25}
    )


def test_some_of_with_replacement_draws_anew_each_time() -> None:
    both = A.SomeOf([Mark(1, p=0.5)], n=2, replace=True)
    check_rates(outcomes(both), {0: 0.25, 1: 0.5, 11: 0.25})
    check_rates(outcomes(A.SomeOf([Mark(1), Mark(2)], n=2, replace=True)), {11: 0.25, 12: 0.5, 22: 0.25})


def test_random_order_gives_every_order() -> None:
    sixth = 1 / 6
    expected = dict.fromkeys([123, 132, 213, 231, 312, 321], sixth)
    check_rates(outcomes(A.RandomOrder([Mark(1), Mark(2), Mark(3)], n=3)), expected)
    expected = dict.fromkeys([12, 21, 13, 31, 23, 32], sixth)
    check_rates(outcomes(A.RandomOrder([Mark(1), Mark(2), Mark(3)], n=2)), expected)


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_one_or_other(p: float) -> None:
    check_rates(outcomes(A.OneOrOther(Mark(1, p=0.1), Mark(2, p=0.1), p=p)), {1: p, 2: 1 - p})
    check_rates(outcomes(A.OneOrOther(transforms=[Mark(1), Mark(2)], p=p)), {1: p, 2: 1 - p})


def test_what_has_p_zero_never_runs_even_if_chosen() -> None:
    check_rates(outcomes(A.OneOrOther(Mark(1, p=0), Mark(2), p=0.25)), {0: 0.25, 2: 0.75})


def theirs(build: Callable[..., Any]) -> Counter[int]:
    """How often albumentations 2.0.8 gives each outcome."""
    import albumentations

    class TheirMark(albumentations.ImageOnlyTransform):
        def __init__(self, digit: int, p: float = 1.0) -> None:
            super().__init__(p)
            self.digit = digit

        def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
            return img * 10 + self.digit

    compose = albumentations.Compose([build(albumentations, TheirMark)])
    compose.set_random_state(np.random.default_rng(5), random.Random(5))
    return Counter(int(compose(image=IMAGE)["image"][0, 0]) for _ in range(NUM_CALLS))


BUILDS: dict[str, Callable[..., Any]] = {
    "sequential": lambda lib, mark: lib.Sequential([mark(1, p=0.3), mark(2, p=0.6)], p=0.7),
    "one of": lambda lib, mark: lib.OneOf([mark(1, p=0.3), mark(2, p=0.6)], p=0.7),
    "one of compositions": lambda lib, mark: lib.OneOf(
        [
            lib.Sequential([mark(1, p=0.5), mark(2)], p=0.2),
            lib.OneOf([mark(3), mark(4)], p=0.4),
            mark(5, p=0.4),
        ],
        p=0.9,
    ),
    "some of": lambda lib, mark: lib.SomeOf([mark(1, p=0.5), mark(2), mark(3)], n=2, p=0.8),
    "some of replaced": lambda lib, mark: lib.SomeOf([mark(1, p=0.5), mark(2)], n=3, replace=True, p=0.8),
    "random order": lambda lib, mark: lib.RandomOrder([mark(1), mark(2, p=0.5), mark(3)], n=3, p=0.8),
    "one or other": lambda lib, mark: lib.OneOrOther(
        lib.Sequential([mark(1, p=0.5), mark(2)]), mark(3, p=0.1), p=0.3
    ),
    "zero": lambda lib, mark: lib.OneOrOther(mark(1, p=0), mark(2), p=0.5),
    "nested": lambda lib, mark: lib.Compose([lib.Compose([mark(1, p=0.5)], p=0.5), mark(2, p=0.5)], p=0.5),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", BUILDS)
def test_rates_are_those_of_the_oracle(name: str) -> None:
    ours, reference = outcomes(BUILDS[name](A, Mark)), theirs(BUILDS[name])
    assert set(ours) == set(reference)
    values = sorted(ours)
    table = [[ours[value] for value in values], [reference[value] for value in values]]
    assert chi2_contingency(table).pvalue > LEAST


def test_some_of_chosen_by_one_of_runs() -> None:
    check_rates(outcomes(A.OneOf([A.SomeOf([Mark(1)], p=0.1)], p=1)), {1: 1})


def test_force_apply_opens_the_gate_of_the_pipeline_only() -> None:
    compose = A.Compose([Mark(1, p=0.5), Mark(2, p=0)], p=0.0, seed=137)
    assert {outcome(compose, number) for number in range(50)} == {0}
    assert {outcome(compose, number, force=True) for number in range(50)} == {0, 1}


@pytest.mark.parametrize(
    "build",
    [
        lambda a, b: [a, b, Draw()],
        lambda a, b: [A.Sequential([a, b], p=1), Draw()],
        lambda a, b: [A.OneOf([a, b], p=1), Draw()],
        lambda a, b: [A.SomeOf([a, b], n=1), Draw()],
        lambda a, b: [A.SomeOf([a, b], n=4, replace=True), Draw()],
        lambda a, b: [A.Compose([a, b]), Draw()],
    ],
)
def test_a_transform_never_disturbs_another(build: Callable[..., Any]) -> None:
    pairs = [(Mark(1), Mark(2)), (Mark(1, p=0.01), Draw(5)), (A.HorizontalFlip(), A.NoOp()), (Draw(), Draw())]
    composes = [A.Compose(build(*pair), seed=137) for pair in pairs]
    for number in range(20):
        results = {compose.at(number)(image=IMAGE)["image"].tobytes() for compose in composes}
        assert len(results) == 1


def test_changing_what_a_transform_does_leaves_its_draws() -> None:
    for number in range(20):
        one, ten = (A.Compose([Mark(1), Draw(s)], seed=1).at(number)(image=IMAGE)["image"] for s in (1, 10))
        np.testing.assert_allclose(one * 10, ten, rtol=1e-6)


def test_siblings_and_nested_transforms_draw_apart() -> None:
    nested = A.Compose([Draw()] * 3 + [A.Sequential([Draw()] * 3, p=1)], seed=1, save_applied_params=True)
    applied = nested(image=IMAGE)["applied_transforms"]
    assert [entry["slot"] for entry in applied] == ["0", "1", "2", "3.0", "3.1", "3.2"]
    assert len({entry["params"]["drawn"] for entry in applied}) == 6


def test_choices_of_two_compositions_are_independent() -> None:
    compose = A.Compose([A.OneOf([Mark(1), Mark(2)], p=1), A.OneOf([Mark(3), Mark(4)], p=1)], seed=3)
    found = Counter(outcome(compose, number) for number in range(NUM_CALLS))
    check_rates(found, dict.fromkeys([13, 14, 23, 24], 0.25))


def test_adding_and_taking_away_makes_new_pipelines() -> None:
    flip, mark = A.HorizontalFlip(p=0.3), Mark(1)
    compose = A.Compose([flip], seed=137, save_applied_params=True, strict=True)
    longer = compose + mark
    assert [type(t).__name__ for t in longer] == ["HorizontalFlip", "Mark"]
    assert [type(t).__name__ for t in mark + compose] == ["Mark", "HorizontalFlip"]
    marks = [mark, mark]
    assert [type(t).__name__ for t in compose + marks] == ["HorizontalFlip", "Mark", "Mark"]
    assert [type(t).__name__ for t in longer - Mark] == ["HorizontalFlip"]
    assert [type(t).__name__ for t in longer - flip] == ["Mark"]
    assert len(compose) == 1
    assert (longer.seed, longer.save_applied_params, longer.strict) == (137, True, True)
    assert longer[1] is mark
    with pytest.raises(RecipeError, match="no VerticalFlip to take away"):
        longer - A.VerticalFlip


def test_lambda_calls_functions_for_the_targets_it_has() -> None:
    def brighten(image: np.ndarray, **params: Any) -> np.ndarray:
        assert params["shape"] == image.shape
        return image + 1

    def move(boxes: np.ndarray, **_: Any) -> np.ndarray:
        boxes = boxes.copy()
        boxes[:, :4] += [0.1, 0, 0.1, 0]
        return boxes

    compose = A.Compose(
        [A.Lambda(image=brighten, bboxes=move, keypoints=lambda points, **_: points[::-1])],
        bbox_params=A.BboxParams("albumentations"),
        keypoint_params=A.KeypointParams("xy"),
    )
    data: dict[str, Any] = {
        "image": np.zeros((4, 5, 3), np.uint8),
        "images": np.zeros((2, 4, 5, 3), np.uint8),
        "mask": np.zeros((4, 5), np.uint8),
        "bboxes": [[0.1, 0.1, 0.2, 0.2]],
        "keypoints": [[1, 1], [2, 2]],
    }
    result = compose(**data)
    assert (result["image"] == 1).all()
    assert (result["images"] == 1).all()
    assert (result["mask"] == 0).all()
    np.testing.assert_allclose(result["bboxes"], [[0.2, 0.1, 0.3, 0.2]])
    assert result["keypoints"] == [[2.0, 2.0], [1.0, 1.0]]


def test_lambda_that_returns_no_array_is_told() -> None:
    with pytest.raises(RecipeError, match="function for image returned tuple"):
        A.Compose([A.Lambda(image=lambda image, **_: image.shape)])(image=IMAGE)
    with pytest.raises(RecipeError, match="mask must be a function, got 5"):
        A.Lambda(mask=5)


def test_selective_channels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 5), np.uint8)
    compose = A.Compose([A.SelectiveChannelTransform([A.HorizontalFlip(p=1)], channels=[3, 0])], seed=1)
    expected = image.copy()
    expected[:, :, [0, 3]] = image[:, ::-1, [0, 3]]
    before = image.copy()
    np.testing.assert_array_equal(compose(image=image)["image"], expected)
    np.testing.assert_array_equal(image, before)
    with pytest.raises(RecipeError, match="lacks channels"):
        compose(image=image[:, :, :3])
    with pytest.raises(RecipeError, match="only transforms that keep both fit"):
        A.Compose([A.SelectiveChannelTransform([A.RandomCrop(2, 2)])])(image=image)


def test_replay_compose_records_what_replay_repeats() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    transforms = [A.RandomCrop(20, 20), A.OneOf([A.HorizontalFlip(), A.VerticalFlip()]), A.NoOp()]
    params = A.BboxParams("coco", label_fields=["names"])
    boxes: dict[str, Any] = {"bboxes": [[0, 0, 30, 40], [30, 0, 30, 40]], "names": ["left", "right"]}
    compose = A.ReplayCompose(transforms, bbox_params=params, seed=137)
    for _ in range(10):
        result = compose(image=image, **boxes)
        assert "applied_transforms" not in result
        again = A.ReplayCompose.replay(json.loads(json.dumps(result["replay"])), image=image, **boxes)
        np.testing.assert_array_equal(again["image"], result["image"])
        assert (again["bboxes"], again["names"]) == (result["bboxes"], result["names"])
    other = A.ReplayCompose(transforms, save_key="saved", save_applied_params=True)
    assert {"saved", "applied_transforms"} <= set(other(image=image))


def test_aliases_of_targets_get_the_same_parameters() -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (40, 60, 3), np.uint8)
    mask = generator.integers(0, 9, (40, 60), np.uint8)
    compose = A.Compose(
        [A.RandomCrop(20, 20), A.HorizontalFlip()],
        additional_targets={"image2": "image", "mask2": "mask", "boxes2": "bboxes", "points2": "keypoints"},
        bbox_params=A.BboxParams("coco", label_fields=["names"]),
        keypoint_params=A.KeypointParams("xy", remove_invisible=False),
        seed=137,
    )
    boxes, points = [[10, 5, 45, 30]], [[25, 25]]
    for _ in range(5):
        result = compose(
            image=image, image2=image, mask=mask, mask2=mask, bboxes=boxes, boxes2=boxes, names=["a"],
            keypoints=points, points2=points,
        )  # fmt: skip
        np.testing.assert_array_equal(result["image"], result["image2"])
        np.testing.assert_array_equal(result["mask"], result["mask2"])
        assert result["bboxes"] == result["boxes2"]
        assert result["keypoints"] == result["points2"]
        assert result["names"] == ["a"]


def test_shapes_must_agree_unless_told_otherwise() -> None:
    data = {"image": np.zeros((4, 5, 3), np.uint8), "mask": np.zeros((5, 5), np.uint8)}
    with pytest.raises(ValueError, match="image: 4 x 5, mask: 5 x 5"):
        A.Compose([A.HorizontalFlip()])(**data)
    assert A.Compose([A.HorizontalFlip()], is_check_shapes=False)(**data)["mask"].shape == (5, 5)


def test_images_alone_must_agree_too() -> None:
    images = [np.zeros((8, 9), np.uint8), np.zeros((9, 8), np.uint8)]
    with pytest.raises(ValueError, match=r"images\[0\]: 8 x 9, images\[1\]: 9 x 8"):
        A.Compose([A.Resize(4, 4)])(images=images)
    free = A.Compose([A.Resize(4, 4), A.ToTensorV2()], is_check_shapes=False)(images=images)
    assert [tuple(image.shape) for image in free["images"]] == [(1, 4, 4)] * 2


@pytest.mark.parametrize("dtype", ["i4", "u2", "i8", "f4", "f8"])
def test_bytes_of_another_order_are_the_same_numbers(dtype: str) -> None:
    image = np.random.default_rng(0).integers(0, 99, (8, 9, 3)).astype(dtype)
    swapped = image.astype(image.dtype.newbyteorder("S"))
    for transform in (
        A.HorizontalFlip(p=1),
        A.VerticalFlip(p=1),
        A.Transpose(p=1),
        A.Pad(2, p=1),
        A.Crop(0, 0, 4, 4),
    ):
        compose = A.Compose([transform, A.Resize(6, 6, interpolation=0), A.ToTensorV2()], seed=1)
        found, expected = [compose.at(1)(image=each, mask=each, masks=[each]) for each in (swapped, image)]
        for name in ("image", "mask"):
            assert np.array_equal(found[name], expected[name])
            assert found[name].dtype == expected[name].dtype
        assert np.array_equal(found["masks"][0], expected["masks"][0])
    assert np.array_equal(A.HorizontalFlip(p=0)(image=swapped)["image"], image)


def test_strict_knows_its_targets() -> None:
    compose = A.Compose(
        [A.NoOp()], strict=True, bbox_params=A.BboxParams("coco", label_fields=["names"]),
        additional_targets={"depth": "mask"},
    )  # fmt: skip
    compose(image=IMAGE, depth=IMAGE, bboxes=[], names=[])
    with pytest.raises(ValueError, match=r"does not know the targets \['imgae'\]"):
        compose(image=IMAGE, imgae=IMAGE)
    assert A.Compose([A.NoOp()])(image=IMAGE, imgae="passes through")["imgae"] == "passes through"


def test_boxes_without_params_are_told() -> None:
    with pytest.raises(ValueError, match=r"bbox_params=BboxParams\(\.\.\.\)"):
        A.Compose([A.NoOp()])(image=IMAGE, bboxes=[])


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: A.OneOf([Mark(1, p=0)]), "one at least must be above 0"),
        (lambda: A.SomeOf([Mark(1)], n=2), "n must be from 0 to the number of transforms, 1"),
        (lambda: A.SomeOf([Mark(1)], n=-1, replace=True), "n must be from 0"),
        (lambda: A.OneOrOther(Mark(1)), "which is no transform"),
        (A.OneOrOther, "takes two transforms"),
        (lambda: A.OneOrOther(transforms=[Mark(1)] * 3), "takes two transforms, got 3"),
        (lambda: A.OneOrOther(Mark(1), Mark(2), transforms=[Mark(1)] * 2), "takes two transforms"),
        (lambda: A.Sequential([len]), r"transforms\[0\] is .*which is no transform"),
        (
            lambda: A.Sequential([A.NoOp]),
            r"transforms\[0\] is <class .*make one of the class: NoOp\(\.\.\.\)",
        ),
        (
            lambda: setattr(A.Sequential([Mark(1)]), "transforms", []),
            r"keeps the transforms.*Sequential\(\[\.\.\.\]\)",
        ),
        (lambda: A.Sequential([Mark(1)], p=1.5), "p is a probability"),
        (lambda: A.Sequential([Mark(1)], p=True), "p is a probability"),
        (lambda: Mark(1, p=np.float32(-1)), "p is a probability"),
        (lambda: A.SelectiveChannelTransform([Mark(1)], channels=[-1]), "channels are numbers from 0"),
    ],
)
def test_what_makes_no_sense_is_refused(build: Callable[[], Any], match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        build()


def test_an_unknown_argument_suggests_the_nearest() -> None:
    with pytest.raises(TypeError, match="did you mean 'replace'"):
        A.SomeOf([Mark(1)], replaec=True)
    with pytest.raises(
        TypeError, match=r"Resize\(\): missing a required argument: 'width' \(it takes: height, width, "
    ):
        A.Resize(224)
    with pytest.raises(TypeError, match="a transform that is always applied has p=1"):
        A.HorizontalFlip(always_apply=True)


def test_probabilities_may_be_numpys() -> None:
    assert [Mark(1, p=p).p for p in (np.float32(0.5), np.int64(1), np.float64(0))] == [0.5, 1.0, 0.0]
    assert A.to_dict(A.OneOf([A.NoOp()], p=np.float32(0.5)))["transform"]["p"] == 0.5


def test_compositions_can_be_called_by_themselves() -> None:
    nodes = [
        A.Sequential([Mark(1), Mark(2)], p=1),
        A.OneOf([Mark(1), Mark(2)], p=1),
        A.SomeOf([Mark(1), Mark(2), Mark(3)], n=2),
        A.RandomOrder([Mark(1), Mark(2)], n=2),
        A.OneOrOther(Mark(1), Mark(2)),
        A.SelectiveChannelTransform([Mark(1)], channels=[0], p=1),
        A.RandAugment(),
    ]
    for node in nodes:
        found = []
        for given in (node, node, pickle.loads(pickle.dumps(node))):  # noqa: S301  # our own
            given.set_random_seed(7)
            found.append([given(image=np.zeros((20, 20, 3), np.float32))["image"] for _ in range(5)])
        assert all(map(np.array_equal, found[0] * 2, found[1] + found[2]))
    for node in (Mark(1, p=0.001), A.Sequential([Mark(1)], p=0.001), A.OneOf([Mark(1)], p=0)):
        assert node(image=IMAGE)["image"].max() == 0
        assert node(image=IMAGE, force_apply=True)["image"].max() == 1


@pytest.mark.parametrize("shape", [(0, 8, 9), (0, 8, 9, 2)])
def test_arrays_of_no_images_stay_arrays(shape: tuple[int, ...]) -> None:
    compose = A.Compose([A.Resize(4, 5), A.HorizontalFlip(p=1), A.Normalize(mean=0.5, std=0.5)], seed=1)
    image, given = np.zeros((8, 9, 3), np.uint8), np.zeros(shape, np.uint8)
    result = compose(image=image, images=given, masks=given)
    assert (result["images"].shape, result["images"].dtype) == ((0, 4, 5, *shape[3:]), np.float32)
    assert (result["masks"].shape, result["masks"].dtype) == ((0, 4, 5, *shape[3:]), np.uint8)
    tensors = A.Compose([A.Resize(4, 5), A.ToTensorV2()])(image=image, images=given, masks=given)
    assert tuple(tensors["images"].shape) == (0, *shape[3:], 4, 5) if shape[3:] else (0, 1, 4, 5)
    assert tuple(tensors["masks"].shape) == (0, 4, 5, *shape[3:])
    assert compose(image=image, masks=[])["masks"] == []
    assert compose(image=image, masks=np.array([]))["masks"].shape == (0,)


def test_empty_compositions_do_nothing() -> None:
    for node in (A.Sequential([]), A.OneOf([]), A.SomeOf([], n=0), A.RandomOrder([], n=0), A.Compose([])):
        assert A.Compose([node])(image=IMAGE)["image"].sum() == 0


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
def test_whether_a_small_box_is_dropped_depends_on_no_coin(flip: float) -> None:
    compose = A.Compose(
        [A.HorizontalFlip(p=flip), A.Resize(80, 80)],
        bbox_params=A.BboxParams("pascal_voc", min_area=30),
        seed=1,
    )
    image = np.zeros((40, 40, 3), np.uint8)
    for number in range(10):
        boxes = compose.at(number)(image=image, bboxes=[[10, 10, 15, 15], [0, 0, 30, 30]])["bboxes"]
        assert len(boxes) == 1
    enlarged = A.Compose([A.Resize(80, 80)], bbox_params=A.BboxParams("pascal_voc", min_area=30))
    assert len(enlarged(image=image, bboxes=[[10, 10, 15, 15]])["bboxes"]) == 1


class Flipped(A.HorizontalFlip):
    """One of ours, which draws its own number while it is applied."""

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        return np.full_like(img, self.py_random.random())


def test_custom_transforms_find_their_draws_wherever_they_stand() -> None:
    def drawn(*transforms: Any, **given: Any) -> float:
        return float(A.Compose(list(transforms), seed=3, **given).at(1)(image=IMAGE)["image"][0, 0])

    for custom in (Draw, Flipped):
        below = custom(p=1)
        nested = [
            drawn(A.NoOp(p=1), A.Sequential([A.NoOp(p=1), below], p=1)),
            drawn(A.NoOp(p=1), A.SomeOf([A.NoOp(p=1), below], n=2)),
            drawn(A.NoOp(p=1), A.Compose([A.NoOp(p=1), below])),
            drawn(A.NoOp(p=1), A.Sequential([A.NoOp(p=1), below], p=1), mask_interpolation=0),
            drawn(A.NoOp(p=1), A.Sequential([A.NoOp(p=1), below], p=1), fused=False),
        ]
        assert nested[0] > 0
        assert set(nested) == {nested[0]}  # each stands at the slot 1.1
    assert not A.Compose([A.OneOf([A.HorizontalFlip(), A.NoOp()])], seed=1).is_custom
