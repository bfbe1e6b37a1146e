"""What was applied, as data: complete, JSON-able, and enough to do it again without a random number."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import augstream as A
from augstream import seeding
from augstream.errors import RecipeError
from augstream.transforms.base import Params

GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.integers(0, 256, (40, 60, 3), np.uint8)
MASK = GENERATOR.integers(0, 5, (40, 60), np.uint8)


def through_json(record: Any) -> Any:
    return json.loads(json.dumps(record, allow_nan=False))


@A.register
class Everything(A.DualTransform):
    """A custom transform whose parameters are of every kind, drawn by albumentations' hooks; adds noise by its key."""

    def __init__(self, strength: tuple[float, float] = (0.5, 2.0), p: float = 1.0) -> None:
        super().__init__(p)
        self.strength = strength

    def get_params(self) -> Params:
        return {"factor": self.py_random.uniform(*self.strength), "key": seeding.subkey(b"0" * 16, "a").hex()}

    def get_params_dependent_on_data(self, params: Params, data: Any) -> Params:
        return {
            "table": self.random_generator.uniform(size=(2, 3)).astype(np.float32),
            "brightest": data["image"].max(),
            "nested": {"tuple": (1, (2.5, None)), "raw": b"\x01", 5: float("inf")},
        }

    def apply(self, img: np.ndarray, factor: float, table: np.ndarray, **params: Any) -> np.ndarray:
        assert table.dtype == np.float32
        assert type(params["brightest"]) is np.uint8
        assert params["nested"] == {"tuple": (1, (2.5, None)), "raw": b"\x01", 5: float("inf")}
        noise = seeding.generator(bytes.fromhex(params["key"])).normal(size=img.shape)
        return (img * factor + noise + table.sum()).clip(0, 255).astype(img.dtype)

    def apply_to_mask(self, mask: np.ndarray, **params: Any) -> np.ndarray:
        return mask + 1

    def apply_to_bboxes(self, bboxes: np.ndarray, factor: float, **params: Any) -> np.ndarray:
        moved = bboxes.copy()
        moved[:, [0, 2]] += factor / 20
        return moved

    def apply_to_keypoints(self, keypoints: np.ndarray, factor: float, **params: Any) -> np.ndarray:
        moved = keypoints.copy()
        moved[:, 3] += factor
        return moved


def pipeline(**arguments: Any) -> A.Compose:
    return A.Compose(
        [
            A.RandomCrop(30, 30),
            A.OneOf([A.HorizontalFlip(), A.Sequential([A.VerticalFlip(), Everything()], p=0.5)], p=1),
            A.SomeOf([A.RandomRotate90(), Everything(), A.NoOp()], n=4, replace=True),
            A.SelectiveChannelTransform([A.RandomBrightnessContrast(p=1), Everything()], channels=[1], p=0.5),
        ],
        bbox_params=A.BboxParams("coco", label_fields=["names"]),
        keypoint_params=A.KeypointParams("xya", remove_invisible=False),
        additional_targets={"image2": "image"},
        **{"save_applied_params": True, "seed": 137, **arguments},
    )


DATA: dict[str, Any] = {
    "image": IMAGE,
    "image2": IMAGE[::-1].copy(),
    "mask": MASK,
    "bboxes": [[10, 10, 30, 20], [1, 1, 2, 2]],
    "names": ["a", "b"],
    "keypoints": [[5, 6, 90]],
    "anything": object(),
}


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    for name in DATA:
        if isinstance(first[name], np.ndarray):
            if first[name].dtype != second[name].dtype or not np.array_equal(first[name], second[name]):
                return False
        elif first[name] != second[name]:
            return False
    return True


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("with_compose", [True, False])
def test_a_record_repeats_all_targets(fused: bool, with_compose: bool) -> None:
    compose = pipeline(fused=fused)
    settings: dict[str, Any] = {
        "bbox_params": compose.bbox_params,
        "keypoint_params": compose.keypoint_params,
        "additional_targets": compose.additional_targets,
    }
    lengths = set()
    for _ in range(30):
        result = compose(**DATA)
        record = through_json(result["applied_transforms"])
        lengths.add(len(record))
        again = A.replay(record, compose, **DATA) if with_compose else A.replay(record, **settings, **DATA)
        assert equal(again, result)
    assert len(lengths) > 2


def test_a_record_says_where_what_and_with_which_parameters() -> None:
    compose = A.Compose(
        [A.NoOp(p=0), A.OneOf([A.RandomCrop(height=30, width=20, p=0.5)], p=1)],
        seed=1,
        save_applied_params=True,
    )
    result = compose(image=IMAGE)
    (entry,) = result["applied_transforms"]
    assert entry["slot"] == "1.0"
    assert entry["name"] == "RandomCrop"
    assert entry["arguments"]["height"] == 30
    assert entry["arguments"]["p"] == 0.5
    y, x = np.argwhere(np.all(result["image"][0, 0] == IMAGE, axis=-1))[0]
    assert entry["params"]["crop_coords"] == {"$tuple": [x, y, x + 20, y + 30]}
    assert compose.applied_transforms is result["applied_transforms"]


def test_records_are_kept_where_asked_for_only() -> None:
    compose = A.Compose([A.HorizontalFlip(p=1)])
    assert "applied_transforms" not in compose(image=IMAGE)
    assert compose.applied_transforms == []
    recording = A.Compose([A.HorizontalFlip(p=1)], save_applied_params=True, p=0.0)
    assert recording(image=IMAGE)["applied_transforms"] == []


def test_nothing_applied_repeats_nothing() -> None:
    assert np.array_equal(A.replay([], image=IMAGE)["image"], IMAGE)


def test_a_record_applies_to_other_data() -> None:
    compose = A.Compose([A.RandomCrop(30, 30), A.HorizontalFlip(p=1)], seed=1, save_applied_params=True)
    result = compose(image=IMAGE)
    record = result["applied_transforms"]
    other = A.replay(record, image=IMAGE[:, :, 0], mask=IMAGE[:, :, 1])
    np.testing.assert_array_equal(other["image"], result["image"][:, :, 0])
    np.testing.assert_array_equal(other["mask"], result["image"][:, :, 1])
    with pytest.raises(RecipeError, match="crop"):
        A.replay(record, image=IMAGE[:20, :20])


class Unregistered(A.ImageOnlyTransform):
    """A custom transform that no file may name, made with what is no data."""

    def __init__(self, function: Any, p: float = 1.0) -> None:
        super().__init__(p)
        self.function = function

    def get_params(self) -> Params:
        return {"drawn": self.py_random.randint(1, 100)}

    def apply(self, img: np.ndarray, drawn: int = 0, **params: Any) -> np.ndarray:
        return self.function(img, drawn)


def test_what_is_not_registered_is_repeated_by_its_pipeline() -> None:
    compose = A.Compose(
        [A.NoOp(), Unregistered(lambda img, drawn: img + np.uint8(drawn)), A.Lambda(image=lambda img, **_: img // 2)],
        seed=1, save_applied_params=True,
    )  # fmt: skip
    result = compose(image=IMAGE)
    record = through_json(result["applied_transforms"])
    np.testing.assert_array_equal(A.replay(record, compose, image=IMAGE)["image"], result["image"])
    with pytest.raises(RecipeError, match=r"'Unregistered' was not registered .* replay\(record, compose"):
        A.replay(record[-2:], image=IMAGE)


def test_a_record_of_another_pipeline_is_told() -> None:
    compose = A.Compose([A.HorizontalFlip(p=1)], seed=1, save_applied_params=True)
    record = compose(image=IMAGE)["applied_transforms"]
    other = A.Compose([A.VerticalFlip(p=1)])
    with pytest.raises(
        RecipeError, match="at slot 0 the pipeline has VerticalFlip, and the record has 'HorizontalFlip'"
    ):
        A.replay(record, other, image=IMAGE)
    with pytest.raises(RecipeError, match="at slot 0 the pipeline has None"):
        A.replay(record, A.Compose([]), image=IMAGE)


def test_the_mask_interpolation_of_the_pipeline_is_recorded() -> None:
    compose = A.Compose([A.Resize(25, 25)], mask_interpolation=2, seed=1, save_applied_params=True)
    result = compose(image=IMAGE, mask=MASK * 50)
    again = A.replay(through_json(result["applied_transforms"]), image=IMAGE, mask=MASK * 50)
    np.testing.assert_array_equal(again["mask"], result["mask"])
    assert len(np.unique(again["mask"])) > 5


def test_parameters_that_are_no_data_are_told() -> None:
    class Odd(A.ImageOnlyTransform):
        def get_params(self) -> Params:
            return {"thing": object()}

        def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
            return img

    assert A.Compose([Odd(p=1)])(image=IMAGE)["image"] is not None
    with pytest.raises(
        RecipeError, match="Odd: the parameter 'thing' is a object, which can't be written as data"
    ):
        A.Compose([Odd(p=1)], save_applied_params=True)(image=IMAGE)


@pytest.mark.parametrize(
    "record",
    [
        5,
        "record",
        {"version": 1},
        {"version": 2, "applied": []},
        [5],
        [{"name": "NoOp"}],
        [{"name": "NoOp", "params": {}, "arguments": {"q": 1}}],
        [{"name": "NoOp", "params": {"x": {"$nonsense": 1}}, "arguments": {}}],
        [{"name": "NoOp", "params": {}, "arguments": {}, "slot": "x"}],
        [{"name": "NoOp", "params": {}, "arguments": {}, "slot": "99999"}],
        [{"name": "os.system", "params": {}, "arguments": {}}],
    ],
)
def test_what_is_no_record_is_told(record: Any) -> None:
    with pytest.raises(RecipeError):
        A.replay(record, image=IMAGE)


def test_replaying_draws_nothing() -> None:
    class Drawing(A.ImageOnlyTransform):
        def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
            return img + np.uint8(params.get("drawn", 0))

        def get_params(self) -> Params:
            calls.append(1)
            return {"drawn": self.py_random.randint(0, 9)}

    calls: list[int] = []
    compose = A.Compose([Drawing(p=0.9)], save_applied_params=True, seed=3)
    result = compose(image=IMAGE)
    count = len(calls)
    for _ in range(5):
        again = A.replay(result["applied_transforms"], compose, image=IMAGE)
        np.testing.assert_array_equal(again["image"], result["image"])
    assert len(calls) == count == 1
