"""Transforms of one's own, in the ways that albumentations' documentation shows: what they override counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import augstream as A
from augstream.errors import RecipeError
from augstream.transforms.deferral import can_defer

Array = np.ndarray
Params = dict[str, Any]
IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
MASK = np.arange(24, dtype=np.int64).reshape(4, 6)


def applied(transform: Any, **data: Any) -> dict[str, Any]:
    compose = A.Compose([transform], bbox_params=A.BboxParams("albumentations"), seed=5)
    result = compose.at(1)(image=IMAGE, **data)
    unfused = A.Compose([transform], bbox_params=compose.bbox_params, seed=5, fused=False)
    assert np.array_equal(unfused.at(1)(image=IMAGE, **data)["image"], result["image"])
    return result


class Upside(A.BasicTransform):
    """Says by `targets` what it does to which target, of whatever name."""

    @property
    def targets(self) -> Mapping[str, Callable[..., Any]]:
        return {
            "image": self.apply,
            "masks": self.apply_to_masks,
            "bboxes": self.apply_to_bboxes,
            "weather": self.apply_to_weather,
        }

    def get_params(self) -> Params:
        return {"factor": self.py_random.randint(2, 9)}

    def apply(self, img: Array, **params: Any) -> Array:
        return img[::-1]

    def apply_to_bboxes(self, bboxes: Array, **params: Any) -> Array:
        return bboxes[:, [0, 3, 2, 1]] * [1, -1, 1, -1] + [0, 1, 0, 1]

    def apply_to_weather(self, weather: float, factor: int, shape: tuple[int, ...], **params: Any) -> float:
        return weather * factor * shape[0]


def test_a_transform_may_say_by_targets_what_it_changes() -> None:
    result = applied(
        Upside(p=1), mask=MASK, masks=[MASK, MASK], bboxes=[[0, 0, 1, 0.25]], weather=0.5, other=0.5
    )
    assert np.array_equal(result["image"], IMAGE[::-1])
    assert np.array_equal(result["masks"], [MASK[::-1]] * 2)
    assert result["bboxes"] == [[0, 0.75, 1, 1]]
    assert result["weather"] in {2.0 * factor for factor in range(2, 10)}
    assert np.array_equal(result["mask"], MASK)  # not among them
    assert result["other"] == 0.5
    assert applied(Upside(p=1), weather=None)["weather"] is None


def test_strict_pipelines_know_the_targets_that_transforms_name() -> None:
    strict = A.Compose([A.Sequential([Upside(p=1)], p=1)], strict=True, seed=1)
    assert strict(image=IMAGE, weather=0.5)["weather"] > 0.5
    with pytest.raises(ValueError, match=r"targets \['whether'\]"):
        strict(image=IMAGE, whether=0.5)


@pytest.mark.parametrize("base", [A.HorizontalFlip, A.VerticalFlip, A.Transpose, A.RandomRotate90, A.D4])
def test_masks_follow_the_images_of_who_changes_a_flip(base: type[A.DualTransform]) -> None:
    changed = type("Changed", (base,), {"apply": lambda _, img, **__: np.roll(img, 1, axis=0)})
    result = applied(changed(p=1), mask=MASK, masks=[MASK])
    assert np.array_equal(result["image"], np.roll(IMAGE, 1, axis=0))
    assert np.array_equal(result["mask"], np.roll(MASK, 1, axis=0))
    assert np.array_equal(result["masks"][0], np.roll(MASK, 1, axis=0))


class Noted(A.RandomCrop):
    """Takes what a built-in transform draws, and adds to it."""

    def get_params_dependent_on_data(self, params: Params, data: Params) -> Params:
        found = super().get_params_dependent_on_data(params, data)
        return {**found, "level": int(data["image"].max()) - found["crop_coords"][0]}

    def apply(self, img: Array, level: int, **params: Any) -> Array:
        return super().apply(img, **params) + np.uint8(level)


class Turned(A.RandomRotate90):
    """Decides what a built-in transform would draw."""

    def get_params(self) -> Params:
        return {"factor": 1}


class Extra(A.RandomCrop):
    """Draws something besides what a built-in transform draws."""

    def get_params(self) -> Params:
        return {**super().get_params(), "level": 3}

    def apply(self, img: Array, level: int, **params: Any) -> Array:
        return super().apply(img, **params) + np.uint8(level)


def test_who_overrides_a_hook_of_a_built_in_transform_keeps_the_rest_of_it() -> None:
    crop = applied(A.RandomCrop(2, 3, p=1))["image"]
    found = applied(Noted(2, 3, p=1), mask=MASK)
    column = int(crop[0, 0, 0]) % 18 // 3
    assert np.array_equal(found["image"], crop + np.uint8(IMAGE.max() - column))
    assert np.array_equal(applied(A.RandomCrop(2, 3, p=1), mask=MASK)["mask"], found["mask"])
    assert np.array_equal(applied(Extra(2, 3, p=1))["image"], crop + np.uint8(3))
    assert np.array_equal(applied(Turned(p=1))["image"], np.rot90(IMAGE))


class Bright(A.NoOp):
    """Something, after all."""

    def apply(self, img: Array, **params: Any) -> Array:
        return img + np.uint8(1)

    def apply_to_mask(self, mask: Array, **params: Any) -> Array:
        return mask


class Tensors(A.ToTensorV2):
    """Goes its own way to tensors, which no pipeline of arrays can take."""

    def apply(self, img: Array, **params: Any) -> Any:
        return memoryview(img)


class MoreUpside(Upside):
    """Is asked by the targets of its base."""

    def apply(self, img: Array, **params: Any) -> Array:
        return img[::-1] + np.uint8(1)


def test_whatever_is_overridden_counts_also_where_a_built_in_transform_has_nothing_to_do() -> None:
    result = applied(Bright(p=1), mask=MASK, bboxes=[[0, 0, 1, 0.25]])
    assert np.array_equal(result["image"], IMAGE + np.uint8(1))
    assert np.array_equal(result["mask"], MASK)
    assert result["bboxes"] == [[0, 0, 1, 0.25]]
    assert np.array_equal(applied(MoreUpside(p=1))["image"], IMAGE[::-1] + np.uint8(1))
    with pytest.raises(
        RecipeError, match=r"Tensors\.apply returned memoryview; it must return a numpy array"
    ):
        applied(Tensors())


class Wavy(A.GridDistortion):
    """Treats images in its own way, and masks in the built-in one's."""

    def apply(self, img: Array, **params: Any) -> Array:
        return super().apply(img, **params) + np.uint8(1)


def test_what_is_not_overridden_stays_the_built_in_ones() -> None:
    plain, wavy = applied(A.GridDistortion(2, p=1), mask=MASK), applied(Wavy(2, p=1), mask=MASK)
    assert np.array_equal(wavy["image"], plain["image"] + np.uint8(1))
    assert np.array_equal(wavy["mask"], plain["mask"])


class Centred(A.Normalize):
    """Has the arguments of a built-in transform, and does something else."""

    def apply(self, img: Array, **params: Any) -> Array:
        return np.subtract(img, img.mean(), dtype=np.float32)


def test_the_plan_tells_what_who_overrides_apply_does() -> None:
    compose = A.Compose([A.RandomCrop(2, 3), Noted(2, 3), Turned(), Centred(), A.ToTensorV2()], seed=1)
    plan = compose.plan().splitlines()
    assert ["on pixels" in line for line in plan] == [False, True, False, True, False]
    assert not can_defer(compose.stage())
    assert can_defer(A.Compose([A.Normalize(), A.ToTensorV2()]).stage())


@pytest.mark.parametrize(
    "hook",
    ["apply_with_params", "get_params_dependent_on_targets", "update_params", "update_transform_params"],
)
def test_hooks_that_nobody_calls_are_refused(hook: str) -> None:
    with pytest.raises(RecipeError, match=f"Custom overrides {hook}, which is never called; override "):
        type("Custom", (A.ImageOnlyTransform,), {hook: lambda _, **params: params})


def test_calls_that_nobody_makes_are_refused() -> None:
    called = {"__call__": lambda _, **data: data}
    for base, arguments in ((A.HorizontalFlip, {}), (A.OneOf, {"transforms": [A.NoOp()]})):
        custom = type("Custom", (base,), called)(**arguments)
        with pytest.raises(
            RecipeError, match=r"transforms\[1\]: Custom overrides __call__, .* override apply"
        ):
            A.Sequential([A.NoOp(), custom])
        ran = type("Ran", (base,), {**called, "run": base.run})(**arguments)
        assert len(A.Sequential([ran])) == 1


class Returns(A.DualTransform):
    """Returns what it is told to."""

    def __init__(self, hook: str, found: Any) -> None:
        super().__init__(p=1)
        self.hook, self.found = hook, found

    def apply(self, img: Array, **params: Any) -> Any:
        return self.found if self.hook == "apply" else img

    def apply_to_mask(self, mask: Array, **params: Any) -> Any:
        return self.found if self.hook == "apply_to_mask" else mask

    def apply_to_bboxes(self, bboxes: Array, **params: Any) -> Any:
        return self.found if self.hook == "apply_to_bboxes" else bboxes


@pytest.mark.parametrize("hook", ["apply", "apply_to_mask", "apply_to_bboxes"])
@pytest.mark.parametrize("found", [None, [[0, 0, 1, 1]]])
def test_hooks_that_return_no_array_are_told(hook: str, found: Any) -> None:
    told = rf"Returns\.{hook} returned {type(found).__name__}; it must return a numpy array"
    with pytest.raises(RecipeError, match=told):
        applied(Returns(hook, found), mask=MASK, bboxes=[[0, 0, 1, 1]])


def test_a_transform_that_says_nothing_of_images_is_told() -> None:
    with pytest.raises(
        NotImplementedError, match="Silent does not say what it does to images; override apply"
    ):
        applied(type("Silent", (A.ImageOnlyTransform,), {})(p=1))
