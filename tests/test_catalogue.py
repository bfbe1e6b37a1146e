"""What every transform keeps, whatever it does: run over the whole catalogue."""

from __future__ import annotations

import inspect
import json
import pickle
import random
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import catalogue_geometry
import catalogue_pixels
import cv2
import numpy as np
import pytest
import torch

import augstream as A
from augstream.transforms.serialization import registered_classes

Case = tuple[str, dict[str, Any]]
CASES: list[Case] = [*catalogue_geometry.CASES, *catalogue_pixels.CASES, ("NoOp", {"p": 1})]
# Some transforms know what a colour is, and refuse images that have none.
COLOUR_CASES: list[Case] = [*catalogue_geometry.RGB_CASES, *getattr(catalogue_pixels, "RGB_CASES", [])]
ALL_CASES = CASES + COLOUR_CASES

HEIGHT, WIDTH = 48, 56
RNG = np.random.default_rng(0)
NUM_ADDRESSES = 3

every_case = pytest.mark.parametrize(
    "case", ALL_CASES, ids=lambda case: f"{case[0]}-{','.join(name for name in case[1] if name != 'p')}"
)


def photograph(channels: int | None = 3, dtype: Any = np.uint8) -> np.ndarray:
    """Smooth and bright in places, as photographs are, and not symmetrical in any way."""
    return made_once(channels, dtype).copy()


@cache
def made_once(channels: int | None, dtype: Any) -> np.ndarray:
    shape = (HEIGHT, WIDTH) if channels is None else (HEIGHT, WIDTH, channels)
    coarse = np.random.default_rng(channels or 1).integers(0, 256, (6, 7, channels or 1), np.uint8)
    image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).reshape(shape)
    return image if dtype == np.uint8 else (image / 255).astype(dtype)


def needs_colour(case: Case) -> bool:
    """Whether only images of three channels fit."""
    return case in COLOUR_CASES or any(isinstance(case[1].get(name), tuple) for name in ("fill", "mean"))


def targets(image: np.ndarray, num_boxes: int = 2) -> dict[str, Any]:
    mask = (photograph(None) // 64).astype(np.uint8)
    return {
        "image": image,
        "images": np.stack([image, image]),
        "mask": mask,
        "masks": [mask, mask],
        "bboxes": [[4, 6, 30, 20], [20, 15, 30, 30]][:num_boxes],
        "names": ["first", "second"][:num_boxes],
        "keypoints": [[10, 10, 30, 1], [40, 30, 200, 2]][:num_boxes],
        "marks": np.arange(2)[:num_boxes],
    }


def pipeline(case: Case, *more: Any, **arguments: Any) -> A.Compose:
    name, its = case
    return A.Compose(
        [*more, getattr(A, name)(**its)],
        bbox_params=A.BboxParams("coco", label_fields=["names"]),
        keypoint_params=A.KeypointParams("xyas", label_fields=["marks"], remove_invisible=False),
        **{"seed": 137, **arguments},
    )


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    if isinstance(first, list) and first and isinstance(first[0], (np.ndarray, torch.Tensor)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def check_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert list(first) == list(second)
    differing = [
        name for name in first if name != "applied_transforms" and not same(first[name], second[name])
    ]
    assert not differing


def size(image: Any) -> tuple[int, ...]:
    return tuple(image.shape[-2:]) if isinstance(image, torch.Tensor) else image.shape[:2]


DTYPES = (np.uint8, np.float32)
PROMISES: dict[str, Callable[[Case], None]] = {}


def promise(**choices: tuple[Any, ...]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Enter a check that every case goes through, once for each value of its argument beside the case."""

    def enter(keeps: Callable[..., None]) -> Callable[..., None]:
        PROMISES.update(
            {
                f"{keeps.__name__}[{argument}={getattr(value, '__name__', value)}]": partial(
                    keeps, **{argument: value}
                )
                for argument, values in choices.items()
                for value in values
            }
            or {keeps.__name__: keeps}  # one that has no such argument
        )
        return keeps

    return enter


def test_help_shows_the_arguments() -> None:
    assert list(inspect.signature(A.RandomCrop).parameters)[:3] == ["height", "width", "pad_if_needed"]
    assert inspect.signature(A.HorizontalFlip).parameters["p"].default == 0.5
    assert "seed" in inspect.signature(A.Compose).parameters
    assert list(inspect.signature(A.BboxParams).parameters)[:2] == ["format", "label_fields"]


def test_every_transform_is_in_the_catalogue() -> None:
    found = {name for name, _ in ALL_CASES}
    known = {name for name, cls in registered_classes().items() if issubclass(cls, A.BasicTransform)}
    assert known & set(A.__all__) - found == {"Lambda"}


@promise(dtype=DTYPES)
def all_targets_go_together(case: Case, dtype: Any) -> None:
    compose = pipeline(case)
    data = targets(photograph(3, dtype))
    moves = "mask" in compose[0].kinds
    for number in range(NUM_ADDRESSES):
        result = compose.at(number)(**data)
        assert size(result["image"]) == size(result["images"][1])
        assert same(result["image"], result["images"][0])
        assert same(result["image"], result["images"][1])
        assert isinstance(result["masks"], list)
        assert same(result["mask"], result["masks"][0])
        assert same(result["mask"], result["masks"][1])
        assert len(result["bboxes"]) == len(result["names"])
        assert len(result["keypoints"]) == len(result["marks"])
        assert result["marks"].dtype == data["marks"].dtype
        if moves:
            assert size(result["mask"]) == size(result["image"])
            assert {type(value) for row in result["bboxes"] for value in row} <= {float}
            height, width = size(result["image"])
            for x, y, box_width, box_height in result["bboxes"]:
                assert x >= -1e-6
                assert y >= -1e-6
                assert x + box_width <= width + 1e-6
                assert y + box_height <= height + 1e-6
        else:
            for name in ("mask", "masks", "names", "marks"):
                assert same(result[name], data[name])
            np.testing.assert_allclose(result["bboxes"], data["bboxes"])
            np.testing.assert_allclose(result["keypoints"], data["keypoints"])


@promise(dtype=DTYPES)
def shapes_and_dtypes_are_kept(case: Case, dtype: Any) -> None:
    for channels in (3,) if needs_colour(case) else (None, 1, 3, 5):
        image = photograph(channels, dtype)
        compose = pipeline(case)
        for number in range(NUM_ADDRESSES):
            result = compose.at(number)(image=image)["image"]
            if isinstance(result, torch.Tensor):
                assert result.shape == (channels or 1, HEIGHT, WIDTH)
                continue
            assert result.dtype == (np.float32 if case[0] in {"Normalize", "ToFloat"} else dtype)
            assert result.flags.c_contiguous
            if case[0] != "ToGray":
                assert result.shape[2:] == image.shape[2:]
            if result.dtype == np.float32 and "mask" not in compose[0].kinds and case[0] != "Normalize":
                assert result.min() >= 0
                assert result.max() <= 1


@promise(channels=(3, None))
def the_layout_of_the_memory_makes_no_difference(case: Case, channels: int | None) -> None:
    if channels is None and needs_colour(case):
        return
    plain = photograph(channels)
    large = np.zeros((2 * HEIGHT, 2 * WIDTH, *plain.shape[2:]), np.uint8)
    large[::2, 1::2] = plain
    views = [large[::2, 1::2], np.asfortranarray(plain), plain[::-1, ::-1].copy()[::-1, ::-1]]
    compose = pipeline(case)
    expected = compose.at(0)(image=plain, mask=plain)
    for view in views:
        assert not view.flags.c_contiguous
        view.flags.writeable = False
        check_same(compose.at(0)(image=view, mask=view), expected)


@promise(fused=(True, False))
def what_is_given_is_not_changed(case: Case, fused: bool) -> None:
    for dtype in (np.uint8, np.float32):
        data = targets(photograph(3, dtype))
        before = pickle.dumps(data)
        compose = pipeline(case, fused=fused)
        for number in range(NUM_ADDRESSES):
            compose.at(number)(**data)
        assert pickle.dumps(data) == before
    single = photograph(3)
    single.flags.writeable = False
    compose(image=single)


@promise()
def a_transform_keeps_nothing_of_a_call(case: Case) -> None:
    compose = pipeline(case)
    before = {name: pickle.dumps(value) for name, value in vars(compose[0]).items()}
    compose.at(0)(**targets(photograph()))
    after = {name: pickle.dumps(value) for name, value in vars(compose[0]).items()}
    assert after == before


@promise()
def saving_changes_nothing(case: Case) -> None:
    compose = pipeline(case)
    saved = A.from_dict(json.loads(json.dumps(A.to_dict(compose), allow_nan=False)))
    pickled = pickle.loads(pickle.dumps(compose))  # noqa: S301  # our own
    assert A.to_dict(saved) == A.to_dict(compose) == A.to_dict(pickled)
    data = targets(photograph())
    for number in range(NUM_ADDRESSES):
        expected = compose.at(number)(**data)
        check_same(saved.at(number)(**data), expected)
        check_same(pickled.at(number)(**data), expected)


@promise(dtype=DTYPES)
def what_is_recorded_repeats_the_result(case: Case, dtype: Any) -> None:
    compose = pipeline(case, save_applied_params=True)
    data = targets(photograph(3, dtype))
    for number in range(NUM_ADDRESSES):
        result = compose.at(number)(**data)
        record = json.loads(json.dumps(result.pop("applied_transforms"), allow_nan=False))
        assert [entry["name"] for entry in record] == [case[0]]
        again = A.replay(
            record, bbox_params=compose.bbox_params, keypoint_params=compose.keypoint_params, **data
        )
        check_same(again, result)
        check_same(A.replay(record, compose, **data), result)


@promise(dtype=DTYPES)
def the_same_address_gives_the_same_result(case: Case, dtype: Any) -> None:
    first, second = pipeline(case), pipeline(case)
    data = targets(photograph(3, dtype))
    expected = [first.at(number)(**data) for number in range(NUM_ADDRESSES)]
    for number in reversed(range(NUM_ADDRESSES)):
        check_same(second.at(number)(**data), expected[number])


@promise()
def an_image_decides_nothing_about_the_draws_of_others(case: Case) -> None:
    """What the transform draws must not depend on what other calls there were, of whatever shape."""
    compose = pipeline(case)
    expected = compose.at(1)(image=photograph())
    other = np.ascontiguousarray(photograph()[:40, :50])
    compose(image=other)
    compose.at(1)(image=other)
    check_same(compose.at(1)(image=photograph()), expected)


@promise(dtype=DTYPES)
def fused_and_unfused_are_equal_to_the_bit(case: Case, dtype: Any) -> None:
    before = [A.RandomCrop(HEIGHT - 3, WIDTH - 5), A.D4(), A.RandomBrightnessContrast(p=0.5)]
    data = targets(photograph(3, dtype))
    fused, unfused = pipeline(case, *before), pipeline(case, *before, fused=False)
    for number in range(NUM_ADDRESSES):
        check_same(fused.at(number)(**data), unfused.at(number)(**data))
    if case[0] != "ToTensorV2":
        after = [A.HorizontalFlip(p=1), A.CenterCrop(5, 4)]
        if dtype == np.uint8 and case[0] not in {"Normalize", "ToFloat", "ToGray"}:
            after += [A.InvertImg(p=1), A.Normalize()]
        fused, unfused = (
            A.Compose([getattr(A, case[0])(**case[1]), *after], seed=137, fused=fused)
            for fused in (True, False)
        )
        for number in range(NUM_ADDRESSES):
            check_same(fused.at(number)(image=data["image"]), unfused.at(number)(image=data["image"]))


@promise()
def with_p_zero_nothing_happens(case: Case) -> None:
    compose = pipeline((case[0], {**case[1], "p": 0}))
    data = targets(photograph())
    result = compose(**data)
    for name in ("image", "images", "mask", "masks", "names", "marks"):
        assert same(result[name], data[name])
    np.testing.assert_allclose(result["bboxes"], data["bboxes"])
    np.testing.assert_allclose(result["keypoints"], data["keypoints"])


@promise()
def with_p_half_it_happens_half_of_the_time(case: Case) -> None:
    compose = pipeline((case[0], {**case[1], "p": 0.5}), save_applied_params=True)
    image = photograph()
    applied = sum(len(compose.at(number)(image=image)["applied_transforms"]) for number in range(60))
    assert 15 <= applied <= 45


@promise()
def no_boxes_and_no_keypoints(case: Case) -> None:
    compose = pipeline(case)
    for boxes, points in (([], []), (np.zeros((0, 4)), np.zeros((0, 4), np.float32))):
        result = compose.at(0)(
            image=photograph(), bboxes=boxes, names=[], keypoints=points, marks=np.zeros(0, np.int16)
        )
        assert len(result["bboxes"]) == len(result["keypoints"]) == len(result["names"]) == 0
        assert type(result["bboxes"]) is type(boxes)
        assert result["marks"].dtype == np.int16


@promise()
def global_generators_and_opencv_are_left_alone(case: Case) -> None:
    cv2.setRNGSeed(5)
    expected = cv2.randu(np.zeros(4), 0, 1)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002  # the global one is what this is about
    torch.manual_seed(5)
    cv2.setRNGSeed(5)
    states = [random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().tolist()]  # noqa: NPY002
    num_threads = cv2.getNumThreads()
    compose, free = pipeline(case), pipeline(case, seed=None)
    result = compose.at(0)(image=photograph())
    free(image=photograph())
    assert [random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().tolist()] == states  # noqa: NPY002
    np.testing.assert_array_equal(cv2.randu(np.zeros(4), 0, 1), expected)
    assert cv2.getNumThreads() == num_threads
    cv2.setRNGSeed(77)
    random.seed(77)
    np.random.seed(77)  # noqa: NPY002
    check_same(compose.at(0)(image=photograph()), result)


class Encoded:
    """An image that is decoded when its pixels are first asked for."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.shape = image.shape
        self.dtype = image.dtype

    def decode(
        self, box: tuple[int, int, int, int] | None, at_least: tuple[int, int] | None = None
    ) -> np.ndarray:
        if box is None:
            return self.image
        y0, x0, y1, x1 = box
        return self.image[y0:y1, x0:x1]


@promise()
def an_image_that_is_still_encoded_gives_the_same(case: Case) -> None:
    compose = pipeline(case, A.RandomCrop(HEIGHT - 3, WIDTH - 5))
    for number in range(NUM_ADDRESSES):
        expected = compose.at(number)(image=photograph())
        check_same(compose.at(number)(image=Encoded(photograph())), expected)


@every_case
def test_a_transform_keeps_every_promise(case: Case) -> None:
    """All that are broken are told, not only the first."""
    broken = []
    for name, keeps in PROMISES.items():
        try:
            keeps(case)
        except Exception as error:  # noqa: BLE001  # raised again, all together
            error.add_note(f"promise: {name.replace('_', ' ')}")
            broken.append(error)
    if broken:
        msg = f"{case[0]} breaks {len(broken)} of {len(PROMISES)} promises"
        raise ExceptionGroup(msg, broken)


def theirs(case: Case) -> Any:
    """The transform as albumentations 2.0.8 makes it, or None where it has other arguments."""
    import albumentations
    from pydantic import ValidationError

    cls = getattr(albumentations, case[0], None)
    if cls is None:
        return None
    try:
        made = cls(**case[1])
    except (ValidationError, ValueError, TypeError):
        return None
    return None if made.invalid_args else made


@pytest.mark.sweep
@every_case
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_albumentations_saved_loads(case: Case) -> None:
    import albumentations

    made = theirs(case)
    if made is None:
        pytest.skip("albumentations 2.0.8 has it not, or with other arguments")
    loaded = A.from_dict(json.loads(json.dumps(albumentations.to_dict(albumentations.Compose([made])))))
    loaded.set_random_seed(137)
    arguments = dict(case[1])
    if case[0] == "Affine" and "translate_percent" not in arguments:
        arguments.setdefault("translate_px", 0)  # so 2.0.8 writes what was left out
    direct = A.Compose([getattr(A, case[0])(**arguments)], seed=137)
    image = photograph()
    for number in range(NUM_ADDRESSES):
        check_same(loaded.at(number)(image=image), direct.at(number)(image=image))


@pytest.mark.parametrize("name", ["RandAugment", "TrivialAugmentWide", "AutoAugment"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_recipes_are_saved_recorded_and_fused_like_transforms(name: str, dtype: Any) -> None:
    case: Case = (name, {})
    compose = pipeline(case, save_applied_params=True)
    saved = A.from_dict(json.loads(json.dumps(A.to_dict(compose))))
    pickled = pickle.loads(pickle.dumps(compose))  # noqa: S301  # our own
    unfused = pipeline(case, fused=False)
    data = targets(photograph(3, dtype))
    before = pickle.dumps(data)
    found = set()
    for number in range(40):
        result = compose.at(number)(**data)
        record = json.loads(json.dumps(result["applied_transforms"], allow_nan=False))
        found.add(tuple(entry["name"] for entry in record))
        again = A.replay(
            record, bbox_params=compose.bbox_params, keypoint_params=compose.keypoint_params, **data
        )
        del result["applied_transforms"]
        for other in (again, A.replay(record, compose, **data), unfused.at(number)(**data)):
            check_same(result, other)
        for other in (saved, pickled):
            check_same(
                result, {key: value for key, value in other.at(number)(**data).items() if key in result}
            )
        assert size(result["image"]) == size(result["mask"])
        assert same(result["image"], result["images"][1])
    assert len(found) > 5
    assert pickle.dumps(data) == before
